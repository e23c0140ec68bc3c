"""Direct preference optimisation (arXiv 2305.18290): of two replies to a prompt the model learns to prefer one.

The batch is one pass of 2B rows, chosen replies first. What it is compared with, the model as it was before the first
step, is `reference.py`'s.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from transformers import TrainerCallback

from baichuan2.devices import wide_dtype
from baichuan2.errors import SettingsError
from baichuan2.finetune.reference import PairsWithReference, collate_pairs, read_reference, write_reference
from baichuan2.finetune.trainer import BaichuanTrainer
from baichuan2.model.loss import IGNORED_LABEL
from baichuan2.settings import FinetuneSettings

REFERENCE_FILE = "reference.safetensors"
BY_LENGTH = ("group_by_length", "batch_rebalance")
"""Orders of the data for which the framework asks each item for its one length."""
METRICS = (
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)


def dpo_losses(policy: Tensor, reference: Tensor, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """The loss of each pair, (B,): -log sigmoid of beta times how much more the model prefers the chosen reply (eq. 7).

    `policy` and `reference` (B, 2) are log-probabilities of whole replies, the chosen one's first, by the model and by
    the one that it started from. `label_smoothing` is how often the pairs are believed to be the wrong way round.
    """
    ratios = policy - reference
    preference = beta * (ratios[:, 0] - ratios[:, 1])
    return -(1 - label_smoothing) * F.logsigmoid(preference) - label_smoothing * F.logsigmoid(-preference)


def reply_logprobs(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Log-probabilities (B, 2) float32 of the labelled tokens of `batch`, 2B rows: chosen reply, rejected."""
    inputs = {name: value for name, value in batch.items() if name != "reference_logprobs"}
    return model(**inputs, return_logprobs=True).logprobs.view(2, -1).T


