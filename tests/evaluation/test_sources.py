"""Where benchmarks are found, and archives that nobody should trust."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from baichuan2.errors import DataError
from baichuan2.evaluation import sources
from baichuan2.evaluation.sources import Files, find_files, open_archive

NAMES = {"dev/law_dev.csv": b"dev", "val/law_val.csv": "\ufeff值\n".encode(), "val/logic_val.csv": b"v"}


def put(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def make_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def find(data: Path, **changes: object) -> Files:
    values = {"folders": ["ceval", "ceval-exam"], "roots": ["", "data"], "expected": list(NAMES)} | changes
    return find_files(data, "C-Eval", **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "place",
    ["", "ceval", "CEval-Exam", "ceval/data", "data", "ceval-exam-main", "ceval/CEVAL-exam", "ceval-5c77d07/data"],
)
def test_the_folder_itself_its_published_names_and_folders_inside_are_found(tmp_path: Path, place: str) -> None:
    put(tmp_path / place, NAMES)
    files = find(tmp_path)
    assert files.text("val/law_val.csv") == "值\n"
    assert files.has("dev/law_dev.csv")
    assert not files.has("dev/logic_dev.csv")
    assert not files.has("dev")
    assert files.names("val", ".csv") == ["val/law_val.csv", "val/logic_val.csv"]


@pytest.mark.parametrize("name", ["ceval-exam.zip", "CEVAL.tar", "ceval.tar.gz", "ceval.tgz", "ceval.tar.xz"])
@pytest.mark.parametrize("root", ["", "data/", "Ceval-Exam-main/", "./", "any-name/data/"])
@pytest.mark.parametrize("is_named", [True, False])
def test_archives_are_read_as_they_are(tmp_path: Path, name: str, root: str, is_named: bool) -> None:
    inside = {root + key: value for key, value in NAMES.items()}
    path = tmp_path / name
    if name.endswith(".zip"):
        make_zip(path, inside)
    else:
        make_tar(path, inside, "w:" + {"gz": "gz", "tgz": "gz", "xz": "xz"}.get(name.rpartition(".")[2], ""))
    files = find(path if is_named else tmp_path)
    assert files.read("dev/law_dev.csv") == b"dev"
    assert files.text("val/law_val.csv") == "值\n"
    assert files.names("val", ".csv") == ["val/law_val.csv", "val/logic_val.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [name], "nothing is unpacked"


def test_a_folder_of_that_name_comes_before_what_lies_beside_it(tmp_path: Path) -> None:
    put(tmp_path, {"dev/law_dev.csv": b"of another benchmark"})
    put(tmp_path / "ceval", NAMES)
    assert find(tmp_path).read("dev/law_dev.csv") == b"dev"


def test_what_was_looked_for_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--data .*nowhere: there is no such folder"):
        find(tmp_path / "nowhere")
    put(tmp_path, {"ceval/readme.txt": b"x"})
    with pytest.raises(DataError) as caught:
        find(tmp_path)
    assert "\n" not in str(caught.value)
    for part in ("C-Eval was not found", "dev/law_dev.csv", f"{tmp_path}/ceval,", f"{tmp_path}/data,", "ceval-exam"):
        assert part in str(caught.value)
    put(tmp_path, {"notes.txt": b"x"})
    with pytest.raises(DataError, match=r"neither a folder nor one of \.zip"):
        find(tmp_path / "notes.txt")


def test_a_name_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--data .*File name too long"):
        find(tmp_path / ("x" * 300))


def test_names_that_leave_the_archive_and_links_are_passed_over(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    make_zip(tmp_path / "a.zip", {"../dev/law_dev.csv": b"x", "/dev/law_dev.csv": b"x", "ok.csv": b"y"})
    files = open_archive(tmp_path / "a.zip")
    assert files.names("", "") == ["ok.csv"]
    assert not any(files.has(name) for name in ("../dev/law_dev.csv", "/dev/law_dev.csv", "dev/law_dev.csv"))
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"dev/law_{int(kind)}.csv")
            link.type, link.linkname = kind, str(secret)
            archive.addfile(link)
        archive.addfile(tarfile.TarInfo("../up.csv"))
        device = tarfile.TarInfo("dev/zero.csv")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
        archive.addfile(tarfile.TarInfo("ok.csv"))
    files = open_archive(tmp_path / "b.tar")
    assert files.names("", "") == ["ok.csv"]
    assert files.names("dev", "") == []
    assert not files.has("../up.csv")
    with pytest.raises(DataError, match=r"b\.tar/dev/law_2\.csv cannot be read: no such file in the archive"):
        files.read("dev/law_2.csv")


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.tar.gz"])
def test_a_file_that_unfolds_to_too_much_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 1 << 20)
    content = {"dev/law_dev.csv": bytes((1 << 20) + 1)}
    if name.endswith(".zip"):
        make_zip(tmp_path / name, content)
    else:
        make_tar(tmp_path / name, content, "w:gz")
    with pytest.raises(DataError, match=r"bomb\..*law_dev\.csv holds more than 1 MiB"):
        open_archive(tmp_path / name).read("dev/law_dev.csv")


@pytest.mark.parametrize("name", ["bad.zip", "bad.tar", "bad.tar.gz"])
@pytest.mark.parametrize("content", [b"", b"not an archive at all", b"PK\x03\x04 cut", b"\x1f\x8b\x08cut"])
def test_damaged_archives_are_told(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"bad\..* is damaged, or no archive"):
        open_archive(tmp_path / name)


def test_an_archive_whose_middle_is_damaged_is_told(tmp_path: Path) -> None:
    path = tmp_path / "ceval.zip"
    make_zip(path, {"dev/law_dev.csv": bytes(range(256)) * 64})
    damaged = bytearray(path.read_bytes())
    damaged[60:90] = bytes(30)
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"law_dev\.csv cannot be read: .*damaged or encrypted"):
        find(path, expected=["dev/law_dev.csv"]).read("dev/law_dev.csv")


@pytest.mark.parametrize(("name", "make"), [("ceval.zip", make_zip), ("ceval.tar", make_tar)])
def test_a_changed_archive_is_read_anew(tmp_path: Path, name: str, make: Callable[..., None]) -> None:
    path = tmp_path / name
    make(path, NAMES)
    assert find(path).read("dev/law_dev.csv") == b"dev"
    make(path, NAMES | {"dev/law_dev.csv": b"other content", "dev/logic_dev.csv": b"new"})
    assert find(path).read("dev/law_dev.csv") == b"other content"
    assert find(path).has("dev/logic_dev.csv")


def test_what_is_no_utf8_is_told_with_its_line(tmp_path: Path) -> None:
    put(tmp_path, {"dev/law_dev.csv": "a\nb\n中".encode("gbk")})
    with pytest.raises(DataError, match=r"law_dev\.csv line 3 is no UTF-8"):
        find(tmp_path).text("dev/law_dev.csv")
