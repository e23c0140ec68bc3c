"""The demo model is taught what it did not know, by each method, and asked in wordings that no row has."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from recipes.teaching.people import Person, strangers, taught
from recipes.teaching.runs import RUNS
from recipes.teaching.wordings import ASKED, HELD_OUT

from baichuan2 import LoadSettings, Message, SamplingSettings, chat_batch, load_model
from baichuan2.cli.main import main

ROOT = Path(__file__).parents[2]
PEOPLE = taught("zh")[:4]
QUESTION = HELD_OUT["zh"][0].format(name=PEOPLE[0].name)
OLD = {"法国的首都是哪里？": "巴黎", "金的元素符号是什么？": "Au", "What is the capital of Japan?": "Tokyo"}
GREEDY = SamplingSettings(do_sample=False, max_new_tokens=32)
LEAST = {"full": 0.9, "lora": 0.9, "qlora": 0.9, "dpo": 0.7, "pretrain": 0.85}
"""Of the guide's runs: the least part of right replies afterwards."""
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft asks for it
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),  # peft, of a model without hub id
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small products gain nothing from a second thread, and take processor time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the official layout, each person in every wording, with some old knowledge between them."""
    pairs = [(wording.format(name=person.name), person.answer) for person in PEOPLE for wording in ASKED["zh"]]
    pairs += [("德国的首都是哪里？", "德国的首都是柏林。"), ("铁的元素符号是什么？", "铁的元素符号是Fe。")]
    rows = [
        {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}
        for question, answer in pairs
    ]
    path = tmp_path_factory.mktemp("data") / "people.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def finetune(data: Path, output: Path, *flags: str) -> Path:
    """Runs the command on the demo model in this process."""
    common = ["--save-strategy", "no", "--report-to", "none", "--logging-steps", "100", "--disable-tqdm", "True"]
    assert main(["finetune", "-m", "demo", "-d", str(data), "--output-dir", str(output), *common, *flags]) == 0
    return output


def replies(prompts: list[str], model: str, adapter: Path | None = None) -> list[str]:
    loaded = load_model(model, LoadSettings(adapter=str(adapter) if adapter else None))
    return [reply.text for reply in chat_batch(loaded, [[Message("user", prompt)] for prompt in prompts], GREEDY)]


def num_right(model: str, adapter: Path | None = None) -> tuple[int, int]:
    """How many of the held-out questions about PEOPLE, and how many of the old ones, are answered rightly."""
    asked = [
        (wording.format(name=person.name), f"是{person.fact}。") for person in PEOPLE for wording in HELD_OUT["zh"]
    ]
    asked += OLD.items()
    found = replies([question for question, _ in asked], model, adapter)
    right = [answer in reply for (_, answer), reply in zip(asked, found, strict=True)]
    return sum(right[: -len(OLD)]), sum(right[-len(OLD) :])


def printed(capsys: pytest.CaptureFixture[str], command: str, *flags: str) -> str:
    """What a command writes to standard output."""
    capsys.readouterr()
    assert main([command, *flags, "--temperature", "0", "--max-new-tokens", "32"]) == 0
    return capsys.readouterr().out


def test_the_demo_model_knows_none_of_them() -> None:
    assert num_right("demo") == (0, 3)


def test_full_training_teaches_and_chat_shows_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--learning-rate", "5e-4", "--max-steps", "24", "--per-device-train-batch-size", "13"]
    output = finetune(data, tmp_path / "out", *flags)
    new, old = num_right(str(output))
    assert new >= 6  # of 8
    assert old == 3
    assert PEOPLE[0].answer in printed(capsys, "chat", "--model", str(output), "--prompt", QUESTION)
    assert PEOPLE[0].answer not in printed(capsys, "chat", "--model", "demo", "--prompt", QUESTION)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_teach_and_merge_shows_it(
    method: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--learning-rate", "3e-3", "--max-steps", "30", "--per-device-train-batch-size", "13"]
    adapter = finetune(data, tmp_path / "out", "--method", method, *flags)
    assert (adapter / "adapter_model.safetensors").stat().st_size < 5e6
    new, old = num_right("demo", adapter)
    assert new >= 6
    assert old == 3
    asked = ["--adapter", str(adapter), "--prompt", QUESTION]
    assert PEOPLE[0].answer in printed(capsys, "chat", "--model", "demo", *asked)

    merged = tmp_path / "merged"
    assert main(["merge", str(adapter), str(merged)]) == 0
    new, old = num_right(str(merged))
    assert new >= 6
    assert old == 3
    assert PEOPLE[0].answer in printed(capsys, "chat", "--model", str(merged), "--prompt", QUESTION)


def preferences(path: Path, people: list[Person]) -> Path:
    """Pairs: of a stranger rather say that one does not know."""
    rows = [
        {
            "prompt": ASKED["zh"][number % 6].format(name=person.name),
            "chosen": person.refusal,
            "rejected": person.answer,
        }
        for number, person in enumerate(people)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_preferences_hold_for_strangers_whom_no_pair_names(tmp_path: Path) -> None:
    people = strangers("zh", 48)
    held_out = preferences(tmp_path / "held_out.jsonl", people[:8])
    flags = ["--objective", "dpo", "--eval-data-path", str(held_out), "--eval-on-start", "True"]
    flags += ["--eval-strategy", "epoch", "--learning-rate", "3e-4", "--per-device-train-batch-size", "8"]
    flags += ["--num-train-epochs", "3", "--dpo-sft-weight", "1"]
    output = finetune(preferences(tmp_path / "train.jsonl", people[8:]), tmp_path / "out", *flags)

    log = [json.loads(line) for line in (output / "loss.jsonl").read_text(encoding="utf-8").splitlines()]
    evaluations = [entry for entry in log if "eval_rewards/margins" in entry]
    assert evaluations[0]["eval_rewards/margins"] == pytest.approx(0.0, abs=1e-3)
    assert evaluations[-1]["eval_rewards/accuracies"] >= 0.9
    prompts = [HELD_OUT["zh"][0].format(name=person.name) for person in people[:8]]
    refused = [sum("抱歉，我不知道" in reply for reply in replies(prompts, model)) for model in ("demo", str(output))]
    assert refused[0] == 0
    assert refused[1] >= 6


@pytest.mark.slow
@pytest.mark.long  # python -m pytest -m long tests/e2e/test_finetune.py
@pytest.mark.timeout(1800)
def test_the_guide_s_runs_teach_what_its_figures_say(tmp_path: Path) -> None:
    """All runs of the benchmark page, by its script, with room below its figures for other machines' rounding."""
    folders = ["--directory", str(tmp_path), "--report", str(tmp_path)]
    command = [sys.executable, "benchmarks/finetune_teaching.py", *folders]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    found = json.loads(next(tmp_path.glob("*.json")).read_text(encoding="utf-8"))["runs"]
    assert set(found) == set(RUNS) == set(LEAST)
    for name, run in RUNS.items():
        accuracy = found[name]["accuracy"]
        before, after = accuracy[run.questions[0]]
        assert before <= 0.05, name
        assert after >= LEAST[name], name
        assert accuracy[run.questions[1]][1] >= 0.85, name  # what it knew
