"""Arguments of the official README that today's framework spells otherwise, and a load that is whole or fails.

Used by `BaichuanPreTrainedModel.from_pretrained`, so the Auto classes come through here as well.
"""

from collections.abc import Callable
from typing import Any

from baichuan2.errors import CheckpointError, SettingsError
from baichuan2.model.quantized_folders import holds_4_bits, load_folder, with_source_first
from baichuan2.quantization.bnb_library import bitsandbytes_library

__all__ = ["load_whole", "translate_arguments"]

QUANTIZATION_FLAGS = ("load_in_8bit", "load_in_4bit")
# the official 4-bit folders are NF4 with compressed statistics (reference: §9)
DEFAULTS_4BIT = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
NO_LONGER_POSSIBLE = {
    "from_tf": "TensorFlow files are not read: load the pytorch_model.bin or safetensors folder, without from_tf",
    "from_flax": "Flax files are not read: load the pytorch_model.bin or safetensors folder, without from_flax",
}
# what these once asked for always happens now, or has no meaning any more
WITHOUT_EFFECT = ("code_revision", "resume_download", "use_fast")


def translate_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """`kwargs` of `from_pretrained` with old spellings turned into present ones.

    `load_in_8bit=True` and `load_in_4bit=True`, with any `bnb_4bit_*` and `llm_int8_*` beside them, become a
    `quantization_config`; `use_auth_token` becomes `token`; `use_flash_attention_2` becomes `attn_implementation`.
    `trust_remote_code` is switched off: no code of a model folder is ever run.

    Raises:
        SettingsError: two arguments contradict each other, or one has no counterpart; the message says what to write.
        MissingExtraError: 8-bit or 4-bit weights are asked for and bitsandbytes is not installed.
    """
    return _translate_quantization(_translate_names(kwargs))


def _translate_names(kwargs: dict[str, Any]) -> dict[str, Any]:
    """`kwargs` with everything translated but the quantisation flags."""
    kwargs = {name: value for name, value in kwargs.items() if name not in WITHOUT_EFFECT}
    for name, advice in NO_LONGER_POSSIBLE.items():
        if kwargs.pop(name, False):
            raise SettingsError(f"{name}=True cannot work: {advice}")
    if "trust_remote_code" in kwargs:
        kwargs["trust_remote_code"] = False
    old_token = kwargs.pop("use_auth_token", None)
    if old_token is not None:
        kwargs.setdefault("token", old_token)
    if kwargs.pop("use_flash_attention_2", False):
        kwargs.setdefault("attn_implementation", "flash_attention_2")
    return kwargs


def _translate_quantization(kwargs: dict[str, Any]) -> dict[str, Any]:
    """`kwargs` with the quantisation flags and their companions gathered in `quantization_config`."""
    chosen = [name for name in QUANTIZATION_FLAGS if kwargs.pop(name, None)]
    if not chosen:
        method = getattr(kwargs.get("quantization_config"), "quant_method", None)
        if method == "bitsandbytes":
            bitsandbytes_library()
        return kwargs
    if len(chosen) > 1:
        raise SettingsError("load_in_8bit and load_in_4bit exclude each other: give one of them")
    if kwargs.get("quantization_config") is not None:
        raise SettingsError(
            f"{chosen[0]}=True and quantization_config= are two spellings of one thing: leave {chosen[0]} out"
        )
    bitsandbytes_library()
    from transformers import BitsAndBytesConfig

    options = dict(DEFAULTS_4BIT) if chosen == ["load_in_4bit"] else {}
    for name in [name for name in kwargs if name.startswith(("bnb_4bit_", "llm_int8_"))]:
        options[name] = kwargs.pop(name)
    kwargs["quantization_config"] = BitsAndBytesConfig(**{chosen[0]: True}, **options)
    return kwargs


def load_whole(from_pretrained: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `from_pretrained(*args, **kwargs)` returns, with every weight read from the checkpoint.

    The framework fills a tensor that the files lack with random numbers and goes on with a warning; here that is an
    error. `kwargs` are translated first.

    Raises:
        CheckpointError: a tensor is missing, or as `load_folder`.
        SettingsError, MissingExtraError: as `translate_arguments` and `load_folder`.
    """
    args, kwargs = with_source_first(args, _translate_names(kwargs))
    flags = [name for name in QUANTIZATION_FLAGS if kwargs.get(name)]
    if flags and holds_4_bits(args, {name: value for name, value in kwargs.items() if name not in flags}):
        if flags != ["load_in_4bit"]:
            raise SettingsError(f"{args[0]} is quantised to 4 bits already: leave load_in_8bit out")
        # it is what was asked for, and is read without the library
        kwargs = {name: value for name, value in kwargs.items() if not name.startswith(("load_in_4bit", "bnb_4bit_"))}
    kwargs = _translate_quantization(kwargs)
    wants_information = kwargs.pop("output_loading_info", False)
    model, information = load_folder(from_pretrained, args, {**kwargs, "output_loading_info": True})
    missing = sorted(information["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{model.config.name_or_path or 'the state dict'}: {len(missing)} tensors are missing, the first is "
            f"{missing[0]}: the folder is incomplete, download it again"
        )
    return (model, information) if wants_information else model
