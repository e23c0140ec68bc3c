"""From a name to a folder, with the hub played by a stand-in: no test goes to the network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from baichuan2 import CheckpointError, LoadSettings, load_model
from baichuan2.checkpoints import locate as locate_module
from baichuan2.checkpoints.locate import locate

HUB_ID = "baichuan-inc/Baichuan2-7B-Chat"


def fails(message: str, name: str | None, **options: Any) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        locate(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind"), [(None, "chat"), ("demo", "chat"), ("demo-chat", "chat"), ("demo-base", "base")]
)
def test_demo_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, kind: str) -> None:
    monkeypatch.setattr(locate_module, "DEMO_DIR", tmp_path)
    fails(f"no embedded {kind} demo model .* run  make demo", name)
    (tmp_path / kind).mkdir()
    (tmp_path / kind / "config.json").touch()
    assert locate(name) == tmp_path / kind


def test_demo_models_lie_in_the_package() -> None:
    import baichuan2

    assert Path(baichuan2.__file__).parent / "demo" == locate_module.DEMO_DIR


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    assert locate(str(folder)) == folder
    assert locate(folder, offline=True) == folder
    monkeypatch.chdir(tmp_path)
    assert locate("owner/name") == Path("owner/name")  # a folder goes before the hub
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/owner/name") == folder


def test_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    fails("pytorch_model.bin is a file: give the folder", str(tmp_path / "pytorch_model.bin"))
    (tmp_path / "model.gguf").touch()
    fails("model.gguf is a file for llama.cpp: give the model folder", str(tmp_path / "model.gguf"))
    fails("there is no folder /no/such/folder: give a model folder, or a hub id such as", "/no/such/folder")
    for name in ("./models/7b", "../7b", "models/baichuan/7b", "7b", "~/no-such-folder", "", "a b/c", "models/"):
        fails("there is no folder", name)


@pytest.mark.parametrize(
    "name", [Path("missing"), Path("owner/name"), "x" * 5_000, "o/" + "x" * 5_000, "~nosuchuser/x", "a\0b", "a\nb"]
)
def test_names_that_no_folder_can_have(name: str | Path) -> None:
    with pytest.raises(CheckpointError, match="there is no folder") as caught:
        locate(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_what_is_no_name() -> None:
    with pytest.raises(CheckpointError, match="a model is named by text or a path, got int"):
        load_model(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [None, "demo", "demo-base", "FOLDER"])
def test_a_revision_of_what_is_not_on_the_hub(tmp_path: Path, name: str | None) -> None:
    name = str(tmp_path) if name == "FOLDER" else name
    with pytest.raises(CheckpointError, match=r"a revision \(v2.0\) applies to hub ids only") as caught:
        load_model(name, LoadSettings(revision="v2.0"))
    assert "\n" not in str(caught.value)


class Hub:
    """The two functions of huggingface_hub that are used."""

    def __init__(self, files: list[str] | Exception, snapshot: Path | Exception) -> None:
        self.files, self.snapshot = files, snapshot
        self.calls: list[dict[str, Any]] = []

    def list_repo_files(self, _api: object, _repo_id: str, *, revision: str | None) -> list[str]:
        if isinstance(self.files, Exception):
            raise self.files
        return self.files

    def snapshot_download(self, repo_id: str, **options: Any) -> str:
        self.calls.append({"repo_id": repo_id, **options})
        if isinstance(self.snapshot, Exception):
            raise self.snapshot
        return str(self.snapshot)


@pytest.fixture
def play_hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Hub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def play(files: list[str] | Exception, snapshot: Path | Exception) -> Hub:
        hub = Hub(files, snapshot)
        monkeypatch.setattr(
            huggingface_hub.HfApi, "list_repo_files", lambda api, repo, **rest: hub.list_repo_files(api, repo, **rest)
        )
        monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
        return hub

    return play


OFFICIAL_FILES = ["config.json", "modeling_baichuan.py", "pytorch_model.bin", "tokenizer.model"]


def test_code_is_never_fetched(tmp_path: Path, play_hub: Callable[..., Hub]) -> None:
    from fnmatch import fnmatch

    hub = play_hub(OFFICIAL_FILES, tmp_path)
    assert locate(HUB_ID, revision="v2.0") == tmp_path
    (call,) = hub.calls
    assert (call["repo_id"], call["revision"], call["local_files_only"]) == (HUB_ID, "v2.0", False)
    fetched = [name for name in OFFICIAL_FILES if any(fnmatch(name, pattern) for pattern in call["allow_patterns"])]
    assert fetched == ["config.json", "pytorch_model.bin", "tokenizer.model"]


def test_weights_are_fetched_in_one_format(tmp_path: Path, play_hub: Callable[..., Hub]) -> None:
    hub = play_hub([*OFFICIAL_FILES, "model.safetensors"], tmp_path)
    locate(HUB_ID)
    patterns = hub.calls[0]["allow_patterns"]
    assert locate_module.SAFETENSORS_PATTERN in patterns
    assert locate_module.BIN_PATTERN not in patterns


def test_offline_asks_the_cache_only(tmp_path: Path, play_hub: Callable[..., Hub]) -> None:
    hub = play_hub(AssertionError("asked the hub"), tmp_path)
    assert locate(HUB_ID, offline=True) == tmp_path
    assert hub.calls[0]["local_files_only"] is True


def test_no_connection_falls_back_to_the_cache(tmp_path: Path, play_hub: Callable[..., Hub]) -> None:
    play_hub(ConnectionError("no route"), tmp_path)
    assert locate(HUB_ID) == tmp_path


def hub_error(kind: type[Exception]) -> Exception:
    """An error of the hub without the HTTP response that its constructor wants."""
    error = kind.__new__(kind)
    error.args = ("404 Client Error.\nRepository Not Found for url",)
    return error


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.RepositoryNotFoundError, f"the hub has no model {HUB_ID}"),
        (errors.GatedRepoError, f"{HUB_ID} is gated on the hub: accept its terms there"),
        (errors.RevisionNotFoundError, f"{HUB_ID} has no revision v9 on the hub"),
        (errors.LocalEntryNotFoundError, "not in the local cache, and the hub cannot be reached"),
        (OSError, rf"{HUB_ID} \(revision v9\) cannot be fetched from the hub: 404 Client Error.$"),
    ],
)
def test_failures_of_the_hub(play_hub: Callable[..., Hub], kind: type[Exception], message: str) -> None:
    play_hub(OFFICIAL_FILES, hub_error(kind))
    fails(message, HUB_ID, revision="v9")


def test_absent_from_the_cache_while_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    fails(r"not in the local cache, and the hub must not be contacted \(offline\)", HUB_ID, offline=True)
