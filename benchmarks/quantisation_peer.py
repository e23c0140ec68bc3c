"""llama.cpp's side of `benchmarks/quantisation.py`: run by an interpreter that has llama-cpp-python, never imported.

    python quantisation_peer.py quantize SOURCE.gguf TARGET.gguf Q4_K_M [--keep-ends]
    python quantisation_peer.py logits MODEL.gguf IDS.npz LOGITS.npy [--exact]
    python quantisation_peer.py replies MODEL.gguf PROMPTS.npz REPLIES.npz --stop 2,195

`IDS.npz` holds `ids` (all sequences end to end) and `lengths`. The last line printed is a JSON object with versions and
measured memory. Nothing of Baichuan is known here: ids in, logits out.
"""

import argparse
import ctypes
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as api

CONTEXT = 512


def memory() -> dict[str, int]:
    """Resident, anonymous, file-backed and peak memory of this process in bytes."""
    names = {"VmRSS": "resident", "RssAnon": "anonymous", "RssFile": "file_backed", "VmHWM": "peak"}
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {new: int(fields[old].split()[0]) * 1024 for old, new in names.items()}


def versions() -> dict[str, str]:
    """What ran: the Python package and the processor features that the library was built with."""
    return {"llama_cpp_python": llama_cpp.__version__, "system_info": api.llama_print_system_info().decode()}


def sequences(path: Path) -> Iterator[np.ndarray]:
    """The sequences of an .npz file, each int32 (T,)."""
    with np.load(path) as stored:
        ends = np.cumsum(stored["lengths"])
        yield from np.split(stored["ids"].astype(np.int32), ends[:-1])


class Runner:
    """A model in llama.cpp, one sequence at a time.

    `is_exact`: keys and values in float32 and plain attention, so that a float32 file is computed in float32 all
    through; otherwise the library's defaults, which are what its users get.
    """

    def __init__(self, path: Path, *, is_exact: bool, threads: int) -> None:
        self.before = memory()
        self.model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        params = api.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT
        params.n_threads = params.n_threads_batch = threads
        if is_exact:
            params.type_k = params.type_v = api.GGML_TYPE_F32
            params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = api.llama_init_from_model(self.model, params)
        self.batch = api.llama_batch_init(CONTEXT, 0, 1)
        self.vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.loaded = memory()

    def forget(self) -> None:
        """Starts a new sequence."""
        api.llama_memory_clear(api.llama_get_memory(self.context), True)

    def feed(self, ids: np.ndarray, first_position: int, *, all_logits: bool) -> np.ndarray:
        """The logits (T, V) after each of `ids` (T,), or (1, V) after the last one."""
        self.batch.n_tokens = len(ids)
        for index, token_id in enumerate(ids):
            self.batch.token[index] = int(token_id)
            self.batch.pos[index] = first_position + index
            self.batch.n_seq_id[index] = 1
            self.batch.seq_id[index][0] = 0
            self.batch.logits[index] = all_logits or index == len(ids) - 1
        if api.llama_decode(self.context, self.batch) != 0:
            raise SystemExit("llama_decode failed")
        rows = len(ids) if all_logits else 1
        return np.ctypeslib.as_array(api.llama_get_logits(self.context), shape=(rows, self.vocab_size))


def quantize(source: Path, target: Path, name: str, *, keep_ends: bool, threads: int) -> dict[str, Any]:
    """Writes `source` in the format `name`, as llama-quantize does without an importance matrix."""
    params = api.llama_model_quantize_default_params()
    params.nthread = threads
    prefix = "LLAMA_FTYPE_ALL_" if name == "F32" else "LLAMA_FTYPE_MOSTLY_"
    params.ftype = getattr(api, prefix + name)
    if keep_ends:
        params.output_tensor_type = params.token_embedding_type = api.GGML_TYPE_F16
    if api.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) != 0:
        raise SystemExit(f"llama.cpp cannot quantise {source} to {name}")
    return {"versions": versions()}


def write_logits(model: Path, ids: Path, target: Path, *, is_exact: bool, threads: int) -> dict[str, Any]:
    """Writes the logits (all tokens, V) float32 of every sequence of `ids`."""
    runner = Runner(model, is_exact=is_exact, threads=threads)
    wanted = list(sequences(ids))
    shape = (sum(map(len, wanted)), runner.vocab_size)
    written = np.lib.format.open_memmap(target, mode="w+", dtype=np.float32, shape=shape)
    start = 0
    after = runner.loaded
    for number, sequence in enumerate(wanted):
        runner.forget()
        written[start : start + len(sequence)] = runner.feed(sequence, 0, all_logits=True)
        start += len(sequence)
        if number == 0:  # later on, the pages of the file being written would be counted
            after = memory()
    written.flush()
    return {"before": runner.before, "loaded": runner.loaded, "after": after, "versions": versions()}


def write_replies(
    model: Path, prompts: Path, target: Path, *, stop: set[int], new: int, threads: int
) -> dict[str, Any]:
    """Writes the greedy continuations of `prompts`, without the stop id, in the form of `IDS.npz`."""
    runner = Runner(model, is_exact=False, threads=threads)
    replies = []
    for prompt in sequences(prompts):
        runner.forget()
        token_id = int(runner.feed(prompt, 0, all_logits=False)[-1].argmax())
        reply: list[int] = []
        while token_id not in stop:
            reply.append(token_id)
            position = len(prompt) + len(reply) - 1
            if len(reply) >= new or position >= CONTEXT:
                break
            token_id = int(runner.feed(np.array([token_id], np.int32), position, all_logits=False)[-1].argmax())
        replies.append(np.array(reply, np.int32))
    np.savez(target, ids=np.concatenate(replies), lengths=np.array([len(reply) for reply in replies]))
    return {"versions": versions()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("task", choices=["quantize", "logits", "replies"])
    parser.add_argument("source", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("third", help="target file, or the format for quantize")
    parser.add_argument("--keep-ends", action="store_true", help="leave the embedding and the head in float16")
    parser.add_argument("--exact", action="store_true", help="float32 keys and values, plain attention")
    parser.add_argument("--stop", default="2", help="ids that end a reply")
    parser.add_argument("--new-tokens", type=int, default=120)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    api.llama_backend_init()
    silent = api.llama_log_callback(lambda *_: None)
    api.llama_log_set(silent, None)
    if options.task == "quantize":
        report = quantize(
            options.source, options.second, options.third, keep_ends=options.keep_ends, threads=options.threads
        )
    elif options.task == "logits":
        report = write_logits(
            options.source, options.second, Path(options.third), is_exact=options.exact, threads=options.threads
        )
    else:
        report = write_replies(
            options.source,
            options.second,
            Path(options.third),
            stop={int(token_id) for token_id in options.stop.split(",")},
            new=options.new_tokens,
            threads=options.threads,
        )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
