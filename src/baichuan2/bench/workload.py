"""What `baichuan2 bench` measures, checked before anything long begins: precisions, folders, memory, disk."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from baichuan2.bench.random_weights import write_random_model
from baichuan2.bench.turn import Task
from baichuan2.checkpoints.locate import locate
from baichuan2.checkpoints.memory import Place, accelerator, main_memory
from baichuan2.checkpoints.plan import FLOAT_BITS, RELEASED_SHAPES, Estimate, estimate, find_config, make_plan
from baichuan2.devices import pick_device
from baichuan2.errors import CheckpointError, MemoryShortageError, SettingsError
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.quantization.scheme import QuantizationSpec
from baichuan2.settings import BenchmarkSettings, LoadSettings, PlanSettings, QuantizeSettings

__all__ = ["MakeCopy", "Stage", "Variant", "Workload"]

Stage = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]
"""Opened with a name, and "write", "copy" or "turns"; is told how many parts of how many are done."""
MakeCopy = Callable[[QuantizeSettings], object]
"""Writes a quantised copy of a model; `convert.quantize.quantize_checkpoint` does."""
LLAMA = "LLaMA"
OWN = "own"
"""The key of the model's own folder among those that are written."""
OURS = "Baichuan 2"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One line of the tables: a model in one precision, and the task of each of its turns.

    `how`: how the model comes into that precision. `problem`: why it is not measured.
    """

    model: str
    precision: str
    how: str
    task: Task | None
    problem: str | None = None


class Workload:
    """The model, its shape and what of it is measured.

    Attributes:
        name: what to call the model in front of people.
        config: its configuration, with as many layers as are measured.
        released: "7b" or "13b" where it is one of them, whole.

    Raises:
        CheckpointError: there is no such model; as MemoryShortageError, a precision does not fit.
        SettingsError: there is no such device, the model is quantised already, or the context is too short.
    """

    def __init__(self, settings: BenchmarkSettings) -> None:
        self.settings = settings
        self.device = pick_device(settings.device)
        if settings.shape is None:
            given = settings.model or ""
            if given.lower() in RELEASED_SHAPES and not Path(given).exists():
                raise SettingsError(f"{given} names a shape, no model: baichuan2 bench --shape {given.lower()}")
            asked = PlanSettings(model=settings.model, revision=settings.revision, offline=settings.offline)
            self.name, self.config, self.stored, self.spec = find_config(asked)
        else:
            self.config, self.stored, self.spec = BaichuanConfig(**RELEASED_SHAPES[settings.shape]), "bfloat16", None
            self.name = f"Baichuan 2 {settings.shape.upper()}, random weights"
            self._cut(settings.layers)
        self.released = _released(self.config)
        self._check()

    def _cut(self, layers: int | None) -> None:
        """Leaves so many layers of a shape."""
        whole = self.config.num_hidden_layers
        if layers is None or layers == whole:
            return
        if layers > whole:
            raise SettingsError(f"--layers {layers}: {self.settings.shape} has {whole}")
        self.config.num_hidden_layers = layers
        self.name += f", {layers} of {whole} layers"

    def _check(self) -> None:
        tokens, most = self.settings.prompt_tokens + self.settings.new_tokens + 1, self.config.model_max_length
        assert most is not None  # the config fills it in
        if tokens > most:
            raise SettingsError(
                f"--prompt-tokens and --new-tokens are {tokens} together with the first token: {self.name} takes {most}"
            )
        if self.stored is not None and self.stored not in FLOAT_BITS:
            more = [name for name in self.settings.wanted if name != "stored"]
            if more:
                raise SettingsError(
                    f"--precisions {','.join(more)}: {self.name} is quantised already ({self.stored}): measure it as "
                    "stored, or give the model with all its bits"
                )
        if self.settings.check_memory:
            for precision in self.settings.wanted:
                self._check_fits(precision)

    @property
    def sixteen(self) -> str:
        """The name of the 16-bit format."""
        return "float16" if self.stored == "float16" else "bfloat16"

    def _is_stored_in_16(self) -> bool:
        """Whether 16 is what "stored" measures already."""
        return "stored" in self.settings.wanted and self.stored == self.sixteen

    def title(self, precision: str) -> str:
        """What a precision is called in the tables."""
        if precision == "stored":
            return self.stored or "as stored"
        return self.sixteen if precision == "16" else precision

    def _estimate(self, precision: str) -> Estimate:
        spec: QuantizationSpec | None = self.spec if precision == "stored" else None
        named = self.title(precision)
        known = spec.scheme if spec is not None else named if named != "as stored" else self.sixteen
        return estimate(
            self.config,
            known,
            context=self.settings.prompt_tokens + self.settings.new_tokens + 1,
            batch=self.settings.batch,
            head=spec.head if spec is not None else None,
            quantizes_embedding=spec is not None and spec.embedding is not None,
        )

    def _place(self) -> Place:
        return main_memory() if self.device.type == "cpu" else accelerator(str(self.device))

    def _check_fits(self, precision: str) -> None:
        """A model that would be read from disk again for each token is refused as well: its speed is the disk's."""
        place, need = self._place(), self._estimate(precision).total
        if place.free is None or need <= place.free:
            return
        plan = make_plan(
            self.config,
            self.name,
            [place],
            context=self.settings.prompt_tokens + self.settings.new_tokens + 1,
            batch=self.settings.batch,
            stored=self.stored,
            spec=self.spec,
        )
        others = "--layers N for a part of it, " if self.settings.shape is not None else ""
        raise MemoryShortageError(
            f"{self.name} in {self.title(precision)} needs {need / 1e9:.1f} GB on {place.name}, where "
            f"{place.free / 1e9:.1f} GB are free: --precisions for those that fit, {others}"
            "--no-check-memory to try it anyway",
            plan,
        )

    def prepare(self, scratch: Path, make_copy: MakeCopy, stage: Stage) -> list[Variant]:
        """The lines of the tables, with what they need written below `scratch`.

        Raises:
            CheckpointError: the disk has no room.
        """
        self._check_disk(scratch)
        folders: dict[str, Path] = {}
        if self.settings.shape is None:  # fetched now, where it is on the hub: no turn measures the network
            model, revision = self.settings.model, self.settings.revision
            folders[OWN] = locate(model, revision=revision, offline=self.settings.offline)
        wanted = [name for name in self.settings.wanted if name != "16" or not self._is_stored_in_16()]
        variants = [self._variant(name, scratch, folders, make_copy, stage) for name in wanted]
        if self.settings.llama != "none":
            variants.append(self._llama())
        return variants

    def _variant(
        self, precision: str, scratch: Path, folders: dict[str, Path], make_copy: MakeCopy, stage: Stage
    ) -> Variant:
        written, how = self._written(precision), "as stored"
        if written is None:
            folder = folders[OWN]
        elif written in folders:
            folder = folders[written]
        else:
            folder = folders[written] = self._write(written, scratch / written, folders, make_copy, stage)
        load = LoadSettings(
            model=str(folder),
            device=str(self.device),
            threads=self.settings.threads,
            offline=True,
            check_memory=False,  # checked here, for what is measured
        )
        if written is not None:
            how = "random weights" if self.settings.shape is not None else f"quantised to {written}, rounded to nearest"
        elif precision == "16" and self.stored not in (self.sixteen, None):
            load, how = replace(load, dtype="bfloat16"), f"{self.stored}, made bfloat16 while loading"
        if precision in ("int8", "int4") and self.device.type != "cpu":
            load = replace(load, quantize=precision)  # type: ignore[arg-type]
            how += ", by bitsandbytes while loading"
        return Variant(model=OURS, precision=self.title(precision), how=how, task=self._task("baichuan2", asdict(load)))

    def _written(self, precision: str) -> str | None:
        """The format of the folder that has to be made for a precision; None: the model's own will do."""
        is_quantized_while_loading = precision in ("int8", "int4") and self.device.type != "cpu"
        if self.settings.shape is not None:
            return "bfloat16" if precision == "16" or is_quantized_while_loading else precision
        return precision if precision in ("int8", "int4", "nf4") and not is_quantized_while_loading else None

    def _write(self, format: str, folder: Path, folders: dict[str, Path], make_copy: MakeCopy, stage: Stage) -> Path:
        chosen: Any = format
        if self.settings.shape is not None:
            with stage(format, "write") as progress:
                write_random_model(folder, self.config, chosen, progress)
        else:
            with stage(format, "copy"):
                source = str(folders[OWN])
                make_copy(QuantizeSettings(source=source, target=str(folder), format=chosen, method="nearest"))
        return folder

    def _llama(self) -> Variant:
        """A LLaMA of the same shape; left out, with the reason, where it does not fit."""
        numbers = "float32" if self.settings.llama == "float32" else self.sixteen
        place = self._place()
        need = self._estimate("16").weights * FLOAT_BITS[numbers] // 16 + self._estimate("16").cache
        problem = None
        if self.settings.check_memory and place.free is not None and need > place.free:
            problem = f"needs {need / 1e9:.1f} GB, {place.free / 1e9:.1f} GB are free"
        load = {"device": str(self.device), "dtype": numbers, "threads": self.settings.threads}
        return Variant(
            model=LLAMA,
            precision=numbers,
            how="random weights, by transformers",
            task=None if problem is not None else self._task("llama", load),
            problem=problem,
        )

    def _task(self, engine: Literal["baichuan2", "llama"], load: dict[str, Any]) -> Task:
        config = self.config
        shape = {
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "max_position_embeddings": int(config.model_max_length or 4096),
        }
        return Task(
            engine=engine,
            load=load,
            shape=shape,
            prompt_tokens=self.settings.prompt_tokens,
            new_tokens=self.settings.new_tokens,
            batch=self.settings.batch,
        )

    def _check_disk(self, scratch: Path) -> None:
        formats = {self._written(name) for name in self.settings.wanted} - {None}
        need = sum(estimate(self.config, str(format), context=1).weights for format in formats)
        free = shutil.disk_usage(scratch).free
        if need > free:
            raise CheckpointError(
                f"the disk of {scratch} has {free / 1e9:.1f} GB free, {need / 1e9:.1f} GB are needed for models that "
                "are removed afterwards: fewer --precisions, or --scratch on another disk"
            )


def _released(config: BaichuanConfig) -> Literal["7b", "13b"] | None:
    """Which of the released models has this shape, whole."""
    shape = (config.hidden_size, config.num_hidden_layers, config.vocab_size)
    return {(4096, 32, 125_696): "7b", (5120, 40, 125_696): "13b"}.get(shape)  # type: ignore[return-value]
