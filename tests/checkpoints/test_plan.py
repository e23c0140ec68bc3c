"""What fits is found out from the config alone, and loading stops before what cannot: no more, no less."""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from baichuan2 import CheckpointError, LoadSettings, MemoryShortageError, PlanSettings, SettingsError, load_model
from baichuan2.checkpoints import plan as plan_module
from baichuan2.checkpoints.memory import Place
from baichuan2.checkpoints.plan import PRECISIONS, check_fits, estimate, make_plan, plan_model
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.quantization.scheme import QuantizationSpec, Scheme
from tests.checkpoints.folders import change_json, official_config, write_folder

GB = 10**9
BIG = 10**15
CONFIG_7B = BaichuanConfig(**plan_module.RELEASED_SHAPES["7b"], dtype="bfloat16")
CONFIG_13B = BaichuanConfig(**plan_module.RELEASED_SHAPES["13b"], dtype="bfloat16")
BYTES_7B, BYTES_13B = 2 * 7_505_973_248, 2 * 13_896_668_160


def machine(monkeypatch: pytest.MonkeyPatch, *, free: int, total: int = BIG, swap: int = 0, gpus: tuple[Any, ...] = ()):
    """A machine with this much main memory, and accelerators with this much free memory each."""
    names = [f"cuda:{index}" for index in range(len(gpus))]
    monkeypatch.setattr(plan_module, "main_memory", lambda: Place("cpu", "main", total, free, swap))
    monkeypatch.setattr(plan_module, "available_devices", lambda: [*names, "cpu"])
    monkeypatch.setattr(
        plan_module,
        "pick_device",
        lambda name: torch.device(names[0] if name == "auto" and names else "cpu" if name == "auto" else name),
    )
    monkeypatch.setattr(plan_module, "accelerator", lambda name: Place(name, "accelerator", BIG, gpus[int(name[5:])]))


def least(config: BaichuanConfig, precision: str = "bfloat16") -> int:
    """What a model needs to answer at all: weights, head copy, and one block of cache."""
    item = estimate(config, precision, context=1)
    return item.weights + item.head_copy + item.cache


# --- estimates


@pytest.mark.parametrize(
    ("config", "precision", "gigabytes"),
    [
        (CONFIG_7B, "bfloat16", 15.01),
        (CONFIG_7B, "float32", 30.02),
        (CONFIG_7B, "int8", 8.54),
        (CONFIG_7B, "nf4", 5.40),
        (CONFIG_13B, "bfloat16", 27.79),
        (CONFIG_13B, "int8", 15.19),
        (CONFIG_13B, "nf4", 9.08),
    ],
)
def test_weights_of_the_released_shapes(config: BaichuanConfig, precision: str, gigabytes: float) -> None:
    assert round(estimate(config, precision).weights / GB, 2) == gigabytes


def test_parts_add_up_and_follow_context_batch_and_precision() -> None:
    item = estimate(CONFIG_7B, "bfloat16", context=1000, batch=3)
    parts = dataclasses.asdict(item)
    sizes = [parts[name] for name in parts if name not in ("precision", "context", "batch", "kv_cache")]
    assert item.total == sum(sizes)
    assert item.cache == 3 * 1024 * 524_288  # whole blocks
    assert item.head_copy == item.head == 125_696 * 4096 * 2
    assert estimate(CONFIG_7B).context == 4096
    wide = estimate(CONFIG_7B, "float32", context=1000, batch=3)
    assert (wide.weights, wide.cache, wide.head_copy) == (2 * item.weights, 2 * item.cache, 2 * item.head_copy)
    assert estimate(CONFIG_7B, "float16").total == estimate(CONFIG_7B).total


def test_a_scheme_and_a_quantised_head() -> None:
    layers = 32 * (4 * 4096**2 + 3 * 4096 * 11_008)
    item = estimate(CONFIG_7B, Scheme("int4", 32))
    assert item.attention + item.mlp == layers * 4.5 / 8
    assert item.precision == "int4"
    smaller = estimate(CONFIG_7B, "int8", head="int8", quantizes_embedding=True)
    assert smaller.head_copy == 0
    assert smaller.head == smaller.embedding == 125_696 * (4096 + 2 * 32)
    smallest = estimate(CONFIG_7B, "int4", head="int4")
    assert (smallest.head, smallest.head_copy) == (125_696 * 4096 * 4.5 / 8, 0)
    assert estimate(CONFIG_7B, "bfloat16", head="int4") == estimate(CONFIG_7B)


