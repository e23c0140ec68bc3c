"""What a training run takes before it starts: an estimate by part for each device, what fits, and the refusal.

Everything comes from the config and the settings of the run. The parts and how they share memory over time:

- always there: weights, adapters, float32 copies and states of the optimizer, buffers of the communication;
- up to the loss: activations and what the loss holds, and the gradient of the head;
- from there on activations go, layer by layer, while gradients come. Kept gradients (accumulation, ZeRO) are there
  beside the activations of the next pass.

So the total is what is always there plus the larger of the two moments, and less than the sum of all parts.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from baichuan2.checkpoints.memory import Place, given_places
from baichuan2.checkpoints.plan import FLOAT_BITS, MARGIN, RUNTIME_BYTES, SCHEMES, find_config
from baichuan2.errors import MemoryShortageError, SettingsError
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.cost import FLOAT32_BYTES, layer_matrices, num_parameters, weight_bytes
from baichuan2.model.training_cost import (
    Adapters,
    Numbers,
    Rows,
    adapter_parameters,
    kept_around_layers,
    kept_by_layer,
    layer_scratch,
    loss_bytes,
)
from baichuan2.settings import FinetuneSettings, PlanSettings, TrainingPlanSettings

__all__ = [
    "TrainingEstimate",
    "TrainingFit",
    "TrainingPlan",
    "TrainingSetup",
    "check_training_fits",
    "estimate_training",
    "make_training_plan",
    "plan_training",
]

Method = Literal["full", "lora", "qlora"]
Verdict = Literal["fits", "tight", "no", "unknown"]

# by how much estimates may be wrong; benchmarks/finetune_memory.py measures it
SLACK = 0.15
DEFAULT_CONTEXT = FinetuneSettings.model_max_length
MOST_ROWS = 1 << 16
# elements that DeepSpeed reduces at once, and that ZeRO-3 holds gathered, where its file says nothing else
BUCKET_ELEMENTS = 500_000_000
GATHERED_ELEMENTS = 1_000_000_000
# bytes of states for each trained parameter; 8-bit states have a float32 scale for 256 of them
STATE_BYTES: dict[str, float] = {
    "adamw_8bit": 2 * (1 + 4 / 256),
    "lion_32bit": 4,
    "lion_8bit": 1 + 4 / 256,
    "rmsprop": 4,
    "adagrad": 4,
    "sgd": 0,
    "adafactor": 0,  # sums by row and by column
}
ADAM_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What decides how much memory a run takes; `batch` rows of `context` tokens on each of `devices` devices.

    `base_format`: numbers of the weights under adapters, `bits` of float weights there. `rows_each`: rows that one
    example computes, 2 for DPO. `has_mask`: rows may be padded or packed. `zero`: stage of DeepSpeed's ZeRO, None
    without DeepSpeed. `keeps_gradients`: batches are accumulated. `stored_bytes`: of one number in the weight files.
    """

    method: Method = "full"
    batch: int = 1
    context: int = 512
    rows_each: int = 1
    has_mask: bool = True
    gradient_checkpointing: bool = False
    keeps_gradients: bool = False
    bf16: bool = False
    optim: str = "adamw_torch_fused"
    zero: int = 0
    devices: int = 1
    offload: Literal["none", "optimizer", "all"] = "none"
    base_format: Literal["none", "nf4", "int8", "int4"] = "none"
    adapters: Adapters | None = None
    on_processor: bool = False
    stored_bytes: int = 2

    @property
    def numbers(self) -> Numbers:
        """Full training keeps float32 weights, of which autocast makes copies; DeepSpeed keeps those beside."""
        if not self.bf16:
            return Numbers()
        is_half = self.adapters is not None or self.zero > 0
        return Numbers(weights=2 if is_half else FLOAT32_BYTES, compute=2, adapters=2)


@dataclass(frozen=True, kw_only=True)
class TrainingEstimate:
    """The memory of one device in bytes by part.

    `host`: main memory besides, for each device: what waits there, or the model while it is read, if that is more.
    `copies`: weights once more in 16 bits, which autocast makes; `master`: float32 weights beside 16-bit ones.
    `total` is the fullest moment, less than the sum of all parts.
    """

    method: str
    weights: int
    adapters: int
    copies: int
    master: int
    optimizer: int
    gradients: int
    activations: int
    loss: int
    communication: int
    runtime: int
    total: int
    host: int

    @property
    def beside_program(self) -> int:
        """The total without the program itself, which has taken its share where the free memory is looked at."""
        return self.total - self.runtime


