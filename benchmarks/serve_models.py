"""The models of `benchmarks/serve.py`, in our format and in llama.cpp's, with a tokenizer: a server has to write text.

The demo model is our own and its weights in float16, its 16 bits there. A part of a 7B has random weights, by
`cpu_models.py`; its vocabulary is the demo's, and rare Chinese characters for the ids beyond. Its head has no weights
for tokens that are no text (control tokens, bytes), so that every token of a reply is one that clients see.
"""

import json
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import baichuan2
from baichuan2.checkpoints.load import load_model
from baichuan2.convert.description import INDEX_FILE
from baichuan2.model.sentencepiece_file import SentencePieceFile, read_sentencepiece_file
from baichuan2.settings import LoadSettings

DEMO = Path(baichuan2.__file__).parent / "demo" / "chat"
FIRST_ORDINARY_ID = 300  # below are control tokens, bytes and roles
FIRST_RARE_CHARACTER = 0x20000  # CJK unified ideographs, extension B: 42,720 of them, none in a piece of the demo's
OUR_FORMAT, PEER_FORMAT = "int4-g64-head8", "Q4_0"


@dataclass(frozen=True, kw_only=True)
class ModelPair:
    """One model for our server and for the peer's. `gguf` is None without the package that writes it."""

    name: str
    folder: Path
    gguf: Path | None
    vocab_size: int
    context: int
    what: str


def prepare(directory: Path, name: str, *, with_peer: bool) -> ModelPair:
    """The model `name`, "demo" or a shape of `cpu_models.py`, written into `directory` where it is not there."""
    directory.mkdir(parents=True, exist_ok=True)
    folder = DEMO if name == "demo" else _slice_folder(directory, name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    gguf = None
    if with_peer:
        gguf = _demo_gguf(directory) if name == "demo" else _slice_gguf(directory, name, folder)
    formats = "bf16, llama.cpp F16" if name == "demo" else f"{OUR_FORMAT}, llama.cpp {PEER_FORMAT} with Q6_K head"
    return ModelPair(
        name=name,
        folder=folder,
        gguf=gguf,
        vocab_size=config["vocab_size"],
        context=config["model_max_length"] or config["max_position_embeddings"],
        what=f"{config['num_hidden_layers']} layers, {config['hidden_size']} wide, {config['num_attention_heads']} "
        f"heads, vocabulary {config['vocab_size']:,}; ours {formats}",
    )


def with_more_pieces(tokenizer: SentencePieceFile, vocab_size: int) -> bytes:
    """The content of a tokenizer.model with rare characters behind its own pieces, `vocab_size` pieces in all."""
    # a repeated field of a protobuf message may go on at its end
    added = bytearray()
    for place in range(len(tokenizer), vocab_size):
        text = chr(FIRST_RARE_CHARACTER + place).encode()
        piece = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", -float(place))
        added += b"\x0a" + bytes([len(piece)]) + piece
    return tokenizer.content + bytes(added)


def _slice_folder(directory: Path, name: str) -> Path:
    from cpu_models import ensure

    folder = directory / f"{name}-{OUR_FORMAT}"
    if folder.exists() and (folder / "generation_config.json").exists():
        return folder
    folder = ensure(directory, f"{name}-{OUR_FORMAT}")
    vocab_size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    silence_head(folder)
    tokenizer = read_sentencepiece_file(DEMO / "tokenizer.model")
    (folder / "tokenizer.model").write_bytes(with_more_pieces(tokenizer, vocab_size))
    shutil.copy(DEMO / "tokenizer_config.json", folder)
    shutil.copy(DEMO / "generation_config.json", folder)  # last: it tells that the folder is whole
    return folder


def silence_head(folder: Path) -> None:
    """Makes the scales of the head's rows zero for ids that are no ordinary ones, in the files as they lie."""
    name = "lm_head.weight_scales"
    index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    with (folder / index["weight_map"][name]).open("r+b") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(header_bytes))[name]
        start, end = entry["data_offsets"]
        row_bytes = (end - start) // entry["shape"][0]
        file.seek(8 + header_bytes + start)
        file.write(bytes(FIRST_ORDINARY_ID * row_bytes))


def _slice_gguf(directory: Path, name: str, folder: Path) -> Path:
    from cpu_models import ensure

    target = directory / f"{name}-{PEER_FORMAT}-served.gguf"
    if not target.exists():
        source = ensure(directory, f"{name}-{PEER_FORMAT}")
        write_with_tokenizer(source, target, read_sentencepiece_file(folder / "tokenizer.model"), in_half=False)
    return target


def _demo_gguf(directory: Path) -> Path:
    from quantisation_gguf import write_gguf

    target = directory / "demo-F16-served.gguf"
    if not target.exists():
        source = directory / "demo-F32.gguf"
        write_gguf(load_model(None, LoadSettings(device="cpu")).model, source)
        write_with_tokenizer(source, target, read_sentencepiece_file(DEMO / "tokenizer.model"), in_half=True)
        source.unlink()
    return target


def write_with_tokenizer(source: Path, target: Path, tokenizer: SentencePieceFile, *, in_half: bool) -> None:
    """The model of the GGUF file `source` with a vocabulary.

    Matrices in float16 if `in_half`; else as they are, but for the head, which is silent as `silence_head` makes ours.
    """
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    unfinished = target.with_name(target.name + ".partial")
    writer = gguf.GGUFWriter(unfinished, architecture)
    for field in reader.fields.values():
        # the writer makes some fields itself, and the tokenizer's are what is to be put in their place
        if not field.name.startswith(("GGUF.", "general.architecture", "general.file_type", "tokenizer.")):
            sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub_type)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.encode() for piece in tokenizer.pieces])
    writer.add_token_scores(tokenizer.scores)
    writer.add_token_types(tokenizer.kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    for tensor in reader.tensors:
        if in_half and tensor.data.ndim > 1:
            writer.add_tensor(tensor.name, tensor.data.astype(np.float16))
            continue
        data = tensor.data
        if tensor.name == "output.weight" and not in_half:
            data = np.array(data)
            data[:FIRST_ORDINARY_ID] = 0  # scales included
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.rename(target)