def test_an_unknown_precision() -> None:
    with pytest.raises(SettingsError, match=r"the precision must be one of float32, bfloat16, int8, .*got 'int3'"):
        estimate(CONFIG_7B, "int3")


# --- plans


def verdicts(place: Place, config: BaichuanConfig = CONFIG_7B, **options: Any) -> dict[str, str]:
    plan = make_plan(config, "model", [place], stored="bfloat16", **options)
    return {item.precision: fits[0].verdict for item, fits in zip(plan.estimates, plan.fits, strict=True)}


def given(size: int, kind: Any = "main") -> Place:
    return Place("place", kind, size, size, is_live=False)


def test_verdicts_at_their_edges() -> None:
    total = estimate(CONFIG_7B, "bfloat16").total
    assert verdicts(given(total - 1, "accelerator"))["bfloat16"] == "no"
    assert verdicts(given(total, "accelerator"))["bfloat16"] == "tight"
    assert verdicts(given(int(total / 0.95) - 10, "accelerator"))["bfloat16"] == "tight"
    assert verdicts(given(int(total / 0.95) + 10, "accelerator"))["bfloat16"] == "fits"
    assert verdicts(Place("mps", "accelerator", None, None))["bfloat16"] == "unknown"


def test_what_this_program_takes_is_no_longer_free() -> None:
    item = estimate(CONFIG_7B, "bfloat16")
    free = item.total - item.runtime
    assert verdicts(Place("cpu", "main", BIG, free))["bfloat16"] == "tight"
    assert verdicts(Place("cpu", "main", BIG, free, is_live=False))["bfloat16"] == "disk"


def test_mapped_weights_can_stay_on_disk_and_converted_ones_cannot() -> None:
    found = verdicts(given(12 * GB))
    assert found == {"float32": "no", "bfloat16": "disk", "int8": "disk", "int4": "fits", "nf4": "fits"}
    assert verdicts(given(12 * GB, "accelerator"))["bfloat16"] == "no"
    assert verdicts(given(7 * GB))["bfloat16"] == "no"  # less than half of the weights


def test_largest_context_is_the_last_that_fits() -> None:
    size = estimate(CONFIG_7B, "bfloat16", context=2000).total
    plan = make_plan(CONFIG_7B, "model", [given(size), given(size - 1), given(10 * GB), given(BIG)], stored="bfloat16")
    fits = plan.fits[PRECISIONS.index("bfloat16")]
    largest = fits[0].largest_context
    assert largest is not None
    assert largest >= 2000
    assert estimate(CONFIG_7B, "bfloat16", context=largest).total <= size
    assert estimate(CONFIG_7B, "bfloat16", context=largest + 1).total > size
    assert fits[1].largest_context is not None
    assert fits[1].largest_context < 2000
    assert [fit.largest_context for fit in fits[2:]] == [None, 4096]


def test_batch_leaves_less_context() -> None:
    def largest(batch: int) -> int:
        fit = make_plan(CONFIG_7B, "model", [given(24 * GB)], batch=batch).fits[1][0]
        assert fit.largest_context is not None
        return fit.largest_context

    assert largest(1) == 4096 > largest(4) > largest(8) > 0


def test_a_context_beyond_the_models() -> None:
    with pytest.raises(SettingsError, match="--context 4097: this model takes at most 4096 tokens"):
        make_plan(CONFIG_7B, "model", [], context=4097)


def test_plan_of_a_folder_needs_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(official_config("13b")))
    for name in (str(tmp_path), str(tmp_path / "config.json")):
        plan = plan_model(PlanSettings(model=name, memory="1GB", gpu="1GiB"))
        assert [place.total for place in plan.places] == [2**30, GB]
        assert (plan.max_context, plan.stored) == (128, "bfloat16")
        assert {fit.verdict for row in plan.fits for fit in row} == {"fits"}
    values = json.loads(json.dumps(plan.as_dict()))
    assert values["precisions"][0]["fits"]["gpu"] == {"verdict": "fits", "largest_context": 128}


