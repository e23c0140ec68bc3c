"""`baichuan2 download`: a model from a hub to this disk, whole, checked against its digests, or one line why not.

A folder is written beside its final place, as `TARGET.partial`, and gets its name when every file is what the hub,
the official release and SHA256SUMS say that it is. What was found is remembered in a note, by which a later run
checks the files without the net.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from baichuan2.checkpoints.digests import (
    Checked,
    Digest,
    check_files,
    read_note,
    stated_by_cache,
    stated_by_note,
    stated_by_sums,
    write_note,
)
from baichuan2.checkpoints.hub_cache import weights_of
from baichuan2.checkpoints.hub_files import Hub, HubFile, Listing, files_to_fetch
from baichuan2.checkpoints.locate import EXAMPLE_ID, HUB_ID
from baichuan2.checkpoints.one_run import one_run
from baichuan2.checkpoints.releases import Release, find_release, release_of
from baichuan2.errors import CheckpointError, SettingsError
from baichuan2.settings import DownloadSettings

__all__ = ["Downloaded", "Wanted", "download", "wanted_model"]

PARTIAL = ".partial"
JOB_FILE = ".baichuan2-download.json"
SPARE_BYTES = 50_000_000  # for the small files of the client and the file system
REVISION = re.compile(r"[\w][\w./-]*")

Stage = Literal["fetch", "check"]
Show = Callable[[Stage, int, int], None]


@dataclass(frozen=True)
class Wanted:
    """Which repository at which revision of which hub, and the official release that this is, if it is one."""

    repo: str
    revision: str | None
    release: Release | None


@dataclass(frozen=True)
class Downloaded:
    """A model that lies on this disk: where, which state of it, its files, and how many bytes this run fetched.

    `unproven`: the files for which no digest is known, so that only their SHA-256 was noted.
    """

    path: Path
    repo: str
    revision: str | None
    commit: str | None
    files: tuple[Checked, ...]
    num_bytes_fetched: int

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def unproven(self) -> tuple[str, ...]:
        """Names of the files whose digest nobody states."""
        return tuple(file.name for file in self.files if not file.by)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; sizes in bytes."""
        return {
            "path": str(self.path),
            "repo": self.repo,
            "revision": self.revision,
            "commit": self.commit,
            "bytes": self.num_bytes,
            "bytes_fetched": self.num_bytes_fetched,
            "files": [asdict(file) for file in self.files],
        }


def wanted_model(settings: DownloadSettings) -> Wanted:
    """What `settings` ask for.

    Raises:
        CheckpointError: the name means no model, several, or one that is not on that hub.
        SettingsError: there is no name, or the revision is none.
    """
    name = settings.name
    if not name:
        raise SettingsError("NAME is missing: baichuan2 download NAME [TARGET], such as 7B-Chat (see baichuan2 models)")
    if settings.revision is not None and (not REVISION.fullmatch(settings.revision) or ".." in settings.revision):
        raise SettingsError(f"--revision is a branch, tag or commit, got {settings.revision!r}")
    release = find_release(name)
    if release is None:
        repo, _, revision = name.partition("@")
        if not HUB_ID.fullmatch(repo) or (revision and not REVISION.fullmatch(revision)) or ".." in revision:
            raise CheckpointError(
                f"{name!r} is no release and no hub id: baichuan2 models lists the releases, and a hub id is like "
                f"{EXAMPLE_ID}"
            )
        return _with_revision(settings, repo, revision or None, None)
    if release.repo is None:
        raise CheckpointError(f"{release.name} comes with this package: there is nothing to download")
    if settings.from_ == "huggingface":
        return _with_revision(settings, release.repo, release.revision, release)
    if release.modelscope is None:
        raise CheckpointError(
            f"it is not known under which name ModelScope holds {release.name}: give its id, OWNER/NAME, and "
            "--revision, or download it from Hugging Face"
        )
    return _with_revision(settings, release.modelscope, None, release)


def _with_revision(settings: DownloadSettings, repo: str, revision: str | None, release: Release | None) -> Wanted:
    """Raises SettingsError where two revisions are named; another revision is another model, with its own files."""
    if settings.revision is None:
        found = release or (release_of(repo, revision) if settings.from_ == "huggingface" else None)
        return Wanted(repo, revision, found)
    if revision is not None and revision != settings.revision:
        raise SettingsError(f"{settings.name} is the revision {revision} already: leave --revision out")
    found = release_of(repo, settings.revision) if settings.from_ == "huggingface" else None
    return Wanted(repo, settings.revision, found)


def download(settings: DownloadSettings, show: Show = lambda *_: None) -> Downloaded:
    """Downloads, or with `settings.verify` or offline only checks, what `settings` name.

    `show` is told of each stage how many of how many bytes are done.

    Raises:
        SettingsError: the name, the revision or TARGET cannot be taken.
        CheckpointError: the hub cannot be reached or has no such model, the disk is full, or a file is damaged; one
            line that says what to do.
        MissingExtraError: ModelScope is asked for and its client is not installed.
    """
    wanted = wanted_model(settings)
    hub = _hub(settings, wanted)
    target = _target(settings.target)
    try:
        if settings.verify or _is_offline(settings):
            return _check_only(settings, wanted, hub, target, show)
        return _fetch_and_check(settings, wanted, hub, target, show)
    except OSError as error:
        reason = f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
        raise CheckpointError(f"{wanted.repo} cannot be read or written here: {reason}") from error


