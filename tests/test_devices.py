"""Devices by name, without assuming any accelerator: machines are played by stand-ins, an NPU by a backend of torch."""

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from baichuan2 import SettingsError, devices
from baichuan2.devices import available_devices, device_memory, pick_device


@pytest.fixture
def two_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)


@pytest.fixture
def processor_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)


@pytest.mark.usefixtures("processor_only")
def test_processor_only() -> None:
    assert available_devices() == ["cpu"]
    assert pick_device() == pick_device("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("processor_only")
@pytest.mark.parametrize(
    "name", ["cuda", "cuda:1", "npu", "gpu", "", "cpu:x", "xpu", "mps:0", "npu:-1", "npu\n", "CPU"]
)
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(SettingsError, match=r"no such device on this machine; there is cpu \(or auto\)"):
        pick_device(name)


@pytest.mark.usefixtures("processor_only")
def test_what_is_missing_is_said() -> None:
    with pytest.raises(SettingsError, match=r"; npu needs an Ascend NPU .* torch-npu of torch's version$"):
        pick_device("npu:0")
    with pytest.raises(SettingsError, match=r"^--device NPU: .*; npu needs an Ascend NPU "):
        pick_device("NPU")
    with pytest.raises(SettingsError, match=r"\(or auto\)$"):
        pick_device("gpu")
    with pytest.raises(SettingsError, match=r"^--device '': no such"):
        pick_device("")


def test_the_addition_to_torch_is_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", {"torch-npu": "2.12.0"}.__getitem__)
    assert devices.describe("npu")["kind"] == "Ascend NPU, torch-npu 2.12.0"


@pytest.mark.usefixtures("two_accelerators")
def test_two_accelerators() -> None:
    assert available_devices() == ["cuda:0", "cuda:1", "cpu"]
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda:0")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(SettingsError, match=r"--device cuda:2: .*there is cuda:0, cuda:1, cpu \(or auto\)$"):
        pick_device("cuda:2")


def test_apples_memory_is_what_metal_recommends(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = SimpleNamespace(recommended_max_memory=lambda: 1000, current_allocated_memory=lambda: 300)
    monkeypatch.setattr(torch, "mps", backend)
    assert device_memory(torch.device("mps:0")) == (700, 1000)


def test_memory_that_a_driver_does_not_count_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: torch.device) -> Any:
        raise RuntimeError("The device doesn't support querying the available free memory.")

    monkeypatch.setattr(torch, "xpu", SimpleNamespace(mem_get_info=refuse))
    assert device_memory(torch.device("xpu:0")) is None
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(mem_get_info=refuse))
    with pytest.raises(RuntimeError, match="free memory"):  # a GPU that fails is not one that cannot tell
        device_memory(torch.device("cuda:0"))


def test_long_sums_are_kept_in_what_a_device_has() -> None:
    wide = {kind: devices.wide_dtype(torch.device(kind)) for kind in ("cpu", "cuda", "meta", "xpu", "mps")}
    assert wide == {
        "cpu": torch.float64, "cuda": torch.float64, "meta": torch.float64, "xpu": torch.float32, "mps": torch.float32
    }  # fmt: skip


def test_random_numbers_go_on_as_if_none_had_been_drawn() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    with devices.random_state_kept(torch.device("cpu")):
        torch.rand(7)
    assert torch.equal(torch.rand(3), wanted)


