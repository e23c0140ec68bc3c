"""What a hub says that a model consists of, and which of it is fetched: never code, and weights in one format."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from baichuan2.checkpoints.digests import SUMS_FILE, Digest, Watch
from baichuan2.checkpoints.locate import BIN_PATTERN, DESCRIPTION_PATTERNS, SAFETENSORS_PATTERN
from baichuan2.errors import CheckpointError

__all__ = ["Hub", "HubFile", "Listing", "files_to_fetch"]

# the terms that weights come under belong beside them
TERMS_PATTERNS = ("LICENSE*", "README.md", "*[Ll]icense*.pdf", "*协议*.pdf", SUMS_FILE)
LONGEST_NAME = 200  # bytes; file systems take 255, and an unfinished file has more in its name


@dataclass(frozen=True)
class HubFile:
    """A file as the hub lists it: its bytes, and the digests that it states, None for those that it does not."""

    name: str
    size: int
    sha256: str | None = None
    git: str | None = None

    def __post_init__(self) -> None:
        # they become names of files here: what a hub or mirror says is not believed blindly
        for value, digits in ((self.sha256, 64), (self.git, 40)):
            if value is not None and not re.fullmatch(f"[0-9a-f]{{{digits}}}", value):
                raise CheckpointError(f"the hub states {value[:80]!r} as the digest of {self.name!r}, which is none")
        if self.size < 0:
            raise CheckpointError(f"the hub states {self.size} bytes for {self.name!r}")

    @property
    def digests(self) -> tuple[Digest, ...]:
        """What the hub states of its content: SHA-256, or git's digest where there is none."""
        if self.sha256 is not None:
            return (Digest("sha256", self.sha256, "hub"),)
        return (Digest("git", self.git, "hub"),) if self.git is not None else ()


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit; where the hub names none, `commit` is another name of this state."""

    repo: str
    revision: str | None
    commit: str
    files: tuple[HubFile, ...]

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{40}", str(self.commit)):
            raise CheckpointError(f"{self.repo}: the hub names a commit {str(self.commit)[:80]!r}, which is none")


class Hub(Protocol):
    """A place that models are fetched from."""

    def listing(self) -> Listing:
        """What there is; raises CheckpointError of one line where it cannot be told."""

    def present(self, listing: Listing, files: Iterable[HubFile], folder: Path | None) -> int:
        """How many bytes of `files` lie on this disk already, finished or not."""

    def disk(self, folder: Path | None) -> Path:
        """An existing folder on the disk that is written to."""

    def fetch(self, listing: Listing, files: Iterable[HubFile], folder: Path | None, watch: Watch) -> Path:
        """Fetches `files` into `folder`, or into the hub's own cache, going on where an earlier run stopped; where
        they lie. Raises CheckpointError of one line where it fails.
        """

    def cached(self) -> Path:
        """Where the cache holds them, without asking the hub; raises CheckpointError where it does not."""


def files_to_fetch(listing: Listing) -> tuple[HubFile, ...]:
    """The files that make up the model, small ones first: description, tokenizer, terms, weights in one format.

    Only what a pattern names is fetched, and none names code. Files in folders of the repository are left out, hidden
    ones (one could pose as our note), and all but the best format: safetensors before bin.

    Raises:
        CheckpointError: there is no config.json, or there are no weights.
    """
    files = [file for file in listing.files if _may_be_written(file.name)]
    names = {file.name for file in files}
    if "config.json" not in names:
        raise CheckpointError(f"{_named(listing)} holds no config.json: it is no model folder")
    safe = [file for file in files if fnmatchcase(file.name, SAFETENSORS_PATTERN)]
    weights = safe or [file for file in files if fnmatchcase(file.name, BIN_PATTERN)]
    if not weights:
        hint = "" if listing.revision else ": it may hold them in its revisions, name one with --revision"
        raise CheckpointError(f"{_named(listing)} holds no weights that can be loaded{hint or ': give another model'}")
    # the index of the format that is left behind would name files that are not there
    left = "pytorch_model.bin.index.json" if safe else "model.safetensors.index.json"
    patterns = (*DESCRIPTION_PATTERNS, *TERMS_PATTERNS)
    rest = [
        file
        for file in files
        if file not in weights and file.name != left and any(fnmatchcase(file.name, pattern) for pattern in patterns)
    ]
    return tuple(sorted((*rest, *weights), key=lambda file: (file.size, file.name)))


def _may_be_written(name: str) -> bool:
    """Whether a name that a hub told is one of a file in the folder itself, neither hidden nor code."""
    is_plain = Path(name).name == name and name.isprintable() and len(name.encode()) <= LONGEST_NAME
    return is_plain and not name.startswith(".") and not name.lower().endswith(".py")


def _named(listing: Listing) -> str:
    return f"{listing.repo} (revision {listing.revision})" if listing.revision else listing.repo