def _fetch_and_check(
    settings: DownloadSettings, wanted: Wanted, hub: Hub, target: Path | None, show: Show
) -> Downloaded:
    """What the hub has now, whole on this disk; raises as `download`, and OSError where the system refuses."""
    listing = hub.listing()
    files = files_to_fetch(listing)
    is_there = target is not None and _holds_something(target)
    if target is not None and is_there:
        _refuse_strangers(settings, wanted, listing, target)
    with contextlib.nullcontext(target) if is_there else _partial(target, wanted, listing) as folder:
        before = hub.present(listing, files, folder)
        _check_disk(hub, files, before, folder)
        path = hub.fetch(listing, files, folder, lambda done, total: show("fetch", done, total))
        checked = _check(wanted, files, path, show)
        facts = {"repo": wanted.repo, "revision": wanted.revision, "commit": listing.commit}
        write_note(path, facts, checked)
        if target is not None and not is_there:
            (path / JOB_FILE).unlink(missing_ok=True)
            path = path.rename(target)
    fetched = sum(file.size for file in files) - before
    return Downloaded(path, wanted.repo, wanted.revision, listing.commit, tuple(checked), fetched)


def _hub(settings: DownloadSettings, wanted: Wanted) -> Hub:
    if settings.from_ == "modelscope":
        from baichuan2.checkpoints.from_modelscope import ModelScope

        return ModelScope(wanted.repo, wanted.revision, settings.mirror)
    from baichuan2.checkpoints.from_huggingface import HuggingFace

    return HuggingFace(wanted.repo, wanted.revision, settings.mirror)


def _is_offline(settings: DownloadSettings) -> bool:
    from huggingface_hub import constants

    return settings.offline or bool(constants.is_offline_mode())


def _target(text: str | None) -> Path | None:
    """The absolute path of the folder to write, None for the hub's own cache.

    Raises:
        SettingsError: it can be no folder, is a file, or its parent does not exist.
    """
    if text is None:
        return None
    if not text or not text.isprintable():
        raise SettingsError(f"TARGET cannot be a folder ({text!r}): give another name")
    try:
        path = Path(text).expanduser().absolute()
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise SettingsError(f"TARGET {text} exists and is no folder: give another name")
    except (OSError, RuntimeError) as error:
        raise SettingsError(f"TARGET cannot be a folder ({' '.join(str(error).split())}): give another name") from error
    if not path.parent.is_dir():
        raise SettingsError(f"TARGET {text}: there is no folder {path.parent}: make it first")
    return path


def _holds_something(target: Path) -> bool:
    return target.is_dir() and any(target.iterdir())


def _check_only(settings: DownloadSettings, wanted: Wanted, hub: Hub, target: Path | None, show: Show) -> Downloaded:
    """What lies here already, compared with all that is known without the hub; with --verify each file is read."""
    if target is not None and not _holds_something(target):
        unfinished = target.with_name(target.name + PARTIAL).is_dir()
        state = "holds an unfinished download" if unfinished else "does not exist"
        why = "" if settings.verify else ", and the hub must not be contacted (offline)"
        raise CheckpointError(f"TARGET {settings.target} {state}{why}: download it with a connection first")
    folder = target if target is not None else hub.cached()
    note = read_note(folder)
    if target is not None and note is not None:
        _refuse_other(settings, wanted, None, note)
    stated = _known_here(wanted, folder, note)
    names = sorted(note["files"]) if note is not None else _names_here(folder)
    if not any(stated.get(name) for name in names):
        raise CheckpointError(
            f"{folder}: no digest of its files is known: run  baichuan2 download {settings.name}  once with a "
            "connection, which notes them"
        )
    known = note["files"] if note is not None and not settings.verify else None
    checked, wrong = check_files(folder, names, stated, lambda *at: show("check", *at), known=known)
    if wrong:
        name, reason = wrong[0]
        raise CheckpointError(
            f"{folder / name} {reason}{_others(wrong)}: remove it and download the model again with a connection"
        )
    commit = note.get("commit") if note is not None else None
    return Downloaded(folder, wanted.repo, wanted.revision, commit, tuple(checked), 0)


