"""What will fit before anything is loaded: an estimate per precision, a plan for this machine, and the refusal.

Everything comes from the config. `estimate` adds up what a running model takes, `make_plan` compares it with memory,
`check_fits` is asked by loading, and stops what would end with a killed process.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from baichuan2.checkpoints.locate import locate
from baichuan2.checkpoints.memory import Place, accelerator, given_places, main_memory
from baichuan2.checkpoints.releases import release_meant
from baichuan2.checkpoints.shards import read_json
from baichuan2.devices import available_devices, pick_device
from baichuan2.errors import CheckpointError, MemoryShortageError, SettingsError
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.cost import (
    CACHE_BLOCK,
    cache_bytes,
    head_copy_bytes,
    int8_cache_bits,
    num_parameters,
    scratch_bytes,
    weight_bytes,
)
from baichuan2.quantization.apply import TABLE_GROUP_SIZE, default_spec
from baichuan2.quantization.scheme import (
    DEFAULT_GROUP_SIZES,
    HEAD_SCHEMES,
    METHOD,
    HeadFormat,
    QuantizationSpec,
    Scheme,
)
from baichuan2.settings import PlanSettings

__all__ = [
    "FLOAT_BITS",
    "PRECISIONS",
    "Estimate",
    "Fit",
    "Plan",
    "check_fits",
    "estimate",
    "find_config",
    "make_plan",
    "plan_model",
]

CacheNumbers = Literal["same", "int8"]
Verdict = Literal["fits", "tight", "disk", "no", "unknown"]

FLOAT_BITS = {"float32": 32, "bfloat16": 16, "float16": 16}
SCHEMES = {
    "int8": Scheme("int8", DEFAULT_GROUP_SIZES["int8"]),
    "int4": Scheme("int4", DEFAULT_GROUP_SIZES["int4"]),
    "nf4": Scheme("nf4", DEFAULT_GROUP_SIZES["nf4"]),
}
PRECISIONS = ("float32", "bfloat16", "int8", "int4", "nf4")
# Python, torch, transformers and the tokenizer of 125,696 pieces: 0.45 GB after a chat, 0.51 GB at most (measured with
# torch 2.13 on a processor); what an accelerator's driver takes for itself is of that size, but was not measured
RUNTIME_BYTES = 500_000_000
# a plan that leaves less than this share of the memory free is called tight
MARGIN = 0.05
# mapped weights so many times larger than the memory are refused; below that they are slow, and said to be
FAR_TOO_LARGE = 2.0
# beyond any model; it keeps a damaged config.json from looking like a plan
LARGEST_FIELD = 10**9

RELEASED_SHAPES: dict[str, dict[str, Any]] = {
    "7b": {"max_position_embeddings": 4096},
    "13b": {
        "hidden_size": 5120,
        "intermediate_size": 13_696,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "model_max_length": 4096,
    },
}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The memory of a model that answers, in bytes by part.

    The weights: `embedding`, `attention`, `mlp`, `norms`, `head`. Beside them: `head_copy`, the normalised rows of the
    head; `cache`, keys and values of `batch` conversations of `context` tokens in the numbers `kv_cache`; `scratch`,
    what one pass over a prompt of that length holds at its fullest; `runtime`, the program itself.
    """

    precision: str
    context: int
    batch: int
    kv_cache: CacheNumbers
    embedding: int
    attention: int
    mlp: int
    norms: int
    head: int
    head_copy: int
    cache: int
    scratch: int
    runtime: int

    @property
    def weights(self) -> int:
        """All weights."""
        return self.embedding + self.attention + self.mlp + self.norms + self.head

    @property
    def total(self) -> int:
        """All parts."""
        return self.weights + self.head_copy + self.cache + self.scratch + self.runtime


