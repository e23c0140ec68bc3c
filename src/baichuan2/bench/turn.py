"""One turn of `baichuan2 bench`: a model loaded in a process of its own, a prompt read, tokens decoded.

    python -m baichuan2.bench.turn TASK     TASK: an object of JSON, see `Task`; prints one JSON line last

A fresh process each time, so that loading is measured too, a peak is that of one model, and nothing is left over from
the turn before. The LLaMA is transformers' own, with random weights made in memory, driven as its users do: plain
passes over the cache, the logits of the last place alone.
"""

import gc
import inspect
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from baichuan2.bench.memory import process_memory, reset_peak
from baichuan2.errors import BaichuanError
from baichuan2.settings import LoadSettings

__all__ = ["Task", "Turn"]

Engine = Literal["baichuan2", "llama"]
WARM_UP_PROMPT = 4
WARM_UP_STEPS = 3  # recorded graphs settle in that many
FIRST_ID = 300  # text ids of every Baichuan vocabulary begin below
BLOCK = (1 << 20) + 1  # numbers; no divisor of a row


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one process measures. `load`: fields of LoadSettings; `shape`: of a LLaMA, fields of its config."""

    engine: Engine
    load: Mapping[str, Any]
    shape: Mapping[str, int]
    prompt_tokens: int
    new_tokens: int
    batch: int
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one process measured; times in seconds, sizes in bytes, None: cannot be told, or does not apply.

    `load_seconds`: until the model is loaded, None where it was made; `first_seconds`: after it, until the first token
    of a short prompt is there, with which mapped weights are read from their files. `prefill_seconds`: of the whole
    prompt with its first token; `decode_seconds`: of the `new_tokens` after it. `weight_bytes`: parameters and buffers.
    `peak_bytes`: the highest point of the process, loading included, on an accelerator of its allocator there;
    `peak_after_load`: the same without loading.
    """

    load_seconds: float | None
    first_seconds: float
    prefill_seconds: float
    decode_seconds: float
    weight_bytes: int
    peak_bytes: int | None
    peak_after_load: int | None
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def measure_here(task: Task) -> Turn:
    """Does the task in this process, which should have done nothing else.

    Raises:
        BaichuanError: the model cannot be loaded or run.
    """
    import torch

    from baichuan2.devices import pick_device

    device = pick_device(str(task.load.get("device", "auto")))
    clock = _Clock(device)
    runner: _Ours | _Llama = _Ours(task) if task.engine == "baichuan2" else _Llama(task, device)
    gc.collect()
    reset_peak()
    start = clock.now()
    runner.load()
    loaded = clock.now() - start
    start = clock.now()
    steps = runner.steps(_ids(task, WARM_UP_PROMPT, runner.vocab_size), WARM_UP_STEPS)
    next(steps)
    first = clock.now() - start
    for _ in steps:
        pass
    peak_loading = clock.peak()
    clock.reset_peak()
    start = clock.now()
    steps = runner.steps(_ids(task, task.prompt_tokens, runner.vocab_size), task.new_tokens)
    next(steps)
    prefill = clock.now() - start
    start = clock.now()
    for _ in range(task.new_tokens):
        next(steps)
    decode = clock.now() - start
    peak = clock.peak()
    tensors: list[torch.Tensor] = [*runner.model.parameters(), *runner.model.buffers()]
    return Turn(
        load_seconds=loaded if task.engine == "baichuan2" else None,
        first_seconds=first,
        prefill_seconds=prefill,
        decode_seconds=decode,
        weight_bytes=sum(tensor.nbytes for tensor in tensors),
        peak_bytes=None if peak is None or peak_loading is None else max(peak, peak_loading),
        peak_after_load=peak,
        device=str(device),
    )


