"""lm-evaluation-harness as it is installed, asked offline: its own task files and templates, on rows that a test has.

Each of its task files is included by a small one that names a local file as the source, as its manual tells; nothing
else in it is changed. The rows have the columns of the hub's data sets, which the templates name.
"""

import importlib.metadata
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import pytest

Rows = Sequence[Mapping[str, Any]]
OWN_WARNINGS = (
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
"""The harness and its data library warn of their own affairs."""


@dataclass
class PeerSample:
    """What the harness made of one item: the context it gave to the model, and what came back.

    `continuations` with `logprobs` and `is_greedy`: of questions with options. `output`: of those without.
    `answers`: what each of its filters took out of the output. `metrics`: by the filter's name, then its own.
    """

    context: str
    continuations: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    is_greedy: list[bool] = field(default_factory=list)
    output: str | None = None
    answers: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


class Peer:
    """The harness with a model of its own kind. `folder`: for what it writes."""

    def __init__(self, model: Any, folder: Path) -> None:
        self.model, self.folder = model, folder

    @classmethod
    def of(cls, model: Any, tokenizer: Any, folder: Path, *, max_length: int) -> Self:
        """With a model of the framework. `max_length`: where prompts are cut from the left."""
        from lm_eval.models.huggingface import HFLM

        return cls(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, max_length=max_length), folder)

    @classmethod
    def scripted(cls, replies: Sequence[str], folder: Path) -> Self:
        """With one that writes these replies, one for each item."""
        from lm_eval.api.model import LM

        class Script(LM):
            def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
                assert len(requests) == len(replies)
                return list(replies)

            def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
                raise NotImplementedError

            def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
                raise NotImplementedError

        return cls(Script(), folder)

    def ask(
        self,
        task: str,
        path: str,
        rows: Mapping[str, Rows],
        *,
        shots: int | None = None,
        limit: int | None = None,
        new_tokens: int | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> list[PeerSample]:
        """One sample for each of the first `limit` items.

        `task`: its name there. `path`: of its file, below the harness's tasks. `rows`: of each split that it names.
        `shots`, `new_tokens`: None: its own. `changes`: in its file, of what is not the same from run to run.
        """
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        folder = self.folder / task
        folder.mkdir(parents=True)
        files = {split: str(_write(folder / f"{split}.jsonl", content)) for split, content in rows.items()}
        source: dict[str, Any] = {"dataset_path": "json", "dataset_name": None, **(changes or {})}
        source["dataset_kwargs"] = {"data_files": files, "cache_dir": str(self.folder / "cache")}
        # JSON is YAML; the names of files may hold what YAML would read otherwise
        (folder / "task.yaml").write_text(json.dumps({"include": str(tasks_folder() / path), **source}))
        results = simple_evaluate(
            model=self.model,
            tasks=[task],
            task_manager=TaskManager(include_defaults=False, include_path=str(folder)),
            num_fewshot=shots,
            limit=limit,
            bootstrap_iters=0,
            gen_kwargs=None if new_tokens is None else {"max_gen_toks": new_tokens},
            confirm_run_unsafe_code=True,
        )
        assert results is not None
        return _samples(results["samples"][task])


def tasks_folder() -> Path:
    """Where the harness keeps its task files."""
    import lm_eval

    return Path(lm_eval.__file__).parent / "tasks"


@contextmanager
def without_judges() -> Iterator[None]:
    """Lets the tasks load whose judges need more than is installed: programs are not run, formulas not parsed.

    Prompts, outputs and what is taken out of them stay the harness's own.
    """
    import evaluate
    from sympy.parsing.latex import errors

    class NoJudge:
        def compute(self, **arguments: Any) -> tuple[dict[str, float], dict[str, Any]]:
            return {"pass@1": 0.0}, {}

    def no_parser(text: str) -> Any:
        raise errors.LaTeXParsingError(text)

    def version(name: str) -> str:
        return "4.11.0" if name == "antlr4-python3-runtime" else real_version(name)

    real_version = importlib.metadata.version
    verify = ModuleType("math_verify")
    verify.parse = lambda text: text  # type: ignore[attr-defined]
    verify.verify = lambda gold, target: False  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "load", lambda name: NoJudge())
        patch.setattr(importlib.metadata, "version", version)
        patch.setattr("sympy.parsing.latex.parse_latex", no_parser)
        patch.setitem(sys.modules, "antlr4", sys.modules.get("antlr4", ModuleType("antlr4")))
        patch.setitem(sys.modules, "math_verify", verify)
        yield


def _write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _samples(logged: Sequence[Mapping[str, Any]]) -> list[PeerSample]:
    """The log holds an item once for each filter."""
    found: dict[int, PeerSample] = {}
    for entry in logged:
        arguments = entry["arguments"]
        if entry["doc_id"] not in found:
            found[entry["doc_id"]] = PeerSample(context=arguments[0][0])
        sample = found[entry["doc_id"]]
        assert all(context == sample.context for context, _ in arguments)
        first = entry["resps"][0][0]
        if isinstance(first, str):
            sample.output = first
            sample.answers[entry["filter"]] = entry["filtered_resps"][0]
        else:
            sample.continuations = [continuation for _, continuation in arguments]
            sample.logprobs = [answers[0][0] for answers in entry["resps"]]
            sample.is_greedy = [answers[0][1] for answers in entry["resps"]]
        sample.metrics[entry["filter"]] = {name: entry[name] for name in entry["metrics"]}
    return [found[number] for number in sorted(found)]