@dataclass(frozen=True)
class Fit:
    """Whether one estimate goes into one place, and the longest context that does; None where not even one token.

    Verdicts: "fits"; "tight", with less than a twentieth of the memory to spare; "disk", where only what is not mapped
    from files fits, so that weights are read from disk again for each token; "no"; "unknown", where the memory cannot
    be told.
    """

    verdict: Verdict
    largest_context: int | None


@dataclass(frozen=True)
class Plan:
    """Estimates of one model for each precision, and how they fit into each place.

    `stored`: the precision of the checkpoint itself, None where its config does not tell. `fits` has one row for each
    of `estimates`, with one entry for each of `places`.
    """

    name: str
    max_context: int
    stored: str | None
    places: tuple[Place, ...]
    estimates: tuple[Estimate, ...]
    fits: tuple[tuple[Fit, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; sizes in bytes."""
        rows = []
        for item, fits in zip(self.estimates, self.fits, strict=True):
            judged = {place.name: asdict(fit) for place, fit in zip(self.places, fits, strict=True)}
            rows.append({**asdict(item), "weights": item.weights, "total": item.total, "fits": judged})
        return {
            "model": self.name,
            "max_context": self.max_context,
            "stored": self.stored,
            "places": [asdict(place) for place in self.places],
            "precisions": rows,
        }


def estimate(
    config: BaichuanConfig,
    precision: str | Scheme = "bfloat16",
    *,
    context: int | None = None,
    batch: int = 1,
    head: HeadFormat | None = None,
    quantizes_embedding: bool = False,
    kv_cache: CacheNumbers = "same",
) -> Estimate:
    """The memory of `config` at a precision: one of `PRECISIONS`, float16, or a scheme.

    `context`: tokens of prompt and reply, None for as many as the model takes; `batch`: conversations at once;
    `kv_cache`: the numbers of the cache. In a quantised model embedding, norms and head have 16 bits, unless they are
    quantised as well: the head to the format `head`, the embedding to int8. A quantised head is stored normalised, so
    that no copy stands beside it.

    Raises:
        SettingsError: there is no such precision.
    """
    scheme = precision if isinstance(precision, Scheme) else SCHEMES.get(precision)
    is_quantized = scheme is not None
    if scheme is None and precision not in FLOAT_BITS:
        raise SettingsError(f"the precision must be one of {', '.join(PRECISIONS)} or float16, got {precision!r}")
    context = context if context is not None else config.model_max_length
    assert context is not None  # the config fills it in
    bits = 16 if isinstance(precision, Scheme) else FLOAT_BITS.get(precision, 16)
    head_scheme = HEAD_SCHEMES[head] if is_quantized and head is not None else None
    table_bits = Scheme("int8", TABLE_GROUP_SIZE).bits_per_weight(config.hidden_size)
    parts = weight_bytes(
        config,
        bits if scheme is None else scheme.bits_per_weight,
        embedding_bits=table_bits if is_quantized and quantizes_embedding else bits,
        norm_bits=bits,
        head_bits=bits if head_scheme is None else head_scheme.bits_per_weight(config.hidden_size),
    )
    is_int8_cache = kv_cache == "int8"
    return Estimate(
        precision=precision.format if isinstance(precision, Scheme) else precision,
        context=context,
        batch=batch,
        kv_cache=kv_cache,
        **asdict(parts),
        head_copy=head_copy_bytes(config, bits) if head_scheme is None else 0,
        cache=cache_bytes(config, context, batch, bits=int8_cache_bits(config) if is_int8_cache else bits),
        scratch=scratch_bytes(
            config, context, batch, bits=bits, is_quantized=is_quantized, is_int8_cache=is_int8_cache
        ),
        runtime=RUNTIME_BYTES,
    )


def make_plan(
    config: BaichuanConfig,
    name: str,
    where: Sequence[Place],
    *,
    context: int | None = None,
    batch: int = 1,
    stored: str | None = None,
    spec: QuantizationSpec | None = None,
    kv_cache: CacheNumbers = "same",
) -> Plan:
    """The plan of a model called `name` for the places `where`; `stored` is the precision of its files.

    `spec`: how files of our own format are quantised, groups, head and embedding; the column of `stored` follows it.

    Raises:
        SettingsError: the context is longer than the model takes.
    """
    max_context = config.model_max_length
    assert max_context is not None
    if context is not None and context > max_context:
        raise SettingsError(f"--context {context}: this model takes at most {max_context} tokens")
    precisions = ["float16" if stored == "float16" and item == "bfloat16" else item for item in PRECISIONS]

    def estimate_of(precision: str, tokens: int | None) -> Estimate:
        of_all = partial(estimate, config, context=tokens, batch=batch, kv_cache=kv_cache)
        if spec is None or precision != stored:
            return of_all(precision)
        return of_all(spec.scheme, head=spec.head, quantizes_embedding=spec.embedding is not None)

    estimates = tuple(estimate_of(item, context) for item in precisions)
    fits = []
    for item in estimates:
        # a wider number format than that of the files is made in memory; everything else is mapped from its file
        is_mapped = item.precision == stored or item.precision in SCHEMES
        of_context = partial(estimate_of, item.precision)
        row = [Fit(_judge(item, place, is_mapped), _largest_context(of_context, max_context, place)) for place in where]
        fits.append(tuple(row))
    return Plan(name, max_context, stored, tuple(where), estimates, tuple(fits))


def _judge(item: Estimate, place: Place, is_mapped: bool) -> Verdict:
    room = _room(place)
    if room is None:
        return "unknown"
    need = _need(item, place)
    if need + MARGIN * room <= room:
        return "fits"
    if need <= room:
        return "tight"
    beside = need - item.weights
    far = place.total is None or item.weights > FAR_TOO_LARGE * place.total
    if place.kind == "main" and is_mapped and beside <= room + place.swap and not far:
        return "disk"
    return "no"


def _largest_context(of_context: Callable[[int], Estimate], most: int, place: Place) -> int | None:
    """The longest context, up to `most`, with which the estimate of it still fits; by bisection."""
    room = _room(place)
    if room is None:
        return None
    low, high = 0, most  # `low` fits, or is nothing at all
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _need(of_context(middle), place) <= room else (low, middle - 1)
    return low or None


def _need(item: Estimate, place: Place) -> int:
    """What the model takes of a place; the program itself has already taken its share of one that was looked at."""
    return item.total - (item.runtime if place.is_live else 0)


def _room(place: Place) -> int | None:
    return place.free if place.free is not None else place.total


def plan_model(settings: PlanSettings) -> Plan:
    """The plan that `settings` ask for; weights are neither needed nor fetched.

    Raises:
        CheckpointError: there is no such model, or its config.json is not that of a Baichuan model.
        SettingsError: the context is longer than the model takes.
    """
    name, config, stored, spec = find_config(settings)
    return make_plan(
        config,
        name,
        given_places(gpu=settings.gpu, memory=settings.memory),
        context=settings.context,
        batch=settings.batch,
        stored=stored,
        spec=spec,
        kv_cache=settings.kv_cache,
    )


def find_config(settings: PlanSettings) -> tuple[str, BaichuanConfig, str | None, QuantizationSpec | None]:
    """What to call the model, its config, the precision of its files, and how files of our own are quantised."""
    name = settings.model
    if name is not None and name.lower() in RELEASED_SHAPES and not Path(name).exists():
        return name, BaichuanConfig(**RELEASED_SHAPES[name.lower()]), "bfloat16", None
    release = release_meant(name)
    if release is not None and release.shape in RELEASED_SHAPES and settings.revision is None:
        shape = RELEASED_SHAPES[release.shape]
        return release.name, BaichuanConfig(**shape, vocab_size=release.vocabulary), release.stored, None
    path = Path(name).expanduser() if name is not None and name.endswith(".json") else None
    if path is None or not path.is_file():
        folder = locate(name, revision=settings.revision, offline=settings.offline, with_weights=False)
        path = folder / "config.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} holds no config.json: give the folder of a Baichuan model")
    fields = read_json(path)
    if fields.get("model_type") != BaichuanConfig.model_type:
        raise CheckpointError(
            f"{path}: model_type is {fields.get('model_type')!r}, not {BaichuanConfig.model_type!r}: only Baichuan "
            "models are planned"
        )
    quantization = fields.get("quantization_config")
    spec = None
    if isinstance(quantization, dict) and quantization.get("quant_method") == METHOD:
        spec = QuantizationSpec.from_dict(path, quantization)
    stored = spec.format if spec is not None else _stored(fields)
    try:
        config = BaichuanConfig.from_dict(
            {key: value for key, value in fields.items() if key not in ("quantization_config", "dtype", "torch_dtype")}
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path.parent}: {error}") from error
    except Exception as error:  # the framework's own validation has many classes
        raise CheckpointError(f"{path} has a field that cannot be used: {' '.join(str(error).split())}") from error
    assert isinstance(config, BaichuanConfig)
    for field in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "model_max_length"):
        if getattr(config, field) > LARGEST_FIELD:
            raise CheckpointError(
                f"{path}: {field} is larger than that of any model ({LARGEST_FIELD}): download it again"
            )
    return name if name is not None else "demo-chat", config, stored, spec


def _stored(fields: dict[str, Any]) -> str | None:
    """The precision of the files that a config.json describes, None where it does not tell."""
    quantization = fields.get("quantization_config")
    if isinstance(quantization, dict):
        if quantization.get("load_in_8bit") is True:
            return "int8"
        if quantization.get("load_in_4bit") is True:
            return "nf4"
        written = quantization.get("format")
        return written if written in SCHEMES else None
    dtype = fields.get("dtype", fields.get("torch_dtype"))
    dtype = dtype.removeprefix("torch.") if isinstance(dtype, str) else None
    return dtype if dtype in FLOAT_BITS else None


def check_fits(
    config: BaichuanConfig,
    name: str,
    *,
    file_bytes: int,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str = "none",
) -> None:
    """Raises before loading where the model called `name` cannot run in the memory that there is.

    `file_bytes`: size of its weight files; `device`, `dtype` and `quantize`: those of `LoadSettings`. The rule is made
    never to turn away what would have run, so it asks for the least that a model can answer with, a cache of one block:

    - Accelerator: weights, head copy and cache must fit into its free memory. Where there are several and the device is
      auto, a large model is spread over them and the processor, so their sum counts.
    - Processor: weights are mapped from their files, and the system can drop and read them again. So only the memory
      that cannot be dropped must fit, free swap included: head copy, cache, and all weights of which another number
      format or fewer bits are made. Mapped weights that exceed the free memory get a warning, as every token then reads
      from disk; more than twice the total memory is refused.
    - Memory that cannot be told is taken as enough.

    Raises:
        MemoryShortageError: one line with what it needs, what is free and what would fit; `plan` holds the table.
    """
    chosen = pick_device(device)
    weights, made = _weights_in_memory(config, file_bytes, dtype, _scheme_in_memory(quantize, chosen.type))
    stored = _dtype_name(config)
    bits = FLOAT_BITS.get(dtype if dtype != "auto" else stored or "", 16)
    head_copy = 0 if _has_quantized_head(config) else head_copy_bytes(config, bits)
    beside = head_copy + cache_bytes(config, CACHE_BLOCK, bits=bits)
    if chosen.type != "cpu":
        may_spread = device == "auto" and quantize == "none"
        candidates = [item for item in available_devices() if item != "cpu"] if may_spread else [str(chosen)]
        where = [accelerator(item) for item in candidates]
        if len(where) > 1:
            where.append(main_memory())
        free = [place.free for place in where]
        room = sum(item for item in free if item is not None)
        if None in free or weights + beside <= room:
            return
        raise _shortage(config, name, where, need=weights + beside, room=room, stored=stored)
    place = main_memory()
    if place.free is None or place.total is None:
        return
    must_stay = beside + made
    if must_stay > place.free + place.swap or weights - made > FAR_TOO_LARGE * place.total:
        raise _shortage(config, name, [place], need=weights + beside, room=place.free + place.swap, stored=stored)
    if made == 0 and weights + beside > place.free:
        warnings.warn(
            f"{name} needs {_gigabytes(weights + beside)}, {_gigabytes(place.free)} are free: its weights stay on disk "
            f"and are read again for each token, which is slow{_advice(config, place.free)}",
            stacklevel=3,
        )


def _scheme_in_memory(quantize: str, device_type: str) -> Scheme | None:
    """What loading makes of the linear layers; None: nothing. `quantize`: as in `LoadSettings`."""
    if quantize == "none":
        return None
    if device_type == "cpu":
        return SCHEMES[quantize]
    return SCHEMES["int8" if quantize == "int8" else "nf4"]


def _weights_in_memory(config: BaichuanConfig, file_bytes: int, dtype: str, scheme: Scheme | None) -> tuple[int, int]:
    """Bytes of the weights once they are loaded, and of those among them that are made in memory, not mapped."""
    if getattr(config, "quantization_config", None) is not None:
        return file_bytes, 0
    stored = _dtype_name(config)
    is_converted = dtype != "auto" and stored is not None and stored != dtype
    if scheme is not None:
        bits = FLOAT_BITS.get(dtype if dtype != "auto" else stored or "", 16)
        parts = weight_bytes(config, scheme.bits_per_weight, embedding_bits=bits, norm_bits=bits, head_bits=bits)
        # without kernels of our own there is a second copy, in the order of torch's product
        has_copy = scheme.format == "int4" and default_spec("int4").codebook is None
        layers = (parts.attention + parts.mlp) * (2 if has_copy else 1)
        others = sum(asdict(parts).values()) - parts.attention - parts.mlp
        return layers + others, layers + others if is_converted else layers
    count = num_parameters(config).total
    if dtype == "auto":
        # the files may be wider than the format that the config asks for, never narrower
        return min(file_bytes, count * FLOAT_BITS[stored] // 8) if stored is not None else file_bytes, 0
    total = count * FLOAT_BITS[dtype] // 8
    return total, total if is_converted else 0


def _has_quantized_head(config: BaichuanConfig) -> bool:
    """Whether the files hold a quantised head, whose rows are normalised already."""
    quantization = getattr(config, "quantization_config", None)
    head = quantization.get("head") if isinstance(quantization, dict) else getattr(quantization, "head", None)
    return head is not None


def _dtype_name(config: BaichuanConfig) -> str | None:
    """The number format that the config names, None where it names none."""
    name = str(getattr(config, "dtype", None)).removeprefix("torch.")
    return name if name in FLOAT_BITS else None


def _shortage(
    config: BaichuanConfig, name: str, where: Sequence[Place], *, need: int, room: int, stored: str | None
) -> MemoryShortageError:
    names = ", ".join(place.name for place in where)
    plan = make_plan(config, name, where, stored=stored)
    return MemoryShortageError(
        f"{name} needs {_gigabytes(need)} on {names}, where {_gigabytes(room)} are free{_advice(config, room)}; "
        "--no-check-memory loads it anyway",
        plan,
    )


def _advice(config: BaichuanConfig, room: int) -> str:
    """The precisions of which the least fits into `room`, as the end of a sentence."""
    fitting = []
    for precision in PRECISIONS[1:]:
        least = estimate(config, precision, context=1)
        size = least.weights + least.head_copy + least.cache
        if size <= room:
            fitting.append(f"{precision} ({_gigabytes(size)})")
    if not fitting:
        return ": no precision would fit"
    how = "run  baichuan2 quantize" if fitting[0].startswith(tuple(SCHEMES)) else "see --dtype"
    return f": {' or '.join(fitting)} would fit, {how}"


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
