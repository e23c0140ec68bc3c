import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from recipes.demo.packing import PackedRows
from recipes.demo.training import (
    LossFunction,
    TrainingPlan,
    load_checkpoint,
    make_optimizer,
    new_model,
    segment_mask,
    train,
    with_noise,
)

from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM

ROOT = Path(__file__).parents[2]
NUM_WORDS = 60
VOCABULARY = 200 + NUM_WORDS


def tiny_model(position: str = "rope") -> BaichuanForCausalLM:
    torch.manual_seed(0)
    return BaichuanForCausalLM(
        BaichuanConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            model_max_length=64,
            position_embedding=position,
            normalized_head=True,
            initializer_range=0.2,
        )
    )


def tiny_rows(num_rows: int = 24, length: int = 32) -> tuple[PackedRows, ...]:
    """Counting up in steps of one or two, modulo the number of words: easy to learn."""
    draw = np.random.default_rng(0)
    rows = []
    for _ in range(2 * num_rows):
        start, step = draw.integers(NUM_WORDS), draw.integers(1, 3)
        rows.append((start + step * np.arange(length // 2 + 1)) % NUM_WORDS + 200)
    halves = np.array(rows).reshape(num_rows, 2, -1)
    ids = halves[:, :, :-1].reshape(num_rows, length).astype(np.int16)
    targets = halves[:, :, 1:].reshape(num_rows, length).astype(np.int16)
    targets[:, :4] = -100
    segments = np.tile(np.repeat([1, 2], length // 2), (num_rows, 1)).astype(np.int16)
    return (PackedRows(ids, targets, segments), PackedRows(ids[:, :16], targets[:, :16], segments[:, :16]))


def plan(**changes) -> TrainingPlan:
    values = {
        "num_steps": 60,
        "learning_rate": 1e-2,
        "tokens_per_step": 128,
        "warmup_steps": 10,
        "is_compiled": False,
        "log_every": 5,
        "noise": 0.2,
    }
    return TrainingPlan(**{**values, **changes})


def batch_of(rows: PackedRows):
    return [torch.from_numpy(array[:4]).long() for array in (rows.input_ids, rows.targets, rows.segments)]


@pytest.mark.parametrize("position", ["rope", "alibi"])
def test_loss_falls(tmp_path, position):
    state = train(tiny_model(position), tiny_rows(), plan(num_steps=200), tmp_path / "state.pt")
    assert state.losses[0][1] > 3.5
    assert state.losses[-1][1] < 1.0
    assert [step for step, _ in state.losses] == list(range(5, 201, 5))


def test_loss_equals_the_models_own_loss_on_each_segment_alone():
    model = tiny_model()
    rows = tiny_rows()[0]
    input_ids, targets, segments = batch_of(rows)
    packed = LossFunction(model, is_compiled=False)(input_ids, targets, segments)
    total, count = 0.0, 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for row in range(len(input_ids)):
            for segment in (1, 2):
                here = segments[row] == segment
                logits = model(input_ids=input_ids[row][here][None]).logits[0].float()
                total += torch.nn.functional.cross_entropy(logits, targets[row][here], reduction="sum")
                count += int((targets[row][here] != -100).sum())
    assert packed.item() == pytest.approx((total / count).item(), rel=2e-3)


def test_noise_swaps_filling_words_and_nothing_else():
    draw = torch.Generator().manual_seed(0)
    input_ids = torch.randint(300, 4000, (8, 64), generator=draw)
    segments = torch.ones_like(input_ids)
    segments[:, 32:] = 2
    segments[:, 60:] = 0
    targets = torch.full_like(input_ids, -100)
    input_ids[:, 0] = input_ids[:, 32] = 195
    targets[:, 20:30] = torch.randint(300, 4000, (8, 10), generator=draw)
    targets[:, 25:30] = input_ids[:, 5:10]  # repeated in the reply, as a country would be
    noisy = with_noise(input_ids, targets, segments, share=0.5, generator=torch.Generator().manual_seed(1))
    is_changed = noisy != input_ids
    assert not is_changed[:, [0, 32, *range(5, 10), *range(20, 30), *range(60, 64)]].any()
    per_example = torch.stack([is_changed[:, 1:20].float().mean(1), is_changed[:, 33:60].float().mean(1)])
    assert 4 <= (per_example == 0).sum() <= 12
    assert 0.25 < per_example[per_example > 0].mean() < 0.6
    again = with_noise(input_ids, targets, segments, share=0.5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(noisy, again)


def test_mask_keeps_segments_apart():
    mask = segment_mask(torch.tensor([[1, 1, 2, 2, 0]]))[0, 0]
    expected = torch.tensor(
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]], dtype=torch.bool
    )
    assert torch.equal(mask, expected)


def test_schedule_warms_up_stays_and_falls():
    schedule = plan(num_steps=100, learning_rate=1.0, warmup_steps=10)
    assert schedule.rate_at(0) == pytest.approx(0.1)
    assert schedule.rate_at(9) == schedule.rate_at(50) == 1.0
    assert schedule.rate_at(75) == pytest.approx(0.525)
    assert schedule.rate_at(99) == pytest.approx(0.069)


def test_weight_decay_only_on_matrices_of_the_layers():
    model = tiny_model()
    decayed, others = make_optimizer(model, plan()).param_groups
    assert decayed["weight_decay"] == 0.05
    assert others["weight_decay"] == 0.0
    assert len(decayed["params"]) == 2 * 5
    assert len(others["params"]) == len(list(model.parameters())) - 2 * 5


def test_stopped_and_resumed_run_has_the_same_losses(tmp_path):
    whole = tiny_model()
    expected = train(whole, tiny_rows(), plan(), tmp_path / "whole.pt")

    def stop(model: BaichuanForCausalLM) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            tiny_model(),
            tiny_rows(),
            plan(checkpoint_seconds=0.0, sample_every=23),
            tmp_path / "parts.pt",
            show_samples=stop,
        )
    resumed = tiny_model()
    state = train(resumed, tiny_rows(), plan(), tmp_path / "parts.pt")
    assert state.losses == expected.losses
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


KILLED_RUN = """
import sys
from pathlib import Path
from tests.recipes.test_training import plan, tiny_model, tiny_rows
from recipes.demo.training import train
train(tiny_model(), tiny_rows(), plan(checkpoint_seconds=0.0), Path(sys.argv[1]))
"""


def test_killed_run_goes_on_with_the_same_losses(tmp_path):
    path = tmp_path / "killed.pt"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-c", KILLED_RUN, str(path)], env=environment, cwd=ROOT)
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    model = tiny_model()
    assert 1 <= load_checkpoint(path, model, make_optimizer(model, plan())).step < 60
    resumed = train(tiny_model(), tiny_rows(), plan(), path)
    assert resumed.losses == train(tiny_model(), tiny_rows(), plan(), tmp_path / "whole.pt").losses


def test_time_budget_becomes_steps_and_is_kept(tmp_path):
    budget = plan(num_steps=10**9, minutes=0.03)
    state = train(tiny_model(), tiny_rows(), budget, tmp_path / "state.pt")
    assert state.num_steps == state.step >= 60
    again = train(tiny_model(), tiny_rows(), budget, tmp_path / "state.pt")
    assert again.step == state.step


def test_samples_are_shown_in_evaluation_mode(tmp_path):
    modes = []
    train(
        tiny_model(),
        tiny_rows(),
        plan(num_steps=20, sample_every=10),
        tmp_path / "state.pt",
        show_samples=lambda model: modes.append(model.training),
    )
    assert modes == [False, False]


def test_broken_loss_stops_the_run(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="step 0"):
        train(model, tiny_rows(), plan(), tmp_path / "state.pt")
    assert not (tmp_path / "state.pt").exists()


@pytest.mark.parametrize("position", ["rope", "alibi"])
def test_demo_shape(position):
    model = new_model(position, seed=1)
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_524_032
    weights = model.state_dict()
    assert weights["model.layers.0.mlp.down_proj.weight"].std().item() == pytest.approx(0.01, rel=0.05)
    assert weights["model.layers.0.mlp.up_proj.weight"].std().item() == pytest.approx(0.04, rel=0.05)
    assert weights["lm_head.weight"].std().item() == pytest.approx(0.04, rel=0.05)


def test_snapshots_are_evenly_spread_and_end_with_the_final_weights_also_after_a_kill(tmp_path):
    taken = {}

    def take(model, step):
        taken[step] = model.lm_head.weight.detach().clone()

    three = plan(num_snapshots=3, num_steps=20, checkpoint_seconds=0.0)
    model = tiny_model()
    train(model, tiny_rows(), three, tmp_path / "whole.pt", take_snapshot=take)
    assert list(taken) == [7, 14, 20]
    assert torch.equal(taken[20], model.lm_head.weight)
    assert not torch.equal(taken[14], taken[20])
    whole = dict(taken)
    taken.clear()

    class KilledError(Exception):
        pass

    def take_and_die(model, step):
        take(model, step)
        if step == 14:
            raise KilledError

    with pytest.raises(KilledError):
        train(tiny_model(), tiny_rows(), three, tmp_path / "parts.pt", take_snapshot=take_and_die)
    train(tiny_model(), tiny_rows(), three, tmp_path / "parts.pt", take_snapshot=take)
    assert list(taken) == [7, 14, 20]  # the second time of 14, as its state was not yet saved
    assert all(torch.equal(taken[step], whole[step]) for step in whole)


def test_without_snapshots_none_is_taken(tmp_path):
    assert not any(plan().is_snapshot(step) for step in range(1, 61))
