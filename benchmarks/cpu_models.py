"""Full-size models with random weights, in our formats and in llama.cpp's: speed does not depend on the values.

    python benchmarks/cpu_models.py --list
    python benchmarks/cpu_models.py --directory /path/with/room 7b-int4-g64 7b-Q4_0

The values are those of `baichuan2.bench.random_weights`; this adds the formats that `baichuan2 bench` has not. What is
there already is left alone. `benchmarks/cpu.py` calls this for the models that it lacks.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import baichuan2
from baichuan2.bench.random_weights import WEIGHT_RMS, Randomness, random_nf4, random_numbers, write_weights
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from baichuan2.model.quantizer import place_layers, quantizable_shapes
from baichuan2.quantization.apply import CODEBOOKS
from baichuan2.quantization.bnb_layout import LIBRARY_FIELDS
from baichuan2.quantization.official_4bits import CODES_SUFFIX, STATE_SUFFIX, write_quant_state
from baichuan2.quantization.scheme import QuantizationSpec

VOCABULARY = 125_696
SHAPES: dict[str, dict[str, Any]] = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
           "max_position_embeddings": 4096},
    "13b": {"hidden_size": 5120, "intermediate_size": 13696, "num_hidden_layers": 40, "num_attention_heads": 40,
            "model_max_length": 4096},
    # parts of a 7B for servers: a sixteenth and an eighth of its layers and of its vocabulary, so that head and layers
    # weigh as they do in the whole
    "slice2": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 2, "num_attention_heads": 32,
               "max_position_embeddings": 4096, "vocab_size": VOCABULARY // 16},
    "slice4": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 4, "num_attention_heads": 32,
               "max_position_embeddings": 4096, "vocab_size": VOCABULARY // 8},
    # for tests of the scripts: every part of a large model, in a second
    "tiny": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
             "max_position_embeddings": 4096, "vocab_size": 4096},
}  # fmt: skip
INT8_HEAD = "-head8"
INT4_HEAD = "-head4"
PEER_FORMATS = ("Q4_0", "Q4_K_M", "Q8_0")


def names() -> list[str]:
    """The models that can be written: SHAPE-FORMAT, with -head8 or -head4 where the output head is quantised too."""
    ours = ("int4-g32", "int4-g64", "int4-g128", "int8", "bf16")
    formats = [*ours, *(name + head for name in ours[:-1] for head in (INT8_HEAD, INT4_HEAD)), "official4"]
    return [f"{shape}-{name}" for shape in SHAPES for name in (*formats, *PEER_FORMATS)]


def ensure(directory: Path, name: str, *, layers: int | None = None) -> Path:
    """The folder or file of the model `name` in `directory`, written now if it is not there; it appears when whole."""
    shape_name, _, format_name = name.partition("-")
    shape = {"vocab_size": VOCABULARY, **SHAPES[shape_name]}
    suffix = ""
    if layers is not None:
        shape["num_hidden_layers"], suffix = layers, f"-layers{layers}"
    is_file = format_name in PEER_FORMATS
    target = directory / (name + suffix + (".gguf" if is_file else ""))
    if target.exists():
        return target
    unfinished = target.with_name(target.name + ".partial")
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    print(f"writing {target}", file=sys.stderr, flush=True)
    randomness = Randomness()
    if is_file:
        _write_gguf(unfinished, shape, format_name, randomness)
    else:
        unfinished.mkdir(parents=True)
        _write_folder(unfinished, shape, format_name, randomness)
    unfinished.rename(target)
    return target


def stored_bytes(folder: Path, *, layers_only: bool = False) -> int:
    """Bytes that one token reads of our folder: all weights but the embedding's; or those of the decoder's layers."""
    total = 0
    for name, size in _stored_sizes(folder):
        is_layer = name.startswith("model.layers.")
        if is_layer or not (layers_only or name.startswith("model.embed_tokens.")):
            total += size
    return total


def gguf_bytes(path: Path) -> int:
    """Bytes that one token reads of a file of llama.cpp: all tensors but the embedding."""
    from gguf import GGUFReader

    return sum(int(tensor.n_bytes) for tensor in GGUFReader(path).tensors if tensor.name != "token_embd.weight")


def _stored_sizes(folder: Path) -> Iterator[tuple[str, int]]:
    official = folder / "pytorch_model.bin"
    if official.is_file():
        content = torch.load(official, map_location="cpu", weights_only=True, mmap=True)
        for name, value in content.items():
            yield name, sum(tensor.nbytes for tensor in _tensors_in(value))
        return
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name).nbytes


def _tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for item in value for tensor in _tensors_in(item)] if isinstance(value, list | tuple) else []


def spec_of(format_name: str) -> QuantizationSpec | None:
    """How a folder of that format is described; None for 16 bits."""
    head = None
    for suffix, kind in ((INT8_HEAD, "int8"), (INT4_HEAD, "int4")):
        if format_name.endswith(suffix):
            format_name, head = format_name.removesuffix(suffix), kind
    if format_name == "bf16":
        return None
    kind, _, group = format_name.partition("-g")
    codebook = tuple(map(int, CODEBOOKS["nonuniform"])) if kind == "int4" else None
    return QuantizationSpec(format=kind, group_size=int(group or 0), codebook=codebook, head=head)


def _write_folder(folder: Path, shape: dict[str, Any], format_name: str, randomness: Randomness) -> None:
    is_official = format_name == "official4"
    dtype = "float16" if is_official else "bfloat16"
    config = BaichuanConfig(dtype=dtype, torch_dtype=dtype, architectures=["BaichuanForCausalLM"], **shape)
    spec = None if is_official else spec_of(format_name)
    with torch.device("meta"):
        model = BaichuanForCausalLM(config)
        if spec is not None:
            place_layers(model, spec)
    state = model.state_dict()
    if is_official:
        _write_official(folder, config, state, randomness)
        quantization: dict[str, Any] | None = {"bnb_4bit_compute_dtype": "float16", **LIBRARY_FIELDS}
    else:
        write_weights(folder, state, spec, randomness)
        quantization = None if spec is None else spec.to_dict()
    config.save_pretrained(folder)
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if quantization is not None:
        fields["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    shutil.copy(Path(baichuan2.__file__).parent / "demo" / "chat" / "tokenizer.model", folder)


def _write_official(folder: Path, config: BaichuanConfig, state: dict[str, Tensor], randomness: Randomness) -> None:
    """The one file of an official 4-bit folder; all of it is in memory for a moment."""
    content: dict[str, Any] = {}
    quantized = {f"{name}.weight" for name in quantizable_shapes(config)}
    for name, tensor in state.items():
        if name not in quantized:
            values = random_numbers(name, tensor.shape, torch.float16, randomness)
            content[name] = torch.nn.Parameter(values, requires_grad=False)
            continue
        stored = random_nf4((tensor.shape[0], tensor.shape[1]), torch.float16, randomness)
        content[name + CODES_SUFFIX] = stored.codes.view(-1, 1)
        content[name + STATE_SUFFIX] = write_quant_state(stored)
    with_sums = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)  # most of the time is theirs, and nothing checks them when loading
    try:
        torch.save(content, folder / "pytorch_model.bin")
    finally:
        torch.serialization.set_crc32_options(with_sums)


def _write_gguf(path: Path, shape: dict[str, Any], format_name: str, randomness: Randomness) -> None:
    """A file of llama.cpp's `baichuan` architecture (RoPE with 32 layers, ALiBi with 40), else of its `llama`."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    hidden, inner, layers, heads = (shape[name] for name in _SIZES)
    writer = gguf.GGUFWriter(path, "baichuan" if layers in (32, 40) else "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_vocab_size(shape["vocab_size"])
    writer.add_tokenizer_model("no_vocab")  # only ids are ever fed
    tensors = list(_gguf_tensors(shape, format_name))
    for name, sizes, kind in tensors:
        dtype = np.dtype(np.float32) if kind == kinds.F32 else np.dtype(np.uint8)
        stored = sizes if kind == kinds.F32 else gguf.quant_shape_to_byte_shape(sizes, kind)
        writer.add_tensor_info(name, stored, dtype, int(np.prod(stored)) * dtype.itemsize, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _name, sizes, kind in tensors:
        writer.write_tensor_data(_random_blocks(sizes, kind, randomness))
    writer.close()


_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def _gguf_tensors(shape: dict[str, Any], format_name: str) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    """Name, shape and type of each tensor, chosen as llama-quantize does for these shapes."""
    from gguf import GGMLQuantizationType as Kind

    hidden, inner, layers, _heads = (shape[name] for name in _SIZES)
    vocabulary = shape["vocab_size"]
    base, head = {
        "Q4_0": (Kind.Q4_0, Kind.Q6_K),
        "Q4_K_M": (Kind.Q4_K, Kind.Q6_K),
        "Q8_0": (Kind.Q8_0, Kind.Q8_0),
    }[format_name]
    yield "token_embd.weight", (vocabulary, hidden), base
    yield "output_norm.weight", (hidden,), Kind.F32
    yield "output.weight", (vocabulary, hidden), head
    for layer in range(layers):
        eighth = layers // 8
        # Q4_K_M keeps the first and last eighth and every third layer between them in six bits, of two kinds of weight
        has_more = layer < eighth or layer >= 7 * eighth or (layer - eighth) % 3 == 2
        more = Kind.Q6_K if format_name == "Q4_K_M" and has_more else base
        prefix = f"blk.{layer}."
        yield prefix + "attn_norm.weight", (hidden,), Kind.F32
        yield prefix + "ffn_norm.weight", (hidden,), Kind.F32
        for name, sizes, kind in (
            ("attn_q", (hidden, hidden), base),
            ("attn_k", (hidden, hidden), base),
            ("attn_v", (hidden, hidden), more),
            ("attn_output", (hidden, hidden), base),
            ("ffn_gate", (inner, hidden), base),
            ("ffn_up", (inner, hidden), base),
            ("ffn_down", (hidden, inner), more),
        ):
            yield f"{prefix}{name}.weight", sizes, _that_fits(kind, sizes[-1])


def _that_fits(kind: Any, width: int) -> Any:
    """What llama-quantize takes in the place of a type whose blocks of 256 do not fill rows, as in the 13B's `down`."""
    from gguf import GGML_QUANT_SIZES
    from gguf import GGMLQuantizationType as Kind

    in_place = {Kind.Q4_K: Kind.Q5_0, Kind.Q6_K: Kind.Q8_0}
    return in_place[kind] if kind in in_place and width % GGML_QUANT_SIZES[kind][0] else kind


def _random_blocks(sizes: tuple[int, ...], kind: Any, randomness: Randomness) -> np.ndarray:
    """Random codes under scales that give the weights the size of ours."""
    import gguf

    if kind == gguf.GGMLQuantizationType.F32:
        return np.ones(sizes, np.float32)
    # bytes of the float16 scales in a block, and a scale for which random codes have the size of our weights
    numbers = {
        "Q4_0": {0: WEIGHT_RMS / 4.6},
        "Q5_0": {0: WEIGHT_RMS / 9.2},
        "Q8_0": {0: WEIGHT_RMS / 74},
        "Q4_K": {0: WEIGHT_RMS / 167, 2: 7.5 * WEIGHT_RMS / 167},
        "Q6_K": {208: WEIGHT_RMS / 1369},
    }[kind.name]
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    num_blocks = int(np.prod(sizes)) // block_size
    blocks = randomness.take_bytes(num_blocks * block_bytes)
    for offset, value in numbers.items():  # blocks and places of scales are even
        blocks.view(np.float16).reshape(num_blocks, block_bytes // 2)[:, offset // 2] = value
    return blocks.reshape(*sizes[:-1], -1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="MODEL", help="which to write; see --list")
    parser.add_argument("--directory", type=Path, default=Path(), help="where (default: here)")
    parser.add_argument("--layers", type=int, help="so many decoder layers instead of all")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    arguments = parser.parse_args()
    known = names()
    if arguments.list:
        print("\n".join(known))
        return 0
    unknown = [name for name in arguments.names if name not in known]
    if unknown or not arguments.names:
        parser.error(f"no such model: {unknown[0]} (see --list)" if unknown else "name at least one model (see --list)")
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        print(ensure(arguments.directory, name, layers=arguments.layers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
