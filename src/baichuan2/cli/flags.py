"""Settings dataclasses -> command-line flags, and the parsed flags back -> settings objects.

Names, help, bounds, choices and environment variables all come from `settings/`; nothing is repeated here. A wrong
value is a SettingsError of one line that names the flag or the variable. Standard library only, so that help is free.
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from baichuan2.errors import SettingsError
from baichuan2.settings import flag_name

Settings = TypeVar("Settings")
TRUE_WORDS = ("1", "true", "yes", "on")
FALSE_WORDS = ("0", "false", "no", "off")


@dataclass(frozen=True)
class Flag:
    """One settings field as the command line sees it."""

    field: str
    kind: type
    choices: tuple[str, ...]
    default: Any
    help: str
    short: str | None
    metavar: str | None
    environment: str | None
    minimum: float | None
    maximum: float | None
    is_positional: bool

    @property
    def spelling(self) -> str:
        """The long flag: `--top-p`; of a value that stands by itself, its name in the usage: `MODEL`."""
        return flag_name(self.field) if not self.is_positional else self.metavar or self.field.upper()

    def parse(self, text: str) -> Any:
        """The value that `text` spells.

        Raises:
            ValueError: it spells none; the message says what is allowed and what was received.
        """
        if self.choices:
            if text not in self.choices:
                raise ValueError(f"must be one of {', '.join(self.choices)}, got {text!r}")
            return text
        if self.kind is bool:
            if text.lower() not in TRUE_WORDS + FALSE_WORDS:
                raise ValueError(f"must be one of {', '.join(TRUE_WORDS + FALSE_WORDS)}, got {text!r}")
            return text.lower() in TRUE_WORDS
        if self.kind in (int, float):
            try:
                return self.kind(text)
            except ValueError:
                expected = "a whole number" if self.kind is int else "a number"
                raise ValueError(f"must be {expected}, got {text!r}") from None
        return text


class FlagParser(argparse.ArgumentParser):
    """An argument parser whose complaints are SettingsError, so that every mistake looks the same."""

    def error(self, message: str) -> NoReturn:
        """Raises SettingsError in place of printing the usage and exiting."""
        raise SettingsError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")


def flags_of(settings_class: type) -> list[Flag]:
    """The flags of a settings dataclass, in the order of its fields."""
    hints = get_type_hints(settings_class)
    flags = []
    for item in fields(settings_class):
        kind, choices = _kind_and_choices(hints[item.name])
        assert item.default is not MISSING, f"{settings_class.__name__}.{item.name} needs a default"
        names = ("help", "short", "metavar", "environment", "minimum", "maximum", "is_positional")
        details: dict[str, Any] = {name: item.metadata.get(name) for name in names}
        flags.append(Flag(field=item.name, kind=kind, choices=choices, default=item.default, **details))
    return flags


def add_flags(parser: argparse.ArgumentParser, settings_class: type) -> None:
    """Adds one flag for each field of `settings_class`, in a help group titled by the first line of its docstring."""
    group = parser.add_argument_group(_title(settings_class))
    for flag in flags_of(settings_class):
        if flag.is_positional:
            group.add_argument(
                flag.field, nargs="?", default=argparse.SUPPRESS, metavar=flag.spelling, help=_help(flag)
            )
            continue
        spellings = [flag.spelling] if flag.short is None else [flag.short, flag.spelling]
        # SUPPRESS: a flag that is not given leaves no trace, so environment and default can still speak
        options: dict[str, Any] = {"dest": flag.field, "default": argparse.SUPPRESS, "help": _help(flag)}
        if flag.kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = _argument_type(flag)
            options["metavar"] = flag.metavar or ("{" + ",".join(flag.choices) + "}" if flag.choices else None)
        group.add_argument(*spellings, **options)


def read_settings(
    settings_class: type[Settings], namespace: argparse.Namespace, environment: Mapping[str, str] = os.environ
) -> Settings:
    """The settings object that flags, then environment variables, then defaults give.

    Raises:
        SettingsError: a value is outside its bounds, or an environment variable cannot be read.
    """
    values = {}
    for flag in flags_of(settings_class):
        if hasattr(namespace, flag.field):
            values[flag.field] = getattr(namespace, flag.field)
        elif flag.environment is not None and environment.get(flag.environment):
            try:
                values[flag.field] = flag.parse(environment[flag.environment])
            except ValueError as error:
                raise SettingsError(f"environment variable {flag.environment}: {error}") from None
    return settings_class(**values)


def _title(settings_class: type) -> str:
    return (settings_class.__doc__ or settings_class.__name__).splitlines()[0].rstrip(".")


def _help(flag: Flag) -> str:
    notes = []
    if flag.default not in (None, False):
        notes.append(f"default: {flag.default if flag.kind is not bool else 'on'}")
    if flag.environment is not None:
        notes.append(f"environment: {flag.environment}")
    text = flag.help + (f" ({'; '.join(notes)})" if notes else "")
    return text.replace("%", "%%")  # argparse formats help with the % operator


def _argument_type(flag: Flag) -> Any:
    def parse(text: str) -> Any:
        try:
            return flag.parse(text)
        except ValueError as error:  # argparse hides the text of a plain ValueError
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _kind_and_choices(hint: Any) -> tuple[type, tuple[str, ...]]:
    """`int | None` -> (int, ()), `Literal["a", "b"]` -> (str, ("a", "b"))."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is Literal:
        return str, get_args(hint)
    assert hint in (bool, int, float, str), f"no flag can be made from {hint}"
    return hint, ()
