"""`convert_checkpoint`: from the word that names a conversion to the function that does it."""

from collections.abc import Callable

from baichuan2.convert.dequantize import dequantize
from baichuan2.convert.from_baichuan1 import from_baichuan1
from baichuan2.convert.from_llama import from_llama
from baichuan2.convert.merge_lora import merge_lora
from baichuan2.convert.rewriting import Converted, Watch
from baichuan2.convert.to_baichuan1 import to_baichuan1
from baichuan2.convert.to_gguf import to_gguf
from baichuan2.convert.to_llama import to_llama
from baichuan2.convert.to_safetensors import to_safetensors
from baichuan2.errors import CheckpointError
from baichuan2.settings import ConvertSettings

__all__ = ["convert_checkpoint"]

CONVERSIONS: dict[str, Callable[[ConvertSettings, Watch | None], Converted]] = {
    "to-safetensors": to_safetensors,
    "to-baichuan1": to_baichuan1,
    "to-gguf": to_gguf,
    "to-llama": to_llama,
    "from-baichuan1": from_baichuan1,
    "from-llama": from_llama,
    "merge-lora": merge_lora,
    "dequantize": dequantize,
}


def convert_checkpoint(settings: ConvertSettings, watch: Watch | None = None) -> Converted:
    """Does what `settings.way` says; `watch` is told how far it is.

    Raises:
        SettingsError: way, source or target is missing, or the target cannot be taken.
        CheckpointError: the source cannot be read or is of another kind, or the target cannot be written.
        QuantizationError: a number is beyond what the format asked for can hold.
        MissingExtraError: the conversion needs an optional package.
    """
    settings.check_complete()
    try:
        return CONVERSIONS[str(settings.way)](settings, watch)
    except OSError as error:  # a file that the system refuses, or a disk that fails, where nobody expected it
        raise CheckpointError(
            f"{error.filename or settings.source} cannot be used: {error.strerror or error}"
        ) from error
