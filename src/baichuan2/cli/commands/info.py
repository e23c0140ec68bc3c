"""`baichuan2 info`: what a bug report needs: versions, devices, extras and embedded models.

Versions are read from package metadata, so a broken torch is reported instead of breaking the report.
"""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import baichuan2
from baichuan2.cli.screen import one_line, print_json, printable
from baichuan2.errors import SettingsError
from baichuan2.settings import OutputSettings

SETTINGS = (OutputSettings,)
PACKAGES = ("torch", "transformers", "tokenizers", "sentencepiece", "safetensors", "accelerate", "numpy")
EXTRAS = {
    "bnb": ("bitsandbytes",),
    "evaluate": ("matplotlib", "sacrebleu"),
    "gguf": ("gguf",),
    "modelscope": ("modelscope-hub",),
    "recipe": ("matplotlib",),
    "server": ("fastapi", "pydantic", "uvicorn", "prometheus-client", "llguidance"),
    "train": ("bitsandbytes", "deepspeed", "matplotlib", "peft", "pyyaml", "tensorboard"),
    "web": ("streamlit",),
}
"""What can be installed beside the package: the extras of pyproject.toml but the one for its development."""


def run(output: OutputSettings) -> int:
    """Prints the report for people or, with --json, for programs; the exit code."""
    report = collect()
    if output.json:
        print_json(report)
    else:
        for line in describe(report):
            print(printable(line))
    return 0


def collect() -> dict[str, Any]:
    """The report: section -> name -> value."""
    return {
        "versions": {
            "baichuan2": baichuan2.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            **{name: installed_version(name) for name in PACKAGES},
        },
        "extras": {extra: {name: installed_version(name) for name in names} for extra, names in EXTRAS.items()},
        "devices": devices(),
        "accelerator": accelerator(),
        "kernels": kernels(),
        "embedded_models": embedded_models(Path(baichuan2.__file__).parent / "demo"),
    }


def describe(report: dict[str, Any], indent: str = "") -> list[str]:
    """The report as indented lines; a missing value is spelled out."""
    lines = []
    for name, value in report.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *describe(value, indent + "  ")]
            if not value:
                lines.append(f"{indent}  none")
        else:
            lines.append(f"{indent}{name}: {'not installed' if value is None else value}")
    return lines


def installed_version(package: str) -> str | None:
    """The version of an installed package, None when it is not installed; the package is not imported."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def devices() -> dict[str, str]:
    """Device name -> what it is; a torch that cannot be imported is an entry that says why."""
    found = {"cpu": f"{platform.machine()}, {os.cpu_count()} cores"}
    try:
        import torch

        from baichuan2.checkpoints.threads import use_threads
        from baichuan2.devices import available_devices, title

        found["cpu"] += f", {use_threads(None)} threads, {torch.backends.cpu.get_cpu_capability()}"
        found |= {name: title(name) for name in available_devices() if name != "cpu"}
    except Exception as error:  # whatever a broken installation raises belongs into the report
        found["torch"] = f"broken: {type(error).__name__}: {one_line(str(error))}"
    return found


def accelerator() -> dict[str, str]:
    """What kind of accelerator `--device auto` takes, how it is computed on and whether that was tried; maybe empty."""
    try:
        from baichuan2.devices import describe, pick_device

        kind = pick_device().type
        return {} if kind == "cpu" else describe(kind)
    except Exception:  # a broken torch, which `devices` reports
        return {}


def kernels() -> dict[str, str]:
    """What multiplies with 8-bit and 4-bit weights on the processor, and why where it is not our own."""
    try:
        from baichuan2.kernels.library import opened
        from baichuan2.kernels.products import instructions

        found, remark = instructions(), opened().remark
    except SettingsError as error:
        return {"quantised products": f"broken: {one_line(str(error))}"}
    except Exception as error:  # a broken torch
        return {"quantised products": f"broken: {type(error).__name__}: {one_line(str(error))}"}
    way = "torch's (slower)" if found is None else f"own, {found}"
    return {"quantised products": way if remark is None else f"{way}; {remark}"}


def embedded_models(folder: Path) -> dict[str, str]:
    """Name for --model -> where the model lies and its size; empty when the package holds none."""
    found = {}
    for config in sorted(folder.glob("*/config.json")):
        size = sum(path.stat().st_size for path in config.parent.iterdir() if path.is_file())
        found[f"demo-{config.parent.name}"] = f"{config.parent} ({size / 1e6:.1f} MB)"
    return found
