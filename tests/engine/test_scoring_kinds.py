"""Scores of all kinds of models: few bits, half precision, adapters, the released rounding, the plain network."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from baichuan2.checkpoints.load import load_for_replies, load_model
from baichuan2.engine.scoring import ScoringRequest, score
from baichuan2.errors import GenerationError
from baichuan2.model.norm_head import OutputHead
from baichuan2.model.plain import PlainBaichuan
from baichuan2.model.quantizer import quantize_model
from baichuan2.quantization.scheme import QuantizationSpec
from baichuan2.settings import LoadSettings
from tests.engine.adapted import with_adapters
from tests.tiny import SIZES, Size, random_ids, tiny_model

GOLDEN = Path(__file__).parents[1] / "golden"
CLOSE = 5e-5
# what is rounded otherwise in a longer row is carried on by the layers: units of a logit of 5 to 10
HALF = {torch.bfloat16: 2**-3, torch.float16: 2**-6}
SPECS = {
    "int8": QuantizationSpec(format="int8", group_size=0),
    "int8, head and table": QuantizationSpec(format="int8", group_size=64, head="int8", embedding="int8"),
    "int4": QuantizationSpec(format="int4", group_size=32),
    "int4, head": QuantizationSpec(format="int4", group_size=64, head="int4"),
    "nf4": QuantizationSpec(format="nf4", group_size=64, weight_dtype="float32"),
}
KINDS: dict[str, Callable[[Any], Any]] = {
    **{name: lambda model, spec=spec: quantize_model(model, spec) or model for name, spec in SPECS.items()},
    "adapters": lambda model: chosen(with_adapters(model), 1),
}


def chosen(model: Any, number: int) -> Any:
    model.row_adapters.default = number
    return model


def requests_of(length: int = 70) -> list[ScoringRequest]:
    """Few-shot prompts of two subjects; together more than our kernels take at once."""
    ids = [random_ids(1, length, seed=seed)[0].tolist() for seed in range(5)]
    letters = tuple((letter,) for letter in range(210, 214))
    some, most = ids[0][: length // 2], ids[1][: 3 * length // 4]
    prompts = [some + ids[2][:9], some + ids[3][: length // 3], most + ids[4][: length // 5], most]
    return [ScoringRequest(tuple(prompt), (*letters, (210, 215))) for prompt in prompts]


def assert_as_alone(model: Any, close: float, **options: Any) -> None:
    """With or without the whole head, each number is that of one pass over one text."""
    requests = requests_of(min(70, model.config.model_max_length - 4))
    whole = dict(score(model, requests, logprobs=True, **options))
    letters = dict(score(model, requests, **options))
    for index, request in enumerate(requests):
        last = len(request.prompt_ids) - 1
        with torch.inference_mode():
            rows = model(input_ids=torch.tensor([(*request.prompt_ids, 210)])).logits[0].float()  # (T, V)
        logs = rows.log_softmax(dim=-1)
        wanted = [float(rows[last, ids[0]]) for ids in request.candidates]
        assert whole[index].logits == pytest.approx(wanted, abs=close)
        assert letters[index].logits == pytest.approx(wanted, abs=close)
        wanted = [float(logs[last, ids[0]]) for ids in request.candidates[:-1]]
        assert whole[index].logprobs == pytest.approx(
            [*wanted, float(logs[last, 210] + logs[last + 1, 215])], abs=2 * close
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_in_float32(size: Size, kind: str) -> None:
    assert_as_alone(KINDS[kind](tiny_model(size)), CLOSE)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("size", SIZES)
def test_in_half_precision(size: Size, dtype: torch.dtype) -> None:
    assert_as_alone(tiny_model(size).to(dtype), HALF[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_the_released_rounding_of_the_13b(dtype: torch.dtype) -> None:
    """Its bias goes by the key's place in the text, which must not become that in the row."""
    model = tiny_model("13b").to(dtype)
    model.config.alibi_numerics = "official"
    assert_as_alone(model, HALF.get(dtype, CLOSE), batch_tokens=50)


def test_a_head_that_is_not_normalised() -> None:
    model = tiny_model("7b", normalized_head=False)
    assert type(model.lm_head) is OutputHead
    assert_as_alone(model, 10 * CLOSE)  # its logits reach 100


@pytest.mark.parametrize("case", ["rope_h4", "alibi_h5"])
def test_an_official_4bits_folder_and_the_plain_network(tmp_path: Path, case: str) -> None:
    folder = shutil.copytree(GOLDEN / "quant" / f"official_4bits_layout_{case}", tmp_path / "4bits")
    shutil.copy(GOLDEN / "text" / "small_tokenizer.model", folder / "tokenizer.model")
    settings = LoadSettings(device="cpu", dtype="float32")
    plain = load_for_replies(folder, settings).model
    assert type(plain) is PlainBaichuan
    for model in (plain, load_model(folder, settings).model):
        assert_as_alone(model, CLOSE)


def test_a_hooked_head_is_called() -> None:
    model, requests = tiny_model("7b"), requests_of()
    plain = dict(score(model, requests))
    model.lm_head.register_forward_hook(lambda _module, _inputs, output: output + 1)
    hooked = dict(score(model, requests))
    for index in range(len(requests)):
        assert hooked[index].logits == pytest.approx([value + 1 for value in plain[index].logits], abs=CLOSE)


def test_numbers_that_are_none_are_told() -> None:
    model = tiny_model("7b")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(GenerationError, match="no number"):
        list(score(model, requests_of()))
