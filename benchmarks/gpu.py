"""How fast Baichuan 2 runs on a GPU, beside transformers' Llama of the same shape and, where it is installed, vLLM.

The same figures as benchmarks/cpu.py: prefill, decode of several sequences at once, memory, at 16, 8 and 4 bits.
Weights are random (8 and 4 bits by bitsandbytes, as `--quantize` does there). Ours decodes as it does by default, by
CUDA graphs where it records them, and without; transformers plainly, and with a static cache under torch.compile, which
records CUDA graphs too. Needs nobody while it runs; what cannot be measured says why. On a machine without a GPU it
stops with status 2. `--device cpu --shape tiny` walks the same way on the processor, to try the script; such figures
say nothing about a GPU.
"""

import argparse
import dataclasses
import datetime
import gc
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
sys.path.insert(0, str(SCRIPTS))

import torch  # noqa: E402
import transformers  # noqa: E402
from cpu_models import SHAPES, VOCABULARY  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache  # noqa: E402

from baichuan2.engine.generate import iter_batch  # noqa: E402
from baichuan2.engine.graphs import GRAPHS  # noqa: E402
from baichuan2.engine.sampling import Sampling  # noqa: E402
from baichuan2.model.configuration_baichuan import BaichuanConfig  # noqa: E402
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM  # noqa: E402
from baichuan2.model.online_quantization import quantize_in_place  # noqa: E402

EXAMPLES = """examples:
  python benchmarks/gpu.py                                        # 7B, everything
  python benchmarks/gpu.py --shape 13b --batches 1 8 --turns 3
  python benchmarks/gpu.py --device cpu --shape tiny --turns 1    # tries the script without a GPU
"""
GIB = 1 << 30
BITS = (16, 8, 4)
ENGINES = ("baichuan2", "eager", "transformers", "compiled", "vllm")
WARM_UP_STEPS = 3  # torch.compile and CUDA graphs settle in that many


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One engine at one setting; None where it was not measured, and `note` says why. Bytes: peak on the device."""

    engine: str
    bits: int
    batch: int
    prefill: float | None = None  # prompt tokens a second, of all sequences
    decode: float | None = None  # new tokens a second, of all sequences
    peak_bytes: int | None = None
    note: str = ""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the script (default: cuda)")
    parser.add_argument("--shape", choices=SHAPES, default="7b", help="sizes of the model (default: 7b)")
    parser.add_argument("--bits", type=int, nargs="+", choices=BITS, default=BITS, metavar="N", help="of 16, 8 and 4")
    parser.add_argument("--batches", type=int, nargs="+", default=(1, 8, 32), metavar="N", help="sequences at once")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES, metavar="NAME",
                        help=f"of {', '.join(ENGINES)}; eager: ours without graphs (default: all)")  # fmt: skip
    parser.add_argument("--prompt", type=int, default=512, metavar="N", help="tokens of each sequence (default: 512)")
    parser.add_argument("--tokens", type=int, default=32, metavar="N", help="decoded in a turn (default: 32)")
    parser.add_argument("--turns", type=int, default=3, help="of each figure (default: 3)")
    parser.add_argument("--output", type=Path, default=SCRIPTS, metavar="DIR", help="for page and JSON (default: here)")
    options = parser.parse_args(arguments)
    for name in ("prompt", "tokens", "turns"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    if min(options.batches) < 1:
        parser.error("--batches must be at least 1")
    if options.prompt + options.tokens + WARM_UP_STEPS > 4096:
        parser.error("--prompt and --tokens exceed the context of 4,096 tokens")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    if options.device != "cpu" and not torch.cuda.is_available():
        print("error: no GPU was found, so nothing was measured; --device cpu --shape tiny tries the script",
              file=sys.stderr)  # fmt: skip
        return 2
    facts = gather_facts(options)
    release(options)
    print(floor_line(facts), flush=True)
    figures: list[Figure] = []
    for measured in all_figures(options):
        figures.append(measured)
        print(" | ".join(cells(measured)), flush=True)
        target = write(options.output, figures, facts)  # what was measured stays, should the machine be taken away
    print(f"written: {target}.md and .json")
    return 0


def write(folder: Path, figures: Sequence[Figure], facts: dict[str, Any]) -> Path:
    """Page and JSON of the figures so far; their name without its ending."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"gpu_{facts['device_name']}_{facts['date']}"
    report = {**facts, "figures": [dataclasses.asdict(figure) for figure in figures]}
    for ending, text in ((".md", page(figures, facts)), (".json", json.dumps(report, indent=1) + "\n")):
        path = target.with_name(target.name + ending)
        unfinished = path.with_name(path.name + ".partial")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    return target


