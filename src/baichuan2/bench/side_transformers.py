"""A model of another class of transformers as one side of a comparison: a Llama folder, or any with the vocabulary.

The folder's own tokenizer and chat template are used as transformers uses them for everybody; its code never runs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from baichuan2.bench.comparison_prompts import Prompt
from baichuan2.bench.sides import Choice, Found
from baichuan2.bench.torch_side import TorchSide
from baichuan2.checkpoints.load import without_progress_bar
from baichuan2.checkpoints.threads import use_threads
from baichuan2.devices import pick_device
from baichuan2.engine.stopping import stop_ids_from
from baichuan2.errors import CheckpointError, DataError, TokenizerError
from baichuan2.model.byte_pair_backend import SPACE_SYMBOL
from baichuan2.settings import CompareSettings

__all__ = ["TransformersSide"]


class TransformersSide(TorchSide):
    """See `sides.Side`."""

    program = "transformers"

    def __init__(self, found: Found, settings: CompareSettings, *, dtype: str) -> None:
        """Loads model and tokenizer.

        Raises:
            CheckpointError: transformers cannot read the folder without code of its own, or its weights are not whole.
            TokenizerError: it has no tokenizer that transformers reads.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.name = found.name
        device = pick_device(settings.device)
        if device.type == "cpu":
            use_threads(settings.threads)
        trusted = {"trust_remote_code": False, "local_files_only": True}
        try:
            with without_progress_bar():
                model, report = AutoModelForCausalLM.from_pretrained(
                    found.folder,
                    dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                    output_loading_info=True,
                    **trusted,
                )
        except Exception as error:  # of many classes
            raise CheckpointError(f"{found.name} cannot be loaded by transformers: {_one_line(error)}") from error
        if missing := sorted(report["missing_keys"]):
            raise CheckpointError(
                f"{found.name}: {len(missing)} tensors are missing, the first is {missing[0]}: the folder is incomplete"
            )
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(found.folder, **trusted)
        except Exception as error:
            raise TokenizerError(f"{found.name}: its tokenizer cannot be read: {_one_line(error)}") from error
        self._model: Any = model.to(device).eval()
        config, generation = model.config, model.generation_config
        self._generation_config = generation
        self.number_format = str(model.dtype).removeprefix("torch.")
        quantization = getattr(config, "quantization_config", None)
        self.stored_as = None if quantization is None else "few bits"
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        self.context = int(getattr(config, "max_position_embeddings", None) or 4096)
        self.is_chat = bool(getattr(self._tokenizer, "chat_template", None))
        self.stop_ids = stop_ids_from(generation)

    def text_ids(self, text: str) -> list[int]:
        """Token ids of plain text, with what the tokenizer puts around it by itself."""
        return [int(token_id) for token_id in self._tokenizer(text, verbose=False)["input_ids"]]

    def chat_ids(self, prompt: Prompt) -> list[int] | None:
        """Token ids by the folder's chat template; None where it has none."""
        if not self.is_chat:
            return None
        try:
            ids = self._tokenizer.apply_chat_template(
                prompt.as_mappings(), add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except Exception as error:  # a template may raise whatever it likes
            raise DataError(
                f"{self.name}: its chat template refuses prompt {prompt.number}: {_one_line(error)}"
            ) from error
        return [int(token_id) for token_id in ids]

    def piece(self, token_id: int) -> bytes:
        """What a token adds to a text, as pieces of SentencePiece are spelled."""
        piece = self._tokenizer.convert_ids_to_tokens(token_id) if token_id < len(self._tokenizer) else f"<{token_id}>"
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        return str(piece).replace(SPACE_SYMBOL, " ").encode()

    @torch.inference_mode()
    def continuation(self, ids: Sequence[int], num_tokens: int, stop_ids: frozenset[int]) -> list[Choice]:
        """The likeliest next tokens, by the framework's `generate`."""
        from transformers import GenerationConfig

        prompt = torch.tensor([list(ids)], device=self._model.device)
        # a config of its own: what the folder says of penalties must not decide here
        plain = GenerationConfig(
            max_new_tokens=num_tokens, do_sample=False, eos_token_id=sorted(stop_ids), pad_token_id=0
        )
        plain.return_dict_in_generate = plain.output_logits = True
        before, self._model.generation_config = self._model.generation_config, plain
        try:
            out = self._model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=plain)
        finally:
            self._model.generation_config = before
        new = out.sequences[0, prompt.shape[1] :].tolist()
        rows = [row[0].float().log_softmax(-1) for row in out.logits]
        return [Choice(token_id, row[token_id].item()) for token_id, row in zip(new, rows, strict=True)]

    def head_lengths(self) -> Tensor | None:
        """None: such a head is plain."""
        return None


def _one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:400]
