"""Turns what the framework calls back into what a `Watcher` is told, and into the loss curve in the output folder."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from baichuan2.finetune.loss_curve import LossCurve
from baichuan2.finetune.watching import Evaluation, Pace, Progress, RunStart, Watcher

if TYPE_CHECKING:
    from baichuan2.finetune.trainer import BaichuanTrainer

SHOWN_BY_NAME = frozenset({"loss", "learning_rate", "epoch", "step", "num_input_tokens_seen"})
TECHNICAL = ("_runtime", "_samples_per_second", "_steps_per_second", "_tokens_per_second")


class Telling(TrainerCallback):
    """Tells `watcher` of each step, line of the log, evaluation and checkpoint, and keeps the loss curve."""

    def __init__(self, trainer: "BaichuanTrainer", watcher: Watcher) -> None:
        self.watcher = watcher
        self._trainer = trainer
        self.pace = Pace()
        self._loss = 0.0
        self._speed = 0.0
        self._curve: LossCurve | None = None
        self._evaluation_started: float | None = None
        self._num_evaluated = 0
        self.last_evaluation: Evaluation | None = None

    def step_done(self, *, loss: float, num_tokens: int) -> None:
        """Loss and tokens of the step that ends now, of all processes."""
        self._loss = loss
        self._speed = self.pace.step(num_tokens)

    def saved(self, folder: Path) -> None:
        """A checkpoint is whole."""
        self.pace.resume()
        self.watcher.saved(folder)
        if self._curve is not None:
            self._curve.draw()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What lies before the run."""
        del control, kwargs
        self.pace = Pace()
        parameters = list(self._trainer.model.parameters())
        dataset = self._trainer.train_dataset
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self.watcher.started(
            RunStart(
                num_steps=state.max_steps,
                first_step=state.global_step,
                num_examples=len(dataset) if hasattr(dataset, "__len__") else None,
                num_trained=sum(_num_values(item) for item in parameters if item.requires_grad),
                num_parameters=sum(map(_num_values, parameters)),
                checkpoint=checkpoint if state.global_step else None,
            )
        )
        if args.should_save:
            self._curve = LossCurve(Path(args.output_dir), state.log_history, self.watcher.note)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step is done."""
        del args, control, kwargs
        self.watcher.stepped(self._progress(state, self._loss, self._speed, self._trainer._get_learning_rate(), {}))

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """The framework logs losses, or how an evaluation or the run went."""
        del args, control, kwargs
        if logs is None:
            return
        if "loss" in logs:
            others = {name: value for name, value in logs.items() if name not in SHOWN_BY_NAME}
            speed = self.pace.tokens_per_second
            self.watcher.logged(self._progress(state, float(logs["loss"]), speed, logs.get("learning_rate"), others))
        if self._curve is not None and ("loss" in logs or "eval_loss" in logs):
            self._curve.add({**logs, "step": state.global_step})

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A held-out batch is done."""
        del args, state, control
        if self._evaluation_started is None:
            self._evaluation_started, self._num_evaluated = time.monotonic(), 0
        self._num_evaluated += 1
        loader: Any = kwargs.get("eval_dataloader")
        self.watcher.evaluating(self._num_evaluated, len(loader) if hasattr(loader, "__len__") else None)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An evaluation is done."""
        del args, control
        metrics: Mapping[str, float] = kwargs.get("metrics") or {}
        started, self._evaluation_started = self._evaluation_started, None
        self.pace.resume()
        if "eval_loss" not in metrics:
            return
        loss = metrics["eval_loss"]
        before = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
        self.last_evaluation = Evaluation(
            step=state.global_step,
            num_steps=state.max_steps,
            loss=loss,
            perplexity=metrics.get("eval_perplexity"),
            is_best=loss <= min(before, default=loss),
            seconds=time.monotonic() - started if started is not None else 0.0,
            others={
                name.removeprefix("eval_"): value
                for name, value in metrics.items()
                if name not in ("eval_loss", "eval_perplexity", "epoch") and not name.endswith(TECHNICAL)
            },
        )
        self.watcher.evaluated(self.last_evaluation)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The curve once more."""
        del args, state, control, kwargs
        if self._curve is not None:
            self._curve.draw(is_last=True)

    def _progress(
        self, state: Any, loss: float, speed: float, learning_rate: float | None, others: Mapping[str, float]
    ) -> Progress:
        return Progress(
            step=state.global_step,
            num_steps=state.max_steps,
            epoch=state.epoch or 0.0,
            loss=loss,
            learning_rate=learning_rate,
            tokens_per_second=speed,
            seconds_left=self.pace.seconds_left(state.max_steps - state.global_step),
            others=others,
        )


def _num_values(parameter: Any) -> int:
    """Values of a parameter, also where DeepSpeed has spread it; of weights in few bits those that they stand for."""
    count = getattr(parameter, "ds_numel", parameter.numel())
    is_packed = type(parameter).__name__ == "Params4bit"
    return int(count * 2 if is_packed else count)
