"""Quality of one model beside another: against loops in float64, in any blocks and batches, and where it must fail."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from baichuan2.bench import quality
from baichuan2.bench.quality import Quality, QualityMeter, compare_logits, compare_models, token_windows
from baichuan2.errors import DataError, QuantizationError
from tests.tiny import FIRST_TEXT_ID, VOCAB_SIZE, tiny_model

LENGTHS = (9, 2, 1, 30, 17, 30)


def make_sequences(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(FIRST_TEXT_ID, VOCAB_SIZE, (length,), generator=generator) for length in LENGTHS]


def make_pair(size: str = "7b") -> tuple[Any, Any]:
    """A model, and the same with every weight of its decoder rounded coarsely."""
    reference, other = tiny_model(size), tiny_model(size)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if "proj" in name or "W_pack" in name:
                step = weight.abs().max() / 12
                weight.copy_((weight / step).round() * step)
    return reference, other


def slow_quality(
    reference: list[np.ndarray], other: list[np.ndarray], sequences: list[Tensor], starts: list[int]
) -> Quality:
    """Every figure from its definition, place by place in float64; logits (T, V) of each sequence."""
    divergences, agree, losses, right = [], [], ([], []), ([], [])
    for p_logits, q_logits, sequence, start in zip(reference, other, sequences, starts, strict=True):
        for place in range(max(0, start - 1), len(sequence) - 1):
            target = int(sequence[place + 1])
            logs = []
            for side, logits in enumerate((p_logits, q_logits)):
                row = logits[place].astype(np.float64)
                log = row - row.max() - math.log(np.exp(row - row.max()).sum())
                logs.append(log)
                losses[side].append(-log[target])
                right[side].append(row.argmax() == target)
            agree.append(logs[0].argmax() == logs[1].argmax())
            divergences.append(float((np.exp(logs[0]) * (logs[0] - logs[1])).sum()))
    ordered = np.sort(divergences)
    return Quality(
        num_tokens=len(divergences),
        kl_mean=float(np.mean(divergences)),
        kl_median=float(np.median(divergences)),
        kl_percentile_99=float(ordered[round(0.99 * len(ordered)) - 1]),
        agreement=float(np.mean(agree)),
        perplexity=math.exp(np.mean(losses[1])),
        accuracy=float(np.mean(right[1])),
        reference_perplexity=math.exp(np.mean(losses[0])),
        reference_accuracy=float(np.mean(right[0])),
    )


@torch.inference_mode()
def whole_logits(model: Any, sequences: list[Tensor]) -> list[np.ndarray]:
    return [model(input_ids=sequence[None]).logits[0].numpy() for sequence in sequences]


def assert_close(measured: Quality, expected: Quality) -> None:
    for name, value in vars(expected).items():
        if name.endswith("_margin"):  # tested below
            continue
        assert getattr(measured, name) == pytest.approx(value, rel=2e-5, abs=1e-7), name


@pytest.mark.parametrize("size", ["7b", "13b"])
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("block", [3 * VOCAB_SIZE, 2**24])
def test_equals_the_definition(size: str, batch_size: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "BLOCK_ELEMENTS", block)
    reference, other = make_pair(size)
    sequences, starts = make_sequences(), [0, 0, 0, 12, 17, 40]
    sides = whole_logits(reference, sequences), whole_logits(other, sequences)
    for given in (None, starts):
        expected = slow_quality(*sides, sequences, given or [0] * len(sequences))
        assert expected.kl_mean > 1e-3
        assert 0.1 < expected.agreement < 1
        assert_close(compare_models(reference, other, sequences, starts=given, batch_size=batch_size), expected)
        for drop in (0, 1):  # logits of all places, or without those of the last one
            rows = [logits[: len(logits) - drop] for logits in sides[1]]
            measured = compare_logits(reference, rows.__getitem__, sequences, starts=given, batch_size=batch_size)
            assert_close(measured, expected)


def test_a_model_beside_itself_loses_nothing() -> None:
    model = tiny_model("7b")
    measured = compare_models(model, model, make_sequences())
    assert measured.kl_mean == measured.kl_percentile_99 == 0
    assert measured.agreement == 1
    assert measured.perplexity == measured.reference_perplexity


def test_the_divergence_is_from_the_reference_to_the_other() -> None:
    """A known pair: KL((1/2, 1/2) || (1/4, 3/4)) = ln 2 - ln 3 / 2; the other direction gives another number."""
    meter = QualityMeter()
    meter.add(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log(), torch.tensor([1]))
    measured = meter.result()
    assert measured.kl_mean == pytest.approx(math.log(2) - math.log(3) / 2, rel=1e-6)
    assert measured.perplexity == pytest.approx(4 / 3)
    assert measured.reference_perplexity == pytest.approx(2)


def test_percentiles() -> None:
    """Divergences 0.00, 0.01, ... 1.99, each made by one place: q = e^-d where p is certain."""
    wanted = torch.arange(200, dtype=torch.float64) / 100
    p = torch.tensor([[0.0, -math.inf]]).expand(200, 2)
    q = torch.stack(((-wanted).exp(), (1 - (-wanted).exp()).clamp_min(1e-30)), dim=1).log().float()
    meter = QualityMeter()
    meter.add(p, q, torch.zeros(200, dtype=torch.long))
    measured = meter.result()
    assert measured.kl_median == pytest.approx(0.995, abs=1e-5)
    assert measured.kl_percentile_99 == pytest.approx(1.97, abs=1e-5)
    assert measured.kl_mean == pytest.approx(0.995, abs=1e-5)


def test_a_token_that_both_rule_out_costs_nothing_and_one_that_only_the_other_does_costs_all() -> None:
    meter = QualityMeter()
    meter.add(torch.tensor([[0.0, 0.0, -math.inf]]), torch.tensor([[0.0, 0.0, -math.inf]]), torch.tensor([0]))
    assert meter.result().kl_mean == 0
    meter.add(torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, -math.inf]]), torch.tensor([0]))
    assert meter.result().kl_mean == math.inf


def test_half_precision_logits_are_compared_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 1000, generator=generator).bfloat16()
    meter = QualityMeter()
    meter.add(logits, (logits.float() + 3).clone(), torch.zeros(50, dtype=torch.long))
    assert meter.result().kl_mean == pytest.approx(0, abs=1e-6)


def test_memory_is_bounded_by_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """No product of the head, and no tensor of the meter, has more elements than a block."""
    monkeypatch.setattr(quality, "BLOCK_ELEMENTS", 4 * VOCAB_SIZE)
    reference, other = make_pair()
    sizes: list[int] = []
    for model in (reference, other):
        model.lm_head.register_forward_hook(lambda _, __, output: sizes.append(output.numel()))
    compare_models(reference, other, make_sequences())
    assert max(sizes) == 4 * VOCAB_SIZE
    assert sum(sizes) == 2 * VOCAB_SIZE * sum(length - 1 for length in LENGTHS)


def test_a_model_without_a_head_of_its_own() -> None:
    """Anything with the framework's forward will do."""

    class Plain(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, input_ids: Tensor) -> Any:
            return self.inner(input_ids=input_ids)

    reference, other = make_pair()
    sequences = make_sequences()
    assert_close(compare_models(Plain(reference), Plain(other), sequences), compare_models(reference, other, sequences))