@dataclass(frozen=True)
class TrainingFit:
    """Whether a run goes into one place, and the most rows by which it does; None where not even one row.

    Verdicts: "fits"; "tight", with less than a twentieth to spare; "no"; "unknown" where the memory cannot be told.
    """

    verdict: Verdict
    largest_batch: int | None


@dataclass(frozen=True)
class TrainingPlan:
    """Estimates of one model for several runs, and how they fit into each place: a row of `fits` for each estimate."""

    name: str
    setups: tuple[TrainingSetup, ...]
    places: tuple[Place, ...]
    estimates: tuple[TrainingEstimate, ...]
    fits: tuple[tuple[TrainingFit, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; sizes in bytes."""
        rows = []
        for setup, item, fits in zip(self.setups, self.estimates, self.fits, strict=True):
            judged = {place.name: asdict(fit) for place, fit in zip(self.places, fits, strict=True)}
            rows.append({**asdict(item), "setup": asdict(setup), "fits": judged})
        return {"model": self.name, "places": [asdict(place) for place in self.places], "training": rows}


def estimate_training(config: BaichuanConfig, setup: TrainingSetup) -> TrainingEstimate:
    """The memory of training `config` as `setup` says, on each device."""
    numbers = setup.numbers
    shards = [setup.devices if setup.zero >= stage else 1 for stage in range(4)]  # by what ZeRO splits up
    base = _base_bytes(config, setup)
    trained = num_parameters(config).total if setup.adapters is None else adapter_parameters(config, setup.adapters)
    # DeepSpeed brings adapters to the numbers of the others
    adapter_width = numbers.weights if setup.zero else FLOAT32_BYTES
    trained_width = numbers.weights if setup.adapters is None else adapter_width
    adapters = 0 if setup.adapters is None else trained * adapter_width
    master = FLOAT32_BYTES * trained // shards[1] if setup.zero else 0
    optimizer = _state_bytes(config, setup, trained) // shards[1]
    gradients = trained_width * trained // shards[2]
    # its share of the gradients in float32, while the optimizer steps
    share = FLOAT32_BYTES * trained // shards[1] if setup.zero else 0
    is_kept = setup.keeps_gradients or setup.zero > 0
    activations, forward, backward = _moments(config, setup, numbers)
    copies = 0
    if numbers.is_mixed:
        parts = num_parameters(config)
        copies = numbers.compute * (parts.attention + parts.mlp)
    communication = _communication(config, setup, trained, trained_width)
    host = 0
    if setup.offload != "none":
        host += master + optimizer + share
        master = optimizer = share = 0
    weights, adapters = base // shards[3], adapters // shards[3]
    if setup.offload == "all":
        host, weights, adapters = host + weights + adapters, 0, 0
    host = max(host, _loading_bytes(config, setup))
    head = config.vocab_size * config.hidden_size * FLOAT32_BYTES if setup.adapters is None and not is_kept else 0
    on_way_back = (0 if is_kept else gradients) + backward
    fullest = max(forward + copies + head, on_way_back, share + _step_bytes(config, setup, trained))
    always = weights + adapters + master + optimizer + communication + RUNTIME_BYTES + (gradients if is_kept else 0)
    loss = loss_bytes(
        config,
        _rows(setup),
        numbers,
        on_processor=setup.on_processor,
        trains_head=setup.adapters is None,
    )
    return TrainingEstimate(
        method=setup.method,
        weights=weights,
        adapters=adapters,
        copies=copies,
        master=master,
        optimizer=optimizer,
        gradients=gradients,
        activations=activations,
        loss=loss,
        communication=communication,
        runtime=RUNTIME_BYTES,
        total=always + fullest,
        host=host,
    )


def _rows(setup: TrainingSetup) -> Rows:
    return Rows(batch=setup.batch * setup.rows_each, tokens=setup.context, has_mask=setup.has_mask)


def _base_bytes(config: BaichuanConfig, setup: TrainingSetup) -> int:
    """The model's own weights, before they are split up."""
    bits = 8 * setup.numbers.weights
    scheme = SCHEMES.get(setup.base_format)
    layers = bits if scheme is None else scheme.bits_per_weight
    return weight_bytes(config, layers, embedding_bits=bits, norm_bits=bits, head_bits=bits).total


def _loading_bytes(config: BaichuanConfig, setup: TrainingSetup) -> int:
    """Main memory of a process whose model goes to an accelerator after it was read; 0 where it stays on the processor.

    Weights that are kept as they are stored stay mapped from their files, and the system may drop their pages. ZeRO-3
    and what is quantised while it is read never hold the model whole.
    """
    width = 2 if setup.adapters is not None and setup.bf16 else FLOAT32_BYTES
    is_whole = width != setup.stored_bytes and setup.zero < 3 and setup.base_format == "none"
    return width * num_parameters(config).total if is_whole and not setup.on_processor else 0


def _state_bytes(config: BaichuanConfig, setup: TrainingSetup, trained: int) -> int:
    if setup.optim == "adafactor" and setup.adapters is None:
        shapes = [(m.num_rows, m.row_length) for m in layer_matrices(config)] * config.num_hidden_layers
        shapes += [(config.vocab_size, config.hidden_size)] * 2
        return FLOAT32_BYTES * sum(rows + columns for rows, columns in shapes)
    name = setup.optim.removeprefix("paged_").replace("bnb_", "")
    return round(STATE_BYTES.get(name, ADAM_BYTES) * trained)


def _moments(config: BaichuanConfig, setup: TrainingSetup, numbers: Numbers) -> tuple[int, int, int]:
    """Bytes of all activations that are kept, of the moment of the loss, and of the last moment of the way back."""
    rows, is_full = _rows(setup), setup.adapters is None
    layer = kept_by_layer(config, rows, numbers, setup.adapters, on_processor=setup.on_processor)
    around = kept_around_layers(config, rows, numbers, trains_norm=is_full)
    scratch = layer_scratch(config, rows, numbers)
    if setup.base_format != "none":  # one matrix at a time is widened for its products
        scratch += numbers.compute * max(item.num_rows * item.row_length for item in layer_matrices(config))
    loss = loss_bytes(config, rows, numbers, on_processor=setup.on_processor, trains_head=is_full)
    if setup.gradient_checkpointing:
        inputs = config.num_hidden_layers * numbers.weights * config.hidden_size * rows.places
        return inputs + layer + around, inputs + around + max(loss, layer + scratch), layer + scratch
    kept = config.num_hidden_layers * layer + around
    return kept, kept + max(loss, scratch), layer + scratch


def _communication(config: BaichuanConfig, setup: TrainingSetup, trained: int, width: int) -> int:
    """Buffers that gather weights and reduce gradients."""
    if setup.zero == 0:
        return FLOAT32_BYTES * trained if setup.devices > 1 else 0
    buckets = width * min(BUCKET_ELEMENTS, trained)
    if setup.zero < 3:
        return buckets
    count = num_parameters(config).total
    share = min(1.0, GATHERED_ELEMENTS / count)
    return buckets + round(share * _base_bytes(config, setup))


def _step_bytes(config: BaichuanConfig, setup: TrainingSetup, trained: int) -> int:
    """Bytes beside gradients while the optimizer steps, kept gradients not counted."""
    gradients = 0 if setup.keeps_gradients or setup.zero else FLOAT32_BYTES * trained
    if setup.optim != "adamw_torch" or setup.zero:
        return gradients
    if setup.on_processor:
        return gradients + 2 * FLOAT32_BYTES * min(trained, config.vocab_size * config.hidden_size)
    return gradients + FLOAT32_BYTES * trained  # all roots at once


def make_training_plan(
    config: BaichuanConfig, name: str, where: Sequence[Place], setups: Sequence[TrainingSetup]
) -> TrainingPlan:
    """The plan of a model called `name` for the places `where`, by each of `setups`.

    Raises:
        SettingsError: the context is longer than the model takes.
    """
    longest = config.model_max_length
    for setup in setups:
        if longest is not None and setup.context > longest:
            raise SettingsError(f"--context {setup.context}: this model takes at most {longest} tokens")
    fits = []
    for setup in setups:
        row = []
        for place in where:
            here = replace(setup, on_processor=place.kind == "main")
            row.append(TrainingFit(_judge(config, here, place), _largest_batch(config, here, place)))
        fits.append(tuple(row))
    estimates = tuple(estimate_training(config, setup) for setup in setups)
    return TrainingPlan(name, tuple(setups), tuple(where), estimates, tuple(fits))


def plan_training(settings: PlanSettings, training: TrainingPlanSettings) -> TrainingPlan:
    """The plan that settings ask for; weights are neither needed nor fetched.

    Raises:
        CheckpointError: there is no such model, or its config.json is not that of a Baichuan model.
        SettingsError: the context is longer than the model takes.
    """
    if settings.kv_cache != "same":
        raise SettingsError(f"--kv-cache {settings.kv_cache} is for replies: training keeps no cache")
    name, config, stored, _ = find_config(settings)
    where = given_places(gpu=settings.gpu, memory=settings.memory)
    longest = config.model_max_length
    assert longest is not None
    assert training.train != "none"
    methods: tuple[Method, ...] = ("full", "lora", "qlora") if training.train == "all" else (training.train,)
    adapters = Adapters(rank=training.lora_rank, targets=training.adapter_targets)
    setups = [
        TrainingSetup(
            method=method,
            batch=settings.batch,
            context=settings.context if settings.context is not None else min(DEFAULT_CONTEXT, longest),
            rows_each=2 if training.objective == "dpo" else 1,
            has_mask=True,
            gradient_checkpointing=training.gradient_checkpointing,
            keeps_gradients=training.gradient_accumulation_steps > 1,
            bf16=training.bf16,
            optim=training.optim,
            zero=training.zero,
            devices=training.devices,
            offload=training.offload,
            base_format="nf4" if method == "qlora" else "none",
            adapters=None if method == "full" else adapters,
            on_processor=where[0].kind == "main",
            stored_bytes=FLOAT_BITS.get(stored or "", 16) // 8,
        )
        for method in methods
    ]
    return make_training_plan(config, name, where, setups)


def _need(config: BaichuanConfig, setup: TrainingSetup, place: Place) -> int:
    """What a run takes of a place; the program has already taken its own share of one that was looked at."""
    item = estimate_training(config, setup)
    return item.beside_program if place.is_live else item.total


def _room(place: Place) -> int | None:
    return place.free if place.free is not None else place.total


def _judge(config: BaichuanConfig, setup: TrainingSetup, place: Place) -> Verdict:
    room = _room(place)
    if room is None:
        return "unknown"
    need = _need(config, setup, place)
    if need + MARGIN * room <= room:
        return "fits"
    return "tight" if need <= room else "no"


def _largest_batch(config: BaichuanConfig, setup: TrainingSetup, place: Place) -> int | None:
    """The most rows a device, up to MOST_ROWS, with which the run still fits; by bisection."""
    room = _room(place)
    if room is None:
        return None
    low, high = 0, MOST_ROWS
    while low < high:
        middle = (low + high + 1) // 2
        fits = _need(config, replace(setup, batch=middle), place) <= room
        low, high = (middle, high) if fits else (low, middle - 1)
    return low or None


def check_training_fits(
    config: BaichuanConfig, name: str, setup: TrainingSetup, place: Place, processes: int = 1, *, refuses: bool = True
) -> tuple[TrainingEstimate, int | None]:
    """The estimate of one device, and the bytes that are free for it: None where that cannot be told.

    `processes`: how many share the place, what waits in main memory included. An estimate may be wrong by SLACK, and
    what would have run must not be turned away: only what is larger than the free memory by more is refused.

    Raises:
        MemoryShortageError: one line with what it needs, what is free and what would fit; `plan` holds the table.
    """
    item, room = estimate_training(config, setup), _room(place)
    if room is None:
        return item, None
    room = (room + place.swap) // processes
    need = item.beside_program
    if not refuses or need * (1 - SLACK) <= room:
        return item, room
    raise MemoryShortageError(
        f"training {name} takes {_gigabytes(need)} on {place.name}, where {_gigabytes(room)} are free"
        f"{advice(config, setup, room)}; --no-check-memory trains anyway",
        make_training_plan(config, name, [place], [setup]),
    )


def advice(config: BaichuanConfig, setup: TrainingSetup, room: int) -> str:
    """What would make a run fit into `room`, as the end of a sentence: the least change first."""
    least = replace(setup, gradient_checkpointing=True, batch=1)
    targets = tuple(matrix.name.rpartition(".")[2] for matrix in layer_matrices(config))
    lora = replace(least, method="lora", adapters=setup.adapters or Adapters(rank=16, targets=targets))
    qlora = replace(lora, method="qlora", bf16=True, base_format="nf4")
    both = "--gradient-checkpointing True --per-device-train-batch-size 1"
    changes = {
        "--gradient-checkpointing True": replace(setup, gradient_checkpointing=True),
        both: least,
        f"--method lora {both}": lora,
        f"--method lora --bf16 True {both}": replace(lora, bf16=True),
        f"--method qlora --bf16 True {both}": qlora,
    }
    for flags, changed in changes.items():
        is_lesser = changed.method != setup.method or setup.adapters is None or changed.bf16 != setup.bf16
        if changed == setup or (flags.startswith("--method") and not is_lesser):
            continue
        need = estimate_training(config, changed).beside_program
        if need <= room:
            return f": {flags} would fit ({_gigabytes(need)})"
    return ": nothing would fit on one device, see  baichuan2 plan --train all --zero 3 --devices N"


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
