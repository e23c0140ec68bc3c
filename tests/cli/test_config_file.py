"""Flags from a file: YAML and JSON, either spelling, the order of who wins, and files that are wrong."""

import json

import pytest

from baichuan2.cli.config_file import flags_of_config, read_config_file, take_config
from baichuan2.errors import SettingsError


def written(tmp_path, text: str | bytes, name: str = "run.yaml") -> str:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "path", "others"),
    [
        (["--config", "a.yaml", "--seed", "1"], "a.yaml", ["--seed", "1"]),
        (["--seed", "1", "--config=a.json"], "a.json", ["--seed", "1"]),
        (["-c", "a.txt"], "a.txt", []),
        (["run.YAML", "--seed", "1"], "run.YAML", ["--seed", "1"]),
        (["--data_path", "x.json"], None, ["--data_path", "x.json"]),
        (["stray", "run.yaml"], None, ["stray", "run.yaml"]),
    ],
)
def test_where_the_file_is_named(arguments, path, others):
    assert take_config(arguments) == (path, others)


@pytest.mark.parametrize("arguments", [["--config"], ["--config="], ["--config", "--seed"]])
def test_a_flag_without_a_file(arguments):
    with pytest.raises(SettingsError, match="--config must be followed by a YAML or JSON file"):
        take_config(arguments)


def test_two_files():
    with pytest.raises(SettingsError, match=r"there can be one config file, got a.yaml and b.json"):
        take_config(["a.yaml", "--config", "b.json"])


def test_either_spelling_in_either_language(tmp_path):
    text = "data-path: x.json\nlearning_rate: 2e-5\n--seed: 3\npacking: yes\nrevision: null\n"
    expected = {"data_path": "x.json", "learning_rate": "2e-5", "seed": 3, "packing": True, "revision": None}
    assert read_config_file(written(tmp_path, text)) == expected
    as_json = json.dumps(
        {"data-path": "x.json", "learning_rate": "2e-5", "--seed": 3, "packing": True, "revision": None}
    )
    assert read_config_file(written(tmp_path, b"\xef\xbb\xbf" + as_json.encode(), "run.json")) == expected


def test_values_become_words():
    content = {"packing": False, "save_strategy": False, "bf16": True, "lora_targets": ["W_pack", "o_proj"]}
    content |= {"report_to": ["none"], "seed": 3, "revision": None, "fsdp_config": {"version": 2}, "note": "-x"}
    assert flags_of_config(content, yes_or_no={"packing", "bf16"}, lists={"report_to"}) == [
        "--packing=false",
        "--save_strategy=no",  # YAML reads a plain no as false
        "--bf16=true",
        "--lora_targets=W_pack,o_proj",
        "--report_to",
        "none",
        "--seed=3",
        '--fsdp_config={"version": 2}',
        "--note=-x",
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.yaml", "", "must hold names and values.*got nothing"),
        ("run.yaml", "- 1\n- 2\n", "got a list"),
        ("run.yaml", "just words", "got text"),
        ("run.yaml", "a: [1, 2", r"is not YAML: .* at line 1, column 9"),
        ("run.yaml", "a: 1\n\tb: 2", "is not YAML"),
        ("run.yaml", "seed: 1\nseed: 2\n", "seed is given twice"),
        ("run.yaml", "data-path: 1\ndata_path: 2\n", "data_path is given twice"),
        ("run.yaml", "1: 2\n", "a name must be text, got 1"),
        ("run.yaml", "[1, 2]: 3\n", "is not YAML"),
        ("run.yaml", "a: !!python/object/apply:os.system ['true']\n", "is not YAML: .*python"),
        ("run.yaml", "a: b\n--- \nc: d\n", "is not YAML"),
        ("run.yaml", b"a: \xff\n", "not UTF-8: byte 3"),
        ("run.json", '{"a": 1,}', r"is not JSON: .* line 1, column 9"),
        ("run.json", '{"a": 1, "a": 2}', "a is given twice"),
        ("run.json", "[" * 60_000, "nested too deeply"),
        ("run.yaml", "[" * 60_000, "nested too deeply"),
        ("run.yaml", "#" * (1 << 16) + "\n", "is larger than"),
    ],
)
def test_files_that_are_wrong(name, text, message, tmp_path):
    with pytest.raises(SettingsError, match=message) as caught:
        read_config_file(written(tmp_path, text, name))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(SettingsError, match=r"cannot read the config file .*none.yaml: No such file"):
        read_config_file(str(tmp_path / "none.yaml"))
    with pytest.raises(SettingsError, match="Is a directory"):
        read_config_file(str(tmp_path))


@pytest.mark.parametrize("value", [[[1]], [{"a": 1}], {"a": {1, 2}}, object()])
def test_values_that_no_flag_takes(value):
    with pytest.raises(SettingsError, match="optim"):
        flags_of_config({"optim": value}, yes_or_no=(), lists=())
