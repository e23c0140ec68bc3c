"""How many tokens go through a model at once, where nobody said."""

from typing import Any

from baichuan2.checkpoints.memory import accelerator, main_memory
from baichuan2.model.cost import cache_bytes, scratch_bytes

__all__ = ["tokens_at_once"]

PART_OF_FREE = 0.5  # of what is free when the model has been loaded
LEAST = 64
MOST = {"cpu": 1024}  # more was no faster on a processor (Zen 3, 256 to 2,048 tokens, 512 wide)
MOST_ON_ACCELERATOR = 4096
NO_LIMIT = 4096  # tokens that are reckoned with where the config sets no limit


def tokens_at_once(model: Any) -> int:
    """Tokens of a pass of `engine.scoring.score`: as many as are fast, fewer where there is little memory."""
    config, device = model.config, model.device
    most = MOST.get(device.type, MOST_ON_ACCELERATOR)
    place = main_memory() if device.type == "cpu" else accelerator(str(device))
    if place.free is None:
        return most
    bits = 8 * model.dtype.itemsize
    free = place.free * PART_OF_FREE - cache_bytes(config, config.model_max_length or NO_LIMIT, 1, bits=bits)
    while most > LEAST and scratch_bytes(config, most, bits=bits, is_quantized=True) > free:
        most //= 2
    return most
