"""Downloads from a hub on this machine: whole, cut and gone on with, damaged, refused, and checked without the net."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from baichuan2.checkpoints import download as download_module
from baichuan2.checkpoints.digests import note_path
from baichuan2.checkpoints.download import Downloaded, download
from baichuan2.checkpoints.locate import locate
from baichuan2.checkpoints.release_state import cache_state
from baichuan2.checkpoints.releases import find_release
from baichuan2.errors import BaichuanError, CheckpointError, SettingsError
from baichuan2.settings import DownloadSettings
from tests.checkpoints.hub_server import FakeHub, Repository, running_hub

REPO = "tiny/model"
WEIGHTS = "pytorch_model.bin"


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def tiny_files(**more: bytes) -> dict[str, bytes]:
    files = {
        ".gitattributes": b"*.bin filter=lfs\n",
        ".baichuan2-verified.json": b"{}",
        "README.md": b"# tiny\n",
        "Community License for Baichuan2 Model.pdf": noise(3_000, 1),
        "config.json": b'{"model_type": "baichuan"}\n',
        "modeling_baichuan.py": b"raise SystemExit('code of the hub ran')\n",
        "other/config.json": b"{}",
        "tokenizer.model": noise(20_000, 2),
        WEIGHTS: noise(400_000, 3),
    }
    return {**files, **more}


FETCHED = {
    "README.md",
    "Community License for Baichuan2 Model.pdf",
    "config.json",
    "tokenizer.model",
    WEIGHTS,
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_user")  # nothing that a mirror may see
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 16_384)  # what is lost at a cut; 10 MB with the client
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits a second before it asks again
    with running_hub() as running:
        running.repositories[REPO] = Repository({"main": tiny_files()})
        yield running


def settings(hub: FakeHub, name: str = REPO, **more: Any) -> DownloadSettings:
    return DownloadSettings(name=name, mirror=hub.address, **more)


def fails(message: str, given: DownloadSettings, kind: type[BaichuanError] = CheckpointError) -> str:
    with pytest.raises(kind, match=message) as caught:
        download(given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def whole(result: Downloaded, files: dict[str, bytes]) -> None:
    """The folder holds what was published, checked, and no code."""
    assert {file.name for file in result.files} == FETCHED
    for name in FETCHED:
        assert (result.path / name).read_bytes() == files[name]
    assert not list(result.path.rglob("*.py"))
    assert not list(result.path.rglob("*.incomplete"))
    assert all(file.by for file in result.files)


def test_a_folder_is_whole_checked_and_left_alone_by_the_next_run(hub: FakeHub, tmp_path: Path) -> None:
    target, seen = tmp_path / "model", []
    result = download(settings(hub, target=str(target)), lambda *at: seen.append(at))
    whole(result, tiny_files())
    assert (result.path, result.num_bytes_fetched) == (target, result.num_bytes)
    assert result.commit == hub.repositories[REPO].commit("main")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]  # nothing half-written beside it
    assert {file.name for file in target.iterdir()} == {*FETCHED, ".baichuan2-verified.json"}
    assert {stage: (done, total) for stage, done, total in seen} == {
        "fetch": (result.num_bytes, result.num_bytes),
        "check": (result.num_bytes, result.num_bytes),
    }
    assert hub.tokens == []

    hub.sent.clear()
    again = download(settings(hub, target=str(target)))
    assert (again.num_bytes_fetched, hub.sent, again.files) == (0, {}, tuple(again.files))
    (target / WEIGHTS).unlink()  # what is missing is fetched, and only that
    beginning = f"{WEIGHTS}.{hashlib.sha256(tiny_files()[WEIGHTS]).hexdigest()[:16]}.incomplete"
    (target / beginning).write_bytes(bytes(500_000))  # longer than the file: no beginning of it
    again = download(settings(hub, target=str(target)))
    assert (again.num_bytes_fetched, set(hub.sent)) == (400_000, {WEIGHTS})
    whole(again, tiny_files())


def test_the_cache_is_that_of_the_client(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    result = download(settings(hub))
    whole(result, tiny_files())
    assert hub.tokens == []
    assert result.path.parent.name == "snapshots"
    assert (result.path / WEIGHTS).resolve().parent.name == "blobs"
    assert note_path(result.path).parent.parent == result.path.parent.parent
    assert {path.name for path in result.path.iterdir()} == FETCHED  # the note does not lie among the links
    hub.sent.clear()
    assert download(settings(hub)).num_bytes_fetched == 0
    assert WEIGHTS not in hub.sent
    assert locate(REPO, offline=True) == result.path  # as --model finds it


@pytest.mark.parametrize("place", ["folder", "cache"])
def test_a_cut_connection_goes_on_where_it_was(hub: FakeHub, tmp_path: Path, place: str) -> None:
    given = settings(hub, target=str(tmp_path / "model") if place == "folder" else None)
    hub.cut[WEIGHTS] = [100_000]
    whole(download(given), tiny_files())
    (first, second) = hub.sent[WEIGHTS]
    assert first == (0, 100_000)
    assert 0 < second[0] <= 100_000  # what reached the client before the cut is not asked for again
    assert second == (second[0], 400_000 - second[0])


@pytest.mark.parametrize("place", ["folder", "cache"])
def test_a_stopped_run_is_gone_on_with_by_the_next(hub: FakeHub, tmp_path: Path, place: str) -> None:
    target = tmp_path / "model"
    given = settings(hub, target=str(target) if place == "folder" else None)

    def stop(stage: str, done: int, total: int) -> None:
        if done > 250_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(given, stop)
    assert not target.exists()
    hub.sent.clear()
    result = download(given)
    whole(result, tiny_files())
    ((start, count),) = hub.sent[WEIGHTS]
    assert start > 150_000
    assert start + count == 400_000
    assert result.num_bytes_fetched < 400_000 - 150_000 + 24_000
    assert sorted(path.name for path in tmp_path.iterdir()) == (["model"] if place == "folder" else ["cache"])


@pytest.mark.parametrize("place", ["folder", "cache"])
def test_two_runs_do_not_write_the_same_file(hub: FakeHub, tmp_path: Path, place: str) -> None:
    given = settings(hub, target=str(tmp_path / "model") if place == "folder" else None)
    others = []

    def start_another(stage: str, done: int, total: int) -> None:
        if stage == "fetch" and done > 250_000 and not others:
            others.append(fails("another run is writing .*: wait for it", given, SettingsError))

    whole(download(given, start_another), tiny_files())
    assert len(others) == 1


def test_an_unfinished_download_of_something_else_is_not_touched(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["tiny/other"] = Repository({"main": tiny_files()})
    hub.refused[WEIGHTS] = 503
    fails("cannot be fetched from the hub: .*503", settings(hub, target=str(tmp_path / "model")))
    fails(
        "holds an unfinished download of tiny/model",
        settings(hub, "tiny/other", target=str(tmp_path / "model")),
        SettingsError,
    )
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "mine.txt").touch()
    fails("files that no unfinished download left", settings(hub, target=str(tmp_path / "new")), SettingsError)
    assert (tmp_path / "new.partial" / "mine.txt").exists()


@pytest.mark.parametrize("place", ["folder", "cache"])
def test_a_damaged_file_is_named_removed_and_fetched_anew(hub: FakeHub, tmp_path: Path, place: str) -> None:
    given = settings(hub, target=str(tmp_path / "model") if place == "folder" else None)
    hub.corrupt.add(WEIGHTS)
    message = fails(f"^{WEIGHTS} is damaged: it has the sha256 [0-9a-f]{{64}}, the hub states", given)
    assert message.endswith("the file was removed, run the same command again to fetch it anew")
    assert not (tmp_path / "model").exists()
    hub.corrupt.clear()
    hub.sent.clear()
    whole(download(given), tiny_files())
    assert hub.sent[WEIGHTS] == [(0, 400_000)]


def test_a_damaged_small_file_is_named_by_git_digest(hub: FakeHub, tmp_path: Path) -> None:
    hub.corrupt.add("config.json")
    fails("^config.json is damaged: it has the git digest", settings(hub, target=str(tmp_path / "model")))


def test_sums_of_the_repository_are_compared(hub: FakeHub, tmp_path: Path) -> None:
    files = tiny_files()
    sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in (WEIGHTS, "config.json"))
    hub.repositories[REPO].revisions["main"]["SHA256SUMS"] = sums.encode()
    result = download(settings(hub, target=str(tmp_path / "model")))
    assert {file.name for file in result.files if "SHA256SUMS" in file.by} == {WEIGHTS, "config.json"}
    hub.repositories[REPO].revisions["main"]["SHA256SUMS"] = ("0" * 64 + f"  {WEIGHTS}\n").encode()
    fails(f"{WEIGHTS} is damaged: .*SHA256SUMS states 0000", settings(hub, target=str(tmp_path / "other")))
    hub.repositories[REPO].revisions["main"]["SHA256SUMS"] = b"no digest\n"
    fails("SHA256SUMS, line 1: not of the form", settings(hub, target=str(tmp_path / "third")))


def test_a_release_has_digests_of_its_own(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror can state any digest; what the official files are is known here."""
    hub.repositories["baichuan-inc/Baichuan2-7B-Chat"] = Repository({"main": tiny_files()})
    given = settings(hub, "7b-chat", target=str(tmp_path / "model"))
    message = fails("is damaged: it has the sha256 .*, the official release has", given)
    assert "--revision main" in message
    named = settings(hub, "7B-Chat", target=str(tmp_path / "model"), revision="main")
    whole(download(settings(hub, "7B-Chat", target=str(tmp_path / "other"), revision="main")), tiny_files())
    fails("holds an unfinished download of", named, SettingsError)  # another revision, in name


