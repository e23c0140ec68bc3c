"""When held-out data is looked at, and when a run stops because it gets no better there."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from baichuan2.errors import SettingsError
from baichuan2.finetune.arguments import FinetuneArguments
from baichuan2.settings import FinetuneSettings

__all__ = ["EarlyStopping", "arrange_evaluation"]


def arrange_evaluation(
    settings: FinetuneSettings, arguments: FinetuneArguments, *, has_data: bool, note: Callable[[str], None]
) -> None:
    """Sets in `arguments` what evaluation and early stopping need; what is set beyond what was asked for is noted.

    Raises:
        SettingsError: an evaluation is asked for, and there is no held-out data.
    """
    patience = settings.early_stopping_patience
    asks = patience is not None or arguments.eval_strategy != IntervalStrategy.NO or arguments.load_best_model_at_end
    if not has_data:
        if asks:
            reason = "--early-stopping-patience" if patience is not None else "--eval-strategy"
            raise SettingsError(f"{reason} needs held-out data: give --eval-data-path FILE or --eval-fraction 0.1")
        return
    if arguments.eval_strategy == IntervalStrategy.NO:
        by_steps = bool(arguments.eval_steps)
        arguments.eval_strategy = IntervalStrategy.STEPS if by_steps else IntervalStrategy.EPOCH
        when = f"every {arguments.eval_steps:g} steps" if by_steps else "after each epoch"
        note(f"evaluating on the held-out data {when} (--eval-strategy, --eval-steps)")
    arguments.do_eval = True
    if patience is not None:
        _keep_the_best(arguments, patience, note)


def _keep_the_best(arguments: FinetuneArguments, patience: int, note: Callable[[str], None]) -> None:
    arguments.save_strategy = SaveStrategy(arguments.eval_strategy.value)
    if arguments.save_strategy == SaveStrategy.STEPS:
        arguments.save_steps = arguments.eval_steps
    arguments.load_best_model_at_end = True
    arguments.metric_for_best_model = arguments.metric_for_best_model or "loss"
    if arguments.greater_is_better is None:
        arguments.greater_is_better = False
    times = "evaluations" if patience > 1 else "evaluation"
    note(
        f"early stopping: a checkpoint is written at each evaluation, training ends after {patience} {times} without a "
        "better loss, and the best checkpoint becomes the model"
    )


class EarlyStopping(TrainerCallback):
    """Ends a run after `patience` evaluations in a row without a new best value.

    It counts in what was logged, so a run that goes on from a checkpoint counts on as if it had not been interrupted.
    """

    def __init__(self, patience: int, note: Callable[[str], None]) -> None:
        self._patience = patience
        self._note = note

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Asks for the end when it is time."""
        del metrics, kwargs
        name = f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}"
        sign = -1 if args.greater_is_better else 1
        found = [sign * entry[name] for entry in state.log_history if name in entry]
        values = [value if math.isfinite(value) else math.inf for value in found]
        if not values:
            return
        waited = len(values) - 1 - values.index(min(values))
        if waited >= self._patience:
            control.should_training_stop = True
            times = "evaluations" if waited > 1 else "evaluation"
            self._note(f"early stopping: {name} has not become better for {waited} {times}")
