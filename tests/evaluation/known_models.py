"""Models whose answers are known beforehand, as checkpoints of our own architecture with weights set by hand.

Attention sees all tokens alike (queries and keys are zero) and carries four numbers of each token's embedding to the
last place; the head gives the logit of each letter one of them. So the letter wins whose number is greatest on average
over the prompt. `reader` gives a number to the four words of `MARKS` alone: it answers with the letter whose word
stands in the question. `guesser` gives random ones to all tokens: it answers by the words, not by what is right.
"""

import shutil
from pathlib import Path

import torch

from baichuan2.checkpoints.locate import DEMO_DIR
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from baichuan2.model.tokenization_baichuan import BaichuanTokenizer
from tests.tiny import Size, tiny_config

MARKS = "甲乙丙丁"
"""Words that the prompts of no benchmark have outside their questions, and of which each is one token."""

GAIN = 1000.0
HEAD = 3  # whose slope is the flattest of the 13B-like model's: far tokens count too
CONSTANT = 8  # a number that all embeddings share, so that none of them is zero


def reader(folder: Path, size: Size = "7b") -> Path:
    """Writes the model that answers with the letter whose word it read; gives its folder."""
    tokenizer = demo_tokenizer()
    numbers = torch.zeros(tokenizer.vocab_size, 4)
    for place, mark in enumerate(MARKS):
        (token,) = tokenizer.encode(mark)
        numbers[token, place] = 1.0
    return _write(folder, size, numbers)


def guesser(folder: Path, size: Size = "7b") -> Path:
    """Writes the model whose answers have nothing to do with the questions; gives its folder."""
    numbers = torch.randn(demo_tokenizer().vocab_size, 4, generator=torch.Generator().manual_seed(0))
    return _write(folder, size, numbers)


def demo_tokenizer() -> BaichuanTokenizer:
    """The tokenizer of all models here."""
    return BaichuanTokenizer.from_pretrained(DEMO_DIR / "base")


def _write(folder: Path, size: Size, numbers: torch.Tensor) -> Path:
    """`numbers`: (V, 4), what of each token reaches the last place."""
    tokenizer = demo_tokenizer()
    room = {"model_max_length": 2048} if size == "13b" else {"max_position_embeddings": 2048}
    model = BaichuanForCausalLM(tiny_config(size, vocab_size=len(numbers), num_hidden_layers=1, **room)).eval()
    width, first = model.config.hidden_size, HEAD * model.config.hidden_size // model.config.num_attention_heads
    places = range(first, first + 4)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if name.endswith("norm.weight") else 0.0)
        model.model.embed_tokens.weight[:, CONSTANT] = 1.0
        model.model.embed_tokens.weight[:, places] = numbers
        attention = model.model.layers[0].self_attn
        for place in places:
            attention.W_pack.weight[2 * width + place, place] = 1.0
            attention.o_proj.weight[place, place] = GAIN
        model.lm_head.weight[:, CONSTANT + 1] = 1.0  # no row is zero: the head makes all of them equally long
        for place, letter in zip(places, "ABCD", strict=True):
            for text in (letter, f" {letter}"):
                row = model.lm_head.weight[tokenizer.encode(text)[-1]]
                row.zero_()
                row[place] = 1.0
    model.save_pretrained(folder)
    for file in (DEMO_DIR / "base").iterdir():
        if file.name.startswith(("tokenizer", "special_tokens", "generation_config")):
            shutil.copy(file, folder)
    return folder