def all_figures(options: argparse.Namespace) -> Any:
    """Every figure as it is measured; a model's memory is given back before the next is made."""
    for bits in options.bits:
        models: list[Any] = []  # the one of these bits, made by whoever comes first
        for name, title, graphs in (("baichuan2", "baichuan2", ""), ("eager", "baichuan2, without graphs", "off")):
            if name in options.engines:
                os.environ[GRAPHS] = graphs
                yield from attempt(
                    options, title, bits, lambda bits=bits, models=models: OurRunner(options, bits, models)
                )
        del models[:]
        release(options)
    for name, title in (("transformers", "transformers"), ("compiled", "transformers, static cache, compiled")):
        if name in options.engines:
            is_compiled = name == "compiled"
            yield from attempt(
                options, title, 16, lambda compiled=is_compiled: LlamaRunner(options, is_compiled=compiled)
            )
    if "vllm" in options.engines:
        yield from vllm_figures(options)


def release(options: argparse.Namespace) -> None:
    """Gives unused memory back to the device."""
    gc.collect()
    if options.device != "cpu":
        torch.cuda.empty_cache()


def attempt(options: argparse.Namespace, engine: str, bits: int, make: Callable[[], Any]) -> Any:
    """The figures of one engine at each batch; where it fails, one that says why."""
    runner = None
    for batch in options.batches:
        try:
            runner = make() if runner is None else runner
            if options.device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            yield measure(options, engine, bits, batch, runner)
        except Exception as error:  # out of memory, a missing extra: the other figures still count
            note = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            yield Figure(engine=engine, bits=bits, batch=batch, note=note)
            if runner is None:
                break
        release(options)


def measure(options: argparse.Namespace, engine: str, bits: int, batch: int, runner: Any) -> Figure:
    """Medians over the turns, after one that warms up."""
    prefills, decodes = [], []
    for turn in range(options.turns + 1):
        prompts = torch.randint(300, runner.vocab_size, (batch, options.prompt))
        read, steps = runner.run(prompts, options.tokens)
        if turn:
            prefills.append(batch * options.prompt / read)
            decodes.append(batch / statistics.median(steps))
    peak = None if options.device == "cpu" else torch.cuda.max_memory_allocated()
    prefill, decode = statistics.median(prefills), statistics.median(decodes)
    return Figure(engine=engine, bits=bits, batch=batch, prefill=prefill, decode=decode, peak_bytes=peak)