def test_safetensors_are_preferred(hub: FakeHub, tmp_path: Path) -> None:
    more = {"model.safetensors": noise(1_000, 4), "pytorch_model.bin.index.json": b"{}"}
    hub.repositories[REPO] = Repository({"main": tiny_files(**more)})
    result = download(settings(hub, target=str(tmp_path / "model")))
    assert {file.name for file in result.files} == FETCHED - {WEIGHTS} | {"model.safetensors"}


def test_revisions_and_their_cache(hub: FakeHub, tmp_path: Path) -> None:
    repo = "baichuan-inc/Baichuan2-7B-Intermediate-Checkpoints"
    hub.repositories[repo] = Repository(
        {"main": {"README.md": b"see the revisions\n", "config.json": b"{}"}, "train_00220B": tiny_files()}
    )
    fails("holds no weights that can be loaded: it may hold them in its revisions", settings(hub, repo))
    release = find_release("7B@00220B")
    assert release is not None
    assert cache_state(release) == ("no", None)
    # its tokenizer is no official one here, which the revision by name does not forgive
    fails("tokenizer.model is damaged", settings(hub, "7B@00220B"))
    assert cache_state(release)[0] == "yes"
    fails(f"{repo} has no revision train_9 on the hub", settings(hub, f"{repo}@train_9"))


