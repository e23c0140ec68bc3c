"""How much memory a server may take for keys and values, when nobody said."""

from typing import Any

from baichuan2.checkpoints.memory import accelerator, main_memory
from baichuan2.model.cost import cache_bytes, int8_cache_bits

__all__ = ["cache_memory"]

PART_OF_FREE = 0.5  # of what is free when the model has been loaded; prompts' passes need room too


def cache_memory(model: Any, *, num_sequences: int, kv_cache: str) -> int:
    """Bytes for `num_sequences` whole contexts of a loaded model, or half of what is free on its device.

    At least one context, whatever is free: less would serve nobody.
    """
    config = model.config
    bits = int8_cache_bits(config) if kv_cache == "int8" else model.dtype.itemsize * 8
    wanted = cache_bytes(config, config.model_max_length, num_sequences, bits=bits)
    least = cache_bytes(config, config.model_max_length, 1, bits=bits)
    place = main_memory() if model.device.type == "cpu" else accelerator(str(model.device))
    if place.free is None:
        return wanted
    return max(least, min(wanted, int(place.free * PART_OF_FREE)))
