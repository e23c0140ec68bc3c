"""The checkpoints of one training run, evaluated one after the other in the order in which they came about.

They are the folders that a run has written, or the official intermediate ones, which are revisions of one repository on
the hub. Each has a folder of results like any other evaluation, so a stopped command goes on inside the checkpoint in
which it was; one model is in memory at a time.
"""

import gc
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from baichuan2.checkpoints.shards import find_weight_files
from baichuan2.errors import SettingsError
from baichuan2.evaluation import processes
from baichuan2.evaluation.dynamics import Dynamics, Point, published_score, write_dynamics
from baichuan2.evaluation.run import RESULTS, Watch, evaluate
from baichuan2.settings import EvaluationSettings, LoadSettings

__all__ = ["OFFICIAL", "Revision", "evaluate_revisions", "find_revisions", "revisions_folder"]

Unit = Literal["steps", "tokens"]
REPOSITORY = "baichuan-inc/Baichuan2-7B-Intermediate-Checkpoints"
OFFICIAL = tuple(f"train_{billions:05d}B" for billions in range(220, 2421, 220))
"""The branches of that repository, one for each 220 billion tokens."""
WORD = "official"
TOKENS = re.compile(r"(?:train[_-])?(\d{1,6})B", re.ASCII)
STEPS = re.compile(r"(?:checkpoint|step|global_step|iter)[-_]?(\d{1,12})", re.ASCII)
DESCRIPTIONS = ("config.json", "adapter_config.json")
MOST_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Revision:
    """One checkpoint. `at`: how far the training had come, billions of tokens or steps; `load`: what loads it."""

    name: str
    at: int
    unit: Unit
    load: LoadSettings


def find_revisions(text: str, load: LoadSettings) -> tuple[list[Revision], list[str]]:
    """The checkpoints that `--revisions` names, in order, and the names of folders that are none.

    `text`: a folder whose subfolders are checkpoints; "official"; or names with commas: folders, revisions of the
    model that `load` names, or NAME=MODEL for one that is called otherwise, such as train_02640B=path/to/final.

    Raises:
        SettingsError: there are none, two are the same, a name does not tell how far its training was, or some count
            tokens and others steps.
        CheckpointError: the weights of a folder are not all there.
    """
    folder = Path(text).expanduser()
    others: list[str] = []
    if text == WORD and not folder.is_dir():
        load = load if load.model is not None else replace(load, model=REPOSITORY)
        found = [_revision(name, replace(load, revision=name)) for name in OFFICIAL]
    elif folder.is_dir():
        found, others = _in_folder(folder, load)
    else:
        found = [_named(name.strip(), load) for name in text.split(",")]
    if not found:
        raise SettingsError(
            f"--revisions {text}: no folder in it is a checkpoint; they are called checkpoint-100 or train_00220B and "
            "hold a config.json or adapter_config.json"
        )
    _check(found)
    return sorted(found, key=lambda revision: revision.at), others


def evaluate_revisions(
    settings: EvaluationSettings,
    load: LoadSettings,
    watch: Watch,
    make_model: Callable[[LoadSettings], Any] | None = None,
    started: Callable[[str, int, int], None] = lambda *_: None,
) -> Dynamics:
    """Runs the suites on each checkpoint that `settings.revisions` names, and draws how the scores went.

    Results go to a folder for each checkpoint below `revisions_folder`, the curves beside them after each checkpoint.
    `started` is told the name of the checkpoint that is next, its number from 1, and how many there are.

    Raises: as `find_revisions` and `run.evaluate`; what was evaluated before stays, and the same command goes on.
    """
    assert settings.revisions is not None
    revisions, others = find_revisions(settings.revisions, load)
    folder = revisions_folder(settings, load)
    if others and processes.is_first():
        more = f" and {len(others) - MOST_SHOWN} more" if len(others) > MOST_SHOWN else ""
        watch.remark(f"left out, as their names tell no steps or tokens: {', '.join(others[:MOST_SHOWN])}{more}")
    points: list[Point] = []
    dynamics = Dynamics(unit=revisions[0].unit, points=())
    for number, revision in enumerate(revisions, start=1):
        if processes.is_first():
            started(revision.name, number, len(revisions))
        own = replace(settings, revisions=None, output_dir=str(folder / revision.name))
        points += [_point(revision, result) for result in evaluate(own, revision.load, watch, make_model)]
        gc.collect()  # the next model needs the room of this one
        dynamics = replace(dynamics, points=tuple(points))
        if processes.is_first():
            remark = write_dynamics(dynamics, folder)
            if remark is not None and number == len(revisions):
                watch.remark(remark)
    return dynamics


