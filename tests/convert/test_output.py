"""The unfinished folder: whatever happens to it, to TARGET or beside SOURCE ends in one line, and a run can go on."""

import errno
import hashlib
import json
import resource
import shutil
from pathlib import Path

import pytest

from baichuan2.convert import official_bin, quantize
from baichuan2.convert.output import DIGEST_FILE, PROGRESS_FILE, PartialFolder, files_to_copy
from baichuan2.convert.quantize import SPARE_BYTES, Step, quantize_checkpoint
from baichuan2.errors import BaichuanError, CheckpointError, SettingsError
from baichuan2.settings import QuantizeSettings
from tests.checkpoints.folders import write_folder

JOB = {"format": "int4"}
FULL_DEVICE = Path("/dev/full")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("source") / "7b", "7b", "safetensors")


def settings_of(source: Path, target: Path, **choices) -> QuantizeSettings:
    choices.setdefault("method", "nearest")
    return QuantizeSettings(source=str(source), target=str(target), **choices)


def interrupt(step: Step) -> None:
    if step.done == 1:
        raise KeyboardInterrupt


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def check_digests(folder: Path) -> set[str]:
    """The names in SHA256SUMS, which are those of all other files, with the right digests."""
    digests = {line[66:]: line[:64] for line in (folder / DIGEST_FILE).read_text().splitlines()}
    files = contents(folder)
    del files[DIGEST_FILE]
    assert digests == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return set(digests)


@pytest.mark.parametrize("is_dangling", [True, False])
def test_a_target_that_came_into_being_meanwhile_is_not_touched(is_dangling, tmp_path):
    target = tmp_path / "out"
    with PartialFolder(target, JOB) as partial:
        partial.write_text("a.txt", "a")
        if is_dangling:
            target.symlink_to(tmp_path / "nowhere")
        else:
            target.mkdir()
        with pytest.raises(SettingsError, match="came into being meanwhile: the result is in"):
            partial.finish()
    assert target.is_symlink() == is_dangling
    assert (partial.path / "a.txt").read_text() == "a"


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="this system has no /dev/full")
def test_a_disk_that_is_full_at_the_end_is_one_line_and_the_run_goes_on(tmp_path):
    target = tmp_path / "out"
    with PartialFolder(target, JOB) as partial:
        partial.write_text("a.txt", "a")
        (partial.path / DIGEST_FILE).symlink_to(FULL_DEVICE)
        with pytest.raises(CheckpointError, match=r"cannot be finished, the result is in .*out\.partial: .*No space"):
            partial.finish()
        (partial.path / DIGEST_FILE).unlink()
    with PartialFolder(target, JOB) as partial:
        assert partial.has("a.txt")
        partial.finish()
    assert check_digests(target) == {"a.txt"}


def test_a_disk_that_is_full_from_the_start_leaves_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with (
            pytest.raises(CheckpointError, match=r"cannot be written: File too large"),
            PartialFolder(tmp_path / "out", JOB),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "out.partial").mkdir()

    def refuse(path: Path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(CheckpointError, match=r"out\.partial cannot be read: Permission denied$"):
        PartialFolder(tmp_path / "out", JOB).__enter__()
    monkeypatch.undo()
    with PartialFolder(tmp_path / "out", JOB):  # the lock was given back
        pass


@pytest.mark.parametrize(
    "files",
    [
        {"x": {}},
        {"x": {"sha256": 3, "errors": {}}},
        {"x": {"sha256": "0", "errors": []}},
        {"x": {"sha256": "0", "errors": {"a": "large"}}},
        {"x": []},
        [],
        None,
        {"x" * 300: {"sha256": "0", "errors": {}}},
    ],
)
def test_damaged_notes_are_one_line(files, tmp_path):
    folder = tmp_path / "out.partial"
    folder.mkdir()
    (folder / PROGRESS_FILE).write_text(json.dumps({"job": JOB, "files": files}))
    with pytest.raises(BaichuanError, match=r"out\.partial") as caught:
        PartialFolder(tmp_path / "out", JOB).__enter__()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"[]", b"", b"{", b"\xff", b"[" * 100_000, b'{"job": []}', b'{"job": null}'])
def test_notes_that_are_no_notes_are_one_line(content, tmp_path):
    folder = tmp_path / "out.partial"
    folder.mkdir()
    (folder / PROGRESS_FILE).write_bytes(content)
    with pytest.raises(BaichuanError, match="remove ") as caught:
        PartialFolder(tmp_path / "out", JOB).__enter__()
    assert "\n" not in str(caught.value)
    assert "download" not in str(caught.value)


def test_noted_files_that_are_gone_or_elsewhere_get_no_digest(tmp_path):
    target = tmp_path / "out"
    with PartialFolder(target, JOB) as partial:
        partial.write_text("a.txt", "a")
        partial.write_text("b.txt", "b")
    (tmp_path / "c.txt").write_text("c")
    progress = partial.path / PROGRESS_FILE
    notes = json.loads(progress.read_text())
    notes["files"]["../c.txt"] = notes["files"]["b.txt"]
    progress.write_text(json.dumps(notes))
    (partial.path / "b.txt").unlink()
    with PartialFolder(target, JOB) as partial:
        partial.finish()
    assert check_digests(target) == {"a.txt"}


