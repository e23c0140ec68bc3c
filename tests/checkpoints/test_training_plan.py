"""What training takes is told before it starts: counted by hand here, and beside what a step really holds."""

import dataclasses
import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from baichuan2 import MemoryShortageError, PlanSettings, SettingsError
from baichuan2.checkpoints.memory import Place
from baichuan2.checkpoints.plan import RELEASED_SHAPES, estimate
from baichuan2.checkpoints.training_plan import (
    SLACK,
    TrainingSetup,
    check_training_fits,
    estimate_training,
    make_training_plan,
    plan_training,
)
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from baichuan2.model.training_cost import Adapters, adapter_parameters
from baichuan2.settings import TrainingPlanSettings
from tests.tiny import VOCAB_SIZE, Size, tiny_config

GB = 10**9
CONFIG_7B = BaichuanConfig(**RELEASED_SHAPES["7b"])
CONFIG_13B = BaichuanConfig(**RELEASED_SHAPES["13b"])
PARAMETERS_7B = 7_505_973_248
ALL = ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA = Adapters(rank=16, targets=ALL)
FULL = TrainingSetup(batch=4)


def lora(**changes: Any) -> TrainingSetup:
    return TrainingSetup(**{"method": "lora", "adapters": LORA, "batch": 4, "bf16": True, **changes})


def gpu(size: int, *, is_live: bool = False) -> Place:
    return Place("gpu", "accelerator", size, size, is_live=is_live)


# --- parts


def test_full_training_in_float32_has_16_bytes_for_each_parameter() -> None:
    item = estimate_training(CONFIG_7B, FULL)
    assert (item.weights, item.gradients, item.optimizer) == tuple(PARAMETERS_7B * count for count in (4, 4, 8))
    assert (item.adapters, item.copies, item.master, item.communication) == (0, 0, 0, 0)
    assert item.total >= PARAMETERS_7B * 16


def test_autocast_copies_the_matrices_of_all_layers() -> None:
    item = estimate_training(CONFIG_7B, dataclasses.replace(FULL, bf16=True))
    assert item.copies == 2 * 32 * (4 * 4096**2 + 3 * 4096 * 11_008)
    assert item.weights == 4 * PARAMETERS_7B
    assert estimate_training(CONFIG_7B, lora()).copies == 0


def test_zero_splits_up_what_its_stage_says() -> None:
    """DeepSpeed in bfloat16: 2 bytes of weights, 2 of gradients, 12 of states (arXiv 1910.02054, 3.1)."""
    setups = [dataclasses.replace(FULL, bf16=True, zero=stage, devices=8) for stage in (1, 2, 3)]
    first, second, third = (estimate_training(CONFIG_7B, setup) for setup in setups)
    for item in (first, second, third):
        assert item.master + item.optimizer == 12 * PARAMETERS_7B // 8
        assert item.copies == 0
    assert [item.gradients for item in (first, second, third)] == [
        2 * PARAMETERS_7B,
        2 * PARAMETERS_7B // 8,
        2 * PARAMETERS_7B // 8,
    ]
    assert [item.weights for item in (first, second, third)] == [
        2 * PARAMETERS_7B,
        2 * PARAMETERS_7B,
        2 * PARAMETERS_7B // 8,
    ]
    assert first.total > second.total > third.total


def test_what_is_offloaded_waits_in_main_memory() -> None:
    here = estimate_training(CONFIG_13B, dataclasses.replace(FULL, bf16=True, zero=3, devices=4))
    optimizer, everything = (
        estimate_training(CONFIG_13B, dataclasses.replace(FULL, bf16=True, zero=3, devices=4, offload=what))
        for what in ("optimizer", "all")
    )
    assert here.host == 0
    # with the gradients of its share, in float32
    assert optimizer.host == here.master + here.optimizer + 4 * 13_896_668_160 // 4
    assert optimizer.total <= here.total - here.master - here.optimizer
    assert (everything.weights, everything.host - optimizer.host) == (0, optimizer.weights)


@pytest.mark.parametrize(
    ("setup", "expected"),
    [
        (FULL, 4),  # float32 made of 16-bit files, which takes memory before the device gets it
        (dataclasses.replace(FULL, bf16=True, zero=2, devices=8), 4),  # in each of the eight processes
        (dataclasses.replace(FULL, stored_bytes=4), 0),  # stays mapped from its files
        (dataclasses.replace(FULL, zero=3, devices=8), 0),  # a layer at a time
        (dataclasses.replace(FULL, on_processor=True), 0),  # the weights themselves
        (lora(), 0),
        (lora(bf16=False), 4),
        (lora(stored_bytes=4), 2),
        (lora(method="qlora", base_format="nf4", bf16=False), 0),
    ],
)
def test_a_model_that_is_converted_is_whole_in_main_memory_while_it_is_read(
    setup: TrainingSetup, expected: int
) -> None:
    assert estimate_training(CONFIG_7B, setup).host == expected * PARAMETERS_7B


