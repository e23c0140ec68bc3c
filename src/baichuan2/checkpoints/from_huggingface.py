"""Models of Hugging Face, or of a mirror that answers in its place.

The client lists, fetches and fills its cache; but a file of which it has fetched a part is thrown away by it when it
stops (huggingface_hub 2.4). Large files are therefore fetched here, by its own `http_get`, into a file that stays: the
next run asks for the rest.
"""

import contextlib
import glob
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from baichuan2.checkpoints.digests import Watch
from baichuan2.checkpoints.hub_failures import hub_failures, is_transport_error
from baichuan2.checkpoints.hub_files import HubFile, Listing
from baichuan2.checkpoints.locate import locate
from baichuan2.checkpoints.one_run import one_run
from baichuan2.errors import CheckpointError

__all__ = ["HuggingFace"]

UNFINISHED = ".incomplete"
DIGITS_OF_STATE = 16
SECONDS_TO_ANSWER = 20


class HuggingFace:
    """One repository at one revision; `mirror`: the address that is asked, None for the client's own choice."""

    def __init__(self, repo: str, revision: str | None, mirror: str | None) -> None:
        self.repo = repo
        self.revision = revision
        self.endpoint = mirror.rstrip("/") if mirror is not None else None
        # whoever runs a mirror has no claim to the user's token
        self.token: bool | None = False if mirror is not None else None

    def listing(self) -> Listing:
        """The files with sizes and digests, as the hub tells them in one answer."""
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.endpoint, token=self.token)
        with hub_failures(self.repo, self.revision, offline=False):
            info = api.model_info(self.repo, revision=self.revision, files_metadata=True, timeout=SECONDS_TO_ANSWER)
            files = []
            for item in info.siblings or ():
                lfs: Any = item.lfs  # an object with sha256 and size
                sha256 = None if lfs is None else lfs.sha256
                size = item.size if item.size is not None else getattr(lfs, "size", None)
                if size is not None:
                    files.append(HubFile(item.rfilename, int(size), sha256, item.blob_id if lfs is None else None))
        if info.sha is None or not files:
            raise CheckpointError(f"{self.repo}: the hub tells no sizes of files: is the mirror one of this hub?")
        return Listing(self.repo, self.revision, info.sha, tuple(files))

    def present(self, listing: Listing, files: Iterable[HubFile], folder: Path | None) -> int:
        """How many bytes of `files` lie on this disk already, finished or not."""
        found = 0
        for file in files:
            for path in (self._whole(listing, file, folder), self._unfinished(file, folder)):
                size = path.stat().st_size if path.is_file() else None
                if size is not None:
                    found += size if size <= file.size else 0  # a longer one is fetched anew
                    break
        return found

    def disk(self, folder: Path | None) -> Path:
        """An existing folder on the disk that is written to."""
        place = folder if folder is not None else self.storage()
        return next(parent for parent in (place, *place.absolute().parents) if parent.is_dir())

    def fetch(self, listing: Listing, files: Iterable[HubFile], folder: Path | None, watch: Watch) -> Path:
        """Fetches what is missing; where it lies. Without `folder` the large files become contents of the cache by
        the name that it gives them, and the client links them and fetches the small ones.
        """
        files = list(files)
        mine = [file for file in files if folder is not None or file.sha256 is not None]
        total = sum(file.size for file in files)
        done = sum(file.size for file in files if file not in mine)
        with hub_failures(self.repo, self.revision, offline=False):
            for file in mine:
                whole = self._whole(listing, file, folder)
                if not whole.is_file():
                    self._fetch_file(listing, file, self._unfinished(file, folder), whole, _shifted(watch, done, total))
                done += file.size
                watch(done, total)
            return folder if folder is not None else self._link(listing, files)

    def _fetch_file(
        self, listing: Listing, file: HubFile, unfinished: Path, whole: Path, watch: Callable[[int], None]
    ) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(self.repo, file.name, revision=listing.commit, endpoint=self.endpoint)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        if unfinished.is_file() and unfinished.stat().st_size > file.size:
            unfinished.unlink()
        with unfinished.open("ab") as out, one_run(unfinished), _silent_client():
            told = _Told(out, file, watch)
            while True:
                have = out.tell()
                watch(have)
                try:
                    http_get(
                        url,
                        cast(BinaryIO, told),
                        resume_size=have,
                        headers=build_hf_headers(token=self.token),
                        expected_size=file.size,
                        displayed_filename=file.name,
                    )
                    break
                except Exception as error:
                    # the client asks again by itself, but not after every kind of cut in all its versions
                    if not is_transport_error(error) or out.tell() <= have:
                        raise
        unfinished.rename(whole)

    def _link(self, listing: Listing, files: list[HubFile]) -> Path:
        """The client's part: small files, links from the commit's folder, and what the revision means now."""
        from huggingface_hub import snapshot_download

        with _silent_client():
            path = Path(
                snapshot_download(
                    self.repo,
                    revision=self.revision,
                    endpoint=self.endpoint,
                    token=self.token,
                    allow_patterns=[glob.escape(file.name) for file in files],
                )
            )
        if path.name != listing.commit:
            raise CheckpointError(f"{self.repo} was changed on the hub just now: run the same command again")
        return path

    def cached(self) -> Path:
        """The folder of this revision in the cache."""
        return locate(self.repo, revision=self.revision, offline=True, with_weights=False)

    def storage(self) -> Path:
        """The folder of this repository in the cache, which need not exist."""
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=self.repo, repo_type="model"))

    def _whole(self, listing: Listing, file: HubFile, folder: Path | None) -> Path:
        if folder is not None:
            return folder / file.name
        if file.sha256 is not None:
            return self.storage() / "blobs" / file.sha256
        return self.storage() / "snapshots" / listing.commit / file.name

    def _unfinished(self, file: HubFile, folder: Path | None) -> Path:
        """The file that holds the beginning; its name tells the content, so that a changed file starts anew."""
        state = (file.sha256 or file.git or str(file.size))[:DIGITS_OF_STATE]
        if folder is not None:
            return folder / f"{file.name}.{state}{UNFINISHED}"
        return self.storage() / "blobs" / f"baichuan2-{state}{UNFINISHED}"