def _names_here(folder: Path) -> list[str]:
    """The files of a folder without a note, and those that its index or SHA256SUMS say should be there."""
    present = {path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")}
    told = {name for name in (*stated_by_sums(folder), *weights_of(folder)) if Path(name).name == name}
    return sorted(present | told)


def _refuse_strangers(settings: DownloadSettings, wanted: Wanted, listing: Listing, target: Path) -> None:
    """Raises SettingsError unless TARGET holds this very download, whose files are then looked at once more."""
    note = read_note(target)
    if note is None:
        raise SettingsError(
            f"TARGET {settings.target} exists and is no download of this command: nothing is overwritten: give a new "
            "name, or remove it"
        )
    _refuse_other(settings, wanted, listing, note)


def _refuse_other(settings: DownloadSettings, wanted: Wanted, listing: Listing | None, note: dict[str, Any]) -> None:
    """Raises SettingsError where the note of a folder is that of another model, or of another state of it."""
    held = (note.get("repo"), note.get("revision"))
    if held != (wanted.repo, wanted.revision):
        at = f" (revision {held[1]})" if held[1] else ""
        raise SettingsError(f"TARGET {settings.target} holds {held[0]}{at}: give another name")
    if listing is not None and note.get("commit") != listing.commit:
        raise SettingsError(
            f"TARGET {settings.target} holds {wanted.repo} at commit {str(note.get('commit'))[:12]}, the hub has "
            f"{listing.commit[:12]} now: give another name, or remove it"
        )


def _known_here(wanted: Wanted, folder: Path, note: dict[str, Any] | None) -> dict[str, list[Digest]]:
    """What is stated of the files without asking the hub: by the note, the cache, the release and SHA256SUMS."""
    stated: dict[str, list[Digest]] = {}
    known = wanted.release.known_digests if wanted.release is not None else {}
    sources = (
        stated_by_note(note) if note is not None else {},
        stated_by_cache(folder),
        {name: Digest("sha256", value, "release") for name, value in known.items()},
        stated_by_sums(folder),
    )
    for source in sources:
        for name, digest in source.items():
            stated.setdefault(name, []).append(digest)
    return stated


def _check(wanted: Wanted, files: tuple[HubFile, ...], folder: Path, show: Show) -> list[Checked]:
    """Compares every file with what is stated of it; a damaged one is removed, so that the next run fetches it.

    Raises:
        CheckpointError: a file is damaged, or it is none of the official release.
    """
    stated: dict[str, list[Digest]] = {file.name: list(file.digests) for file in files}
    known = wanted.release.known_digests if wanted.release is not None else {}
    for name, digest in stated_by_sums(folder).items():
        stated.setdefault(name, []).append(digest)
    for name, value in known.items():
        stated.setdefault(name, []).append(Digest("sha256", value, "release"))
    note = read_note(folder)
    names = [file.name for file in files]
    checked, wrong = check_files(
        folder, names, stated, lambda *at: show("check", *at), known=note["files"] if note is not None else None
    )
    if not wrong:
        return checked
    for name, _ in wrong:
        path = folder / name
        if path.is_symlink() and path.resolve().parent.name == "blobs":
            path.resolve().unlink(missing_ok=True)  # the content in the cache, behind the link
        path.unlink(missing_ok=True)
    name, reason = wrong[0]
    advice = "the file was removed, run the same command again to fetch it anew"
    if "the official release has" in reason:
        advice += "; or, if the authors changed it, take what the hub has with --revision main"
    raise CheckpointError(f"{name} is damaged: it {reason}{_others(wrong)}: {advice}")


def _others(wrong: list[tuple[str, str]]) -> str:
    return f", and so are {len(wrong) - 1} others" if len(wrong) > 1 else ""


def _check_disk(hub: Hub, files: tuple[HubFile, ...], present: int, folder: Path | None) -> None:
    """Raises CheckpointError where what is missing does not fit on the disk."""
    needed = sum(file.size for file in files) - present
    place = hub.disk(folder)
    free = shutil.disk_usage(place).free
    if needed and free < needed + SPARE_BYTES:
        raise CheckpointError(
            f"the disk of {place} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed: make room, or give a "
            "TARGET elsewhere"
        )


@contextlib.contextmanager
def _partial(target: Path | None, wanted: Wanted, listing: Listing) -> Iterator[Path | None]:
    """The unfinished folder of TARGET, which one run at a time may write; None, where the cache is written.

    Raises:
        SettingsError: it holds another download or other files, or another run is at work.
        CheckpointError: it cannot be written.
    """
    if target is None:
        yield None
        return
    folder = target.with_name(target.name + PARTIAL)
    job = {"repo": wanted.repo, "revision": wanted.revision, "commit": listing.commit}
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error.strerror}") from error
    with one_run(folder):
        path = folder / JOB_FILE
        if path.is_file():
            _refuse_other_job(path, job)
        elif any(folder.iterdir()):
            raise SettingsError(
                f"{folder} exists and holds files that no unfinished download left: remove it, or give another TARGET"
            )
        else:
            path.write_text(json.dumps(job) + "\n", encoding="utf-8")
        yield folder


def _refuse_other_job(path: Path, job: dict[str, Any]) -> None:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        held = None
    if held != job:
        what = f"{held.get('repo')} at {held.get('commit')}" if isinstance(held, dict) else "something unreadable"
        raise SettingsError(f"{path.parent} holds an unfinished download of {what}: remove it, or give another TARGET")