def test_what_cannot_be_fetched_is_one_line(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["tiny/empty"] = Repository({"main": {"README.md": b"x"}})
    hub.gated.add("tiny/gated")
    fails("the hub has no model tiny/none", settings(hub, "tiny/none"))
    fails("tiny/gated is gated on the hub", settings(hub, "tiny/gated"))
    fails("tiny/empty holds no config.json", settings(hub, "tiny/empty"))
    fails("tiny/model has no revision v9 on the hub", settings(hub, revision="v9"))
    fails("demo-chat comes with this package", settings(hub, "demo-chat"))
    fails("'7B' may mean 7B-Base, 7B-Chat", settings(hub, "7B"))
    fails("did you mean 7B-Chat", settings(hub, "7B-Caht"))
    fails("is no release and no hub id", settings(hub, "../etc"))
    fails("--revision is a branch, tag or commit", settings(hub, revision="../x"), SettingsError)
    fails("NAME is missing", DownloadSettings(), SettingsError)
    hub.repositories["tiny/odd"] = Repository({"main": {}})
    fails("the hub tells no sizes of files", settings(hub, "tiny/odd"))
    hub.odd["tiny/odd"] = b"<html>log in to the network first</html>"
    fails("tiny/odd: what answers is no hub", settings(hub, "tiny/odd"))
    hub.odd["tiny/odd"] = 100_000 * b"["
    fails("tiny/odd: what answers is no hub", settings(hub, "tiny/odd"))
    hub.odd["tiny/odd"] = b'{"id": "tiny/odd", "sha": ["x"], "siblings": [{"rfilename": "a", "size": 1}]}'
    fails("the hub names a commit", settings(hub, "tiny/odd"))
    hub.odd["tiny/odd"] = b'{"id": "tiny/odd", "siblings": [{"size": 1}]}'
    fails(
        "tiny/odd: what answers is no hub .*look at the address in --mirror or HF_ENDPOINT", settings(hub, "tiny/odd")
    )
    closed = DownloadSettings(name=REPO, mirror="http://127.0.0.1:9")
    fails("the hub cannot be reached", closed)
    with pytest.raises(SettingsError, match="--mirror is an address"):
        DownloadSettings(name=REPO, mirror="hf-mirror.com")


def test_a_hub_that_lies_about_names_and_digests(hub: FakeHub, tmp_path: Path) -> None:
    """Names and digests become names of files here."""
    files = hub.repositories[REPO].revisions["main"]
    hub.stated[WEIGHTS] = "../../../../escaped"
    fails("as the digest of 'pytorch_model.bin', which is none", settings(hub, target=str(tmp_path / "model")))
    hub.stated.clear()
    files["../escaped.json"] = b"{}"
    files["evil\x1b[2J.json"] = b"{}"
    files["LICENSE.py"] = b"raise SystemExit('code of the hub ran')\n"
    files[250 * "x" + ".json"] = b"{}"
    result = download(settings(hub, target=str(tmp_path / "model")))
    assert {file.name for file in result.files} == FETCHED
    assert not list(tmp_path.rglob("escaped*"))


@pytest.mark.parametrize("place", ["folder", "cache"])
def test_a_body_that_does_not_end_does_not_fill_the_disk(
    hub: FakeHub, tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    hub.longer[WEIGHTS] = bytes(2_000_000)
    given = settings(hub, target=str(tmp_path / "model") if place == "folder" else None)
    fails("pytorch_model.bin: the hub sends more than the 400,000 bytes that it states", given)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.incomplete")) == 0
    hub.longer.clear()
    hub.cut[WEIGHTS] = [50_000]
    whole(download(given), tiny_files())
    assert not caplog.records  # the client's own lines about the cut


def test_what_the_system_refuses_is_one_line(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "model/config.json")

    monkeypatch.setattr(download_module, "check_files", full)
    fails(
        r"tiny/model cannot be read or written here: No space left on device \(model/config.json\)",
        settings(hub, target=str(tmp_path / "model")),
    )


def test_targets(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    fails("exists and is no download of this command", settings(hub, target=str(tmp_path / "full")), SettingsError)
    fails("exists and is no folder", settings(hub, target=str(tmp_path / "file")), SettingsError)
    fails("there is no folder .*none: make it first", settings(hub, target=str(tmp_path / "none" / "x")), SettingsError)
    fails("TARGET cannot be a folder", settings(hub, target="a\nb"), SettingsError)
    whole(download(settings(hub, target=str(tmp_path / "empty"))), tiny_files())
    hub.repositories["tiny/other"] = Repository({"main": tiny_files()})
    fails(
        "holds tiny/model: give another name",
        settings(hub, "tiny/other", target=str(tmp_path / "empty")),
        SettingsError,
    )
    hub.repositories[REPO].revisions["main"]["config.json"] = b'{"changed": 1}'
    fails("at commit .*, the hub has", settings(hub, target=str(tmp_path / "empty")), SettingsError)


def test_a_full_disk_is_seen_before(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    fails("GB free, .* GB are needed: make room", settings(hub, target=str(tmp_path / "model")))
    assert hub.sent == {}


def test_checks_without_the_net(hub: FakeHub, tmp_path: Path) -> None:
    target = tmp_path / "model"
    offline = DownloadSettings(name=REPO, target=str(target), offline=True)
    verify = DownloadSettings(name=REPO, target=str(target), verify=True)
    fails(r"does not exist, and the hub must not be contacted \(offline\)", offline)
    fails("does not exist: download it with a connection first", verify)
    fails("not in the local cache, and the hub must not be contacted", DownloadSettings(name=REPO, offline=True))
    download(settings(hub, target=str(target)))
    cached = download(settings(hub)).path
    hub.asked.clear()
    for given in (offline, verify, DownloadSettings(name=REPO, verify=True), DownloadSettings(name=REPO, offline=True)):
        assert {file.name for file in download(given).files} == FETCHED
    note_path(cached).unlink()  # the cache tells digests by itself
    result = download(DownloadSettings(name=REPO, verify=True))
    assert {file.by for file in result.files} == {("cache",)}
    other = DownloadSettings(name="tiny/other", target=str(target), verify=True)
    fails("holds tiny/model: give another name", other, SettingsError)
    assert hub.asked == []

    weights = target / WEIGHTS
    state, content = weights.stat(), bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)
    damaged = rf"{WEIGHTS} has the sha256 [0-9a-f]{{64}}, when it was downloaded it was"
    fails(damaged, offline)  # its time of change tells that it must be read again
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert download(offline).path == target  # a change behind the back of the clock is for --verify to find
    fails(damaged, verify)
    weights.unlink()
    fails(f"{WEIGHTS} is missing", offline)


def test_a_folder_without_a_note_needs_something_to_compare_with(hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "copied"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    fails("no digest of its files is known", DownloadSettings(name=REPO, target=str(folder), verify=True))
    (folder / "SHA256SUMS").write_text(hashlib.sha256(b"{}").hexdigest() + "  config.json\n")
    result = download(DownloadSettings(name=REPO, target=str(folder), verify=True))
    assert [(file.name, file.by) for file in result.files if file.by] == [("config.json", ("SHA256SUMS",))]
    (folder / "SHA256SUMS").write_text(
        hashlib.sha256(b"{}").hexdigest() + "  config.json\n" + "0" * 64 + "  gone.bin\n"
    )
    fails("gone.bin is missing", DownloadSettings(name=REPO, target=str(folder), verify=True))
    (folder / "SHA256SUMS").write_text(hashlib.sha256(b"{}").hexdigest() + "  config.json\n" + "0" * 64 + "  ../x\n")
    (folder / ".baichuan2-verified.json").write_text(json.dumps({"files": {"../x": {"sha256": "0"}}}))
    assert download(DownloadSettings(name=REPO, target=str(folder), verify=True)).files  # no note of ours
