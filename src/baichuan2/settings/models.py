"""Which model, into how much memory, in how many bits."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from baichuan2.errors import SettingsError
from baichuan2.settings.fields import (
    KV_CACHE_HELP,
    check_bounds,
    check_memory_setting,
    device_setting,
    flag_name,
    language_setting,
    offline_setting,
    parse_bytes,
    revision_setting,
    setting,
    threads_setting,
)

NAMED_ADAPTER = re.compile(r"([A-Za-z0-9][\w.:-]*)=(.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """Which model, and how it is put into memory."""

    model: str | None = setting(
        None,
        "model folder, hub id, or a release such as 7B-Chat; without it the embedded demo model runs",
        short="-m",
        metavar="PATH_OR_ID",
        environment="BAICHUAN2_MODEL",
    )
    revision: str | None = revision_setting("branch, tag or commit on the hub, such as v2.0 or train_02200B")
    adapter: str | None = setting(
        None,
        "adapter that baichuan2 finetune or peft wrote, put into the weights; without --model on the model that it was "
        "trained on. serve: NAME=PATH, several with commas, are served beside the model, each under its name",
        metavar="PATH",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "number format of the weights in memory; auto: the checkpoint's own"
    )
    device: str = device_setting()
    quantize: Literal["none", "int8", "int4"] = setting(
        "none",
        "weights in 8 or 4 bits in memory, made while loading: 1 (int8) or 9 minutes (int4) of one core for 7B; "
        "on an accelerator by bitsandbytes; what baichuan2 quantize writes once loads in seconds and is more "
        "exact",
    )
    numerics: Literal["exact", "official"] = setting(
        "exact", "13B position bias: exact, or official to reproduce the rounding of the released code"
    )
    threads: int | None = threads_setting()
    offline: bool = offline_setting()
    check_memory: bool = check_memory_setting()

    def __post_init__(self) -> None:
        check_bounds(self)
        parts = self._adapter_parts()
        paths = [path.strip() for _, path in parts]
        is_nameless = any(path.startswith("=") for path in paths) and not Path(self.adapter or "").is_dir()
        if is_nameless or not all(paths):
            raise SettingsError(f"--adapter must be a folder, or NAME=PATH with commas, got {self.adapter!r}")
        names = [name for name, _ in parts]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise SettingsError(f"--adapter gives the name {twice!r} twice: write NAME=PATH with names that differ")

    @property
    def named_adapters(self) -> dict[str, str]:
        """Adapters beside the model, paths by name; empty where one is put into the model's weights, or none is."""
        return {} if self._is_one_folder() else dict(self._adapter_parts())

    def _is_one_folder(self) -> bool:
        """Whether the adapter is one path without a name, which may hold any character."""
        given = self.adapter or ""
        return (bool(given) and Path(given).is_dir()) or ("," not in given and NAMED_ADAPTER.fullmatch(given) is None)

    def _adapter_parts(self) -> list[tuple[str, str]]:
        """Name and path of each adapter."""
        if self.adapter is None:
            return []
        parts = [self.adapter] if self._is_one_folder() else self.adapter.split(",")
        found = [(part, NAMED_ADAPTER.fullmatch(part.strip())) for part in parts]
        is_one = self._is_one_folder()
        return [(Path(part).name, part) if match is None or is_one else (match[1], match[2]) for part, match in found]


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
    revision: str | None = revision_setting()
    offline: bool = offline_setting()
    language: Literal["auto", "zh", "en"] = language_setting()

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
    revision: str | None = revision_setting()
    offline: bool = offline_setting()
    language: Literal["auto", "zh", "en"] = language_setting()

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
class MergeSettings:
    """Which adapter becomes part of which model, and where that is written."""

    adapter: str | None = setting(
        None, "adapter folder that baichuan2 finetune or peft wrote", metavar="ADAPTER", is_positional=True
    )
    target: str | None = setting(
        None, "folder to write, which must not exist yet", metavar="TARGET", is_positional=True
    )
    base: str | None = setting(
        None,
        "model with all its bits that the adapter is put into; not given: the one that it was trained on",
        metavar="PATH_OR_ID",
    )
    revision: str | None = revision_setting("branch, tag or commit of the model on the hub")
    offline: bool = offline_setting()
    language: Literal["auto", "zh", "en"] = language_setting()

    def __post_init__(self) -> None:
        check_bounds(self)