def wait(device: str) -> float:
    """The time at which everything given to the device is done."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def random_model(kind: Any, config: Any, device: str) -> Any:
    """A model with random bfloat16 weights, made where it will run."""
    with torch.device("meta"):
        model = kind(config)
    model = model.to(torch.bfloat16).to_empty(device=device).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.035, 0.035) if parameter.dim() == 2 else parameter.fill_(1)
    decoder = model.model
    if decoder.rotary_emb is not None:  # positions are computed, not read
        decoder.rotary_emb = type(decoder.rotary_emb)(config).to(device)
    if getattr(decoder, "alibi", None) is not None:
        decoder.alibi = type(decoder.alibi)(config.num_attention_heads).to(device)
    return model


class OurRunner:
    """The public engine, as `baichuan2 chat` uses it."""

    def __init__(self, options: argparse.Namespace, bits: int, models: list[Any]) -> None:
        self.device = options.device
        shape = {"vocab_size": VOCABULARY, **SHAPES[options.shape]}
        config = BaichuanConfig(dtype="bfloat16", torch_dtype="bfloat16", **shape)
        self.vocab_size = config.vocab_size
        if not models:
            models.append(random_model(BaichuanForCausalLM, config, self.device))
            if bits < 16:
                quantize_in_place(models[0], bits)
            release(options)
        self.model = models[0]

    def run(self, prompts: torch.Tensor, tokens: int) -> tuple[float, list[float]]:
        """Seconds of the prefill, and of each of the steps after it."""
        sampling = Sampling(max_new_tokens=tokens + 1, draft_tokens=0)
        start = wait(self.device)
        steps = iter_batch(self.model, prompts.tolist(), sampling, stop_ids=frozenset())
        next(steps)
        seconds = [wait(self.device) - start]
        for _ in range(tokens):
            start = wait(self.device)
            next(steps)
            seconds.append(wait(self.device) - start)
        return seconds[0], seconds[1:]


class LlamaRunner:
    """transformers' Llama of the same sizes: the yardstick for RoPE; for the 13B, without its ALiBi."""

    def __init__(self, options: argparse.Namespace, *, is_compiled: bool) -> None:
        self.device, self.is_compiled = options.device, is_compiled
        shape = {"vocab_size": VOCABULARY, **SHAPES[options.shape]}
        self.config = LlamaConfig(
            vocab_size=shape["vocab_size"], hidden_size=shape["hidden_size"],
            intermediate_size=shape["intermediate_size"], num_hidden_layers=shape["num_hidden_layers"],
            num_attention_heads=shape["num_attention_heads"], max_position_embeddings=4096,
            attn_implementation="sdpa",
        )  # fmt: skip
        self.vocab_size = self.config.vocab_size
        self.model = random_model(LlamaForCausalLM, self.config, self.device)
        self.step: Callable[..., Any] = self.model
        if is_compiled:
            way = {"backend": "eager"} if self.device == "cpu" else {"mode": "reduce-overhead"}  # CUDA graphs
            self.step = torch.compile(self.model, fullgraph=True, **way)

    @torch.inference_mode()
    def run(self, prompts: torch.Tensor, tokens: int) -> tuple[float, list[float]]:
        """Seconds of the prefill, and of each of the steps after it."""
        ids = prompts.to(self.device)
        cache = None
        if self.is_compiled:
            cache = StaticCache(config=self.config, max_cache_len=prompts.shape[1] + tokens + WARM_UP_STEPS)
        start = wait(self.device)
        output = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        next_ids = output.logits[:, -1:].argmax(-1)
        first = wait(self.device) - start
        seconds = []
        place = prompts.shape[1]
        for number in range(tokens + WARM_UP_STEPS):
            start = wait(self.device)
            positions = torch.full((len(prompts), 1), place + number, device=self.device)
            output = self.step(
                input_ids=next_ids, past_key_values=cache, use_cache=True, logits_to_keep=1, position_ids=positions
            )
            next_ids = output.logits[:, -1:].argmax(-1).clone()  # a recorded graph overwrites its outputs
            seconds.append(wait(self.device) - start)
        return first, seconds[WARM_UP_STEPS:]