class _Sums:
    """Sums of the metrics over pairs, kept on the device until somebody reads them."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, losses: Tensor, policy: Tensor, reference: Tensor, beta: float) -> None:
        """Adds pairs: their losses (B,) and log-probabilities (B, 2)."""
        rewards = beta * (policy - reference)
        margins = rewards[:, 0] - rewards[:, 1]
        columns = [losses, *rewards.unbind(1), margins > 0, margins, *policy.unbind(1), torch.ones_like(losses)]
        values = torch.stack([column.detach().to(wide_dtype(column.device)).sum() for column in columns])
        self.total = values if self.total is None else self.total + values


class _ReferenceFirst(TrainerCallback):
    """Computes the reference when the model is ready, spread over devices as it may be, and before it changes."""

    def __init__(self, trainer: "DPOTrainer") -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, control, kwargs
        self._trainer.prepare_reference(is_resumed=state.global_step > 0)


class DPOTrainer(BaichuanTrainer):
    """Trains a model on preference pairs, items with `chosen_input_ids`, `chosen_labels` and the same of `rejected`.

    Logs the rewards of both replies (beta times how much likelier the model has made them), how often the chosen one's
    is larger (`rewards/accuracies`), the difference (`rewards/margins`) and the log-probabilities themselves.
    """

    def __init__(self, *, settings: FinetuneSettings, data_directory: Path, **kwargs: Any) -> None:
        datasets = {}
        for name, argument in (("training", "train_dataset"), ("evaluation", "eval_dataset")):
            if kwargs.get(argument) is not None:
                datasets[name] = kwargs[argument] = PairsWithReference(kwargs[argument])
        self._pairs: dict[str, PairsWithReference] = datasets
        self._settings = settings
        self._reference_path = data_directory / REFERENCE_FILE
        self._pair_sums = {"train": _Sums(), "eval": _Sums()}
        order = kwargs["args"].train_sampling_strategy
        if order in BY_LENGTH:
            raise SettingsError(f"--train-sampling-strategy {order}: a pair has two lengths, leave it out")
        kwargs["args"].remove_unused_columns = False  # no field of a pair has the name of an input of the model
        super().__init__(**{**kwargs, "data_collator": collate_pairs})
        self.label_names = ["labels"]
        if settings.lora_dropout is None:
            # the reference is computed without dropout: with it, rewards would be noise before the first step
            for module in self.model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        self.add_callback(_ReferenceFirst(self))

    def prepare_reference(self, *, is_resumed: bool) -> None:
        """Gives all pairs their reference: computed with the model as it is, or read where a run goes on."""
        if is_resumed:
            read_reference(self._reference_path, self._pairs)
            return
        for dataset in self._pairs.values():
            dataset.values.copy_(self._computed_reference(dataset))
        if self.args.local_process_index == 0:
            write_reference(self._reference_path, self._pairs)

    @torch.no_grad()
    def _computed_reference(self, dataset: PairsWithReference) -> Tensor:
        """Log-probabilities (N, 2) of all pairs by the present model, each process computing its share."""
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        world, rank = self.args.world_size, self.args.process_index
        num_rounds = -(-len(dataset) // world)  # as many on each process: sharded weights are gathered by all at once
        own = [min(index * world + rank, len(dataset) - 1) for index in range(num_rounds)]
        loader = DataLoader(Subset(dataset, own), batch_size=self.args.eval_batch_size, collate_fn=collate_pairs)
        parts = []
        for batch in loader:
            with self.compute_loss_context_manager():
                parts.append(reply_logprobs(model, self._prepare_inputs(batch)))
        model.train(was_training)
        values = torch.cat(parts)
        if world == 1:
            return values.cpu()
        gathered = self.accelerator.gather(values.contiguous()).view(world, num_rounds, 2)
        return gathered.transpose(0, 1).reshape(-1, 2)[: len(dataset)].cpu()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The mean loss of the pairs; given `num_items_in_batch`, pairs of an accumulated batch, their part."""
        losses, policy = self._losses(model, inputs, kind="train")
        if num_items_in_batch is None:
            loss = losses.mean()
        else:
            loss = losses.sum() / num_items_in_batch
            if self.args.average_tokens_across_devices:  # whose gradients are averaged over processes afterwards
                loss = loss * self.accelerator.num_processes
        return (loss, {"logprobs": policy}) if return_outputs else loss

    def _losses(self, model: nn.Module, inputs: dict[str, Any], kind: str, num_pairs: int | None = None) -> Any:
        """The losses (B,) and log-probabilities (B, 2) of a batch, of which the first `num_pairs` are counted."""
        policy = reply_logprobs(model, inputs)
        reference = inputs["reference_logprobs"].to(policy)
        settings = self._settings
        losses = dpo_losses(policy, reference, beta=settings.dpo_beta, label_smoothing=settings.dpo_label_smoothing)
        if settings.dpo_sft_weight > 0:
            num_tokens = (inputs["labels"][:, 1:] != IGNORED_LABEL).sum(1)[: len(losses)].clamp(min=1)
            losses = losses - settings.dpo_sft_weight * policy[:, 0] / num_tokens
        self._pair_sums[kind].add(losses[:num_pairs], policy[:num_pairs], reference[:num_pairs], settings.dpo_beta)
        return losses, policy

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | int | None:
        """Pairs, not tokens: each weighs the same, also in an epoch's last batch, which has fewer."""
        if not batch_samples:
            return None
        count = torch.tensor(sum(len(batch["reference_logprobs"]) for batch in batch_samples), device=device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            count = self.accelerator.gather(count).sum()
        return count

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The mean loss of a batch of pairs; a pair that only fills up the last one counts nothing."""
        del prediction_loss_only, ignore_keys
        inputs = self._prepare_inputs(inputs)
        num_pairs, state = len(inputs["reference_logprobs"]), self.accelerator.gradient_state
        if self.args.world_size > 1 and state.end_of_dataloader and state.remainder > 0:
            num_pairs = min(max(state.remainder - self.args.process_index * num_pairs, 0), num_pairs)
        with torch.no_grad(), self.compute_loss_context_manager():
            losses, _ = self._losses(model, inputs, "eval", num_pairs)
        return losses.mean().detach(), None, None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """The framework's, with the metrics of the pairs beside the loss."""
        self._pair_sums["eval"] = _Sums()
        result = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        result.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in self._means("eval").items()})
        return result

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The framework's, with the metrics of the pairs learnt since the last time beside a training loss."""
        if "loss" in logs:
            logs.update({**self._means("train"), "loss": logs["loss"]})
        super().log(logs, *args, **kwargs)

    def _means(self, kind: str) -> dict[str, float]:
        total = self._pair_sums[kind].total
        self._pair_sums[kind] = _Sums()
        if total is None:
            return {}
        *sums, count = self.accelerator.reduce(total, "sum").tolist()
        return {name: value / count for name, value in zip(METRICS, sums, strict=True)}