def test_weights_under_adapters_are_those_of_the_same_model_that_answers() -> None:
    assert estimate_training(CONFIG_7B, lora()).weights == estimate(CONFIG_7B, "bfloat16").weights
    qlora = lora(method="qlora", base_format="nf4")
    assert estimate_training(CONFIG_7B, qlora).weights == estimate(CONFIG_7B, "nf4").weights


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("targets", [("W_pack",), ("o_proj", "down_proj"), ALL])
@pytest.mark.parametrize("is_dora", [False, True])
def test_adapters_have_as_many_parameters_as_peft_gives_them(targets: tuple[str, ...], is_dora: bool) -> None:
    peft = pytest.importorskip("peft")
    model: Any = BaichuanForCausalLM(tiny_config("7b"))
    options = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=list(targets), r=3, use_dora=is_dora)
    trained = [weight for weight in peft.get_peft_model(model, options).parameters() if weight.requires_grad]
    adapters = Adapters(rank=3, targets=targets, is_dora=is_dora)
    assert adapter_parameters(tiny_config("7b"), adapters) == sum(weight.numel() for weight in trained)


def test_what_saves_memory_is_said_to_save_it() -> None:
    total = estimate_training(CONFIG_7B, lora(batch=16)).total
    for changes in ({"gradient_checkpointing": True}, {"batch": 8}, {"context": 256}, {"has_mask": False}):
        assert estimate_training(CONFIG_7B, lora(**{"batch": 16, **changes})).total < total, changes
    for changes in ({"rows_each": 2}, {"keeps_gradients": True}, {"bf16": False}, {"devices": 2}):
        assert estimate_training(CONFIG_7B, lora(**{"batch": 16, **changes})).total > total, changes
    states = {
        name: estimate_training(CONFIG_7B, dataclasses.replace(FULL, optim=name)).optimizer
        for name in (
            "adamw_torch",
            "paged_adamw_8bit",
            "adamw_bnb_8bit",
            "lion_32bit",
            "adafactor",
            "sgd",
            "unheard-of",
        )
    }
    assert states["paged_adamw_8bit"] == states["adamw_bnb_8bit"] < states["lion_32bit"] < states["adamw_torch"]
    assert states["sgd"] == 0 < states["adafactor"] < states["lion_32bit"]
    assert states["unheard-of"] == states["adamw_torch"]


# --- a step, measured


