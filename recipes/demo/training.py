"""Trains the project's own model on packed rows: seeded, resumable at any moment, as fast as two cores allow.

What makes it fast: bfloat16 autocast where the processor has vectors for it, a compiled decoder body, short rows for
short examples, and logits only where there is a target (about half of the places). The checkpoint holds everything that
the next step depends on, so a run that was killed and resumed gives the same losses as one that was not.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.loss import IGNORED_LABEL
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from recipes.demo.packing import PackedRows, iter_batches
from recipes.demo.tokenizer import NUM_FIXED_IDS

MAX_LENGTH = 512
INITIAL_STD = 0.04  # a hidden size of 256 learns faster from a wider start than from the usual 0.02
SPEED_STEPS = (20, 60)  # a time budget becomes a number of steps from the speed between these two


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How long and how fast to learn. Learning rate: linear warm-up, flat, then linear down to `final_share`.

    `minutes`, if given, replaces `num_steps` once the speed of this machine is known; the number is kept in the
    checkpoint, and the schedule follows steps, not the clock. `noise` is the share of tokens that
    `with_noise` replaces.
    """

    num_steps: int
    learning_rate: float
    minutes: float | None = None
    tokens_per_step: int = 2048
    warmup_steps: int = 100
    flat_share: float = 0.5
    final_share: float = 0.05
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    max_gradient_norm: float = 1.0
    noise: float = 0.0
    seed: int = 1234
    is_compiled: bool = True
    checkpoint_seconds: float = 90.0
    log_every: int = 50
    sample_every: int = 500
    num_snapshots: int = 0

    def is_snapshot(self, step: int) -> bool:
        """Whether the weights after so many steps are one of `num_snapshots`, evenly spread, the last at the end."""
        return step * self.num_snapshots // self.num_steps > (step - 1) * self.num_snapshots // self.num_steps

    def rate_at(self, step: int) -> float:
        """The learning rate of step 0, 1, ..."""
        share = step / self.num_steps
        decay = 1.0
        if share > self.flat_share:
            decay = self.final_share + (1 - self.final_share) * (1 - share) / (1 - self.flat_share)
        return self.learning_rate * decay * min(1.0, (step + 1) / self.warmup_steps)


@dataclass
class TrainingState:
    """What a resumed run goes on from, beside parameters and optimizer.

    `losses` holds (step, mean loss since the entry before) every `log_every` steps; `pending` the losses since then.
    """

    step: int = 0
    seconds: float = 0.0
    num_steps: int | None = None
    losses: list[tuple[int, float]] = field(default_factory=list)
    pending: list[float] = field(default_factory=list)


