"""A language model of ten lines: it says a fixed sequence of ids, and remembers how it was called."""

from types import SimpleNamespace

import torch


class FakeModel:
    device = torch.device("cpu")

    def __init__(self, script, vocab_size=10, model_max_length=100, fails_at=None):
        self.config = SimpleNamespace(vocab_size=vocab_size, model_max_length=model_max_length)
        self.script, self.calls, self.fails_at = list(script), [], fails_at

    def __call__(self, **call):
        if len(self.calls) == self.fails_at:
            raise ValueError("wrong shape\nsecond line")
        call["inference"] = torch.is_inference_mode_enabled()
        self.calls.append(call)
        logits = torch.zeros(*call["input_ids"].shape, self.config.vocab_size)
        logits[..., self.script[(len(self.calls) - 1) % len(self.script)]] = 5.0
        return SimpleNamespace(logits=logits)