def test_leftovers_of_another_run_in_the_source_stay_there(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "source")
    (folder / PROGRESS_FILE).write_text("{}")
    (folder / "states-whole.partial").write_text("states")
    (folder / "README.md").write_text("# a model")
    target = quantize_checkpoint(settings_of(folder, tmp_path / "out")).folder
    names = check_digests(target)
    assert "README.md" in names
    assert not names & {PROGRESS_FILE, "states-whole.partial"}


def test_links_are_followed_only_within_the_folder_or_the_cache_of_the_hub(tmp_path):
    folder = tmp_path / "models--owner--name" / "snapshots" / "0123"
    blobs = tmp_path / "models--owner--name" / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "abcd").write_text("blob")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "README.md").write_text("# a model")
    (folder / "inside.txt").symlink_to("README.md")
    (folder / "tokenizer.model").symlink_to("../../blobs/abcd")
    (folder / "outside.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "detour.txt").symlink_to("outside.txt")
    (folder / "dangling.txt").symlink_to("nothing")
    alias = tmp_path / "alias"
    alias.symlink_to(folder)
    for place in (folder, alias):
        with pytest.warns(UserWarning, match="leads out of its folder: it is not copied") as caught:
            names = [path.name for path in files_to_copy(place)]
        assert names == ["README.md", "inside.txt", "tokenizer.model"]
        assert [Path(str(item.message).split(" is a link")[0]).name for item in caught] == ["detour.txt", "outside.txt"]


def test_a_link_that_is_left_out_is_told_before_the_work_begins(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "source")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "outside.txt").symlink_to(tmp_path / "secret.txt")

    def stop(_: Step) -> None:
        raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="leads out of its folder"), pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(settings_of(folder, tmp_path / "out"), stop)


def test_blobs_beside_a_folder_that_is_no_snapshot_are_outside(tmp_path):
    folder = tmp_path / "models" / "0123"
    folder.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "abcd").write_text("blob")
    (folder / "x.txt").symlink_to("../../blobs/abcd")
    with pytest.warns(UserWarning, match=r"x\.txt is a link"):
        assert files_to_copy(folder) == []


@pytest.mark.parametrize("num_removed", [0, 1, 3])
def test_an_official_folder_goes_on_from_its_one_file(num_removed, small, tmp_path, monkeypatch):
    whole = quantize_checkpoint(settings_of(small, tmp_path / "whole", format="official-4bits"))
    settings = settings_of(small, tmp_path / "out", format="official-4bits")
    real = PartialFolder.remove
    removed: list[str] = []

    def interrupted(partial: PartialFolder, name: str) -> None:
        if len(removed) == num_removed:
            raise KeyboardInterrupt
        real(partial, name)
        removed.append(name)

    def interrupted_text(partial: PartialFolder, name: str, text: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PartialFolder, "remove", interrupted)
        patch.setattr(PartialFolder, "write_text", interrupted_text)
        with pytest.raises(KeyboardInterrupt):
            quantize_checkpoint(settings)
    assert len(removed) == num_removed

    def refuse(*_: object) -> None:
        raise AssertionError("a layer is rounded again")

    monkeypatch.setattr(quantize, "round_weight", refuse)
    monkeypatch.setattr(official_bin, "_save", refuse)
    steps: list[Step] = []
    result = quantize_checkpoint(settings, steps.append)
    assert steps == [Step(0, 2, 0), Step(1, 2, 1), Step(2, 2, 2)]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert (result.errors, result.bits_per_weight) == (whole.errors, whole.bits_per_weight)
    assert len(result.errors) == 10


def has_free(monkeypatch, num_bytes: int) -> None:
    usage = shutil.disk_usage("/")._replace(free=num_bytes)
    monkeypatch.setattr(quantize.shutil, "disk_usage", lambda _: usage)


def test_the_states_of_a_calibration_need_room_too(small, tmp_path, monkeypatch):
    has_free(monkeypatch, SPARE_BYTES + 1_000_000)
    quantize_checkpoint(settings_of(small, tmp_path / "search", method="search"))
    with pytest.raises(CheckpointError, match="GB are needed"):
        quantize_checkpoint(settings_of(small, tmp_path / "out", method="gptq", calibration_tokens=400))


def test_leftovers_that_take_no_room_do_not_count_as_written(small, tmp_path, monkeypatch):
    settings = settings_of(small, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(settings, interrupt)
    with (tmp_path / "out.partial" / "states-whole.partial").open("wb") as file:
        file.truncate(1 << 34)  # a hole
    has_free(monkeypatch, SPARE_BYTES)
    with pytest.raises(CheckpointError, match="GB are needed"):
        quantize_checkpoint(settings)


def test_what_is_written_already_needs_no_room(small, tmp_path, monkeypatch):
    settings = settings_of(small, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(settings, interrupt)
    written = (tmp_path / "out.partial" / "model-00001-of-00003.safetensors").stat().st_size
    with monkeypatch.context() as patch:
        has_free(patch, SPARE_BYTES + 1_000_000 - written)
        quantize_checkpoint(settings)
    assert (tmp_path / "out").is_dir()