@pytest.mark.parametrize(("name", "total"), [("7B", BYTES_7B), ("13b", BYTES_13B)])
def test_released_shapes_by_name(name: str, total: int) -> None:
    plan = plan_model(PlanSettings(model=name, memory="64GB"))
    assert plan.estimates[PRECISIONS.index("bfloat16")].weights == total
    assert plan.stored == "bfloat16"


def test_the_demo_model_and_this_machine() -> None:
    plan = plan_model(PlanSettings())
    assert plan.name == "demo-chat"
    assert plan.places[-1].name == "cpu"


@pytest.mark.parametrize(
    ("changes", "stored"),
    [
        ({"torch_dtype": "float16"}, "float16"),
        ({"torch_dtype": "torch.float32"}, "float32"),
        ({"torch_dtype": None}, None),
        ({"quantization_config": {"load_in_4bit": True, "load_in_8bit": False}}, "nf4"),  # official, without a method
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "int8"),
        ({"quantization_config": QuantizationSpec(format="int4", group_size=64).to_dict()}, "int4"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, None),
    ],
)
def test_precision_of_the_files(tmp_path: Path, changes: dict[str, Any], stored: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**official_config("7b"), **changes}))
    plan = plan_model(PlanSettings(model=str(tmp_path), memory="1GB"))
    assert plan.stored == stored
    assert [item.precision for item in plan.estimates][1] == ("float16" if stored == "float16" else "bfloat16")


@pytest.mark.parametrize(
    "spec",
    [
        QuantizationSpec(format="int4", group_size=64, head="int4", embedding="int8"),
        QuantizationSpec(format="int8", group_size=0, head="int8"),
        QuantizationSpec(format="int4", group_size=128),
    ],
)
def test_the_column_of_the_files_follows_their_head_embedding_and_groups(
    tmp_path: Path, spec: QuantizationSpec
) -> None:
    fields = {**official_config("7b"), "quantization_config": spec.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    plan = plan_model(PlanSettings(model=str(tmp_path), memory="1GB"))
    config = BaichuanConfig.from_dict({key: value for key, value in fields.items() if key != "quantization_config"})
    own = estimate(config, spec.scheme, head=spec.head, quantizes_embedding=spec.embedding is not None)
    for item in plan.estimates:
        assert item == (own if item.precision == spec.format else estimate(config, item.precision))
    largest = {item.precision: fits[0].largest_context for item, fits in zip(plan.estimates, plan.fits, strict=True)}
    assert largest[spec.format] == config.model_max_length
    # no longer context than its own column allows
    room = own.total - own.cache + estimate(config, spec.scheme, context=1).cache
    small = make_plan(config, "m", [given(room)], stored=spec.format, spec=spec)
    fit = dict(zip((item.precision for item in small.estimates), small.fits, strict=True))[spec.format][0]
    options = {"head": spec.head, "quantizes_embedding": spec.embedding is not None}
    for context in () if fit.largest_context is None else (fit.largest_context,):
        assert estimate(config, spec.scheme, context=context, **options).total <= room
        if context < config.model_max_length:
            assert estimate(config, spec.scheme, context=context + 1, **options).total > room


def test_a_config_of_ours_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    written = {**QuantizationSpec(format="int4", group_size=64).to_dict(), "version": 99}
    (tmp_path / "config.json").write_text(json.dumps({**official_config("7b"), "quantization_config": written}))
    with pytest.raises(CheckpointError, match=r"config.json: these weights have format version 99, .* update it"):
        plan_model(PlanSettings(model=str(tmp_path), memory="1GB"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama', not 'baichuan'"),
        ({"hidden_size": 0}, "hidden_size must be a positive whole number"),
        ({"num_hidden_layers": 10**400}, "num_hidden_layers is larger than that of any model"),
        ({"rms_norm_eps": []}, "rms_norm_eps must be a number"),
        ({"rope_scaling": 3}, "rope_scaling must be an object"),
        ({"architectures": 3}, "has a field that cannot be used"),
    ],
)
def test_a_damaged_config(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**official_config("7b"), **changes}))
    with pytest.raises(CheckpointError, match=message) as caught:
        plan_model(PlanSettings(model=str(tmp_path), memory="1GB"))
    assert "\n" not in str(caught.value)


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        plan_model(PlanSettings(model=str(tmp_path)))
    with pytest.raises(CheckpointError, match="there is no folder"):
        plan_model(PlanSettings(model=str(tmp_path / "config.json")))
    with pytest.raises(CheckpointError, match="not in the local cache"):
        plan_model(PlanSettings(model="no-one/nothing", offline=True))