def new_model(position: Literal["rope", "alibi"], *, seed: int, vocab_size: int = 4096) -> BaichuanForCausalLM:
    """The demo model with drawn weights: 8 layers of 256, 8.5 million parameters, NormHead."""
    torch.manual_seed(seed)
    config = BaichuanConfig(
        architectures=["BaichuanForCausalLM"],
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=8,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH if position == "rope" else None,
        model_max_length=MAX_LENGTH,
        initializer_range=INITIAL_STD,
        position_embedding=position,
        normalized_head=True,
        tokenizer_class="BaichuanTokenizer",
    )
    model = BaichuanForCausalLM(config)
    # residual branches start small, so that the sum over the layers keeps its size (GPT-2)
    residual_std = INITIAL_STD / math.sqrt(2 * config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            is_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            nn.init.normal_(parameter, std=residual_std if is_residual else INITIAL_STD)
    return model


def segment_mask(segments: Tensor) -> Tensor:
    """Which key each row sees: (B, 1, T, T) boolean from `segments` (B, T); the own segment, itself and before."""
    same = segments[:, None, :, None] == segments[:, None, None, :]
    return same.tril()


def with_noise(
    input_ids: Tensor, targets: Tensor, segments: Tensor, *, share: float, generator: torch.Generator
) -> Tensor:
    """`input_ids` (B, T) in which half of the examples have `share` of their free tokens swapped for others.

    Free is what is not learnt, no control token, and not said in the reply of the same example: the filling words of a
    question, not the country, name or relation that the reply repeats. A model that answers rightly nevertheless does
    so in wordings that it never saw. The other tokens come from the same batch, so they are words as people use them.
    """
    is_said = (segments[:, :, None] == segments[:, None, :]) & (input_ids[:, :, None] == targets[:, None, :])
    is_free = (targets == IGNORED_LABEL) & (segments > 0) & (input_ids >= NUM_FIXED_IDS) & ~is_said.any(dim=2)
    noisy_examples = torch.rand(len(segments), int(segments.max()) + 1, generator=generator) < 0.5
    chosen = is_free & noisy_examples.gather(1, segments)
    chosen &= torch.rand(input_ids.shape, generator=generator) < share
    free_ids = input_ids[is_free]
    if not len(free_ids):
        return input_ids
    others = free_ids[torch.randint(len(free_ids), input_ids.shape, generator=generator)]
    return torch.where(chosen, others, input_ids)


class LossFunction:
    """The mean cross entropy of a batch, with the decoder body compiled where that works here.

    Attention is the written-out one: in rows this short the compiler's version of it is faster than the fused CPU
    kernel, whose backward pass alone took 27 % of a step.
    """

    def __init__(self, model: BaichuanForCausalLM, *, is_compiled: bool) -> None:
        self._model = model
        # without vectors for it a step in bfloat16 takes longer than fifty in float32
        self._is_half = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if is_compiled:
            model.set_attn_implementation("eager")
        self._body: Callable[[Tensor, Tensor], Tensor] = self._hidden_states
        if is_compiled:
            torch._dynamo.config.cache_size_limit = 16  # one graph for each row length
            self._body = torch.compile(self._hidden_states, dynamic=False)

    def _hidden_states(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        hidden_states: Tensor = self._model.model(
            input_ids=input_ids, attention_mask=mask, use_cache=False
        ).last_hidden_state
        return hidden_states

    def __call__(self, input_ids: Tensor, targets: Tensor, segments: Tensor) -> Tensor:
        """The loss, a scalar; `input_ids`, `targets` (already shifted) and `segments` are (B, T), int64."""
        is_learnt = targets != IGNORED_LABEL
        mask = segment_mask(segments)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._is_half):
            try:
                hidden_states = self._body(input_ids, mask)  # (B, T, C)
            except Exception as error:  # no compiler on this machine: the same sums, only slower
                if self._body == self._hidden_states:
                    raise
                print(f"compiling failed ({type(error).__name__}: {str(error)[:200]}); going on without", flush=True)
                self._body = self._hidden_states
                hidden_states = self._body(input_ids, mask)
            logits = self._model.lm_head(hidden_states[is_learnt])  # (places with a target, V)
        return F.cross_entropy(logits.float(), targets[is_learnt])


def make_optimizer(model: nn.Module, plan: TrainingPlan) -> torch.optim.AdamW:
    """AdamW with weight decay on the matrices of the layers only."""
    decayed = [p for name, p in model.named_parameters() if p.dim() == 2 and ".layers." in name]
    others = [p for name, p in model.named_parameters() if not (p.dim() == 2 and ".layers." in name)]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": plan.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=plan.betas, fused=True)


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
    """Writes everything a resumed run needs to `path`, under another name first: a kill leaves the old file whole."""
    beside = path.with_name(path.name + ".part")
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "state": vars(state),
        "random_state": torch.get_rng_state(),
    }
    with beside.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
    """Puts the checkpoint at `path` into model, optimizer and random state, and gives the rest."""
    content = torch.load(path, weights_only=True)
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    torch.set_rng_state(content["random_state"])
    state = TrainingState(**content["state"])
    state.losses = [(int(step), float(loss)) for step, loss in state.losses]
    return state


def train(
    model: BaichuanForCausalLM,
    rows: Sequence[PackedRows],
    plan: TrainingPlan,
    checkpoint_path: Path,
    *,
    name: str = "train",
    show_samples: Callable[[BaichuanForCausalLM], None] | None = None,
    take_snapshot: Callable[[BaichuanForCausalLM, int], None] | None = None,
) -> TrainingState:
    """Trains `model` in place to the end of `plan`, going on from `checkpoint_path` if it exists.

    Every `sample_every` steps `show_samples(model)` runs in evaluation mode; `take_snapshot(model, step)` runs after
    the steps that `plan.is_snapshot` names.

    Raises:
        FloatingPointError: the loss became NaN or infinite; the checkpoint before it is kept.
    """
    optimizer = make_optimizer(model, plan)
    state = TrainingState()
    if checkpoint_path.exists():
        state = load_checkpoint(checkpoint_path, model, optimizer)
        print(f"{name}: resumed at step {state.step}", flush=True)
    plan = _with_known_steps(plan, state)
    tensors = [
        tuple(torch.from_numpy(getattr(group, key)) for key in ("input_ids", "targets", "segments")) for group in rows
    ]
    loss_function = LossFunction(model, is_compiled=plan.is_compiled)
    model.train()
    batches = iter_batches(rows, tokens_per_step=plan.tokens_per_step, seed=plan.seed, first_step=state.step)
    clock = _Clock(state)
    with _progress(name, plan.num_steps) as show:
        while state.step < plan.num_steps:
            group, indexes = next(batches)
            chosen = torch.tensor(indexes)
            batch = [tensor[chosen].long() for tensor in tensors[group]]
            value = _gradients(model, optimizer, loss_function, batch, plan=plan, step=state.step)
            if not math.isfinite(value):
                raise FloatingPointError(f"{name}: the loss is {value} at step {state.step}")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            state.pending.append(value)
            state.step += 1
            plan = clock.tick(plan, state)
            if state.step % plan.log_every == 0:
                state.losses.append((state.step, float(np.mean(state.pending))))
                state.pending = []
                show(state, plan, clock.tokens_per_second(plan, state))
            if show_samples is not None and state.step % plan.sample_every == 0:
                model.eval()
                show_samples(model)
                model.train()
            if take_snapshot is not None and plan.is_snapshot(state.step):
                take_snapshot(model, state.step)
            if clock.is_checkpoint_due(plan):
                save_checkpoint(checkpoint_path, model, optimizer, state)
    save_checkpoint(checkpoint_path, model, optimizer, state)
    model.eval()
    return state