def revisions_folder(settings: EvaluationSettings, load: LoadSettings) -> Path:
    """Where the results of all checkpoints go."""
    if settings.output_dir is not None:
        return Path(settings.output_dir).expanduser()
    assert settings.revisions is not None
    folder = Path(settings.revisions).expanduser()
    named = folder.resolve().name if folder.is_dir() else (load.model or REPOSITORY).rstrip("/").rpartition("/")[2]
    recipe = "" if settings.recipe == "official" else f"-{settings.recipe}"
    return Path(RESULTS) / f"{named}-revisions{recipe}"


def _in_folder(folder: Path, load: LoadSettings) -> tuple[list[Revision], list[str]]:
    found, others = [], []
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        is_checkpoint = any((path / name).is_file() for name in DESCRIPTIONS)
        if is_checkpoint and _place(path.name) is not None:
            found.append(_of_folder(path.name, path, load))
        elif is_checkpoint:
            others.append(path.name)
    return found, others


def _named(name: str, load: LoadSettings) -> Revision:
    """A folder, NAME=MODEL, or a revision of the model that `load` names."""
    label, sign, model = name.partition("=")
    if sign and not Path(name).exists():
        path = Path(model).expanduser()
        if not model:
            raise SettingsError(f"--revisions: {name} names no model behind the equals sign")
        if path.is_dir():
            return _of_folder(label, path, load)
        return _revision(label, replace(load, model=model, revision=None))
    path = Path(name).expanduser()
    if name and path.is_dir():
        return _of_folder(path.resolve().name, path, load)
    if load.model is None or Path(load.model).expanduser().is_dir():
        raise SettingsError(
            f"--revisions {name}: there is no such folder; for revisions on the hub name the repository with --model"
        )
    return _revision(name, replace(load, revision=name))


def _of_folder(name: str, path: Path, load: LoadSettings) -> Revision:
    if (path / "config.json").is_file():
        find_weight_files(path)  # one that is still being written is found out now, not after hours
        return _revision(name, replace(load, model=str(path), revision=None))
    return _revision(name, replace(load, adapter=str(path)))


def _revision(name: str, load: LoadSettings) -> Revision:
    place = _place(name)
    if place is None:
        raise SettingsError(
            f"--revisions {name}: the name does not tell how far the training was: it must be like checkpoint-100 or "
            "train_00220B; NAME=MODEL gives a model such a name"
        )
    return Revision(name=name, at=place[0], unit=place[1], load=load)


def _place(name: str) -> tuple[int, Unit] | None:
    tokens, steps = TOKENS.fullmatch(name), STEPS.fullmatch(name)
    if tokens is not None:
        return int(tokens[1]), "tokens"
    return (int(steps[1]), "steps") if steps is not None else None


def _check(revisions: Iterable[Revision]) -> None:
    seen: dict[int, str] = {}
    units: dict[Unit, str] = {}
    for revision in revisions:
        if revision.at in seen:
            raise SettingsError(f"--revisions: {seen[revision.at]} and {revision.name} are at the same place: name one")
        seen[revision.at] = revision.name
        units[revision.unit] = revision.name
    if len(units) > 1:
        raise SettingsError(
            f"--revisions: {units['tokens']} counts tokens and {units['steps']} steps: one curve needs one of them"
        )


def _point(revision: Revision, result: dict[str, Any]) -> Point:
    interval = result.get("interval")
    known = published_score(result["suite"], revision.at) if revision.unit == "tokens" else None
    return Point(
        revision=revision.name,
        at=revision.at,
        suite=result["suite"],
        title=result.get("title", result["suite"]),
        metric=result.get("metric", "accuracy"),
        recipe=result["recipe"],
        score=result.get("score"),
        interval=None if interval is None else (interval[0], interval[1]),
        chance=result.get("chance"),
        items=result["items"],
        is_partial=bool(result.get("is_partial")),
        published=known if result["recipe"] == "official" else None,
    )
