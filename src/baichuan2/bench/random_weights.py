"""Model folders with random weights: speed and memory do not depend on the values, so no download is needed.

Codes are random and written directly in their format, so that no 16-bit copy is ever made; one shard is in memory at a
time. Numbers are drawn once, and each tensor has them from a place of its own on: drawing all of them would take longer
than to write them. Scales are such that activations keep a sane size and logits are finite.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import baichuan2
from baichuan2.checkpoints.plan import estimate
from baichuan2.checkpoints.shard_file import save_shard
from baichuan2.checkpoints.shards import INDEX_NAMES
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.quantized_layers import place_layers, quantizable_shapes
from baichuan2.quantization.apply import default_spec
from baichuan2.quantization.bnb_layout import LIBRARY_FIELDS, write_nf4
from baichuan2.quantization.nf4 import DYNAMIC_CODE, NESTED_BLOCK_SIZE, NF4_CODE, NF4Tensor
from baichuan2.quantization.scheme import QuantizationSpec

__all__ = ["FORMATS", "Format", "Randomness", "random_nf4", "random_numbers", "write_random_model", "write_weights"]

Format = Literal["bfloat16", "int8", "int4", "nf4"]
FORMATS: tuple[Format, ...] = ("bfloat16", "int8", "int4", "nf4")
WEIGHT_RMS = 0.02  # as at the start of training: products of rows of unit size then have about unit size
SHARD_BYTES = 1 << 30
POOL = (1 << 25) + 4  # bytes that are drawn; no multiple of a row
RMS_OF_CODES = {"int8": 0.58, "int4": 0.55}  # of random codes, as a part of the scale
NF4_BLOCK = 64


class Randomness:
    """Random bytes and numbers, drawn once; what is taken begins at a random place and goes round."""

    def __init__(self) -> None:
        self._generator = np.random.Generator(np.random.SFC64(0))
        self._bytes = np.frombuffer(self._generator.bytes(POOL), np.uint8)
        self._numbers: dict[tuple[torch.dtype, float, float], Tensor] = {}

    def take_bytes(self, count: int) -> np.ndarray:
        """Evenly spread ones (count,), uint8."""
        return self._take(self._bytes, count)

    def take_numbers(self, count: int, dtype: torch.dtype, low: float, high: float) -> Tensor:
        """Evenly spread numbers (count,), of a type of 16 bits."""
        key = (dtype, low, high)
        if key not in self._numbers:
            # evenly spread numbers are drawn several times faster than normal ones
            drawn = self._generator.random(POOL // 4, np.float32)
            self._numbers[key] = torch.from_numpy(drawn).mul_(high - low).add_(low).to(dtype).view(torch.int16)
        return torch.from_numpy(self._take(self._numbers[key].numpy(), count)).view(dtype)

    def _take(self, pool: np.ndarray, count: int) -> np.ndarray:
        found = np.empty(count, pool.dtype)
        start, filled = int(self._generator.integers(len(pool))), 0
        while filled < count:
            part = pool[start : start + count - filled]
            found[filled : filled + len(part)] = part
            start, filled = 0, filled + len(part)
        return found


def write_random_model(
    folder: Path, config: BaichuanConfig, format: Format, watch: Callable[[int, int], None] | None = None
) -> None:
    """Writes a model of the shape of `config` into the new folder `folder`, with the demo model's tokenizer.

    `watch` is told how many bytes of about how many are written.

    Raises:
        OSError: nothing can be written there, or the disk is full.
    """
    from baichuan2.model.modeling_baichuan import BaichuanForCausalLM

    folder.mkdir(parents=True)
    spec = default_spec(format) if format in ("int8", "int4") else None
    with torch.device("meta"):
        model = BaichuanForCausalLM(config)
        if spec is not None:
            place_layers(model, spec)
    randomness = Randomness()
    in_nf4 = quantizable_shapes(config) if format == "nf4" else {}
    total = estimate(config, format, context=1).weights
    write_weights(folder, model.state_dict(), spec, randomness, in_nf4=in_nf4, watch=watch, total=total)
    fields = {**config.to_dict(), "architectures": ["BaichuanForCausalLM"], "dtype": "bfloat16"}
    if spec is not None:
        fields["quantization_config"] = spec.to_dict()
    elif format == "nf4":
        numbers = {"bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8"}
        fields["quantization_config"] = {"quant_method": "bitsandbytes", **LIBRARY_FIELDS, **numbers}
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    shutil.copy(Path(baichuan2.__file__).parent / "demo" / "chat" / "tokenizer.model", folder)


def write_weights(
    folder: Path,
    state: Mapping[str, Tensor],
    spec: QuantizationSpec | None,
    randomness: Randomness,
    *,
    in_nf4: Mapping[str, tuple[int, int]] | None = None,
    watch: Callable[[int, int], None] | None = None,
    total: int = 0,
) -> None:
    """Writes shards and their index: random values in the shapes and types of `state`, which may be on "meta".

    `spec`: of which format its codes and scales are; None for 16 bits. `in_nf4`: the layers whose weights become NF4
    as bitsandbytes stores it, with their shapes (N, K).
    """
    weight_map: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    written = 0

    def write() -> None:
        nonlocal written
        file_name = f"model-{len(set(weight_map.values())) + 1:05d}.safetensors"
        save_shard(shard, folder / file_name)
        weight_map.update(dict.fromkeys(shard, file_name))
        written += sum(held.nbytes for held in shard.values())
        shard.clear()
        if watch is not None:
            watch(min(written, total), total)

    for name, tensor in state.items():
        if sum(held.nbytes for held in shard.values()) > SHARD_BYTES:
            write()
        layer = name.removesuffix(".weight")
        if in_nf4 and layer in in_nf4:
            shard |= write_nf4(random_nf4(in_nf4[layer], torch.bfloat16, randomness), name)
        else:
            shard[name] = _random_tensor(name, tensor, state, spec, randomness)
    write()
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / INDEX_NAMES[0]).write_text(json.dumps(index), encoding="utf-8")


def random_nf4(shape: tuple[int, int], dtype: torch.dtype, randomness: Randomness) -> NF4Tensor:
    """A weight (N, K) in NF4 with scales in 8 bits; `dtype`: that of the weight before."""
    count = shape[0] * shape[1]
    num_blocks = -(-count // NF4_BLOCK)
    return NF4Tensor(
        codes=torch.from_numpy(randomness.take_bytes(-(-count // 2))),
        shape=shape,
        dtype=dtype,
        absmax=torch.from_numpy(randomness.take_bytes(num_blocks)),
        offset=torch.tensor(2 * WEIGHT_RMS),
        nested_absmax=torch.full((-(-num_blocks // NESTED_BLOCK_SIZE),), WEIGHT_RMS),
        nested_code=DYNAMIC_CODE.clone(),
        code=NF4_CODE.clone(),
    )


def random_numbers(name: str, shape: torch.Size, dtype: torch.dtype, randomness: Randomness) -> Tensor:
    """A weight that keeps its 16 bits: ones for a norm, else evenly spread around 0."""
    if name.endswith("norm.weight"):
        return torch.ones(shape, dtype=dtype)
    most = WEIGHT_RMS * 3**0.5
    return randomness.take_numbers(shape.numel(), dtype, -most, most).view(shape)


def _random_tensor(
    name: str, tensor: Tensor, state: Mapping[str, Tensor], spec: QuantizationSpec | None, randomness: Randomness
) -> Tensor:
    """Values for `tensor`: codes, scales, or a weight of 16 bits."""
    # a head has rows of unit length; its codes may be of another kind than those of the layers
    is_head = name.startswith("lm_head")
    kind: Any = None if spec is None else spec.head if is_head else spec.format
    if name.endswith("weight_scales"):
        width = state[name.replace("scales", "codes")].shape[1] * (2 if kind == "int4" else 1)
        mean = (width**-0.5 if is_head else WEIGHT_RMS) / RMS_OF_CODES[str(kind)]
        scales = randomness.take_numbers(tensor.numel(), torch.float16, 0.5 * mean, 1.5 * mean)
        return scales.view(tensor.shape)
    if name.endswith("weight_codes"):
        return _random_codes(tensor, randomness)
    return random_numbers(name, tensor.shape, torch.bfloat16, randomness)


def _random_codes(like: Tensor, randomness: Randomness) -> Tensor:
    """Random bytes in the shape and type of `like`; int8 without -128, which rounding never makes."""
    values = torch.from_numpy(randomness.take_bytes(like.numel())).view(like.dtype)
    if like.dtype == torch.int8:
        values.clamp_(min=-127)
    return values.view(like.shape)