class LiveBytes(TorchDispatchMode):
    """The most bytes of tensors that were alive at once, from those that existed before on."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.now = self.peak = before
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if not isinstance(leaf, torch.Tensor):
                continue
            storage = leaf.untyped_storage()
            if id(storage) in given or id(storage) in self._seen:
                continue
            self._seen.add(id(storage))
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, id(storage), size)
        return result

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def measured_peak(config: BaichuanConfig, setup: TrainingSetup) -> int:
    """Bytes of tensors at the fullest moment of two steps of AdamW, after the states of the optimizer are there."""
    model: Any = BaichuanForCausalLM(config).train()
    if setup.gradient_checkpointing:
        # transformers 5.24 renamed it
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.randint(3, config.vocab_size, (setup.batch, setup.context), generator=torch.Generator().manual_seed(0))
    peak = 0
    for _ in range(2):
        states = [state for held in optimizer.state.values() for state in held.values()]
        with LiveBytes(sum(tensor.nbytes for tensor in [*model.parameters(), *states])) as live:
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        peak = live.peak
    return peak


@pytest.mark.parametrize("size", ["7b", "13b"])
@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_takes_what_is_planned(size: Size, batch: int, checkpointing: bool) -> None:
    config = tiny_config(size, num_hidden_layers=4, use_cache=False)
    setup = TrainingSetup(
        batch=batch, context=64, has_mask=False, gradient_checkpointing=checkpointing, on_processor=True
    )
    planned = estimate_training(config, setup).beside_program
    assert planned == pytest.approx(measured_peak(config, setup), rel=0.1)


# --- what fits


def test_the_largest_batch_is_the_largest() -> None:
    plan = make_training_plan(CONFIG_7B, "7B", [gpu(24 * GB), gpu(80 * GB)], [lora(gradient_checkpointing=True)])
    for place, fit in zip(plan.places, plan.fits[0], strict=True):
        assert fit.largest_batch is not None
        of = [
            estimate_training(CONFIG_7B, lora(gradient_checkpointing=True, batch=fit.largest_batch + more)).total
            for more in (0, 1)
        ]
        assert of[0] <= (place.total or 0) < of[1]
    (row,) = make_training_plan(CONFIG_7B, "7B", [gpu(8 * GB), Place("x", "main", None, None)], [FULL]).fits
    assert [(fit.verdict, fit.largest_batch) for fit in row] == [("no", None), ("unknown", None)]


def test_little_to_spare_is_tight() -> None:
    total = estimate_training(CONFIG_7B, FULL).total
    verdicts = [
        make_training_plan(CONFIG_7B, "7B", [gpu(round(total * room))], [FULL]).fits[0][0].verdict
        for room in (0.999, 1.01, 1.06)
    ]
    assert verdicts == ["no", "tight", "fits"]


def test_a_run_that_cannot_fit_is_refused_with_what_would() -> None:
    with pytest.raises(MemoryShortageError) as caught:
        check_training_fits(CONFIG_7B, "big", FULL, gpu(24 * GB, is_live=True))
    message = str(caught.value)
    assert message.startswith("training big takes 121.0 GB on gpu, ")
    assert "where 24.0 GB are free: --method lora --bf16 True --gradient-checkpointing True" in message
    assert message.endswith("--no-check-memory trains anyway")
    assert "\n" not in message
    plan: Any = caught.value.plan
    assert plan.fits[0][0].verdict == "no"
    for size, advice in ((8, "--method qlora --bf16 True"), (2, "nothing would fit on one device")):
        with pytest.raises(MemoryShortageError, match=advice):
            check_training_fits(CONFIG_7B, "big", FULL, gpu(size * GB, is_live=True))
    with pytest.raises(MemoryShortageError, match="free: --gradient-checkpointing True would fit"):
        check_training_fits(CONFIG_7B, "big", lora(batch=16), gpu(30 * GB, is_live=True))
    item, free = check_training_fits(CONFIG_7B, "big", FULL, gpu(24 * GB, is_live=True), refuses=False)
    assert (item.total > 100 * GB, free) == (True, 24 * GB)


def test_what_may_run_is_not_refused() -> None:
    need = estimate_training(CONFIG_7B, FULL).beside_program
    check_training_fits(CONFIG_7B, "big", FULL, gpu(round(need * (1 - SLACK)) + 1, is_live=True))
    with pytest.raises(MemoryShortageError):
        check_training_fits(CONFIG_7B, "big", FULL, gpu(round(need * (1 - SLACK)) - GB, is_live=True))
    _, free = check_training_fits(CONFIG_7B, "big", FULL, Place("cpu", "main", None, None))
    assert free is None
    swapping = Place("cpu", "main", 100 * GB, 90 * GB, swap=60 * GB)
    assert check_training_fits(CONFIG_7B, "big", FULL, swapping)[1] == 150 * GB
    with pytest.raises(MemoryShortageError, match=r"where 75\.0 GB are free"):
        check_training_fits(CONFIG_7B, "big", FULL, swapping, 2)


# --- the command's settings


def test_settings_become_setups() -> None:
    given = PlanSettings(model="7B", gpu="24GB", batch=3)
    plan = plan_training(given, TrainingPlanSettings(train="all", objective="dpo", lora_rank=8, lora_targets="W_pack"))
    assert [setup.method for setup in plan.setups] == ["full", "lora", "qlora"]
    assert {(setup.batch, setup.context, setup.rows_each) for setup in plan.setups} == {(3, 512, 2)}
    assert plan.setups[1].adapters == Adapters(rank=8, targets=("W_pack",))
    assert not plan.setups[0].on_processor
    (demo,) = plan_training(PlanSettings(memory="8GB", context=64), TrainingPlanSettings(train="full")).setups
    assert (demo.context, demo.on_processor, demo.adapters) == (64, True, None)
    with pytest.raises(SettingsError, match="--context 9999: this model takes at most 4096 tokens"):
        plan_training(PlanSettings(model="7B", context=9999), TrainingPlanSettings(train="lora"))


def test_the_vocabulary_counts_in_the_loss_up_to_a_chunk_of_logits() -> None:
    def loss(batch: int) -> int:
        config = tiny_config("7b", vocab_size=125_696)
        return estimate_training(config, TrainingSetup(batch=batch, context=64, on_processor=True)).loss

    assert loss(64) - loss(32) == 2 * 4 * 128 * 32 * 64  # hidden states alone
    assert VOCAB_SIZE < 125_696
    assert loss(64) < 64 * 64 * 125_696 * 4 / 5  # far less than the logits of all places
