"""What can be set, its default, its bounds and its help: the one place, standard library only.

The command line makes its flags from these dataclasses, the documentation its tables. `None` means "the checkpoint's
own value". Precedence: flag, then environment variable, then the checkpoint, then the default here.
"""

import math
import re
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from baichuan2.errors import SettingsError

__all__ = [
    "ChatSettings",
    "LoadSettings",
    "OutputSettings",
    "PlanSettings",
    "QuantizeSettings",
    "RunSettings",
    "SamplingSettings",
    "ServeSettings",
    "WebSettings",
    "parse_bytes",
    "setting",
]

BYTE_UNITS: dict[str, int] = {
    **{unit: 1000**power for power, unit in enumerate(("b", "kb", "mb", "gb", "tb"))},
    **{unit: 1024**power for power, unit in enumerate(("kib", "mib", "gib", "tib"), start=1)},
}
KV_CACHE_HELP = (
    "numbers of the key/value cache; same: those of the model; int8: 8 bits, about half the memory of 16, and next "
    "to no loss"
)
KIND_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def setting(
    default: Any,
    help: str,
    *,
    short: str | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    metavar: str | None = None,
    environment: str | None = None,
    is_positional: bool = False,
) -> Any:
    """A dataclass field that carries its own help, bounds, short flag and environment variable as metadata.

    `is_positional`: on the command line the value stands by itself, without a flag. `minimum` and `maximum` are
    inclusive; they are checked when the settings object is made.
    """
    metadata = {
        "help": help,
        "short": short,
        "minimum": minimum,
        "maximum": maximum,
        "metavar": metavar,
        "environment": environment,
        "is_positional": is_positional,
    }
    return field(default=default, metadata=metadata)


def flag_name(name: str) -> str:
    """The command-line spelling of a field: `top_p` -> `--top-p`."""
    return "--" + name.replace("_", "-")