# --- the refusal


def check(config: BaichuanConfig = CONFIG_13B, file_bytes: int = BYTES_13B, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_fits(config, "big", file_bytes=file_bytes, **options)


def test_an_accelerator_that_is_too_small_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    need = least(CONFIG_13B)
    machine(monkeypatch, free=0, gpus=(need,))
    check()
    machine(monkeypatch, free=BIG, gpus=(need - 1,))
    with pytest.raises(MemoryShortageError, match=r"^big needs 29.3 GB on cuda:0, where 29.3 GB are free: int8 \(16.7"):
        check()
    with pytest.raises(MemoryShortageError) as caught:
        check(device="cuda:0")
    assert isinstance(caught.value.plan, plan_module.Plan)
    assert "\n" not in str(caught.value)
    check(device="cpu")


def test_the_message_names_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, free=BIG, gpus=(12 * GB,))
    with pytest.raises(MemoryShortageError) as caught:
        check()
    assert "12.0 GB are free: int4 (11.2 GB) or nf4 (10.6 GB) would fit" in str(caught.value)
    assert "baichuan2 quantize" in str(caught.value)
    assert "--no-check-memory" in str(caught.value)
    machine(monkeypatch, free=BIG, gpus=(30 * GB,))
    with pytest.raises(MemoryShortageError, match=r"free: bfloat16 \(29.3 GB\) or int8"):
        check(dtype="float32")
    machine(monkeypatch, free=BIG, gpus=(GB,))
    with pytest.raises(MemoryShortageError, match="no precision would fit"):
        check()


def test_several_accelerators_count_together_with_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    need = least(CONFIG_13B)
    machine(monkeypatch, free=need - 2 * GB, gpus=(GB, GB))
    check()
    with pytest.raises(MemoryShortageError):
        check(device="cuda:1")
    machine(monkeypatch, free=need - 2 * GB - 1, gpus=(GB, GB))
    with pytest.raises(MemoryShortageError, match="on cuda:0, cuda:1, cpu"):
        check()


def test_memory_that_cannot_be_told_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, free=0, gpus=(None,))
    check()
    machine(monkeypatch, free=None)  # type: ignore[arg-type]
    check()


