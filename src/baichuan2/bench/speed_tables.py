"""The figures of `baichuan2 bench` in the two forms of the official README: memory by precision, speed beside LLaMA."""

import json
from collections.abc import Sequence
from pathlib import Path

from baichuan2.bench.speed import Benchmark, Line, Spread
from baichuan2.errors import SettingsError

__all__ = ["PUBLISHED_MEMORY", "markdown", "write_benchmark"]

GIB = 1 << 30
# the official README; its "GB" of 16-bit weights are 2^30 bytes
PUBLISHED_MEMORY = {
    "7b": {"16": 14.0, "8": 8.0, "4": 5.1},
    "13b": {"16": 25.9, "8": 14.2, "4": 8.6},
}
BITS = {"bfloat16": "16", "float16": "16", "int8": "8", "int4": "4", "nf4": "4"}
PUBLISHED_SPEED = (
    "Published for Baichuan 1 alone: Baichuan-13B-Base 25.4 tokens/s, LLaMA-13B 19.4 (a ratio of 1.31), on one A100, "
    "fp16, batch 1, 2,048 new tokens. For Baichuan 2 no speed is published."
)
MEMORY_NOTE = (
    "Weights: parameters and buffers of the loaded model. Peak: {what}. Published: the official README's table of "
    "graphics memory{unit}."
)


def markdown(benchmark: Benchmark) -> str:
    """The page of one run."""
    parts = [_head(benchmark), "## Memory", _memory(benchmark), "## Speed", _speed(benchmark)]
    problems = [f"- {line.model} {line.precision}: {line.problem}" for line in benchmark.lines if line.problem]
    if problems:
        parts += ["## Not measured", "\n".join(problems)]
    return "\n\n".join(parts) + "\n"


def write_benchmark(benchmark: Benchmark, folder: Path) -> tuple[Path, Path]:
    """Writes bench.json and bench.md, whole or not at all; their paths.

    Raises:
        SettingsError: nothing can be written there.
    """
    texts = {"bench.json": json.dumps(benchmark.to_dict(), indent=1, ensure_ascii=False) + "\n"}
    texts["bench.md"] = markdown(benchmark)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            beside = folder / f".{name}.tmp"
            beside.write_text(text, encoding="utf-8")
            beside.replace(folder / name)
    except OSError as error:
        raise SettingsError(f"--output-dir {folder} cannot be written: {error.strerror or error}") from error
    return folder / "bench.json", folder / "bench.md"


def _head(benchmark: Benchmark) -> str:
    settings, shape, hardware = benchmark.settings, benchmark.shape, benchmark.hardware
    software = benchmark.software
    place = f"{hardware['processor']}, {hardware['cores']} cores"
    if benchmark.device != "cpu":
        place = f"{', '.join(hardware['accelerators'])} ({benchmark.device}); {place}"
    return (
        f"# Speed and memory of {benchmark.model}\n\n"
        f"{shape['num_hidden_layers']} layers, {shape['hidden_size']} wide, vocabulary {shape['vocab_size']:,}. "
        f"Prompt of {settings.prompt_tokens} random ids, {settings.new_tokens} tokens decoded after the first, "
        f"{settings.batch} at once; {_turns(settings.turns)} of each line, in alternation, each in a process of its "
        "own: median (lowest to highest).\n\n"
        f"On {place}. baichuan2 {software['baichuan2']}, commit {software['commit'] or 'unknown'}, Python "
        f"{software['python']}, torch {software['torch']}, transformers {software['transformers']}."
    )


def _memory(benchmark: Benchmark) -> str:
    published = PUBLISHED_MEMORY.get(benchmark.released or "", {})
    rows = []
    for line in benchmark.lines:
        if not line.turns:
            continue
        known = None if line.is_llama else published.get(BITS.get(line.precision, ""))
        peak = line.peak()
        rows.append(
            (
                _name(line),
                f"{line.turns[0].weight_bytes / GIB:.2f}",
                "unknown" if peak is None else f"{peak.median / GIB:.2f}",
                *([] if not published else ["" if known is None else f"{known:.1f}"]),
                "" if line.is_llama else _text(line.load(), "{:.2f}"),
                "" if line.is_llama else _text(line.first(), "{:.2f}"),
                line.how,
            )
        )
    header = ["", "weights, GiB", "peak, GiB", *(["published"] if published else []), "load, s", "then first token, s"]
    what = (
        "of the process, the program itself included, mapped weights as far as they were read"
        if benchmark.device == "cpu"
        else "of the device's allocator"
    )
    unit = ", whose 16-bit figures are GiB" if published else ""
    note = MEMORY_NOTE.format(what=what, unit=unit)
    if not published:
        note = note.partition(" Published")[0]
    return _table([*header, "how it came about"], rows) + "\n\n" + note


def _speed(benchmark: Benchmark) -> str:
    llama = benchmark.llama()
    yardstick = None if llama is None else llama.decode()
    rows = []
    for line in benchmark.lines:
        decode = line.decode()
        if decode is None:
            continue
        ratio = "" if yardstick is None else f"{decode.median / yardstick.median:.2f}"
        rows.append((_name(line), _text(line.prefill(), "{:.1f}"), _text(decode, "{:.2f}"), ratio))
    header = ["", "prefill, tokens/s", "decode, tokens/s", "decode, times LLaMA"]
    return _table(header, rows) + "\n\n" + PUBLISHED_SPEED


def _turns(count: int) -> str:
    return "1 turn" if count == 1 else f"{count} turns"


def _name(line: Line) -> str:
    return f"{line.model}, {line.precision}"


def _text(spread: Spread | None, form: str) -> str:
    if spread is None:
        return "unknown"
    if spread.low == spread.high:
        return form.format(spread.median)
    return f"{form.format(spread.median)} ({form.format(spread.low)} to {form.format(spread.high)})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:" for _ in header[1:]]], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
