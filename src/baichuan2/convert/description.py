"""What a quantised folder says about itself: config.json and the index of its shards."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from baichuan2.convert.output import read_shard
from baichuan2.convert.rounding import Rounding
from baichuan2.quantization.apply import CODEBOOKS
from baichuan2.quantization.bnb_layout import LIBRARY_FIELDS
from baichuan2.quantization.scheme import QuantizationSpec
from baichuan2.settings import QuantizeSettings

__all__ = ["INDEX_FILE", "index_text", "quantized_config_text"]

INDEX_FILE = "model.safetensors.index.json"


def index_text(folder: Path, shards: Sequence[str]) -> str:
    """The index that says which of the files holds which tensor."""
    weight_map: dict[str, str] = {}
    total = 0
    for shard in shards:
        for name, tensor in read_shard(folder / shard).items():
            weight_map[name] = shard
            total += tensor.nbytes
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(index, indent=2) + "\n"


def quantized_config_text(
    fields: Mapping[str, Any], rounding: Rounding, settings: QuantizeSettings, calibration: Mapping[str, Any]
) -> str:
    """config.json: that of the source, and how the weights are stored."""
    fields = dict(fields)
    if rounding.format == "official-4bits":
        fields.pop("dtype", None)
        fields["torch_dtype"] = "float16"
        # without a quant_method, as in the official folders
        fields["quantization_config"] = {"bnb_4bit_compute_dtype": "float16", **LIBRARY_FIELDS}
    else:
        fields.pop("auto_map", None)  # it would point at code that is not copied
        if rounding.format == "nf4":
            quantization: dict[str, Any] = {"quant_method": "bitsandbytes", **LIBRARY_FIELDS}
            quantization |= {"bnb_4bit_compute_dtype": rounding.weight_dtype, "bnb_4bit_quant_storage": "uint8"}
        else:
            quantization = _spec(rounding, settings, calibration).to_dict()
        fields["quantization_config"] = quantization
    return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"


def _spec(rounding: Rounding, settings: QuantizeSettings, calibration: Mapping[str, Any]) -> QuantizationSpec:
    codebook = None if rounding.codebook in (None, "uniform") else CODEBOOKS[str(rounding.codebook)]
    return QuantizationSpec(
        format=rounding.format,  # type: ignore[arg-type]
        group_size=rounding.group_size,
        codebook=None if codebook is None else tuple(int(value) for value in codebook),
        head=None if settings.head == "none" else settings.head,
        embedding=None if settings.embedding == "none" else settings.embedding,
        calibration=calibration,
    )
