"""Baichuan 2 on today's libraries.

`import baichuan2` is cheap: it imports neither torch nor transformers. The names of `__all__` are loaded when first
used. It also makes the Auto classes of transformers build our classes for Baichuan folders, whether transformers was
imported before or will be later (`baichuan2.model.registration`).
"""

import importlib
from typing import TYPE_CHECKING, Any

from baichuan2.model import registration as _registration

if TYPE_CHECKING:
    from baichuan2.chat.batch import chat_batch as chat_batch
    from baichuan2.chat.messages import Message as Message
    from baichuan2.chat.reply import Reply as Reply
    from baichuan2.chat.reply import ReplyChunk as ReplyChunk
    from baichuan2.chat.reply import Usage as Usage
    from baichuan2.chat.reply import reply as reply
    from baichuan2.chat.reply import stream_completion as stream_completion
    from baichuan2.chat.reply import stream_reply as stream_reply
    from baichuan2.chat.session import ChatSession as ChatSession
    from baichuan2.checkpoints.load import LoadedModel as LoadedModel
    from baichuan2.checkpoints.load import load_model as load_model
    from baichuan2.convert.ways import convert_checkpoint as convert_checkpoint
    from baichuan2.engine.generate import generate_tokens as generate_tokens
    from baichuan2.errors import BaichuanError as BaichuanError
    from baichuan2.errors import CheckpointError as CheckpointError
    from baichuan2.errors import ContextLengthError as ContextLengthError
    from baichuan2.errors import DataError as DataError
    from baichuan2.errors import GenerationError as GenerationError
    from baichuan2.errors import MemoryShortageError as MemoryShortageError
    from baichuan2.errors import MessageError as MessageError
    from baichuan2.errors import MissingExtraError as MissingExtraError
    from baichuan2.errors import OverloadedError as OverloadedError
    from baichuan2.errors import QuantizationError as QuantizationError
    from baichuan2.errors import SettingsError as SettingsError
    from baichuan2.errors import TokenizerError as TokenizerError
    from baichuan2.errors import TrainingError as TrainingError
    from baichuan2.model.configuration_baichuan import BaichuanConfig as BaichuanConfig
    from baichuan2.model.modeling_baichuan import BaichuanForCausalLM as BaichuanForCausalLM
    from baichuan2.model.modeling_baichuan import BaichuanModel as BaichuanModel
    from baichuan2.model.tokenization_baichuan import BaichuanTokenizer as BaichuanTokenizer
    from baichuan2.settings.benchmarks import BenchmarkSettings as BenchmarkSettings
    from baichuan2.settings.comparing import CompareSettings as CompareSettings
    from baichuan2.settings.converting import ConvertSettings as ConvertSettings
    from baichuan2.settings.evaluating import EvaluationSettings as EvaluationSettings
    from baichuan2.settings.finetuning import FinetuneSettings as FinetuneSettings
    from baichuan2.settings.models import LoadSettings as LoadSettings
    from baichuan2.settings.models import MergeSettings as MergeSettings
    from baichuan2.settings.models import PlanSettings as PlanSettings
    from baichuan2.settings.models import QuantizeSettings as QuantizeSettings
    from baichuan2.settings.releases import DownloadSettings as DownloadSettings
    from baichuan2.settings.releases import ModelsSettings as ModelsSettings
    from baichuan2.settings.replies import ChatSettings as ChatSettings
    from baichuan2.settings.replies import OutputSettings as OutputSettings
    from baichuan2.settings.replies import RunSettings as RunSettings
    from baichuan2.settings.replies import SamplingSettings as SamplingSettings
    from baichuan2.settings.serving import ServeSettings as ServeSettings
    from baichuan2.settings.serving import WebSettings as WebSettings
    from baichuan2.settings.showing import ShowcaseSettings as ShowcaseSettings
    from baichuan2.settings.training_plans import TrainingPlanSettings as TrainingPlanSettings

__version__ = "0.1.0"

# where each public name lives; tests/contract/test_public_names.py keeps this, __all__ and the block above equal
_MODULES = {
    "chat.batch": ("chat_batch",),
    "chat.messages": ("Message",),
    "chat.reply": ("Reply", "ReplyChunk", "Usage", "reply", "stream_completion", "stream_reply"),
    "chat.session": ("ChatSession",),
    "checkpoints.load": ("LoadedModel", "load_model"),
    "convert.ways": ("convert_checkpoint",),
    "engine.generate": ("generate_tokens",),
    "errors": (
        "BaichuanError",
        "CheckpointError",
        "ContextLengthError",
        "DataError",
        "GenerationError",
        "MemoryShortageError",
        "MessageError",
        "MissingExtraError",
        "OverloadedError",
        "QuantizationError",
        "SettingsError",
        "TokenizerError",
        "TrainingError",
    ),
    "model.configuration_baichuan": ("BaichuanConfig",),
    "model.modeling_baichuan": ("BaichuanForCausalLM", "BaichuanModel"),
    "model.tokenization_baichuan": ("BaichuanTokenizer",),
    "settings.benchmarks": ("BenchmarkSettings",),
    "settings.comparing": ("CompareSettings",),
    "settings.converting": ("ConvertSettings",),
    "settings.evaluating": ("EvaluationSettings",),
    "settings.finetuning": ("FinetuneSettings",),
    "settings.models": ("LoadSettings", "MergeSettings", "PlanSettings", "QuantizeSettings"),
    "settings.releases": ("DownloadSettings", "ModelsSettings"),
    "settings.replies": ("ChatSettings", "OutputSettings", "RunSettings", "SamplingSettings"),
    "settings.serving": ("ServeSettings", "WebSettings"),
    "settings.showing": ("ShowcaseSettings",),
    "settings.training_plans": ("TrainingPlanSettings",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [  # noqa: RUF022  # grouped by subject, as the documentation lists them
    "load_model",
    "LoadedModel",
    "MergeSettings",
    "reply",
    "stream_reply",
    "stream_completion",
    "chat_batch",
    "Reply",
    "ReplyChunk",
    "Usage",
    "ChatSession",
    "Message",
    "generate_tokens",
    "convert_checkpoint",
    "LoadSettings",
    "SamplingSettings",
    "BenchmarkSettings",
    "ChatSettings",
    "CompareSettings",
    "ConvertSettings",
    "DownloadSettings",
    "EvaluationSettings",
    "FinetuneSettings",
    "ModelsSettings",
    "OutputSettings",
    "PlanSettings",
    "QuantizeSettings",
    "RunSettings",
    "ServeSettings",
    "ShowcaseSettings",
    "TrainingPlanSettings",
    "WebSettings",
    "BaichuanConfig",
    "BaichuanModel",
    "BaichuanForCausalLM",
    "BaichuanTokenizer",
    "BaichuanError",
    "CheckpointError",
    "ContextLengthError",
    "DataError",
    "GenerationError",
    "MemoryShortageError",
    "MessageError",
    "MissingExtraError",
    "OverloadedError",
    "QuantizationError",
    "SettingsError",
    "TokenizerError",
    "TrainingError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'baichuan2' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"baichuan2.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_registration.install()