def _gradients(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_function: LossFunction,
    batch: list[Tensor],
    *,
    plan: TrainingPlan,
    step: int,
) -> float:
    """The loss of a batch; gradients are clipped and ready for the optimizer, which has the rate of this step."""
    input_ids, targets, segments = batch
    if plan.noise:
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        input_ids = with_noise(input_ids, targets, segments, share=plan.noise, generator=generator)
    for parameter_group in optimizer.param_groups:
        parameter_group["lr"] = plan.rate_at(step)
    loss = loss_function(input_ids, targets, segments)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), plan.max_gradient_norm)
    return loss.item()


def _with_known_steps(plan: TrainingPlan, state: TrainingState) -> TrainingPlan:
    """The plan with the number of steps that an earlier start of a run by the clock found."""
    if plan.minutes is not None and state.num_steps is not None:
        return replace(plan, num_steps=state.num_steps)
    return plan


class _Clock:
    """Training time over all starts of a run, speed, and when the next checkpoint is due."""

    def __init__(self, state: TrainingState) -> None:
        self._before = time.monotonic()
        self._last_checkpoint = self._before
        self._marked_step, self._marked_seconds = state.step, state.seconds
        self._speed_start: float | None = None

    def tick(self, plan: TrainingPlan, state: TrainingState) -> TrainingPlan:
        """Counts the step just made; returns the plan, with `num_steps` from the clock as soon as that is known."""
        now = time.monotonic()
        state.seconds += now - self._before
        self._before = now
        if plan.minutes is None or state.num_steps is not None:
            return plan
        first, last = SPEED_STEPS
        if state.step == first:
            self._speed_start = state.seconds
        if state.step < last or self._speed_start is None:
            return plan
        seconds_per_step = (state.seconds - self._speed_start) / (last - first)
        left = max(0.0, plan.minutes * 60 - state.seconds)
        state.num_steps = state.step + max(1, round(left / seconds_per_step))
        print(f"{seconds_per_step:.3f} s a step: {state.num_steps} steps in {plan.minutes:g} minutes", flush=True)
        return replace(plan, num_steps=state.num_steps)

    def tokens_per_second(self, plan: TrainingPlan, state: TrainingState) -> float:
        """Places per second, padding included, since the last call."""
        steps, seconds = state.step - self._marked_step, state.seconds - self._marked_seconds
        self._marked_step, self._marked_seconds = state.step, state.seconds
        return steps * plan.tokens_per_step / max(seconds, 1e-9)

    def is_checkpoint_due(self, plan: TrainingPlan) -> bool:
        """Whether `checkpoint_seconds` have passed since the last time this was true."""
        if self._before - self._last_checkpoint < plan.checkpoint_seconds:
            return False
        self._last_checkpoint = self._before
        return True


@contextmanager
def _progress(name: str, num_steps: int) -> Iterator[Callable[[TrainingState, TrainingPlan, float], None]]:
    """A function that shows how far a run is: a bar in a terminal, plain lines elsewhere."""
    console = Console()

    def show_line(state: TrainingState, plan: TrainingPlan, speed: float) -> None:
        remaining = (plan.num_steps - state.step) * plan.tokens_per_step / speed
        print(
            f"{name} step {state.step}/{plan.num_steps} loss {state.losses[-1][1]:.4f} "
            f"rate {plan.rate_at(state.step - 1):.2e} {speed:,.0f} tokens/s "
            f"spent {state.seconds:.0f} s left {remaining:.0f} s",
            flush=True,
        )

    if not console.is_terminal:
        yield show_line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=num_steps, note="")

        def show_bar(state: TrainingState, plan: TrainingPlan, speed: float) -> None:
            note = f"step {state.step}/{plan.num_steps} loss {state.losses[-1][1]:.3f} {speed:,.0f} tokens/s"
            bar.update(task, completed=state.step, total=plan.num_steps, note=note)

        yield show_bar


def load_weights(checkpoint_path: Path) -> dict[str, Tensor]:
    """The parameters in a training checkpoint, float32."""
    weights: dict[str, Tensor] = torch.load(checkpoint_path, weights_only=True)["model"]
    return weights
