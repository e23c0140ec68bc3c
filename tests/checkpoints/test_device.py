"""Devices by name, without assuming any accelerator: machines are played by stand-ins."""

import pytest
import torch

from baichuan2 import SettingsError
from baichuan2.checkpoints import device as device_module
from baichuan2.checkpoints.device import available_devices, pick_device, placement


@pytest.fixture
def two_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(device_module, "_free_bytes", lambda device: 1000.0)


@pytest.fixture
def processor_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)


@pytest.mark.usefixtures("processor_only")
def test_processor_only() -> None:
    assert available_devices() == ["cpu"]
    assert pick_device() == pick_device("cpu") == torch.device("cpu")
    assert placement("auto", 10**15) is None


@pytest.mark.usefixtures("processor_only")
@pytest.mark.parametrize("name", ["cuda", "cuda:1", "npu", "gpu", "", "cpu:x"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(SettingsError, match="no such device on this machine; there is cpu"):
        pick_device(name)


@pytest.mark.usefixtures("two_accelerators")
def test_two_accelerators() -> None:
    assert available_devices() == ["cuda:0", "cuda:1", "cpu"]
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda:0")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(SettingsError, match=r"--device cuda:2: .*there is cuda:0, cuda:1, cpu"):
        pick_device("cuda:2")


@pytest.mark.usefixtures("two_accelerators")
def test_a_model_too_large_for_one_is_spread_over_all() -> None:
    assert placement("auto", 800) == {"": torch.device("cuda:0")}
    assert placement("auto", 900) == "auto"
    assert placement("cuda:1", 900) == {"": torch.device("cuda:1")}  # asked for by name
    assert placement("cpu", 900) is None
