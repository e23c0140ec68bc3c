"""How many tokens a second the scheduler of the server gives on a GPU: requests at once, and of unlike lengths.

A 7B of random bfloat16 weights, requests put into `engine.scheduler` directly, without HTTP; beside them a batch that
starts and ends together, `generate_batch`, which is what the same kernels give when nobody comes or goes. Writes a page
and its JSON twin to --page. On a machine without a GPU it stops with status 2; `--device cpu --shape tiny` tries it.
"""

import argparse
import datetime
import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
sys.path.insert(0, str(SCRIPTS))

import torch  # noqa: E402
import transformers  # noqa: E402
from gpu import SHAPES, VOCABULARY, random_model  # noqa: E402

from baichuan2.engine.generate import generate_batch  # noqa: E402
from baichuan2.engine.sampling import Sampling  # noqa: E402
from baichuan2.engine.scheduler import Request, Scheduler  # noqa: E402
from baichuan2.model.configuration_baichuan import BaichuanConfig  # noqa: E402
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM  # noqa: E402

PROMPT, REPLY = 200, 128  # tokens
NEVER = frozenset({VOCABULARY})  # no token: replies have their whole length
COUNTS = (1, 8, 32)
UNLIKE = 64  # requests, whose prompts and replies have other lengths each


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the script (default: cuda)")
    parser.add_argument("--shape", default="7b", choices=sorted(SHAPES), help="which network (default: 7b)")
    parser.add_argument("--page", type=Path, default=Path("serve_gpu.md"), help="file to write, and its .json twin")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: there is no GPU here: --device cpu --shape tiny tries the script", file=sys.stderr)
        return 2
    config = BaichuanConfig(**{"vocab_size": VOCABULARY, **SHAPES[options.shape], "model_max_length": 4096})
    model = random_model(BaichuanForCausalLM, config, options.device)
    figures = measure(model)
    facts = {
        "command": "python benchmarks/serve_gpu.py " + " ".join(arguments or sys.argv[1:]),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "processor",
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    options.page.with_suffix(".json").write_text(json.dumps({"facts": facts, "figures": figures}, indent=1) + "\n")
    options.page.write_text(page(figures, facts), encoding="utf-8")
    print(page(figures, facts))
    return 0


def measure(model: Any) -> list[dict[str, Any]]:
    """All figures; each is taken twice, and the second time counts, as the first records graphs."""
    figures = []
    for count in COUNTS:
        for round_number in range(2):
            prompts = [prompt(index, PROMPT, 2 * count + round_number) for index in range(count)]
            started = time.perf_counter()
            replies = generate_batch(model, prompts, Sampling(max_new_tokens=REPLY), stop_ids=NEVER)
            seconds = time.perf_counter() - started
        figures.append({"what": "together", "requests": count, "tokens_per_second": sum(map(len, replies)) / seconds})
    scheduler = Scheduler(model, max_running=max(COUNTS), cache_bytes=None)
    for count in COUNTS:
        for round_number in range(2):
            lengths = [(PROMPT, REPLY)] * count
            figure = serve(scheduler, lengths, 1000 + 2 * count + round_number)
        figures.append({"what": "scheduler", "requests": count, **figure})
    lengths = [(PROMPT + 100 - index, 32 + 3 * index) for index in range(UNLIKE)]
    figures.append({"what": "scheduler, unlike lengths", "requests": UNLIKE, **serve(scheduler, lengths, 5000)})
    scheduler.close()
    return figures


def serve(scheduler: Scheduler, lengths: Sequence[tuple[int, int]], seed: int) -> dict[str, float]:
    """All requests submitted at once; prompts and replies of these lengths."""
    ended = threading.Semaphore(0)
    first: list[float] = []

    def receiver() -> Any:
        seen = []

        def deliver(step: Any) -> None:
            if isinstance(step, Exception):
                raise step
            if not seen:
                seen.append(step)
                first.append(time.perf_counter())
            if step.finish_reason is not None:
                ended.release()

        return deliver

    started = time.perf_counter()
    for index, (num_prompt, num_reply) in enumerate(lengths):
        ids = prompt(index, num_prompt, seed)
        wanted = Request(prompt_ids=ids, sampling=Sampling(max_new_tokens=num_reply), stop_ids=NEVER)
        scheduler.submit(wanted, receiver())
    for _ in lengths:
        ended.acquire()
    seconds = time.perf_counter() - started
    return {
        "tokens_per_second": sum(num_reply for _, num_reply in lengths) / seconds,
        "median_first_token": sorted(first)[len(first) // 2] - started,
    }


def prompt(index: int, length: int, seed: int) -> list[int]:
    """Ids that begin like no other prompt's."""
    generator = torch.Generator().manual_seed(1000 * seed + index)
    return torch.randint(300, 4000, (length,), generator=generator).tolist()


def page(figures: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    rows = [
        f"| {figure['what']} | {figure['requests']} | {figure['tokens_per_second']:,.0f} | "
        + (f"{1000 * figure['median_first_token']:,.0f} ms |" if "median_first_token" in figure else "|")
        for figure in figures
    ]
    return "\n".join(
        [
            f"# The scheduler on a GPU ({facts['date']})",
            "",
            f"    {facts['command']}",
            "",
            f"{facts['device']}; torch {facts['torch']}, transformers {facts['transformers']}. 7B of random bfloat16 "
            f"weights; prompts of {PROMPT} tokens that begin unlike, greedy replies of {REPLY}, no HTTP; the time of "
            "prompts is in the figures. `together`: one batch that starts and ends together (`generate_batch`). "
            "`unlike lengths`: "
            f"{UNLIKE} requests with prompts of {PROMPT + 100 - UNLIKE + 1} to {PROMPT + 100} tokens and replies of 32 "
            f"to {32 + 3 * (UNLIKE - 1)}, {max(COUNTS)} in work.",
            "",
            "| what | requests | new tokens/s | first token, median |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
