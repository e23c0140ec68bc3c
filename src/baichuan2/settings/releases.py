"""Which official releases are shown, and which one is downloaded from where."""

import re
from dataclasses import dataclass
from typing import Literal

from baichuan2.errors import SettingsError
from baichuan2.settings.fields import (
    check_bounds,
    language_setting,
    offline_setting,
    parse_bytes,
    revision_setting,
    setting,
)

__all__ = ["DownloadSettings", "ModelsSettings"]


@dataclass(frozen=True, kw_only=True)
class ModelsSettings:
    """Which releases are shown, and the memory that they are compared with."""

    name: str | None = setting(
        None, "release to show in full, such as 7B-Chat; without it all of them", metavar="NAME", is_positional=True
    )
    gpu: str | None = setting(
        None, "size of an accelerator, such as 24GB, in place of those of this machine", metavar="SIZE"
    )
    memory: str | None = setting(
        None, "size of main memory, such as 32GB, in place of that of this machine", metavar="SIZE"
    )
    language: Literal["auto", "zh", "en"] = language_setting()

    def __post_init__(self) -> None:
        check_bounds(self)
        for name in ("gpu", "memory"):
            if getattr(self, name) is not None:
                try:
                    parse_bytes(getattr(self, name))
                except SettingsError as error:
                    raise SettingsError(f"--{name}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class DownloadSettings:
    """Which model is downloaded, from where and where to."""

    name: str | None = setting(
        None, "release, such as 7B-Chat or 7B@00220B, or a hub id: OWNER/NAME", metavar="NAME", is_positional=True
    )
    target: str | None = setting(
        None,
        "folder to write, which must not exist yet; without it the hub's own cache, where --model NAME finds it",
        metavar="TARGET",
        is_positional=True,
    )
    from_: Literal["huggingface", "modelscope"] = setting(
        "huggingface", "hub to download from; modelscope: with the extra of that name"
    )
    mirror: str | None = setting(
        None,
        "address that answers in the hub's place, such as https://hf-mirror.com; it is sent no token. Not given: "
        "HF_ENDPOINT, MODELSCOPE_ENDPOINT, or the hub itself",
        metavar="URL",
    )
    revision: str | None = revision_setting("branch, tag or commit on the hub; a release brings its own")
    verify: bool = setting(
        False, "download nothing: read all files of an earlier download again and compare their digests, offline"
    )
    offline: bool = offline_setting()
    language: Literal["auto", "zh", "en"] = language_setting()

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.mirror is not None and not re.fullmatch(r"https?://[^\s/]+\S*", self.mirror):
            raise SettingsError(f"--mirror is an address such as https://hf-mirror.com, got {self.mirror!r}")
