import json
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import baichuan2
from baichuan2.cli.commands import info
from baichuan2.cli.main import main
from baichuan2.kernels import library
from baichuan2.kernels.library import Opened
from baichuan2.settings import OutputSettings


def test_report_has_versions_devices_extras_and_embedded_models(capsys):
    assert main(["info", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"versions", "extras", "devices", "accelerator", "kernels", "embedded_models"}
    assert report["versions"]["baichuan2"] == baichuan2.__version__
    assert report["versions"]["python"] == platform.python_version()
    assert report["versions"]["torch"].startswith("2.")
    assert "cores" in report["devices"]["cpu"]


def test_every_extra_is_in_the_report():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {
        extra: tuple(re.match(r"[\w-]+", requirement)[0] for requirement in requirements)
        for extra, requirements in project["optional-dependencies"].items()
        if extra != "dev"
    }
    assert declared == info.EXTRAS


def test_report_for_people(capsys, monkeypatch):
    monkeypatch.setattr(info, "installed_version", lambda name: None if name == "bitsandbytes" else "1.2.3")
    assert info.run(OutputSettings()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  torch: 1.2.3" in lines
    assert "    bitsandbytes: not installed" in lines


def test_a_broken_torch_is_reported(tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.99: cannot open\\nshared object file')")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom baichuan2.cli.main import main\n"
    script += "sys.exit(main(['info', '--json']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["devices"]["torch"] == "broken: OSError: libcudart.so.99: cannot open shared object file"


def test_the_way_of_the_kernels_is_said_in_one_line(monkeypatch):
    says = {
        (None, "switched off"): "torch's (slower); switched off",
        ("AVX2", None): "own, AVX2",
        ("AVX2", "compiled from other sources"): "own, AVX2; compiled from other sources",
    }
    for (found, remark), line in says.items():
        monkeypatch.setattr("baichuan2.kernels.products.instructions", lambda found=found: found)
        monkeypatch.setattr("baichuan2.kernels.library.opened", lambda remark=remark: Opened(None, remark))
        assert info.kernels() == {"quantised products": line}


def test_a_wrong_limit_of_the_kernels_is_said_without_the_name_of_a_class(monkeypatch):
    monkeypatch.setenv("BAICHUAN2_KERNELS", "avx3")
    ask = library.opened.__wrapped__  # another test may have asked already, which is remembered
    monkeypatch.setattr("baichuan2.kernels.library.opened", ask)
    monkeypatch.setattr("baichuan2.kernels.products.instructions", ask)
    assert info.kernels()["quantised products"].startswith("broken: BAICHUAN2_KERNELS=avx3: not known; it must be off")


def test_embedded_models_are_the_folders_with_a_config(tmp_path):
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "config.json").write_text("{}")
    (tmp_path / "chat" / "model.safetensors").write_bytes(b"0" * 1_999_998)
    (tmp_path / "notes").mkdir()
    assert info.embedded_models(tmp_path) == {"demo-chat": f"{tmp_path / 'chat'} (2.0 MB)"}
    assert info.embedded_models(tmp_path / "absent") == {}


def test_no_embedded_models_is_said():
    assert info.describe({"embedded_models": {}}) == ["embedded_models:", "  none"]
