"""vLLM serves Baichuan folders: the plugin that vLLM finds beside itself and calls in each of its processes.

The entry point is `register` (group `vllm.general_plugins` in pyproject.toml). Nothing of vLLM is imported before it
runs. Config and tokenizer are tied to transformers' Auto classes by the import of this package.

    model.py      both sizes on vLLM's layers, split over GPUs
    folders.py    which folders are served; what their tensors must look like
    alibi.py      slopes for each rank; which attention backends add them
    renderer.py   messages to token ids, so that no text becomes a role
    settings.py   what is checked and set when vLLM reads a config
"""

import logging

from baichuan2.integrations.vllm.folders import ARCHITECTURES

__all__ = ["register"]

logger = logging.getLogger(__name__)


def register() -> None:
    """Makes vLLM know Baichuan: models, config checks, tokenizer and renderer. A second call changes nothing.

    A vLLM that lacks what this stands on gets a warning and no Baichuan: it must go on serving other models.
    """
    try:
        _register()
    except (ImportError, AttributeError) as error:
        logger.warning("baichuan2 cannot serve Baichuan models with this vLLM (%s): it was made for vLLM 0.32", error)


def _register() -> None:
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    from vllm.model_executor.models.registry import ModelRegistry
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    from baichuan2.integrations.vllm.settings import TOKENIZER_MODE, BaichuanSettings, honour_generation_config

    honour_generation_config()
    for architecture in ARCHITECTURES:
        ModelRegistry.register_model(architecture, "baichuan2.integrations.vllm.model:BaichuanForCausalLM")
        MODELS_CONFIG_MAP[architecture] = BaichuanSettings
    if TOKENIZER_MODE not in TokenizerRegistry.tokenizers:
        TokenizerRegistry.register(TOKENIZER_MODE, "vllm.tokenizers.hf", "CachedHfTokenizer")
        RENDERER_REGISTRY.register(TOKENIZER_MODE, "baichuan2.integrations.vllm.renderer", "BaichuanRenderer")
