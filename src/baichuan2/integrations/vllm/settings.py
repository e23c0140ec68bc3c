"""What is checked and set when vLLM has read a Baichuan config: by the hook that it offers each architecture."""

import functools
from collections.abc import Callable
from typing import Any

from vllm.config import ModelConfig
from vllm.model_executor.models.config import VerifyAndUpdateConfig

from baichuan2.integrations.vllm.folders import check_served, generation_fields
from baichuan2.model.registration import MODEL_TYPE

__all__ = ["TOKENIZER_MODE", "BaichuanSettings", "honour_generation_config"]

TOKENIZER_MODE = "baichuan"
"""Under this name vLLM knows our renderer."""


class BaichuanSettings(VerifyAndUpdateConfig):
    """Called by vLLM in each process that makes a config of its own."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Refuses what would not be served rightly, and has messages rendered by our renderer."""
        check_served(model_config.model, model_config.hf_config)
        if model_config.tokenizer_mode in ("auto", "hf"):
            model_config.tokenizer_mode = TOKENIZER_MODE


def honour_generation_config() -> None:
    """Makes vLLM read generation_config.json as we do (`folders.generation_fields`).

    It has no setting for that, so the method through which it asks for the file is wrapped.
    """
    original = ModelConfig.try_get_generation_config
    if not hasattr(original, "__wrapped__"):
        ModelConfig.try_get_generation_config = _in_terms_of_vllm(original)


def _in_terms_of_vllm(original: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    @functools.wraps(original)
    def wrapper(self: Any) -> dict[str, Any]:
        fields = original(self)
        is_ours = self.hf_config.model_type == MODEL_TYPE
        return generation_fields(fields, self.override_generation_config) if is_ours else fields

    return wrapper
