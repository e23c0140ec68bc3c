"""Values that settings take from a program, where no command line has looked at them before."""

from typing import Any

import pytest
import torch

from baichuan2.errors import SettingsError
from baichuan2.settings import (
    ChatSettings,
    FinetuneSettings,
    LoadSettings,
    OutputSettings,
    RunSettings,
    SamplingSettings,
    parse_bytes,
)


@pytest.mark.parametrize(
    ("settings_class", "name", "value", "message"),
    [
        (LoadSettings, "numerics", "offical", "--numerics must be one of exact, official, got 'offical'"),
        (LoadSettings, "dtype", "bf16", "--dtype must be one of auto, float32, bfloat16, float16, got 'bf16'"),
        (LoadSettings, "dtype", torch.bfloat16, "float16, got torch.bfloat16"),
        (LoadSettings, "device", None, "--device must be text, got None"),
        (LoadSettings, "revision", 2, "--revision must be text, got 2"),
        (LoadSettings, "offline", 1, "--offline must be true or false, got 1"),
        (SamplingSettings, "seed", "1", "--seed must be a whole number, got '1'"),
        (SamplingSettings, "seed", 1.5, "--seed must be a whole number, got 1.5"),
        (SamplingSettings, "top_k", True, "--top-k must be a whole number, got True"),
        (SamplingSettings, "temperature", "hot", "--temperature must be a number, got 'hot'"),
        (SamplingSettings, "top_p", False, "--top-p must be a number, got False"),
        (ChatSettings, "system", b"x", "--system must be text, got b'x'"),
        (RunSettings, "language", ["zh"], "--language must be one of auto, zh, en, got ['zh']"),
        (OutputSettings, "json", None, "--json must be true or false, got None"),
    ],
)
def test_a_value_of_the_wrong_kind_names_its_flag(settings_class: type, name: str, value: Any, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_class(**{name: value})
    assert message in str(caught.value)


def test_whole_numbers_are_numbers_and_none_is_unset() -> None:
    settings = SamplingSettings(temperature=1, top_p=1, seed=None, do_sample=None)
    assert (settings.temperature, settings.seed) == (1, None)
    assert LoadSettings(model=None, revision=None).model is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24GB", 24 * 10**9),
        ("24 gib", 24 * 2**30),
        ("1.5TiB", 3 * 2**39),
        ("512MB", 512 * 10**6),
        ("0.5KiB", 512),
        (" 7b ", 7),
    ],
)
def test_sizes_in_bytes(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text", ["", "24", "GB", "-1GB", "1e3GB", "0GB", "24 G B", "24GBs", "\uff12GB", "9" * 400 + "GB"]
)
def test_a_size_that_is_none(text):
    with pytest.raises(SettingsError, match="a size is a number with a unit, such as 24GB or 24GiB, got"):
        parse_bytes(text)


def test_pairs_are_not_packed():
    with pytest.raises(SettingsError, match="--packing is for conversations and text: pairs are not packed"):
        FinetuneSettings(objective="dpo", packing=True)
    assert FinetuneSettings(objective="pretrain", packing=True).packing


@pytest.mark.parametrize("text", ["=path", "a=x,=y", " ", "a="])
def test_an_adapter_is_a_folder_or_has_a_name(text):
    with pytest.raises(SettingsError, match="--adapter must be a folder, or NAME=PATH with commas, got"):
        LoadSettings(adapter=text)
