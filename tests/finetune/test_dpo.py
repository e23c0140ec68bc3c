import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from baichuan2.errors import SettingsError, TrainingError
from baichuan2.finetune.arguments import read_training_arguments
from baichuan2.finetune.dpo import REFERENCE_FILE, DPOTrainer, dpo_losses, reply_logprobs
from baichuan2.finetune.reference import collate_pairs
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from baichuan2.settings import FinetuneSettings
from tests.oracle.decoder import OracleShape
from tests.oracle.preference import dpo_loss, reply_logprob
from tests.tiny import SIZES, Size, random_ids, tiny_model

IGNORED = -100


class Pairs(Dataset[dict[str, Any]]):
    """Pairs of random replies of different lengths to random prompts of three tokens."""

    def __init__(self, count: int, first: int = 0) -> None:
        self.numbers = range(first, first + count)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = self.numbers[index]
        prompt = random_ids(1, 3, seed=3 * number)[0].tolist()
        item = {}
        for kind, length, seed in (("chosen", 3 + number % 4, 1), ("rejected", 5 - number % 3, 2)):
            reply = random_ids(1, length, seed=3 * number + seed)[0].tolist()
            item[f"{kind}_input_ids"] = prompt + reply
            item[f"{kind}_labels"] = [IGNORED] * len(prompt) + reply
        return item

    def origins(self, index: int) -> list[str]:
        return [f"pairs.jsonl, line {self.numbers[index] + 1}"]


def nudged(model: BaichuanForCausalLM, seed: int = 5) -> BaichuanForCausalLM:
    """A copy whose weights have moved a little, as after some training."""
    moved = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in moved.parameters():
            weight.add_(0.05 * weight.std() * torch.randn(weight.shape, generator=generator))
    return moved


def oracle_logprobs(model: BaichuanForCausalLM, item: dict[str, Any]) -> tuple[float, float]:
    config = model.config
    shape = OracleShape(config.num_hidden_layers, config.num_attention_heads, config.position_embedding)
    state = model.state_dict()
    chosen, rejected = (
        reply_logprob(state, item[f"{kind}_input_ids"], item[f"{kind}_labels"], shape)
        for kind in ("chosen", "rejected")
    )
    return chosen, rejected


def trainer(
    model: Any, pairs: Pairs, directory: Path, *flags: str, evaluation: Pairs | None = None, **settings: Any
) -> DPOTrainer:
    arguments = read_training_arguments(
        [
            "--output_dir",
            str(directory),
            "--report_to",
            "none",
            "--logging_steps",
            "1",
            "--disable_tqdm",
            "True",
            *flags,
        ]
    )
    return DPOTrainer(
        settings=FinetuneSettings(objective="dpo", **settings),
        data_directory=directory / "data",
        model=model,
        args=arguments,
        train_dataset=pairs,
        eval_dataset=evaluation,
    )


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("size", SIZES)
def test_losses_are_those_of_the_paper_s_equation(size: Size, tmp_path: Path) -> None:
    reference = tiny_model(size)
    policy = nudged(reference).train()
    items = list(map(Pairs(3).__getitem__, range(3 if size == "7b" else 1)))  # the oracle is slow
    before = [oracle_logprobs(reference, item) for item in items]
    learner = trainer(policy, Pairs(3), tmp_path, dpo_beta=0.3, dpo_label_smoothing=0.1)
    batch = [{**item, "reference_logprobs": torch.tensor(pair)} for item, pair in zip(items, before, strict=True)]
    loss = learner.compute_loss(policy, collate_pairs(batch))

    after = [oracle_logprobs(policy, item) for item in items]
    expected = [dpo_loss(pair, old, beta=0.3, flipped=0.1) for pair, old in zip(after, before, strict=True)]
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-4)


