"""The two ways that `benchmarks/evaluate.py` compares, each on the same model and the same files.

`ours`: what `baichuan2 evaluate SUITE --recipe lm-eval` runs, from the files to the result. `harness`:
lm-evaluation-harness with its own task files, from its requests to its metrics; its tasks and data are loaded before
the clock starts. Both get the model as `load_model` gives it.
"""

import csv
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

SHOTS = 5
CONTEXT = 4096
SUITES: Mapping[str, tuple[str, str]] = {
    "ceval": ("val", "ceval-valid_{subject}"),
    "mmlu": ("test", "mmlu_{subject}"),
    "cmmlu": ("test", "cmmlu_{subject}"),
}
"""The split whose items are asked, and what the harness calls a subject."""
TASK_FILES = {
    "ceval": "ceval/ceval-valid_{subject}.yaml",
    "mmlu": "mmlu/default/mmlu_{subject}.yaml",
    "cmmlu": "cmmlu/cmmlu_{subject}.yaml",
}
WIDE = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8}


def write_model(name: str, folder: Path, tokenizer: Path) -> Path:
    """A model folder: `demo-base` with a context that five examples fit into, or `wide`: random, with the whole
    vocabulary of 125,696 and the real tokenizer.

    Rotary positions know no end, so the demo model's numbers beyond its own context are numbers like others.
    """
    place = folder / name
    if name == "demo-base":
        from baichuan2.checkpoints.locate import DEMO_DIR

        shutil.copytree(DEMO_DIR / "base", place)
        config = json.loads((place / "config.json").read_text("utf-8"))
        config |= {"max_position_embeddings": CONTEXT, "model_max_length": CONTEXT, "torch_dtype": "float32"}
        (place / "config.json").write_text(json.dumps(config), "utf-8")
        return place
    from baichuan2.model.configuration_baichuan import BaichuanConfig
    from baichuan2.model.modeling_baichuan import BaichuanForCausalLM

    torch.manual_seed(0)
    config = BaichuanConfig(
        **WIDE, vocab_size=125696, max_position_embeddings=CONTEXT, model_max_length=CONTEXT, position_embedding="rope"
    )
    BaichuanForCausalLM(config).save_pretrained(place)
    shutil.copy(tokenizer, place / "tokenizer.model")
    return place


def load(folder: Path) -> tuple[Any, float]:
    """The model with its tokenizer, in float32, and the seconds that took."""
    from baichuan2 import LoadSettings, load_model

    start = time.perf_counter()
    loaded = load_model(folder, LoadSettings(dtype="float32", device="cpu", check_memory=False))
    return loaded, time.perf_counter() - start


def subjects_of(suite: str, data: Path, number: int) -> list[str]:
    """The first subjects of which there are files."""
    split, _ = SUITES[suite]
    names = sorted(path.stem.removesuffix(f"_{split}") for path in (data / suite / split).glob("*.csv"))
    return names[:number]


def ours(loaded: Any, suite: str, subjects: Sequence[str], data: Path, limit: int, batch: str) -> dict[str, Any]:
    """Seconds and answers of `baichuan2 evaluate`; `batch`: its --batch-tokens, or auto."""
    from baichuan2.evaluation.run import evaluate_suite
    from baichuan2.settings import EvaluationSettings

    with tempfile.TemporaryDirectory() as place:
        settings = EvaluationSettings(
            suite=suite,
            data=str(data),
            recipe="lm-eval",
            subjects=",".join(subjects),
            shots=SHOTS,
            limit=limit,
            output_dir=place,
            batch_tokens=None if batch == "auto" else int(batch),
        )
        start = time.perf_counter()
        evaluate_suite(suite, settings, loaded, lambda *_: None)
        seconds = time.perf_counter() - start
        lines = (Path(place) / suite / "items.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    by_subject = {subject: [row["scores"] for row in records if row["subject"] == subject] for subject in subjects}
    tokens = sum(row["prompt_tokens"] for row in records)
    return {"seconds": seconds, "items": len(records), "tokens": tokens, "scores": by_subject}


def harness(loaded: Any, suite: str, subjects: Sequence[str], data: Path, limit: int, batch: str) -> dict[str, Any]:
    """Seconds and answers of lm-evaluation-harness; `batch`: its batch size, or auto."""
    import lm_eval.evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.disable(logging.WARNING)
    model = HFLM(
        pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch, max_length=CONTEXT, device="cpu"
    )
    names = [SUITES[suite][1].format(subject=subject) for subject in subjects]
    with tempfile.TemporaryDirectory() as place:
        for name, subject in zip(names, subjects, strict=True):
            _write_task(Path(place), name, suite, subject, data)
        tasks = TaskManager(include_defaults=False, include_path=place).load(names)
        for task in tasks["tasks"].values():
            task.set_config(key="num_fewshot", value=SHOTS)
        start = time.perf_counter()
        results = lm_eval.evaluator.evaluate(lm=model, task_dict=tasks, limit=limit, bootstrap_iters=0)
        seconds = time.perf_counter() - start
    assert results is not None
    scores = {}
    for name, subject in zip(names, subjects, strict=True):
        samples = {sample["doc_id"]: sample for sample in results["samples"][name]}
        scores[subject] = [[answer[0][0] for answer in samples[number]["resps"]] for number in sorted(samples)]
    return {"seconds": seconds, "items": sum(map(len, scores.values())), "scores": scores}


WAYS = {"ours": ours, "harness": harness}


def _write_task(folder: Path, name: str, suite: str, subject: str, data: Path) -> None:
    """The harness's own task file, included by one that names local files in the place of the hub's."""
    import lm_eval

    split, _ = SUITES[suite]
    files = {}
    for part in ("dev", split):
        file_name = f"{subject}.csv" if suite == "cmmlu" else f"{subject}_{part}.csv"
        rows = _rows(suite, data / suite / part / file_name)
        target = folder / f"{name}_{part}.jsonl"
        target.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        files[part] = str(target)
    included = Path(lm_eval.__file__).parent / "tasks" / TASK_FILES[suite].format(subject=subject)
    source = {"data_files": files, "cache_dir": str(folder / "cache")}
    content = {"include": str(included), "dataset_path": "json", "dataset_name": None, "dataset_kwargs": source}
    (folder / f"{name}.yaml").write_text(json.dumps(content), "utf-8")


def _rows(suite: str, path: Path) -> list[dict[str, Any]]:
    """The rows of a file in the columns of the hub's data sets, which the harness reads."""
    with path.open(encoding="utf-8", newline="") as file:
        if suite == "mmlu":
            return [
                {"question": row[0], "choices": row[1:5], "answer": "ABCD".index(row[5])} for row in csv.reader(file)
            ]
        return list(csv.DictReader(file))