def parse_bytes(text: str) -> int:
    """The number of bytes that `text` spells: `24GB` (24 * 1000^3), `24GiB` (24 * 1024^3), `512 MB`; any case.

    Raises:
        SettingsError: it spells none, or has no unit: GB and GiB differ by seven per cent, so neither is guessed.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text, re.IGNORECASE | re.ASCII)
    factor = BYTE_UNITS.get(match[2].lower()) if match is not None else None
    if match is None or factor is None or len(match[1]) > 20 or float(match[1]) == 0:
        raise SettingsError(f"a size is a number with a unit, such as 24GB or 24GiB, got {text!r}")
    return round(float(match[1]) * factor)


def check_bounds(settings: Any) -> None:
    """Raises SettingsError for the first field of another kind than it declares, or outside its bounds."""
    kinds = get_type_hints(type(settings))
    for item in fields(settings):
        value = getattr(settings, item.name)
        _check_kind(flag_name(item.name), value, kinds[item.name])
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        minimum, maximum = item.metadata.get("minimum"), item.metadata.get("maximum")
        too_small = minimum is not None and value < minimum
        too_large = maximum is not None and value > maximum
        if too_small or too_large or math.isnan(value):
            lower = "-inf" if minimum is None else f"{minimum:g}"
            upper = "inf" if maximum is None else f"{maximum:g}"
            raise SettingsError(f"{flag_name(item.name)} must lie in [{lower}, {upper}], got {value}")


def _check_kind(flag: str, value: object, kind: Any) -> None:
    """Raises SettingsError unless `value` is one that the annotation `kind` of the field behind `flag` allows."""
    if get_origin(kind) in (Union, UnionType):  # a Literal or None is a Union
        if value is None:
            return
        kind = next(part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if not isinstance(value, str) or value not in choices:
            raise SettingsError(f"{flag} must be one of {', '.join(choices)}, got {value!r}")
        return
    accepted = int | float if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise SettingsError(f"{flag} must be {KIND_WORDS[kind]}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """Which model, and how it is put into memory."""

    model: str | None = setting(
        None,
        "model folder or hub id; without it the embedded demo model runs",
        short="-m",
        metavar="PATH_OR_ID",
        environment="BAICHUAN2_MODEL",
    )
    revision: str | None = setting(
        None, "branch, tag or commit on the hub, such as v2.0 or train_02200B", metavar="REV"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "number format of the weights in memory; auto: the checkpoint's own"
    )
    device: str = setting("auto", "where to run: auto, cpu, cuda, cuda:1, npu, xpu, mps", metavar="DEVICE")
    quantize: Literal["none", "int8", "int4"] = setting(
        "none",
        "weights in 8 or 4 bits in memory, made while loading: 1 (int8) or 9 minutes (int4) of one core for 7B; "
        "on an accelerator by bitsandbytes; what baichuan2 quantize writes once loads in seconds and is more "
        "exact",
    )
    numerics: Literal["exact", "official"] = setting(
        "exact", "13B position bias: exact, or official to reproduce the rounding of the released code"
    )
    threads: int | None = setting(
        None,
        "threads that compute on the processor; not given: one for each real core that may be used",
        minimum=1,
        maximum=1024,
        metavar="N",
    )
    offline: bool = setting(False, "never contact the hub; use local files only", environment="HF_HUB_OFFLINE")
    check_memory: bool = setting(
        True, "stop before loading what cannot fit into memory; with no: load it whatever happens"
    )

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """Which model is planned for which memory."""

    model: str | None = setting(
        None,
        "model folder, config.json, hub id, or 7B and 13B for the released shapes; without it the embedded demo model",
        metavar="MODEL",
        environment="BAICHUAN2_MODEL",
        is_positional=True,
    )
    context: int | None = setting(
        None, "tokens of prompt and reply together; not given: as many as the model takes", minimum=1, metavar="N"
    )
    batch: int = setting(1, "conversations at once", minimum=1, maximum=65_536, metavar="N")
    kv_cache: Literal["same", "int8"] = setting("same", KV_CACHE_HELP)
    memory: str | None = setting(
        None, "plan for this much main memory, such as 16GB or 16GiB, in place of this machine", metavar="SIZE"
    )
    gpu: str | None = setting(
        None, "plan for an accelerator with this much memory, such as 24GB, in place of this machine", metavar="SIZE"
    )
    revision: str | None = setting(None, "branch, tag or commit on the hub", metavar="REV")
    offline: bool = setting(False, "never contact the hub; use local files only", environment="HF_HUB_OFFLINE")
    language: Literal["auto", "zh", "en"] = setting(
        "auto", "language of the program's own words; auto: from the locale", environment="BAICHUAN2_LANGUAGE"
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        for name in ("memory", "gpu"):
            value = getattr(self, name)
            if value is not None:
                try:
                    parse_bytes(value)
                except SettingsError as error:
                    raise SettingsError(f"{flag_name(name)}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class QuantizeSettings:
    """Which checkpoint is written in fewer bits, where to, and how."""

    source: str | None = setting(
        None,
        "model folder, hub id or demo model with unquantised weights",
        metavar="SOURCE",
        is_positional=True,
    )
    target: str | None = setting(
        None, "folder to write, which must not exist yet", metavar="TARGET", is_positional=True
    )
    format: Literal["int8", "int4", "nf4", "official-4bits"] = setting(
        "int4",
        "int8 and int4: this package's own; nf4: bitsandbytes' files; official-4bits: as in Baichuan2-*-Chat-4bits",
    )
    group_size: int | None = setting(
        None,
        "weights that share a scale: 32, 64 or 128; 0, for int8: one scale a row; not given: the format's best",
        minimum=0,
        metavar="N",
    )
    method: Literal["nearest", "search", "gptq"] | None = setting(
        None,
        "nearest: round; search: scales with the least error; gptq: what the layers are fed decides; "
        "not given: the format's best",
    )
    codebook: Literal["uniform", "nonuniform"] | None = setting(
        None, "the 16 values of int4: evenly spaced, or denser near 0; not given: nonuniform"
    )
    calibration: str | None = setting(
        None,
        "text for gptq: paragraphs between blank lines, or JSONL with a text or messages; not given: the built-in one",
        metavar="FILE",
    )
    calibration_tokens: int = setting(
        32_768, "at most so many tokens of it, fewer for very large models", minimum=16, metavar="N"
    )
    head: Literal["none", "int8", "int4"] = setting(
        "none", "int8, int4: the output head in 8 or 4 bits too (formats int8 and int4 only)"
    )
    embedding: Literal["none", "int8"] = setting("none", "int8: the embedding in 8 bits too (int8 and int4 only)")
    report: bool = setting(
        False,
        "tables of memory and quality: of TARGET beside SOURCE; without TARGET of SOURCE in int8, int4 and nf4, whose "
        "copies are removed again",
    )
    reference: str | None = setting(
        None, "unquantised model that a report on a quantised SOURCE compares it with", metavar="FOLDER"
    )
    text: str | None = setting(
        None, "plain text that a report measures quality on; not given: a built-in one", metavar="FILE"
    )
    revision: str | None = setting(None, "branch, tag or commit on the hub", metavar="REV")
    offline: bool = setting(False, "never contact the hub; use local files only", environment="HF_HUB_OFFLINE")
    language: Literal["auto", "zh", "en"] = setting(
        "auto", "language of the program's own words; auto: from the locale", environment="BAICHUAN2_LANGUAGE"
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        for name in ("reference", "text"):
            if getattr(self, name) is not None and not self.report:
                raise SettingsError(f"{flag_name(name)} works with --report only")
        is_own = self.format in ("int8", "int4")
        allowed = {"int4": (32, 64, 128), "int8": (0, 32, 64, 128)}.get(self.format, (64,))
        if self.group_size is not None and self.group_size not in allowed:
            raise SettingsError(
                f"--group-size must be {' or '.join(map(str, allowed))} for --format {self.format}, got "
                f"{self.group_size}"
            )
        for flag, is_given in (
            ("--method", self.method not in (None, "nearest")),
            ("--head", self.head != "none"),
            ("--embedding", self.embedding != "none"),
        ):
            if is_given and not is_own:
                value = getattr(self, flag[2:])
                raise SettingsError(f"{flag} {value} works for --format int8 and int4 only, got {self.format}")
        if self.codebook is not None and self.format != "int4":
            raise SettingsError(f"--codebook works for --format int4 only, got {self.format}")


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How the next token is chosen, and how many are; not given: generation_config.json of the checkpoint decides."""

    max_new_tokens: int | None = setting(None, "longest reply, in tokens", minimum=1, metavar="N")
    do_sample: bool | None = setting(None, "sample; with no: always the most likely token (greedy)")
    temperature: float | None = setting(
        None, "sharpness of sampling; 0 means greedy", minimum=0.0, maximum=100.0, metavar="T"
    )
    top_k: int | None = setting(None, "sample from the K most likely tokens; 0: no limit", minimum=0, metavar="K")
    top_p: float | None = setting(
        None, "sample from the smallest set that holds this probability", minimum=0.0, maximum=1.0, metavar="P"
    )
    repetition_penalty: float | None = setting(
        None, "above 1: discourage tokens that stand in prompt or reply already", minimum=0.01, metavar="R"
    )
    min_p: float | None = setting(
        None,
        "leave out tokens less likely than this part of the most likely one; 0: none",
        minimum=0.0,
        maximum=1.0,
        metavar="P",
    )
    presence_penalty: float | None = setting(
        None, "above 0: discourage tokens that stand in the reply already", minimum=-2.0, maximum=2.0, metavar="A"
    )
    frequency_penalty: float | None = setting(
        None,
        "above 0: discourage tokens more the more often they stand in the reply",
        minimum=-2.0,
        maximum=2.0,
        metavar="A",
    )
    seed: int | None = setting(None, "makes sampling repeatable", minimum=0, metavar="N")
    draft_tokens: int | None = setting(
        None,
        "at most so many next tokens guessed from prompt and reply, and checked in one pass: the same reply, sooner "
        "where text is copied; 0: none; not given: as many as cost next to nothing here, mostly none; a GPU, or torch "
        "alone, rounds several tokens differently than one, which can tip a close choice in 16 bits",
        minimum=0,
        maximum=63,
        metavar="N",
    )
    kv_cache: Literal["same", "int8"] = setting("same", KV_CACHE_HELP)

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """How a conversation is held."""

    system: str | None = setting(None, "system text that stands before the conversation", metavar="TEXT")
    stream: bool = setting(True, "show the reply while it is being written")

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """One run of a model from the command line: what it is given, and what is told about it."""

    prompt: str | None = setting(
        None, "answer this text once and exit; - takes all of standard input", short="-p", metavar="TEXT"
    )
    show_speed: bool = setting(False, "report tokens per second on standard error after each reply")
    language: Literal["auto", "zh", "en"] = setting(
        "auto", "language of the program's own words; auto: from the locale", environment="BAICHUAN2_LANGUAGE"
    )

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Where the server listens, whom it lets in, and how much it takes on."""

    host: str = setting(
        "127.0.0.1", "address to listen on; 0.0.0.0: all of this machine, reachable from outside", metavar="ADDRESS"
    )
    port: int = setting(8000, "port to listen on; 0: any free one", minimum=0, maximum=65_535, metavar="N")
    served_model_name: str | None = setting(
        None, "what clients call the model, several names with commas; not given: its own name", metavar="NAME"
    )
    api_key: str | None = setting(
        None,
        "keys that clients must show, with commas between them; better in the variable or a file, as other users of "
        "this machine can read a command line",
        metavar="KEY",
        environment="BAICHUAN2_API_KEY",
    )
    api_key_file: str | None = setting(None, "file with such keys, one a line", metavar="FILE")
    allow_origin: str | None = setting(
        None, "web pages that may ask, such as https://example.org, with commas; *: all", metavar="ORIGIN"
    )
    max_running: int = setting(16, "requests computed together", minimum=1, maximum=1024, metavar="N")
    max_waiting: int = setting(
        64, "requests that wait beyond those; further ones are refused", minimum=0, maximum=65_536, metavar="N"
    )
    cache_memory: str | None = setting(
        None,
        "memory for keys and values of all requests, such as 4GB; not given: a context for each of --max-running, or "
        "half of what is free",
        metavar="SIZE",
    )
    max_choices: int = setting(
        16,
        "replies that one request may ask for: n, times the prompts of a list",
        minimum=1,
        maximum=1024,
        metavar="N",
    )
    max_reply_tokens: int | None = setting(
        None, "longest reply, whatever a request asks for; not given: what the context holds", minimum=1, metavar="N"
    )
    max_connections: int = setting(512, "open connections; further ones are closed", minimum=1, metavar="N")
    max_body: str = setting("4MiB", "largest request", metavar="SIZE")
    drop_oldest: bool = setting(
        False, "leave the oldest rounds out of a conversation that exceeds the context, in place of refusing it"
    )
    receive_seconds: float = setting(
        30.0, "time within which a request must have arrived whole", minimum=0.1, metavar="S"
    )
    request_seconds: float = setting(600.0, "longest time to work on a request", minimum=0.1, metavar="S")
    write_seconds: float = setting(
        30.0, "time after which a reader who takes nothing is left", minimum=0.1, metavar="S"
    )
    shutdown_seconds: float = setting(
        30.0, "time that replies in work get to finish when the server is stopped", minimum=0.0, metavar="S"
    )
    log_messages: bool = setting(False, "write what clients and model say into the log")
    engine: Literal["own", "vllm"] = setting(
        "own", "what computes the replies: own, or vllm, which has to be installed (docs/guides/vllm.md)"
    )
    vllm_args: str | None = setting(
        None, 'further arguments for vLLM, in one text, such as "--tensor-parallel-size 2"', metavar="TEXT"
    )
    language: Literal["auto", "zh", "en"] = setting(
        "auto", "language of the program's own words; auto: from the locale", environment="BAICHUAN2_LANGUAGE"
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        for name in ("cache_memory", "max_body"):
            value = getattr(self, name)
            if value is not None:
                try:
                    parse_bytes(value)
                except SettingsError as error:
                    raise SettingsError(f"{flag_name(name)}: {error}") from None
        if not self.host:
            raise SettingsError("--host must be an address or a name, such as 127.0.0.1, got an empty text")
        if self.vllm_args is not None and self.engine != "vllm":
            raise SettingsError("--vllm-args needs --engine vllm")


@dataclass(frozen=True, kw_only=True)
class WebSettings:
    """Where the chat page is shown, and how it starts."""

    host: str = setting(
        "localhost",
        "address to listen on; 0.0.0.0: all of this machine, for everybody who reaches it, without a password",
        metavar="ADDRESS",
    )
    port: int = setting(8501, "port to listen on", minimum=1, maximum=65_535, metavar="N")
    open_browser: bool = setting(True, "open the page in the browser of this machine, where it has a screen")
    theme: Literal["auto", "light", "dark"] = setting(
        "auto", "colours of the page; auto: as the browser has it, and each user can change them"
    )
    max_running: int = setting(
        8, "replies written at once; further users wait for their turn", minimum=1, maximum=1024, metavar="N"
    )
    max_message_chars: int = setting(
        20_000, "longest message that can be written", minimum=1, maximum=1_000_000, metavar="N"
    )
    language: Literal["auto", "zh", "en"] = setting(
        "auto",
        "language of the page and the program; auto: the browser's for the page, the locale's for the program",
        environment="BAICHUAN2_LANGUAGE",
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if not self.host:
            raise SettingsError("--host must be an address or a name, such as localhost, got an empty text")


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """How results are printed."""

    json: bool = setting(False, "print JSON, one object a line, in place of text")

    def __post_init__(self) -> None:
        check_bounds(self)
