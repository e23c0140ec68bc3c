"""Models of ModelScope, by its own client: it lists, fetches, goes on where it stopped, and fills its cache."""

import contextlib
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
DEFAULT_REVISION = "master"
NUM_FILES_AT_ONCE = 2


class ModelScope:
    """One repository at one revision; `mirror`: the address that is asked, None for the client's own choice."""

    def __init__(self, repo: str, revision: str | None, mirror: str | None) -> None:
        self.client: ModuleType = require(MODULE, extra=EXTRA)
        self.repo = repo
        self.revision = revision
        # whoever runs a mirror has no claim to the user's token
        self.api: Any = self.client.HubApi(endpoint=mirror, token="" if mirror is not None else None)

    def listing(self) -> Listing:
        """The files with sizes and digests; ModelScope names no commit."""
        with self._failures():
            found = self.api.list_repo_files(self.repo, "model", revision=self.revision)
        files = tuple(HubFile(item.path, int(item.size), item.sha256 or None) for item in found if item.type != "tree")
        return Listing(self.repo, self.revision, None, files)

    def present(self, listing: Listing, files: Iterable[HubFile], folder: Path | None) -> int:
        """How many bytes of `files` lie on this disk already; the client's unfinished files are not counted."""
        del listing
        place = folder if folder is not None else self._cache()
        if place is None:
            return 0
        return sum(file.size for file in files if (place / file.name).is_file())

    def disk(self, folder: Path | None) -> Path:
        """An existing folder on the disk that is written to."""
        place = folder if folder is not None else Path(self.client.get_default_config().cache_dir)
        return next(parent for parent in (place, *place.absolute().parents) if parent.is_dir())

    def fetch(self, listing: Listing, files: Iterable[HubFile], folder: Path | None, watch: Watch) -> Path:
        """Fetches what is missing; where it lies."""
        del listing
        files = list(files)
        total = sum(file.size for file in files)
        done = 0

        class Told(self.client.ProgressCallback):  # type: ignore[misc, name-defined]  # the client makes one a file
            def update(self, size: int) -> None:
                nonlocal done
                done += size
                watch(min(done, total), total)

        with self._failures():
            path = self.api.download_repo(
                self.repo,
                repo_type="model",
                revision=self.revision,
                local_dir=folder,
                allow_patterns=[file.name for file in files],
                max_workers=NUM_FILES_AT_ONCE,
                progress_callbacks=[Told],
            )
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
        except (self.client.HubError, OSError, ValueError) as error:
            raise CheckpointError(f"{self.repo}{at} cannot be fetched from ModelScope: {first_line(error)}") from error
