"""What a release is to this machine: which precisions of it fit, and whether it lies here already."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from baichuan2.checkpoints.from_huggingface import HuggingFace
from baichuan2.checkpoints.hub_cache import weights_of
from baichuan2.checkpoints.locate import DEMO_MODELS, locate
from baichuan2.checkpoints.memory import Place
from baichuan2.checkpoints.plan import RELEASED_SHAPES, Plan, find_config, make_plan
from baichuan2.checkpoints.releases import Release
from baichuan2.errors import CheckpointError
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.settings import PlanSettings

__all__ = ["ReleaseState", "cache_state", "release_states"]

Here = Literal["yes", "part", "no", "embedded"]

# what is shown of a release in 16 bits, and of one whose files have 4 already
SHOWN = {"bfloat16": ("bfloat16", "int8", "int4"), "nf4": ("nf4",)}


@dataclass(frozen=True)
class ReleaseState:
    """A release, whether it is here, where, and how its precisions fit: place -> precision -> verdict."""

    release: Release
    here: Here
    path: Path | None
    fits: dict[str, dict[str, str]]
    size: int | None
    parameters: int
    vocabulary: int
    context: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; sizes in bytes."""
        release = self.release
        return {
            "name": release.name,
            "huggingface": release.repo,
            "revision": release.revision,
            "modelscope": release.modelscope,
            "also_called": list(release.spellings[1:]),
            "generation": release.generation,
            "kind": release.kind,
            "stored": release.stored,
            "parameters": self.parameters,
            "vocabulary": self.vocabulary,
            "context": self.context,
            "tokens_in_billions": release.tokens,
            "bytes": self.size,
            "files": [{"name": file.name, "bytes": file.size, "sha256": file.sha256} for file in release.files],
            "tokenizer_sha256": release.tokenizer_sha256,
            "licence": release.licence,
            "here": self.here,
            "path": None if self.path is None else str(self.path),
            "fits": self.fits,
        }


def release_states(releases: Sequence[Release], places: Sequence[Place]) -> list[ReleaseState]:
    """The state of each of `releases` beside the memory of `places`; nothing is downloaded."""
    plans: dict[tuple[str, int], Plan] = {}
    states = []
    for release in releases:
        if release.repo is None:
            states.append(_embedded(release, places))
            continue
        key = (release.shape, release.vocabulary)
        if key not in plans:
            config = BaichuanConfig(**RELEASED_SHAPES[release.shape], vocab_size=release.vocabulary)
            plans[key] = make_plan(config, release.name, places, stored="bfloat16")
        here, path = cache_state(release)
        states.append(
            ReleaseState(
                release,
                here,
                path,
                _fits(plans[key], SHOWN[release.stored]),
                release.size,
                release.parameters,
                release.vocabulary,
                release.context,
            )
        )
    return states


def _embedded(release: Release, places: Sequence[Place]) -> ReleaseState:
    try:
        folder = locate(release.name)
        _, config, stored, _ = find_config(PlanSettings(model=release.name))
    except CheckpointError:  # an installation without them
        return ReleaseState(release, "no", None, {}, None, 0, release.vocabulary, 0)
    from baichuan2.model.cost import num_parameters

    parts = num_parameters(config)
    plan = make_plan(config, release.name, places, stored=stored)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    shown = SHOWN["bfloat16"]
    count = parts.embedding + parts.attention + parts.mlp + parts.norms + parts.head
    context = config.model_max_length or 0
    return ReleaseState(release, "embedded", folder, _fits(plan, shown), size, count, config.vocab_size, context)


def _fits(plan: Plan, precisions: Sequence[str]) -> dict[str, dict[str, str]]:
    """Place -> precision -> verdict."""
    found: dict[str, dict[str, str]] = {place.name: {} for place in plan.places}
    for item, row in zip(plan.estimates, plan.fits, strict=True):
        # a model whose files are float16 has that in the place of bfloat16
        precision = "bfloat16" if item.precision == "float16" else item.precision
        if precision in precisions:
            for place, fit in zip(plan.places, row, strict=True):
                found[place.name][precision] = fit.verdict
    return found


def cache_state(release: Release) -> tuple[Here, Path | None]:
    """Whether the cache of Hugging Face holds a release: all files of weights, some, or none; and where."""
    if release.repo is None:
        return ("embedded", None) if release.name in DEMO_MODELS else ("no", None)
    storage = HuggingFace(release.repo, release.revision, None).storage()
    try:
        commit = (storage / "refs" / (release.revision or "main")).read_text(encoding="utf-8").strip()
        folder = storage / "snapshots" / commit
        names = {path.name for path in folder.iterdir() if path.is_file()}
        has_part = any((storage / "blobs").glob("*.incomplete"))
    except (OSError, ValueError):
        return "no", None
    weights = weights_of(folder)
    if weights and weights <= names:
        return "yes", folder
    return ("part" if weights & names or has_part else "no"), folder
