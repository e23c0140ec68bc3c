"""Loaded models for tests: one that says given sentences, and the tiny ones with the official numbers."""

import json
from types import SimpleNamespace

import torch
from transformers import GenerationConfig

from baichuan2.checkpoints.load import LoadedModel
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from baichuan2.model.tokenization_baichuan import BaichuanTokenizer
from tests.engine.golden_cases import GOLDEN

TOKENIZER = BaichuanTokenizer(vocab_file=str(GOLDEN / "text/small_tokenizer.model"))
END, USER, ASSISTANT = 2, 195, 196


class TalkingModel:
    """Answers each prompt with the next of its lists of ids, whatever the prompt says."""

    device = torch.device("cpu")

    def __init__(self, replies, context, fails_after):
        self.config = SimpleNamespace(vocab_size=len(TOKENIZER), model_max_length=context)
        self.replies, self.fails_after = list(replies), fails_after
        self.prompts, self.num_said, self.num_calls = [], 0, 0

    def __call__(self, *, input_ids, **_):
        self.num_calls += 1
        if input_ids.shape[1] > 1:
            self.prompts.append(input_ids[0].tolist())
            self.num_said = 0
        if self.fails_after is not None and self.num_said >= self.fails_after:
            raise RuntimeError("the power is out")
        logits = torch.zeros(*input_ids.shape, self.config.vocab_size)
        logits[..., self.replies[len(self.prompts) - 1][self.num_said]] = 9.0
        self.num_said += 1
        return SimpleNamespace(logits=logits)

    @property
    def prompt_texts(self):
        return [TOKENIZER.decode(prompt) for prompt in self.prompts]


def talker(*sentences, ending=(END,), context=200, max_new_tokens=60, fails_after=None):
    """A loaded model that says these sentences, one for each prompt, each closed by `ending`; greedy."""
    replies = [[*TOKENIZER.encode_text(text), *ending] for text in sentences]
    config = GenerationConfig(
        eos_token_id=END, user_token_id=USER, assistant_token_id=ASSISTANT, max_new_tokens=max_new_tokens
    )
    model = TalkingModel(replies, context, fails_after)
    model.generation_config = config
    return LoadedModel(model, TOKENIZER, config, "talker")


def golden(case):
    """The official tiny model of that name, as loaded, and the chats that the released code had with it."""
    model = BaichuanForCausalLM.from_pretrained(GOLDEN / case).eval()
    expected = json.loads((GOLDEN / case / "expected.json").read_text())["chat"]
    return LoadedModel(model, TOKENIZER, model.generation_config, case), expected
