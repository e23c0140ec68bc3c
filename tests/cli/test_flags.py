from dataclasses import dataclass, fields
from typing import Literal

import pytest

from baichuan2.cli.flags import FlagParser, add_flags, flags_of, read_settings
from baichuan2.errors import SettingsError
from baichuan2.settings import ChatSettings, LoadSettings, OutputSettings, RunSettings, SamplingSettings, setting

ALL_SETTINGS = (LoadSettings, SamplingSettings, ChatSettings, RunSettings, OutputSettings)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sample."""

    count: int | None = setting(None, "100% of it", minimum=1, maximum=9, short="-c", environment="SAMPLE_COUNT")
    share: float = setting(0.5, "a share")
    kind: Literal["red", "blue"] = setting("red", "a colour", environment="SAMPLE_KIND")
    deep: bool = setting(False, "a switch", environment="SAMPLE_DEEP")
    name: str | None = setting(None, "a name")

    def __post_init__(self) -> None:
        from baichuan2.settings import check_bounds

        check_bounds(self)


def read(*arguments: str, environment: dict[str, str] | None = None, settings_class: type = Sample):
    parser = FlagParser(prog="sample", allow_abbrev=False)
    add_flags(parser, settings_class)
    return read_settings(settings_class, parser.parse_args(arguments), environment or {})


@pytest.mark.parametrize("settings_class", ALL_SETTINGS)
def test_no_flags_give_the_defaults(settings_class):
    assert read(settings_class=settings_class) == settings_class()


def test_every_field_has_a_flag_with_help():
    for settings_class in ALL_SETTINGS:
        flags = flags_of(settings_class)
        assert [flag.field for flag in flags] == [item.name for item in fields(settings_class)]
        assert all(flag.help for flag in flags)


def test_values_get_the_types_of_their_fields():
    sample = read("-c", "3", "--share", "0.25", "--kind", "blue", "--deep", "--name", "望岳")
    assert sample == Sample(count=3, share=0.25, kind="blue", deep=True, name="望岳")
    assert isinstance(sample.count, int)


def test_a_switch_can_be_turned_off_again():
    assert read("--deep", "--no-deep").deep is False
    assert read("--no-do-sample", settings_class=SamplingSettings).do_sample is False
    assert read(settings_class=SamplingSettings).do_sample is None


def test_flag_beats_environment_beats_default():
    environment = {"SAMPLE_KIND": "blue", "SAMPLE_DEEP": "1", "SAMPLE_COUNT": ""}
    assert read(environment=environment) == Sample(kind="blue", deep=True)
    assert read("--kind", "red", "--no-deep", environment=environment) == Sample()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--count", "x"), "--count: must be a whole number, got 'x'"),
        (("--count", "1.5"), "--count: must be a whole number, got '1.5'"),
        (("--count", "0"), "--count must lie in [1, 9], got 0"),
        (("--share", "half"), "--share: must be a number, got 'half'"),
        (("--share", "nan"), "--share must lie in [-inf, inf], got nan"),
        (("--kind", "green"), "--kind: must be one of red, blue, got 'green'"),
        (("--cou", "1"), "unrecognized arguments: --cou 1"),
        (("stray",), "unrecognized arguments: stray"),
        (("--name",), "--name: expected one argument"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_flag(arguments, message):
    with pytest.raises(SettingsError) as caught:
        read(*arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("variable", "value"), [("SAMPLE_KIND", "green"), ("SAMPLE_DEEP", "perhaps")])
def test_a_wrong_environment_variable_is_named(variable, value):
    with pytest.raises(SettingsError, match=f"environment variable {variable}: must be one of .*, got '{value}'"):
        read(environment={variable: value})


def test_help_shows_default_environment_and_per_cent():
    parser = FlagParser(prog="sample")
    add_flags(parser, Sample)
    text = " ".join(parser.format_help().split())
    assert "100% of it (environment: SAMPLE_COUNT)" in text
    assert "(default: red; environment: SAMPLE_KIND)" in text
    assert "--kind {red,blue}" in text
