"""How a setting is declared and checked: a dataclass field with its help, bounds and spelling."""

import math
import re
from dataclasses import field, fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from baichuan2.errors import SettingsError

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


def language_setting() -> Any:
    """The field of every command that speaks: in which language; its type is `Literal["auto", "zh", "en"]`."""
    return setting(
        "auto", "language of the program's own words; auto: from the locale", environment="BAICHUAN2_LANGUAGE"
    )


def device_setting() -> Any:
    """The field of every command that runs a model: on which device, a name that `devices.pick_device` takes."""
    return setting("auto", "where to run: auto, cpu, cuda, cuda:1, npu, xpu, mps", metavar="DEVICE")


def offline_setting() -> Any:
    """The field of every command that reads a model: whether the hub may be asked."""
    return setting(False, "never contact the hub; use local files only", environment="HF_HUB_OFFLINE")


def revision_setting(help: str = "branch, tag or commit on the hub") -> Any:
    """The field of every command that reads a model: which state of it on the hub."""
    return setting(None, help, metavar="REV")


def threads_setting() -> Any:
    """The field of every command that computes: on how many threads."""
    return setting(
        None,
        "threads that compute on the processor; not given: one for each real core that may be used",
        minimum=1,
        maximum=1024,
        metavar="N",
    )


def check_memory_setting() -> Any:
    """The field of every command that loads a model: whether it looks at the memory before."""
    return setting(True, "stop before loading what cannot fit into memory; with no: load it whatever happens")


def flag_name(name: str) -> str:
    """The command-line spelling of a field: `top_p` -> `--top-p`; `from_`, which Python keeps for itself: `--from`."""
    return "--" + name.rstrip("_").replace("_", "-")


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