def test_progress_ends_at_the_total() -> None:
    calls: list[tuple[int, int]] = []
    model = tiny_model("7b")
    compare_models(model, model, make_sequences(), batch_size=2, progress=lambda *args: calls.append(args))
    total = sum(length - 1 for length in LENGTHS)
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


@pytest.mark.parametrize("sequences", [[], [torch.tensor([5])]])
def test_nothing_to_compare(sequences: list[Tensor]) -> None:
    model = tiny_model("7b")
    with pytest.raises(DataError, match="nothing to compare on"):
        compare_models(model, model, sequences)


def test_broken_logits_are_told_in_one_line() -> None:
    reference, other = make_pair()
    sequences = make_sequences()
    with pytest.raises(DataError, match=r"^sequence \d+ has \d+ tokens, but logits of 3 places$"):
        compare_logits(reference, lambda _: np.zeros((3, VOCAB_SIZE), np.float32), sequences)
    with pytest.raises(
        QuantizationError, match=r"^two models are compared over one vocabulary, got logits \(\d+, 512\)"
    ):
        compare_logits(reference, lambda index: np.zeros((LENGTHS[index], 7), np.float32), sequences)
    with torch.no_grad():
        other.model.norm.weight[0] = math.nan
    with pytest.raises(QuantizationError, match=r"^the measured model gives logits that are no numbers$"):
        compare_models(reference, other, sequences)
    with pytest.raises(QuantizationError, match=r"^the reference model gives logits that are no numbers$"):
        compare_models(other, reference, sequences)
    with pytest.raises(DataError, match=r"^starts must be a count for each of the 6 sequences, got 1$"):
        compare_models(reference, reference, sequences, starts=[0])


class Characters:
    """A tokenizer of one id for each character."""

    def encode_text(self, text: str) -> list[int]:
        return [ord(character) for character in text]


def test_windows_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("春眠不觉晓处处闻啼鸟", encoding="utf-8")
    windows = token_windows(Characters(), path, length=4)
    assert ["".join(map(chr, window.tolist())) for window in windows] == ["春眠不觉", "晓处处闻", "啼鸟"]
    assert all(window.dtype == torch.int64 for window in windows)
    assert [len(window) for window in token_windows(Characters(), path, length=4, limit=7)] == [4, 3]
    assert [len(window) for window in token_windows(Characters(), path, length=3)] == [3, 3, 3]


def test_texts_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    with pytest.raises(DataError, match="cannot be read: No such file"):
        token_windows(Characters(), path, length=4)
    path.write_bytes(b"abc\xff")
    with pytest.raises(DataError, match=r"is no UTF-8 text \(byte 3\)$"):
        token_windows(Characters(), path, length=4)
    path.write_text("a", encoding="utf-8")
    with pytest.raises(DataError, match=r"holds too little text: two tokens at least are needed, got 1$"):
        token_windows(Characters(), path, length=4)
    with pytest.raises(DataError, match="a window needs at least two tokens"):
        token_windows(Characters(), path, length=1)


def test_margins_are_the_spread_over_sequences() -> None:
    """Five sequences whose places are all alike: as many independent values as there are sequences."""
    wanted = [0.1, 0.2, 0.6, 0.3, 0.4]
    meter = QualityMeter()
    for value in wanted:
        p = torch.tensor([[0.0, -math.inf]]).expand(50, 2)
        q = torch.tensor([[-value, math.log(1 - math.exp(-value))]]).expand(50, 2)
        meter.add(p, q, torch.zeros(50, dtype=torch.long))
        meter.add_groups([50])
    measured = meter.result()
    expected = 2.776 * np.std(wanted, ddof=1) / math.sqrt(5)  # Student's distribution with four degrees of freedom
    assert measured.kl_margin == pytest.approx(expected, rel=0.02)
    assert measured.loss_margin == pytest.approx(measured.kl_margin, rel=1e-5)


def test_one_sequence_has_no_margin() -> None:
    model = tiny_model("7b")
    assert compare_models(model, model, make_sequences()[:1]).kl_margin is None
    assert compare_models(model, model, make_sequences()).kl_margin == 0