def test_mapped_weights_get_a_warning_and_only_far_too_large_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    need = least(CONFIG_13B)
    machine(monkeypatch, free=need, total=need)
    check()
    machine(monkeypatch, free=need - 1, total=need)
    with pytest.warns(
        UserWarning, match=r"big needs 29.3 GB, 29.3 GB are free: its weights stay on disk .* slow: int8"
    ):
        check_fits(CONFIG_13B, "big", file_bytes=BYTES_13B)
    machine(monkeypatch, free=5 * GB, total=BYTES_13B // 2)
    with pytest.warns(UserWarning, match="slow"):
        check_fits(CONFIG_13B, "big", file_bytes=BYTES_13B)
    machine(monkeypatch, free=5 * GB, total=BYTES_13B // 2 - 1)
    with pytest.raises(MemoryShortageError):
        check()


def test_what_cannot_be_mapped_must_fit_free_swap_included(monkeypatch: pytest.MonkeyPatch) -> None:
    beside = least(CONFIG_13B) - BYTES_13B
    machine(monkeypatch, free=beside - 1, total=BYTES_13B)
    with pytest.raises(MemoryShortageError):
        check()
    need = least(CONFIG_13B, "float32")
    machine(monkeypatch, free=need - GB, swap=GB)
    check(dtype="float32")
    machine(monkeypatch, free=need - GB, swap=GB - 1)
    with pytest.raises(MemoryShortageError, match=r"needs 58\.6 GB on cpu"):
        check(dtype="float32")
    machine(monkeypatch, free=least(CONFIG_13B) - 1)
    with pytest.raises(MemoryShortageError):
        check(dtype="float16")  # bfloat16 files: a copy is made
    with pytest.warns(UserWarning, match="slow"):
        check_fits(CONFIG_13B, "big", file_bytes=BYTES_13B, dtype="bfloat16")


def test_wide_files_of_a_narrow_model_are_not_held_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, free=0, gpus=(least(CONFIG_13B),))
    check(file_bytes=2 * BYTES_13B)


def test_quantised_files_count_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    config = BaichuanConfig(**plan_module.RELEASED_SHAPES["13b"], quantization_config={"quant_method": "baichuan2"})
    beside = least(CONFIG_13B) - BYTES_13B
    machine(monkeypatch, free=0, gpus=(9 * GB + beside,))
    check(config, 9 * GB)
    with pytest.raises(MemoryShortageError):
        check(config, 9 * GB + 1)
    config.quantization_config["head"] = "int8"  # its rows are normalised in the file, no copy is made
    check(config, 9 * GB + 2 * 125_696 * 5120)


def quantised(config: BaichuanConfig, scheme: Scheme) -> tuple[int, int]:
    """Bytes of the layers that are quantised, and of all that the least running model needs."""
    item = estimate(config, scheme, context=1)
    return item.attention + item.mlp, item.weights + item.head_copy + item.cache


@pytest.mark.parametrize(("precision", "scheme"), [("int8", Scheme("int8", 0)), ("int4", Scheme("nf4"))])
def test_quantising_while_loading_fits_a_smaller_accelerator(
    precision: str, scheme: Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, need = quantised(CONFIG_13B, scheme)
    assert need < 0.62 * least(CONFIG_13B)
    machine(monkeypatch, free=0, gpus=(need,))
    check(quantize=precision)
    machine(monkeypatch, free=BIG, gpus=(need - 1, BIG))  # it is never spread
    with pytest.raises(MemoryShortageError, match=r"on cuda:0, where"):
        check(quantize=precision)


@pytest.mark.parametrize("has_kernels", [True, False])
@pytest.mark.parametrize(("precision", "scheme"), [("int8", Scheme("int8", 0)), ("int4", Scheme("int4", 32))])
def test_quantising_while_loading_must_fit_the_processors_memory(
    precision: str, scheme: Scheme, has_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("baichuan2.quantization.apply.has_fast_products", lambda: has_kernels)
    layers, need = quantised(CONFIG_13B, scheme)
    if precision == "int4" and not has_kernels:  # torch's product wants a copy in its own order
        layers, need = 2 * layers, need + layers
    beside = least(CONFIG_13B) - BYTES_13B
    machine(monkeypatch, free=layers + beside - GB, swap=GB, total=BYTES_13B // 3)  # the 16-bit files may be far larger
    check(quantize=precision)
    machine(monkeypatch, free=layers + beside - GB, swap=GB - 1)
    with pytest.raises(MemoryShortageError, match=rf"^big needs {need / 1e9:.1f} GB on cpu"):
        check(quantize=precision)
    machine(monkeypatch, free=layers + beside)
    with pytest.raises(MemoryShortageError):
        check(quantize=precision, dtype="float16")  # embedding, head and norms are converted, not mapped


def test_loading_asks_first_and_can_be_told_not_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "small")
    machine(monkeypatch, free=1000, total=10**6)
    monkeypatch.setattr("baichuan2.checkpoints.load._read_weights", lambda *_: pytest.fail("weights were touched"))
    with pytest.raises(MemoryShortageError, match=r"^small needs"):
        load_model(str(tmp_path / "small"), LoadSettings(device="cpu"))
    monkeypatch.undo()
    machine(monkeypatch, free=1000, total=10**6)
    assert load_model(str(tmp_path / "small"), LoadSettings(device="cpu", check_memory=False)).name == "small"


def test_loading_counts_the_number_format_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path)
    change_json(tmp_path / "config.json", torch_dtype="bfloat16")
    config = load_model(str(tmp_path)).model.config
    machine(monkeypatch, free=least(config, "float32") - 1)
    load_model(str(tmp_path))
    with pytest.raises(MemoryShortageError):
        load_model(str(tmp_path), LoadSettings(dtype="float32"))
