"""Where weights go; machines with several accelerators are played by stand-ins."""

import pytest
import torch

from baichuan2.checkpoints import device as device_module
from baichuan2.checkpoints.device import placement


@pytest.fixture
def two_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(device_module, "_free_bytes", lambda device: 1000.0)


def test_processor_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    assert placement("auto", 10**15) is None


@pytest.mark.usefixtures("two_accelerators")
def test_a_model_too_large_for_one_is_spread_over_all() -> None:
    assert placement("auto", 800) == {"": torch.device("cuda:0")}
    assert placement("auto", 900) == "auto"
    assert placement("cuda:1", 900) == {"": torch.device("cuda:1")}  # asked for by name
    assert placement("cpu", 900) is None