def test_gradient_is_the_paper_s(tmp_path: Path) -> None:
    """Paper, section 4: beta times sigmoid(rejected reward - chosen reward) times the difference of two gradients."""
    reference = tiny_model("7b")
    policy = nudged(reference).train()
    pairs, beta = Pairs(1), 0.3
    learner = trainer(policy, pairs, tmp_path, dpo_beta=beta)
    wrapped = learner._pairs["training"]
    wrapped.values[0] = torch.tensor(oracle_logprobs(reference, pairs[0]))
    learner.compute_loss(policy, collate_pairs([wrapped[0]])).backward()
    found = {name: weight.grad.clone() for name, weight in policy.named_parameters()}

    gradients, rewards = [], []
    for kind, before in zip(("chosen", "rejected"), wrapped.values[0].tolist(), strict=True):
        policy.zero_grad()
        ids = torch.tensor([pairs[0][f"{kind}_input_ids"]])
        labels = torch.tensor(pairs[0][f"{kind}_labels"])
        steps = policy.eval()(input_ids=ids).logits[0].log_softmax(-1)
        total = sum(steps[place - 1, labels[place]] for place in range(1, len(labels)) if labels[place] != IGNORED)
        total.backward()
        gradients.append({name: weight.grad.clone() for name, weight in policy.named_parameters()})
        rewards.append(beta * (total.item() - before))
    factor = -beta * torch.sigmoid(torch.tensor(rewards[1] - rewards[0])).item()
    for name, gradient in found.items():
        expected = factor * (gradients[0][name] - gradients[1][name])
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def test_the_chosen_reply_s_own_loss_is_added(tmp_path: Path) -> None:
    model = tiny_model("7b").train()
    learner = trainer(model, Pairs(2), tmp_path, dpo_sft_weight=0.5)
    wrapped = learner._pairs["training"]
    wrapped.values.zero_()
    batch = collate_pairs([wrapped[0], wrapped[1]])
    plain = trainer(model, Pairs(2), tmp_path).compute_loss(model, batch)
    policy = reply_logprobs(model, batch)
    lengths = [sum(label != IGNORED for label in Pairs(2)[index]["chosen_labels"]) for index in range(2)]
    own = sum(-policy[index, 0].item() / lengths[index] for index in range(2)) / 2
    assert learner.compute_loss(model, batch).item() == pytest.approx(plain.item() + 0.5 * own, rel=1e-5)


def test_losses_of_extreme_pairs_are_finite() -> None:
    reference = torch.zeros(2, 2)
    policy = torch.tensor([[0.0, -1e5], [-1e5, 0.0]], requires_grad=True)
    losses = dpo_losses(policy, reference, beta=0.1)
    losses.sum().backward()
    assert losses[0].item() == 0.0
    assert losses[1].item() == pytest.approx(1e4)
    assert policy.grad is not None
    assert torch.isfinite(policy.grad).all()


def test_accumulated_batches_weigh_each_pair_the_same(tmp_path: Path) -> None:
    """Five pairs as 2 + 2 + 1 must give the step of all five at once."""
    results = []
    for size, accumulation in ((2, 3), (5, 1)):
        model = tiny_model("7b")
        flags = ["--per_device_train_batch_size", str(size), "--gradient_accumulation_steps", str(accumulation)]
        flags += ["--max_steps", "1", "--optim", "sgd", "--learning_rate", "0.5", "--save_strategy", "no"]
        flags += ["--max_grad_norm", "0"]
        trainer(model, Pairs(5), tmp_path / str(size), *flags).train()
        results.append(weights(model))
    before = weights(tiny_model("7b"))
    for name, weight in results[0].items():
        torch.testing.assert_close(weight, results[1][name], rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(weight, before[name]) for name, weight in results[0].items())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("has_adapters", [False, True])
