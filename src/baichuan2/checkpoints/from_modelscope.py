"""Models of ModelScope, by its own client: it lists, fetches, goes on where it stopped, and fills its cache."""

import contextlib
import hashlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from baichuan2.checkpoints.digests import Watch
from baichuan2.checkpoints.hub_failures import first_line
from baichuan2.checkpoints.hub_files import HubFile, Listing
from baichuan2.errors import CheckpointError
from baichuan2.optional import require

__all__ = ["ModelScope"]

MODULE, EXTRA = "modelscope_hub", "modelscope"
NUM_FILES_AT_ONCE = 2


class ModelScope:
    """One repository at one revision; `mirror`: the address that is asked, None for the client's own choice."""

    def __init__(self, repo: str, revision: str | None, mirror: str | None) -> None:
        self.client: ModuleType = require(MODULE, extra=EXTRA)
        logging.getLogger(MODULE).setLevel(logging.CRITICAL)  # what fails is told here, in one line
        self.repo = repo
        self.revision = revision
        # whoever runs a mirror has no claim to the user's token
        token = "" if mirror is not None else None
        self.config: Any = self.client.HubConfig()
        self.api: Any = self.client.HubApi(config=self.config, endpoint=mirror, token=token)

    def listing(self) -> Listing:
        """The files with sizes and digests; in place of a commit, which ModelScope does not name, a digest of them."""
        with self._failures():
            found = self.api.list_repo_files(self.repo, "model", revision=self.revision)
        files = tuple(HubFile(item.path, int(item.size), item.sha256 or None) for item in found if item.type != "tree")
        state = hashlib.sha1(usedforsecurity=False)
        for file in sorted(files, key=lambda file: file.name):
            state.update(f"{file.name}\0{file.size}\0{file.sha256}\n".encode())
        return Listing(self.repo, self.revision, state.hexdigest(), files)

    def present(self, listing: Listing, files: Iterable[HubFile], folder: Path | None) -> int:
        """How many bytes of `files` lie on this disk already; the client's unfinished files are not counted."""
        del listing
        place = folder if folder is not None else self._cache()
        if place is None:
            return 0
        return sum(file.size for file in files if (place / file.name).is_file())

    def disk(self, folder: Path | None) -> Path:
        """An existing folder on the disk that is written to."""
        place = folder if folder is not None else Path(self.config.cache_dir)
        return next(parent for parent in (place, *place.absolute().parents) if parent.is_dir())

    def fetch(self, listing: Listing, files: Iterable[HubFile], folder: Path | None, watch: Watch) -> Path:
        """Fetches what is missing; where it lies. The client shows bars of its own meanwhile."""
        del listing
        files = list(files)
        with self._failures():
            path = self.api.download_repo(
                self.repo,
                repo_type="model",
                revision=self.revision,
                local_dir=folder,
                allow_patterns=[file.name for file in files],
                max_workers=NUM_FILES_AT_ONCE,
            )
        total = sum(file.size for file in files)
        watch(total, total)
        return Path(path)

    def cached(self) -> Path:
        """The folder of this revision in the client's cache."""
        found = self._cache()
        if found is None:
            raise CheckpointError(
                f"{self.repo} is not in ModelScope's local cache, and its hub must not be contacted (offline): "
                "download it once with a connection, or give a local folder"
            )
        return found

    def _cache(self) -> Path | None:
        with contextlib.suppress(self.client.HubError, OSError):
            path = Path(
                self.api.download_repo(self.repo, repo_type="model", revision=self.revision, local_files_only=True)
            )
            return path if path.is_dir() else None
        return None

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Turns what the client raises inside into CheckpointError of one line."""
        at = f" (revision {self.revision})" if self.revision else ""
        try:
            yield
        except (self.client.NotExistError, self.client.NotFoundError) as error:
            raise CheckpointError(
                f"ModelScope has no model {self.repo}{at}: look at its page for the id and the list of branches"
            ) from error
        except (self.client.AuthenticationError, self.client.PermissionDeniedError) as error:
            raise CheckpointError(
                f"ModelScope does not let you read {self.repo}: log in with its client, or set MODELSCOPE_API_TOKEN"
            ) from error
        except self.client.NetworkError as error:
            raise CheckpointError(
                f"{self.repo}{at} cannot be fetched: ModelScope cannot be reached ({first_line(error)}): look at the "
                "connection"
            ) from error
        except self.client.FileDownloadError as error:
            name, cause = next(iter(error.failed_files.items()), ("a file", error))
            raise CheckpointError(
                f"{name} of {self.repo}{at} cannot be fetched from ModelScope: {first_line(cause)}: run the same "
                "command again, which goes on from there"
            ) from error
        except (self.client.HubError, OSError, ValueError) as error:
            raise CheckpointError(f"{self.repo}{at} cannot be fetched from ModelScope: {first_line(error)}") from error
