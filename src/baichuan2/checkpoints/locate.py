"""From a name to a local folder: the embedded demo models, a folder on disk, or a model id on the hub."""

import re
from pathlib import Path

from baichuan2.checkpoints.hub_cache import holds_model
from baichuan2.checkpoints.hub_failures import hub_failures
from baichuan2.checkpoints.releases import Release, release_meant
from baichuan2.errors import CheckpointError

__all__ = ["locate"]

DEMO_DIR = Path(__file__).resolve().parent.parent / "demo"
DEMO_MODELS = {"demo": "chat", "demo-chat": "chat", "demo-base": "base"}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
EXAMPLE_ID = "baichuan-inc/Baichuan2-7B-Chat"
LONGEST_NAME_SHOWN = 300

# never a .py file: code from the hub has no business on this disk
DESCRIPTION_PATTERNS = ("*.json", "tokenizer.model", "*.jinja")
SAFETENSORS_PATTERN = "model*.safetensors"
BIN_PATTERN = "pytorch_model*.bin"


def locate(
    name_or_path: str | Path | None, *, revision: str | None = None, offline: bool = False, with_weights: bool = True
) -> Path:
    """The local folder of a model.

    None, "demo" and "demo-chat" are the embedded Chat model, "demo-base" its Base model. An existing folder is taken
    as it is. The name of an official release, such as 7B-Chat (`checkpoints.releases`), or a string of the form
    owner/name is otherwise looked up on the hub: in the local cache, and unless `offline` also on the network, where
    `revision` is a branch, tag or commit. Without `with_weights` only the small files that describe the model are
    fetched.

    Raises:
        CheckpointError: there is no such model, it cannot be reached, or a revision is given for one that is not on the
            hub; one line that says what to do.
    """
    if name_or_path is not None and not isinstance(name_or_path, str | Path):
        raise CheckpointError(
            f"a model is named by text or a path, got {type(name_or_path).__name__}: give a model folder, or a hub id "
            f"such as {EXAMPLE_ID}"
        )
    if name_or_path is None or name_or_path in DEMO_MODELS:
        _refuse_revision(revision, "the embedded demo model")
        return _demo_folder(DEMO_MODELS[str(name_or_path or "demo")])
    shown = _shown(str(name_or_path))
    try:
        path = Path(name_or_path).expanduser()
        is_folder, is_file = bool(name_or_path) and path.is_dir(), path.is_file()
    except (OSError, RuntimeError) as error:  # a name too long for the file system, the home of an unknown user
        raise CheckpointError(
            f"there is no folder {shown}: give a model folder, or a hub id such as {EXAMPLE_ID}"
        ) from error
    if is_folder:
        _refuse_revision(revision, f"the folder {shown}")
        return path
    if is_file:
        if path.suffix.lower() == ".gguf":
            raise CheckpointError(f"{shown} is a file for llama.cpp: give the model folder that it was made from")
        raise CheckpointError(f"{shown} is a file: give the folder that holds it")
    release = None if isinstance(name_or_path, Path) else _release(name_or_path)
    if release is not None and release.repo is None:
        _refuse_revision(revision, "the embedded demo model")
        return _demo_folder(release.kind)
    if release is not None and release.repo is not None:
        if revision is not None and release.revision is not None:
            _refuse_revision(revision, f"{shown} is one revision ({release.revision}) by itself and")
        return _hub_folder(release.repo, revision or release.revision, offline, with_weights)
    if isinstance(name_or_path, Path) or path.is_absolute() or not HUB_ID.fullmatch(name_or_path):
        raise CheckpointError(f"there is no folder {shown}: give a model folder, or a hub id such as {EXAMPLE_ID}")
    return _hub_folder(name_or_path, revision, offline, with_weights)


def _refuse_revision(revision: str | None, where: str) -> None:
    """Raises CheckpointError for a revision of something that is not on the hub: it would be ignored in silence."""
    if revision is not None:
        raise CheckpointError(f"a revision ({revision}) applies to hub ids only, {where} has none: leave it out")


def _release(name: str) -> Release | None:
    """The official release that `name` means, None where it means none."""
    try:
        return release_meant(name)
    except CheckpointError as error:
        raise CheckpointError(f"there is no folder {_shown(name)}, and {error}") from None


def _shown(name: str) -> str:
    """A name as a one-line message can hold it."""
    shown = name if name and name.isprintable() else repr(name)
    return shown if len(shown) <= LONGEST_NAME_SHOWN else shown[:LONGEST_NAME_SHOWN] + "..."


def _demo_folder(kind: str) -> Path:
    folder = DEMO_DIR / kind
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"this installation has no embedded {kind} demo model ({folder}): run  make demo  to train it, or give a "
            f"model folder or a hub id such as {EXAMPLE_ID}"
        )
    return folder


def _hub_folder(repo_id: str, revision: str | None, offline: bool, with_weights: bool) -> Path:
    """The snapshot of a hub repository in the local cache, brought up to date unless `offline`."""
    from huggingface_hub import constants, errors, snapshot_download

    offline = offline or constants.is_offline_mode()
    with hub_failures(repo_id, revision, offline=offline):
        weights: tuple[str, ...] = ()
        if with_weights:
            weights = (SAFETENSORS_PATTERN, BIN_PATTERN) if offline else _published_weights(repo_id, revision)
        try:
            return Path(
                snapshot_download(
                    repo_id,
                    revision=revision,
                    allow_patterns=[*DESCRIPTION_PATTERNS, *weights],
                    local_files_only=offline,
                )
            )
        except errors.LocalEntryNotFoundError as error:
            incomplete = getattr(error, "snapshot_path", None)
            if incomplete is None or not holds_model(Path(incomplete), with_weights=with_weights):
                raise
            return Path(incomplete)


def _published_weights(repo_id: str, revision: str | None) -> tuple[str, ...]:
    """The file pattern of the weights to fetch: safetensors where they are published, so nothing is fetched twice."""
    from huggingface_hub import HfApi, errors

    try:
        names = HfApi().list_repo_files(repo_id, revision=revision)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise
    except Exception:  # no connection, in one of many spellings: the cache may still have it all
        return (SAFETENSORS_PATTERN, BIN_PATTERN)
    return (SAFETENSORS_PATTERN,) if any(name.endswith(".safetensors") for name in names) else (BIN_PATTERN,)
