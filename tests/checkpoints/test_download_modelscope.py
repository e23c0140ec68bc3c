"""The same from ModelScope: its real client on a hub of this machine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from baichuan2.checkpoints.download import download
from baichuan2.errors import CheckpointError, SettingsError
from baichuan2.settings import DownloadSettings
from tests.checkpoints.hub_server import FakeHub, Repository, running_hub
from tests.checkpoints.test_download import FETCHED, REPO, WEIGHTS, tiny_files, whole

pytest.importorskip("modelscope_hub", reason="needs the extra modelscope")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
    with running_hub() as running:
        running.repositories[REPO] = Repository({"master": tiny_files()})
        yield running


def settings(hub: FakeHub, name: str = REPO, **more: Any) -> DownloadSettings:
    return DownloadSettings(name=name, from_="modelscope", mirror=hub.address, **more)


def fails(message: str, given: DownloadSettings, kind: type[Exception] = CheckpointError) -> None:
    with pytest.raises(kind, match=message) as caught:
        download(given)
    assert "\n" not in str(caught.value)


def test_a_folder_and_the_cache(hub: FakeHub, tmp_path: Path) -> None:
    target = tmp_path / "model"
    hub.cut[WEIGHTS] = [100_000]
    result = download(settings(hub, target=str(target)))
    whole(result, tiny_files())
    assert hub.sent[WEIGHTS] == [(0, 100_000), (100_000, 300_000)]
    assert {path.name for path in target.iterdir()} == {*FETCHED, ".baichuan2-verified.json"}
    hub.sent.clear()
    assert download(settings(hub, target=str(target))).num_bytes_fetched == 0
    assert hub.sent == {}
    cached = download(settings(hub))
    whole(cached, tiny_files())
    assert cached.path.is_relative_to(tmp_path / "cache")
    hub.asked.clear()
    assert download(settings(hub, verify=True)).path == cached.path
    assert [path for _, path, _ in hub.asked if "/repo" in path] == []

    hub.repositories[REPO].revisions["master"]["config.json"] = b'{"changed": 1}'
    fails("the hub has", settings(hub, target=str(target)), SettingsError)
    assert (target / "config.json").exists()


def test_what_cannot_be_fetched_is_one_line(hub: FakeHub, tmp_path: Path) -> None:
    fails("ModelScope has no model tiny/none", settings(hub, "tiny/none"))
    fails(r"ModelScope has no model tiny/model \(revision v9\)", settings(hub, revision="v9"))
    fails("not in ModelScope's local cache", settings(hub, offline=True))
    hub.refused[WEIGHTS] = 404
    fails(f"^{WEIGHTS} of tiny/model cannot be fetched from ModelScope", settings(hub, target=str(tmp_path / "model")))
    assert not (tmp_path / "model").exists()
    hub.refused.clear()
    whole(download(settings(hub, target=str(tmp_path / "model"))), tiny_files())


def test_a_damaged_file_is_named(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_INTEGRITY_RETRY_BACKOFF", 0)
    hub.corrupt.add(WEIGHTS)
    fails(f"^{WEIGHTS} of tiny/model cannot be .*Hash mismatch", settings(hub, target=str(tmp_path / "model")))
    assert not (tmp_path / "model").exists()