def test_training_starts_without_preference_and_gains_one(has_adapters: bool, tmp_path: Path) -> None:
    """The first step's rewards are zero, so its loss is ln 2: reference and model agree, dropout included."""
    model: Any = tiny_model("7b")
    if has_adapters:
        from peft import LoraConfig, get_peft_model

        model.enable_input_require_grads()
        model = get_peft_model(model, LoraConfig(target_modules=["W_pack"], r=4, lora_dropout=0.5))
    learner = trainer(
        model, Pairs(4), tmp_path, "--max_steps", "12", "--learning_rate", "3e-3", "--save_strategy", "no"
    )
    learner.train()
    logged = [entry for entry in learner.state.log_history if "rewards/margins" in entry]
    assert logged[0]["loss"] == pytest.approx(0.6931472, abs=1e-5)
    assert logged[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
    assert logged[-1]["rewards/margins"] > 0.2
    assert logged[-1]["rewards/accuracies"] == 1.0
    assert logged[-1]["loss"] < 0.6
    difference = logged[-1]["rewards/chosen"] - logged[-1]["rewards/rejected"]
    assert logged[-1]["rewards/margins"] == pytest.approx(difference, abs=1e-5)


def test_evaluation_counts_each_pair_once(tmp_path: Path) -> None:
    model = tiny_model("7b")
    flags = [
        "--max_steps",
        "4",
        "--learning_rate",
        "1e-3",
        "--save_strategy",
        "no",
        "--per_device_eval_batch_size",
        "2",
    ]
    held_out = Pairs(5, first=40)
    learner = trainer(model, Pairs(4), tmp_path, *flags, "--eval_strategy", "epoch", evaluation=held_out)
    learner.train()
    found = learner.evaluate()

    reference = learner._pairs["evaluation"].values
    with torch.no_grad():
        batch = collate_pairs([learner._pairs["evaluation"][index] for index in range(5)])
        policy = reply_logprobs(model.eval(), batch)
        start = reply_logprobs(tiny_model("7b"), batch)
    torch.testing.assert_close(reference, start, rtol=1e-5, atol=1e-4)
    losses = dpo_losses(policy, reference, beta=0.1)
    margins = 0.1 * ((policy - reference)[:, 0] - (policy - reference)[:, 1])
    assert found["eval_loss"] == pytest.approx(losses.mean().item(), abs=1e-5)
    assert found["eval_rewards/margins"] == pytest.approx(margins.mean().item(), abs=1e-5)
    assert found["eval_rewards/accuracies"] == pytest.approx((margins > 0).float().mean().item())
    assert "eval_perplexity" not in found


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """The folder of a whole run, and the weights at its end."""
    folder, model = tmp_path_factory.mktemp("straight"), tiny_model("7b")
    trainer(model, Pairs(5), folder, *TestGoingOn.FLAGS).train()
    return folder, weights(model)


@pytest.fixture
def folder(straight: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(straight[0], tmp_path / "run"))


class TestGoingOn:
    FLAGS = ("--per_device_train_batch_size", "2", "--save_steps", "3", "--learning_rate", "1e-3", "--max_steps", "7")

    def go_on(self, folder: Path, pairs: Pairs) -> dict[str, torch.Tensor]:
        model = tiny_model("7b")
        resumed = trainer(model, pairs, folder, *self.FLAGS)
        resumed.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
        return weights(model)

    def test_a_resumed_run_ends_with_the_same_weights(
        self, straight: tuple[Path, dict[str, torch.Tensor]], folder: Path
    ) -> None:
        resumed = self.go_on(folder, Pairs(5))
        for name, weight in straight[1].items():
            assert torch.equal(weight, resumed[name]), name

    def test_a_lost_reference_is_not_computed_from_the_trained_model(self, folder: Path) -> None:
        (folder / "data" / REFERENCE_FILE).unlink()
        with pytest.raises(TrainingError, match=r"cannot be read from .*reference\.safetensors .*start the run anew"):
            self.go_on(folder, Pairs(5))

    def test_a_damaged_reference_is_told(self, folder: Path) -> None:
        (folder / "data" / REFERENCE_FILE).write_bytes(b"\x00" * 40)
        with pytest.raises(TrainingError, match="cannot be read from"):
            self.go_on(folder, Pairs(5))

    def test_the_reference_of_other_pairs_is_refused(self, folder: Path) -> None:
        with pytest.raises(TrainingError, match="belongs to other training pairs"):
            self.go_on(folder, Pairs(5, first=20))


@pytest.mark.parametrize("order", ["group_by_length", "batch_rebalance"])
def test_pairs_are_neither_ordered_by_length_nor_packed(order: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"--train-sampling-strategy {order}: a pair has two lengths"):
        trainer(tiny_model("7b"), Pairs(4), tmp_path, "--train_sampling_strategy", order)
    with pytest.raises(SettingsError, match="--packing is for conversations and text"):
        FinetuneSettings(objective="dpo", packing=True)
