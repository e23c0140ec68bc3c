"""Names and parameters of the schemes, and what a checkpoint says about them in its config.json.

A scheme is how one weight is stored. A `QuantizationSpec` is what a whole folder of our own format declares:
docs/formats.md describes the same fields for people.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from baichuan2.errors import CheckpointError, QuantizationError

__all__ = [
    "DEFAULT_CODEBOOK",
    "DEFAULT_GROUP_SIZES",
    "HEAD_SCHEMES",
    "METHOD",
    "VERSION",
    "Format",
    "HeadFormat",
    "QuantizationSpec",
    "Scheme",
]

METHOD = "baichuan2"
"""The `quant_method` of our own files."""
VERSION = 2
"""The newest version of the layout that this code knows; it writes the oldest that can say what is written."""

Format = Literal["int8", "int4", "nf4"]
HeadFormat = Literal["int8", "int4"]
GROUP_SIZES = {"int8": (0, 32, 64, 128), "int4": (32, 64, 128), "nf4": (64,)}
DEFAULT_GROUP_SIZES: dict[str, int] = {"int8": 0, "int4": 32, "nf4": 64}
"""Where nobody chose: the best of each format, in files and in memory."""
DEFAULT_CODEBOOK = "nonuniform"
"""The 16 values of int4 where nobody chose; their name in `apply.CODEBOOKS`."""
CODE_BITS = {"int8": 8, "int4": 4, "nf4": 4}
SCALE_BITS = 16
CODEBOOK_SIZE = 16


@dataclass(frozen=True)
class Scheme:
    """How one weight is stored.

    `group_size`: so many consecutive inputs of a row share a scale; 0: the whole row. nf4 has blocks of 64 with
    compressed statistics.

    Raises:
        QuantizationError: there is no such format, or it has no such groups.
    """

    format: Format
    group_size: int = 64

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise QuantizationError(f"the format must be one of {', '.join(get_args(Format))}, got {self.format!r}")
        sizes = GROUP_SIZES[self.format]
        if isinstance(self.group_size, bool) or self.group_size not in sizes:
            raise QuantizationError(
                f"{self.format} has groups of {' or '.join(map(str, sizes))} inputs, got {self.group_size!r}"
            )

    def bits_per_weight(self, in_features: int) -> float:
        """Bits for each weight of a row with `in_features` inputs, its share of scales included."""
        bits = CODE_BITS[self.format]
        if self.format == "nf4":  # 8-bit statistics of 64 weights, whose own scales are float32 for 256 of them
            return bits + 8 / self.group_size + 32 / (256 * self.group_size)
        groups = 1 if self.group_size == 0 else -(-in_features // self.group_size)
        padded = -(-in_features // 64) * 64 if self.format == "int4" else in_features
        return (bits * padded + SCALE_BITS * groups) / in_features


HEAD_SCHEMES: dict[str, Scheme] = {"int8": Scheme("int8", 128), "int4": Scheme("int4", 32)}
"""How a quantised head is stored, whatever groups the linear layers have; int4 with the values of DEFAULT_CODEBOOK."""


@dataclass(frozen=True, kw_only=True)
class QuantizationSpec:
    """The `quantization_config` of a folder in our own format.

    `format` and `group_size`: the linear layers of the decoder, but for those named in `unquantized`. `codebook`: the
    16 values of int4, in 1/128 of a scale; None: evenly spaced. `head`, `embedding`: their own format, or None where
    they stay as they were; a quantised head holds rows of unit length already. `calibration`: where the rounding came
    from, for people. For nf4 only: `compressed_statistics`, whether the maxima of the blocks are themselves in 8 bits;
    `weight_dtype`, the number format to which weights are rounded when they are computed; `as_released`, for which
    see `ragged_rows`.
    """

    format: Format
    group_size: int
    codebook: tuple[int, ...] | None = None
    compressed_statistics: bool = True
    weight_dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    as_released: bool = False
    unquantized: tuple[str, ...] = ()
    head: HeadFormat | None = None
    embedding: Literal["int8"] | None = None
    calibration: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Scheme(self.format, self.group_size)
        for name in ("compressed_statistics", "as_released"):
            if not isinstance(getattr(self, name), bool):
                raise QuantizationError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if self.weight_dtype not in ("float16", "bfloat16", "float32"):
            raise QuantizationError(f"weight_dtype must be float16, bfloat16 or float32, got {self.weight_dtype!r}")
        if not isinstance(self.unquantized, tuple) or not all(isinstance(name, str) for name in self.unquantized):
            raise QuantizationError(f"unquantized must be a list of module names, got {self.unquantized!r}")
        if self.head is not None and (not isinstance(self.head, str) or self.head not in HEAD_SCHEMES):
            raise QuantizationError(f"head must be null, int8 or int4, got {self.head!r}")
        if self.embedding not in (None, "int8"):
            raise QuantizationError(f"embedding must be null or int8, got {self.embedding!r}")
        if not isinstance(self.calibration, Mapping):
            raise QuantizationError(f"calibration must be an object, got {self.calibration!r}")
        if self.codebook is not None:
            self._check_codebook(self.codebook)

    def _check_codebook(self, codebook: tuple[int, ...]) -> None:
        if not isinstance(codebook, tuple):
            raise QuantizationError(f"codebook must be a list, got {codebook!r}")
        if self.format != "int4":
            raise QuantizationError(f"only int4 has a codebook, got one for {self.format}")
        are_whole = all(isinstance(value, int) and not isinstance(value, bool) for value in codebook)
        if len(codebook) != CODEBOOK_SIZE or not are_whole:
            raise QuantizationError(f"codebook must hold {CODEBOOK_SIZE} whole numbers, got {codebook!r}")
        is_ascending = all(low < high for low, high in itertools.pairwise(codebook))
        if not is_ascending or codebook[0] < -128 or codebook[-1] > 127:
            raise QuantizationError(f"codebook must ascend within -128 and 127, got {codebook!r}")

    @property
    def scheme(self) -> Scheme:
        """How the linear layers are stored."""
        return Scheme(self.format, self.group_size)

    def to_dict(self) -> dict[str, Any]:
        """The object that stands in config.json."""
        written = {item.name: getattr(self, item.name) for item in fields(self)}
        written["codebook"] = None if self.codebook is None else list(self.codebook)
        written["unquantized"] = list(self.unquantized)
        written["calibration"] = dict(self.calibration)
        version = 2 if self.head == "int4" else 1
        return {"quant_method": METHOD, "version": version, **written}

    @classmethod
    def from_dict(cls, source: object, written: Mapping[str, Any]) -> "QuantizationSpec":
        """What `to_dict` wrote; `source` names the file in messages. Unknown fields are refused, not skipped.

        Raises:
            CheckpointError: another method, a newer version, or a field that cannot be used.
        """
        values = dict(written)
        method, version = values.pop("quant_method", None), values.pop("version", None)
        if method != METHOD:
            raise CheckpointError(f"{source}: quant_method must be {METHOD!r}, got {method!r}")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise CheckpointError(
                f"{source}: the version of quantization_config must be a whole number, got {version!r}"
            )
        if version > VERSION:
            raise CheckpointError(
                f"{source}: these weights have format version {version}, this package reads up to {VERSION}: update it"
            )
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(values) - known)
        missing = sorted({"format", "group_size"} - set(values))
        if unknown or missing:
            what = f"has the unknown field {unknown[0]!r}" if unknown else f"lacks the field {missing[0]!r}"
            raise CheckpointError(f"{source}: quantization_config {what}")
        for name in ("codebook", "unquantized"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        try:
            return cls(**values)
        except (QuantizationError, TypeError) as error:
            raise CheckpointError(f"{source}: quantization_config: {error}") from error