def vllm_figures(options: argparse.Namespace) -> Any:
    """vLLM with random weights of the same sizes, where it is installed, in one process for all batches."""
    if importlib.util.find_spec("vllm") is None or options.device == "cpu":
        reason = "not installed" if options.device != "cpu" else "runs on a GPU only here"
        yield Figure(engine="vLLM", bits=16, batch=0, note=reason)
        return
    with tempfile.TemporaryDirectory() as name:
        shape = {"vocab_size": VOCABULARY, **SHAPES[options.shape]}
        config = {key: value for key, value in shape.items() if key != "model_max_length"}
        LlamaConfig(
            **(config | {"max_position_embeddings": 4096}), torch_dtype="bfloat16", architectures=["LlamaForCausalLM"]
        ).save_pretrained(name)
        script = [sys.executable, str(SCRIPTS / "gpu_vllm.py"), name, str(options.prompt), str(options.tokens),
                  str(options.turns), *map(str, options.batches)]  # fmt: skip
        done = subprocess.run(script, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        yield Figure(engine="vLLM", bits=16, batch=0, note=" ".join(done.stderr.strip().splitlines()[-1:])[:160])
        return
    for figure in json.loads(done.stdout.splitlines()[-1]):
        yield Figure(engine="vLLM", bits=16, **figure)


def cells(figure: Figure) -> list[str]:
    """One line of the table."""
    number = [f"{value:.1f}" if value is not None else "" for value in (figure.prefill, figure.decode)]
    peak = "" if figure.peak_bytes is None else f"{figure.peak_bytes / GIB:.2f}"
    return [figure.engine, str(figure.bits), str(figure.batch or ""), *number, peak, figure.note]


def page(figures: Sequence[Figure], facts: dict[str, Any]) -> str:
    """The page of one run."""
    header = ("engine", "bits", "batch", "prefill, tokens/s", "decode, tokens/s", "peak memory, GiB", "note")
    lines = [f"# Speed on {facts['device']} ({facts['date']})", "", f"    {facts['command']}", ""]
    if facts["device_name"] == "cpu":
        lines += ["**No GPU: this run only tried the script. Its figures say nothing about a GPU.**", ""]
    lines += [
        f"Commit {facts['commit']}; Python {facts['python']}, torch {facts['torch']}, transformers "
        f"{facts['transformers']}, CUDA {facts['cuda']}, driver {facts['driver'] or '?'}. Shape {facts['shape']}, "
        f"prompts of {facts['prompt']} random ids, random weights. Speeds are medians, of all sequences "
        "together; memory is the peak while they are measured, weights included.",
        "",
        floor_line(facts),
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(cells(figure)) + " |" for figure in figures),
    ]
    return "\n".join(lines) + "\n"


def floor_line(facts: dict[str, Any]) -> str:
    """What decoding one sequence cannot be faster than: each weight but the embedding is read for each token."""
    billions = facts["bytes_for_a_token"] / 1e9
    line = f"{billions:.2f} GB of 16-bit weights are read for a token"
    if not facts["bandwidth"]:
        return line + "."
    most = facts["bandwidth"] / facts["bytes_for_a_token"]
    return (
        f"{line}; the card copies {facts['bandwidth'] / 1e9:.0f} GB/s (read and written): {most:.0f} tokens/s at most."
    )


def copy_bandwidth() -> float:
    """Bytes a second that the GPU reads and writes when it copies 2 GiB."""
    source = torch.empty(1 << 30, dtype=torch.int16, device="cuda").zero_()
    target = torch.empty_like(source)
    seconds = []
    for _ in range(6):
        start = wait("cuda")
        target.copy_(source)
        seconds.append(wait("cuda") - start)
    return 2 * source.nbytes / min(seconds)


def bytes_for_a_token(shape: dict[str, Any]) -> int:
    """Of the 16-bit weights of a shape that each token meets."""
    width, inner = shape["hidden_size"], shape["intermediate_size"]
    layer = 4 * width * width + 3 * width * inner + 2 * width
    return 2 * (shape["num_hidden_layers"] * layer + width + shape.get("vocab_size", VOCABULARY) * width)


def driver() -> str:
    """The version of the driver, or nothing."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "-i", "0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def gather_facts(options: argparse.Namespace) -> dict[str, Any]:
    """What ran, where, and how."""
    device = "the processor" if options.device == "cpu" else torch.cuda.get_device_name()
    words = "cpu" if options.device == "cpu" else "-".join(device.lower().split())
    describe = ["git", "-C", str(SCRIPTS), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "command": " ".join(["python", "benchmarks/gpu.py", *sys.argv[1:]]),
        "commit": commit or "unknown",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": device,
        "device_name": "".join(c if c.isalnum() else "-" for c in words),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
        "driver": "" if options.device == "cpu" else driver(),
        "bandwidth": None if options.device == "cpu" else copy_bandwidth(),
        "bytes_for_a_token": bytes_for_a_token(SHAPES[options.shape]),
        "shape": options.shape,
        "prompt": options.prompt,
    }


if __name__ == "__main__":
    sys.exit(main())
