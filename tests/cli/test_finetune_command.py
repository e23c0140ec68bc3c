"""`baichuan2 finetune` up to the moment when training starts: spellings, config files, and what is refused."""

import re

import pytest

from baichuan2.cli.commands import finetune
from baichuan2.cli.commands.finetune import EXAMPLES, check_data, with_our_spelling
from baichuan2.cli.main import command_parser, main
from baichuan2.errors import DataError, SettingsError
from baichuan2.finetune import processes
from baichuan2.finetune.arguments import FinetuneArguments, argument_names
from baichuan2.settings import FinetuneSettings


@pytest.fixture
def started(monkeypatch):
    """What training would have started with."""
    calls = []
    monkeypatch.setattr(
        "baichuan2.cli.training_screen.train", lambda settings, arguments: calls.append((settings, arguments)) or 0
    )
    monkeypatch.setattr(processes, "announce_accelerator", lambda: None)
    for name in ("BAICHUAN2_MODEL", "BAICHUAN2_LANGUAGE", "HF_HUB_OFFLINE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_both_spellings_and_all_words_for_yes_and_no():
    words = "--use_lora True --data_path x --packing=no --protect-roles F --use_dora --learning_rate 1 --offline"
    expected = "--use-lora --data-path x --no-packing --no-protect-roles --use-dora --learning_rate 1 --offline"
    assert with_our_spelling(words.split()) == (expected.split())
    assert with_our_spelling(["--data_path", "--x"]) == ["--data-path", "--x"]
    for words in (["--use_lora", "maybe"], ["--use_lora=maybe"], ["--use-lora="]):
        with pytest.raises(SettingsError, match="--use-lora must be true or false, got '"):
            with_our_spelling(words)


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(started, tmp_path, monkeypatch):
    config = tmp_path / "run.yaml"
    config.write_text(
        f"output_dir: {tmp_path}/out\ndata-path: a.json\nmodel_name_or_path: file\nlearning_rate: 2e-5\nseed: 3\n"
        "use_lora: yes\npacking: true\nsave_strategy: no\nevaluation_strategy: no\nreport_to: [none]\nlanguage: zh\n"
    )
    monkeypatch.setenv("BAICHUAN2_MODEL", "environment")
    monkeypatch.setenv("BAICHUAN2_LANGUAGE", "en")
    assert main(["finetune", str(config), "--seed", "9", "--no-packing", "--language", "zh"]) == 0
    ((settings, arguments),) = started
    assert (settings.data_path, settings.model_name_or_path, settings.language) == ("a.json", "environment", "zh")
    assert (settings.use_lora, settings.packing, settings.config) == (True, False, str(config))
    assert (arguments.learning_rate, arguments.seed, arguments.save_strategy) == (2e-5, 9, "no")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", "run.yaml: unknown key learning_rat: did you mean learning_rate?"),
        ("zzzzz: 1", "run.yaml: unknown key zzzzz"),
        ("config: other.yaml", "run.yaml: a config file cannot name another one"),
        ("learning_rate: fast", "run.yaml: --learning_rate/--learning-rate: invalid float value: 'fast'"),
        ("lora_rank: 1.5", "run.yaml: --lora-rank: must be a whole number, got '1.5'"),
        ("use_lora: 7", "run.yaml: --use-lora must be true or false, got '7'"),
        ("optim: [[1]]", "run.yaml: optim must be one value or a list of values, got a list"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_name(text, message, started, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(text)
    assert main(["finetune", "--config", str(tmp_path / "run.yaml"), "--output_dir", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert started == []


def test_a_folder_for_the_result_is_asked_for(started, capsys):
    assert main(["finetune", "-d", "x.json"]) == 2
    assert capsys.readouterr().err == "error: --output-dir is missing: give a folder for checkpoints and the result\n"


def test_the_official_sample_is_explained_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "data/belle_chat_ramdon_10k.json"
    with pytest.raises(DataError, match=rf"there is no {name}: the official repository.*fine-tune/data/sample.json"):
        check_data(FinetuneSettings(data_path=f"other.json,{name}"))
    (tmp_path / "data").mkdir()
    (tmp_path / name).write_text("[]")
    check_data(FinetuneSettings(data_path=name))


def test_help_tells_the_frameworks_flags_and_defaults_as_they_are():
    told = re.findall(r"^  --([a-z0-9-]+) ?.*?(?:\(default: ([^)]*)\))?$", EXAMPLES, re.MULTILINE)
    assert len(told) > 15
    ours = FinetuneArguments.__dataclass_fields__
    for flag, default in told:
        name = flag.replace("-", "_")
        assert name in argument_names()
        if default and not name.endswith("_strategy"):
            assert ours[name].default == type(ours[name].default)(default), flag
    assert EXAMPLES in command_parser("finetune", finetune.SETTINGS, EXAMPLES).format_help()