class _Clock:
    """Time and memory of the device: an accelerator computes on while the processor goes ahead."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._is_processor = device.type == "cpu"

    def now(self) -> float:
        """The time at which everything given to the device is done."""
        from baichuan2.devices import synchronize

        synchronize(self._device)
        return time.perf_counter()

    def peak(self) -> int | None:
        """Bytes at the highest point since `reset_peak`; on an accelerator those that tensors took there."""
        from baichuan2.devices import peak_memory

        return process_memory().peak if self._is_processor else peak_memory(self._device)

    def reset_peak(self) -> None:
        """Makes the present memory the peak, where the system can."""
        from baichuan2.devices import reset_peak_memory

        if self._is_processor:
            reset_peak()
        else:
            reset_peak_memory(self._device)


def _ids(task: Task, length: int, vocab_size: int) -> list[list[int]]:
    """Random ids, the same in each turn and for each engine: `batch` rows of `length`."""
    import torch

    generator = torch.Generator().manual_seed(task.seed)
    ids: list[list[int]] = torch.randint(FIRST_ID, vocab_size, (task.batch, length), generator=generator).tolist()
    return ids


class _Ours:
    """Our engine, as replies use it; no guesses, which random weights would make right more often than words."""

    def __init__(self, task: Task) -> None:
        # imported here, so that the time of loading holds none of it
        import baichuan2.engine.generate
        import baichuan2.model.modeling_baichuan  # noqa: F401
        from baichuan2.checkpoints.load import load_for_replies

        self._load = load_for_replies
        self._settings = LoadSettings(**task.load)
        self.model: Any = None

    def load(self) -> None:
        self.model = self._load(settings=self._settings).model

    @property
    def vocab_size(self) -> int:
        return int(self.model.config.vocab_size)

    def steps(self, prompts: list[list[int]], new_tokens: int) -> Iterator[object]:
        """An item when the first tokens are there, and one for each of the `new_tokens` after them."""
        from baichuan2.engine.generate import iter_batch
        from baichuan2.engine.sampling import Sampling

        sampling = Sampling(max_new_tokens=new_tokens + 1, draft_tokens=0)
        return iter_batch(self.model, prompts, sampling, stop_ids=frozenset())


class _Llama:
    """transformers' LLaMA of the same shape; in the place of a 13B without its ALiBi."""

    def __init__(self, task: Task, device: Any) -> None:
        import torch
        import transformers

        from baichuan2.checkpoints.threads import use_threads

        self._task, self._device = task, device
        self._dtype = getattr(torch, str(task.load["dtype"]))
        self._library = transformers
        taken = inspect.signature(transformers.LlamaForCausalLM.forward).parameters
        self._cache_name = "cache" if "cache" in taken else "past_key_values"  # the name of older versions
        self.model: Any = None
        if device.type == "cpu":
            use_threads(task.load.get("threads"))

    def load(self) -> None:
        import torch

        config = self._library.LlamaConfig(**self._task.shape, attn_implementation="sdpa")
        with torch.device("meta"):
            model = self._library.LlamaForCausalLM(config)
        model = model.to(self._dtype).to_empty(device=self._device).eval()
        # positions are computed, not read
        model.model.rotary_emb = type(model.model.rotary_emb)(config).to(self._device)
        block = torch.empty(BLOCK).uniform_(-0.035, 0.035).to(self._device, self._dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.fill_(1)
                    continue
                for part in parameter.view(-1).split(BLOCK):  # drawing billions of numbers takes a minute
                    part.copy_(block[: part.numel()])
        self.model = model

    @property
    def vocab_size(self) -> int:
        return self._task.shape["vocab_size"]

    def steps(self, prompts: list[list[int]], new_tokens: int) -> Iterator[object]:
        """As `_Ours.steps`."""
        import torch

        ids, cache = torch.tensor(prompts, device=self._device), None
        for _ in range(new_tokens + 1):
            with torch.inference_mode():
                output = self.model(input_ids=ids, **{self._cache_name: cache}, use_cache=True, logits_to_keep=1)
                cache, ids = getattr(output, self._cache_name), output.logits[:, -1:].argmax(-1)
            yield ids.tolist()  # as ours, whose reader sees each token


def _main() -> int:
    task = Task(**json.loads(sys.argv[1]))
    try:
        answer = measure_here(task).to_dict()
    except BaichuanError as error:
        answer = {"error": str(error)}
    except (RuntimeError, MemoryError) as error:  # memory of an accelerator, numbers that it cannot compute with
        answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    except KeyboardInterrupt:
        return 130
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
