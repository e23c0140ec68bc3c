"""A Baichuan model as one side of a comparison, run by this package."""

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from baichuan2.bench.comparison_prompts import Prompt
from baichuan2.bench.sides import Choice, Found
from baichuan2.bench.torch_side import TorchSide
from baichuan2.checkpoints.load import load_model
from baichuan2.engine.generate import generate_tokens
from baichuan2.engine.sampling import Sampling
from baichuan2.engine.stopping import stop_ids_from
from baichuan2.model.norm_head import NormHead
from baichuan2.model.prompt_format import chat_ids
from baichuan2.settings import CompareSettings, LoadSettings

__all__ = ["BaichuanSide"]


class BaichuanSide(TorchSide):
    """See `sides.Side`."""

    program = "baichuan2"

    def __init__(self, found: Found, settings: CompareSettings, *, dtype: str, numerics: str) -> None:
        """Loads the model; raises what `load_model` raises."""
        loaded = load_model(
            found.folder,
            LoadSettings(
                adapter=None if found.adapter is None else str(found.adapter),
                dtype=cast(Literal["auto", "float32", "bfloat16", "float16"], dtype),
                device=settings.device,
                numerics=cast(Literal["exact", "official"], numerics),
                threads=settings.threads,
                offline=True,
                check_memory=settings.check_memory,
            ),
        )
        self.name = found.name
        self._model: Any = loaded.model
        self._tokenizer = loaded.tokenizer
        self._generation_config = loaded.generation_config
        config = loaded.model.config
        self.number_format = str(loaded.model.dtype).removeprefix("torch.")
        self.stored_as = _stored_as(getattr(config, "quantization_config", None))
        self.vocab_size = int(config.vocab_size)
        self.context = int(config.model_max_length or 4096)
        self.is_chat = getattr(loaded.generation_config, "user_token_id", None) is not None
        self.stop_ids = stop_ids_from(loaded.generation_config)

    def text_ids(self, text: str) -> list[int]:
        """Token ids of plain text."""
        return self._tokenizer.encode_text(text)

    def chat_ids(self, prompt: Prompt) -> list[int] | None:
        """Token ids of a conversation in the chat format; None for a Base model, which knows no roles."""
        if not self.is_chat:
            return None
        return chat_ids(self._tokenizer, prompt.as_mappings(), add_generation_prompt=True)[0]

    def piece(self, token_id: int) -> bytes:
        """What a token adds to a text; of a control token, and of places that no token has, a name."""
        if token_id >= len(self._tokenizer):
            return f"<{token_id}>".encode()
        text = self._tokenizer.piece_bytes(token_id)
        return text or str(self._tokenizer.convert_ids_to_tokens(token_id)).encode()

    def continuation(self, ids: Sequence[int], num_tokens: int, stop_ids: frozenset[int]) -> list[Choice]:
        """The likeliest next tokens, by the engine that answers in chat and server."""
        sampling = Sampling(max_new_tokens=num_tokens)
        steps = generate_tokens(self._model, ids, sampling, stop_ids=stop_ids)
        return [Choice(step.token_id, step.logprob) for step in steps]

    def head_lengths(self) -> Tensor | None:
        """Lengths (V,) of the head's rows as stored; None where it is not normalised, or its rows are codes."""
        head = self._model.lm_head
        if not isinstance(head, NormHead) or not head.weight.is_floating_point():
            return None
        rows = [part.float().norm(dim=1).cpu() for part in torch.split(head.weight.detach(), 8192)]
        return torch.cat(rows)


def _stored_as(quantization: Any) -> str | None:
    """What a `quantization_config` calls its format, in one word."""
    if quantization is None:
        return None
    fields = quantization if isinstance(quantization, dict) else quantization.to_dict()
    if fields.get("quant_method") == "baichuan2":
        return str(fields.get("format", "few bits"))
    return "int8" if fields.get("load_in_8bit") else str(fields.get("bnb_4bit_quant_type", "4 bits"))