def _shifted(watch: Watch, before: int, total: int) -> Callable[[int], None]:
    """What tells bytes of one file, as bytes of all."""
    return lambda done: watch(before + done, total)


@contextlib.contextmanager
def _silent_client() -> Iterator[None]:
    """The client's own bars and lines are off inside: our bar counts all files, and what fails is told once."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    logger = logging.getLogger("huggingface_hub")
    were_off, level = are_progress_bars_disabled(), logger.level
    if not were_off:
        disable_progress_bars()
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        if not were_off:
            enable_progress_bars()


class _Told:
    """A file that tells after each write how long it is, and takes no more than it should hold; what the client does
    with a file, and no more.
    """

    def __init__(self, file: BinaryIO, listed: HubFile, watch: Callable[[int], None]) -> None:
        self.file = file
        self.listed = listed
        self.watch = watch

    def write(self, piece: bytes) -> int:
        """Appends `piece`; raises CheckpointError where a body goes on behind its end, which would fill the disk."""
        if self.file.tell() + len(piece) > self.listed.size:
            self.file.truncate(0)  # nothing says which of its bytes belong to the file
            raise CheckpointError(
                f"{self.listed.name}: the hub sends more than the {self.listed.size:,} bytes that it states: try again "
                "later, or another --mirror"
            )
        written = self.file.write(piece)
        self.watch(self.file.tell())
        return written

    def seek(self, place: int) -> int:
        """Goes to a place, as before a new beginning."""
        return self.file.seek(place)

    def truncate(self, size: int | None = None) -> int:
        """Drops what lies behind."""
        return self.file.truncate(size)

    def tell(self) -> int:
        """Where it stands."""
        return self.file.tell()