NPU = """
import json, sys, types, torch
torch.utils.rename_privateuse1_backend("npu")
states = {0: torch.tensor([1]), 1: torch.tensor([2])}
backend = types.ModuleType("torch.npu")
backend.is_available = lambda: True
backend.device_count = lambda: 2
backend.current_device = lambda: 0
backend.is_initialized = lambda: True
backend._is_in_bad_fork = lambda: False
backend.manual_seed_all = lambda seed: None
backend.get_device_name = lambda index: f"Ascend910B4 number {index}"
backend.mem_get_info = lambda device: (6 * 10**10, 64 * 10**9)
backend.memory_reserved = lambda device: 3 * 10**9
backend.memory_allocated = lambda device: 10**9
backend.get_rng_state = lambda device: states[device.index]
backend.set_rng_state = lambda state, device: states.__setitem__(device.index, state)
torch._register_device_module("npu", backend)

from baichuan2 import SettingsError, devices
from baichuan2.cli.main import main
from baichuan2.checkpoints.device import placement
from baichuan2.checkpoints.memory import places
from baichuan2.checkpoints.machine import describe_hardware
from baichuan2.evaluation.processes import own_device
from baichuan2.engine.graphs import graph_model
from baichuan2.engine.aligned import _attention_for_any_length

npu = torch.device("npu:1")
told = {name: str(devices.pick_device(name)) for name in ("auto", "npu", "npu:1")}
told["names"] = devices.available_devices()
for name in ("npu:2", "cuda", "mps"):
    try:
        devices.pick_device(name)
    except SettingsError as error:
        told[name] = str(error)
told["memory"] = [[place.name, place.total, place.free] for place in places()[:-1]]
told["placed"] = [str(placement("npu", 10)), str(placement("npu:1", 10**12)), placement("auto", 6 * 10**10)]
told["hardware"] = describe_hardware()["accelerators"]
told["graphs"] = [devices.supports_graphs(npu), devices.current_stream(npu)]
told["wide"] = str(devices.wide_dtype(npu))
told["tf32"], told["fused"] = devices.has_tf32("npu"), devices.has_fused_adamw("npu")
with devices.random_state_kept(npu), devices.on_device(npu), _attention_for_any_length(npu):
    states[1] = torch.tensor([9])
told["random"] = [int(state) for state in states.values()]
model = types.SimpleNamespace(device=npu)
told["is_left_as_it_is"] = graph_model(model, [0]) is model
import os
told["present"] = []
torch.accelerator.set_device_index = lambda device: told["present"].append(str(device))
os.environ.update(WORLD_SIZE="4", RANK="3", LOCAL_RANK="3")
told["own"] = [own_device(name) for name in ("auto", "npu", "npu:0", "cuda", "cpu")]
del os.environ["WORLD_SIZE"]
print(json.dumps(told))
sys.exit(main(["info", "--json"]))
"""


def test_an_npu_that_torch_believes_in() -> None:
    """In a process of its own, as torch takes such a name once; the backend has a name, memory and no kernels."""
    done = subprocess.run([sys.executable, "-c", NPU], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    first, rest = done.stdout.split("\n", 1)
    told, report = json.loads(first), json.loads(rest)
    assert told["names"] == ["npu:0", "npu:1", "cpu"]
    assert (told["auto"], told["npu"], told["npu:1"]) == ("npu:0", "npu:0", "npu:1")
    assert told["npu:2"] == "--device npu:2: no such device on this machine; there is npu:0, npu:1, cpu (or auto)"
    assert told["cuda"].endswith("there is npu:0, npu:1, cpu (or auto); cuda needs " + devices.NEEDS["cuda"])
    assert told["mps"].endswith("; mps needs a Mac with Apple silicon")
    assert told["memory"] == [["npu:0", 64 * 10**9, 62 * 10**9], ["npu:1", 64 * 10**9, 62 * 10**9]]
    alone = ["{'': device(type='npu', index=0)}", "{'': device(type='npu', index=1)}"]
    assert told["placed"] == [*alone, "auto"]
    assert told["hardware"] == ["Ascend910B4 number 0", "Ascend910B4 number 1"]
    assert told["graphs"] == [False, None]
    assert told["wide"] == "torch.float32"
    assert (told["tf32"], told["fused"]) == (False, False)
    assert told["random"] == [1, 2]
    assert told["is_left_as_it_is"]
    assert told["own"] == ["npu:1", "npu:1", "npu:0", "cuda", "cpu"]
    assert told["present"] == ["npu:1", "npu:1"]
    assert report["devices"]["npu:1"] == "Ascend910B4 number 1"
    assert report["accelerator"]["kind"] == "Ascend NPU"
    assert "not tried on hardware" in report["accelerator"]["state"]
