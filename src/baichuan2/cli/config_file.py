"""A file of flags for `baichuan2 finetune --config run.yaml`: names and values, in YAML or JSON.

Names are those of the flags, in either spelling. What stands on the command line wins.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from baichuan2.errors import SettingsError
from baichuan2.optional import require

__all__ = ["CONFIG_SUFFIXES", "flags_of_config", "read_config_file", "take_config"]

CONFIG_SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 1 << 16
MAX_OPEN_BRACKETS = 40


def take_config(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The config file that `arguments` name, by `--config` or by standing first, and the other arguments.

    Raises:
        SettingsError: there are two, or none behind the flag.
    """
    paths: list[str] = []
    others: list[str] = []
    waiting = list(arguments)
    if waiting and not waiting[0].startswith("-") and waiting[0].lower().endswith(CONFIG_SUFFIXES):
        paths.append(waiting.pop(0))
    while waiting:
        word = waiting.pop(0)
        flag, is_joined, value = word.partition("=")
        if flag not in ("--config", "-c"):
            others.append(word)
            continue
        if not is_joined:
            value = waiting.pop(0) if waiting and not waiting[0].startswith("-") else ""
        if not value:
            raise SettingsError("--config must be followed by a YAML or JSON file")
        paths.append(value)
    if len(paths) > 1:
        raise SettingsError(f"there can be one config file, got {' and '.join(paths)}")
    return (paths[0] if paths else None), others


def read_config_file(path: str) -> dict[str, Any]:
    """The names, with _ between their words, and the values of the file at `path`.

    Raises:
        SettingsError: it cannot be read, is malformed, or names something twice.
        MissingExtraError: it is YAML, and PyYAML is not installed.
    """
    try:
        data = Path(path).expanduser().read_bytes() if Path(path).expanduser().stat().st_size <= MAX_BYTES else None
    except OSError as error:
        raise SettingsError(f"cannot read the config file {path}: {error.strerror or error}") from error
    if data is None:
        raise SettingsError(f"the config file {path} is larger than {MAX_BYTES} bytes: it should hold flags, not data")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"the config file {path} is not UTF-8: byte {error.start} is wrong") from error
    try:
        content = _parse_json(text) if path.lower().endswith(".json") else _parse_yaml(text)
    except RecursionError:
        raise SettingsError(f"{path}: brackets are nested too deeply") from None
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from error
    if not isinstance(content, Mapping):
        raise SettingsError(f"{path} must hold names and values, such as  learning_rate: 2e-5,  got {_kind(content)}")
    result: dict[str, Any] = {}
    for name, value in content.items():
        if not isinstance(name, str):
            raise SettingsError(f"{path}: a name must be text, got {name!r}")
        plain = name.strip().removeprefix("--").replace("-", "_")
        if plain in result:
            raise SettingsError(f"{path}: {name} is given twice")
        result[plain] = value
    return result


def flags_of_config(content: Mapping[str, Any], yes_or_no: Collection[str], lists: Collection[str]) -> list[str]:
    """Command-line words that say what `content` does; null says nothing.

    `yes_or_no`: names whose values are true or false; `lists`: names that take several words.

    Raises:
        SettingsError: a value is of a kind that no flag takes.
    """
    words: list[str] = []
    for name, value in content.items():
        flag = f"--{name}"
        if value is None:
            continue
        if isinstance(value, bool):
            # YAML reads a plain no as false, where a flag such as save_strategy means the word
            words.append(f"{flag}={str(value).lower() if name in yes_or_no or value else 'no'}")
        elif isinstance(value, str | int | float):
            words.append(f"{flag}={value}")
        elif isinstance(value, Mapping):
            words.append(f"{flag}={_json_of(name, value)}")
        elif isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
            texts = [str(item) for item in value]
            words += [flag, *texts] if name in lists else [f"{flag}={','.join(texts)}"]
        else:
            raise SettingsError(f"{name} must be one value or a list of values, got {_kind(value)}")
    return words


def _json_of(name: str, value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise SettingsError(f"{name} holds what JSON cannot: {error}") from error


def _kind(value: object) -> str:
    return (
        "nothing"
        if value is None
        else {"str": "text", "list": "a list"}.get(type(value).__name__, type(value).__name__)
    )


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error


def _parse_yaml(text: str) -> Any:
    yaml = require("yaml", extra="train")
    opened = 0
    for character in text:
        opened += (character in "[{") - (character in "]}")
        if opened > MAX_OPEN_BRACKETS:  # the time that PyYAML takes grows with the square of the depth
            raise RecursionError

    class Loader(yaml.SafeLoader):  # type: ignore[misc, name-defined]  # a class of an optional package
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            """The mapping of `node`, whose names are all different."""
            _once([(key.value, None) for key, _ in node.value])
            return dict(super().construct_mapping(node, deep=deep))

    try:
        return yaml.load(text, Loader=Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise ValueError(f"is not YAML: {getattr(error, 'problem', None) or 'it cannot be read'}{place}") from error


def _once(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for name, value in pairs:
        if isinstance(name, str) and name in result:
            raise ValueError(f"{name} is given twice")
        if isinstance(name, str):
            result[name] = value
    return result
