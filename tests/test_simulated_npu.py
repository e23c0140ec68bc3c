"""Both sizes on a device that is neither processor nor GPU: no tensor is left behind, no number depends on its name.

The device computes by the processor's operations, see `simulated_npu`, so that every difference is a mistake of ours.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.utils import backend_registration

ROOT = Path(__file__).parents[1]
ALIKE = 2e-5  # sums of squares and losses in float32 in place of float64; the largest difference seen is 5e-6

ALL = """
import contextlib, io, json, sys, types
import tests.simulated_npu
import torch
from torch import nn
from baichuan2.checkpoints.load import load_model
from baichuan2.cli.main import main
from baichuan2.engine import batches, generate
from baichuan2.engine.generate import generate_batch, generate_tokens
from baichuan2.engine.sampling import Sampling
from baichuan2.engine.scheduler import Request, Scheduler
from baichuan2.engine.scoring import ScoringRequest, score
from baichuan2.quantization.apply import default_spec, quantized_linear, replace_modules
from tests.engine.adapted import with_adapters
from tests.tiny import random_ids, tiny_model

# on the processor too as everywhere else: by the model's own passes, not by steps in C
generate.processor_model = batches.processor_model = lambda model: model

IDS = random_ids(2, 12)
PROMPTS = [IDS[0].tolist(), IDS[1, 4:].tolist()]
KINDS = [
    {"do_sample": False}, {"do_sample": False, "draft_tokens": 3, "num_top_logprobs": 2},
    {"do_sample": True, "seed": 7, "top_k": 5, "top_p": 0.9, "temperature": 0.8, "repetition_penalty": 1.2},
    {"do_sample": True, "seed": 8, "top_k": 0, "top_p": 0.9},
]

def in_few_bits(model, format):
    names = [name for name, layer in model.named_modules() if type(layer) is nn.Linear]
    replace_modules(model, names, lambda _, layer: quantized_linear(default_spec(format), layer.weight))
    return model

def replies(model, device, kinds=KINDS[:1]):
    samplings = [Sampling(max_new_tokens=4, **kind) for kind in kinds]
    return [generate_batch(model.to(device), PROMPTS, sampling, stop_ids=frozenset()) for sampling in samplings]

def served(model, device, **options):
    scheduler = Scheduler(model.to(device), max_running=2, **options)
    requests = [
        Request(prompt_ids=prompt, sampling=Sampling(max_new_tokens=4, **kind), stop_ids=frozenset())
        for prompt in PROMPTS for kind in KINDS
    ]
    streams = [scheduler.generate_tokens(request) for request in requests]
    found = [[step.token_id for step in stream] for stream in streams]
    scheduler.close()
    return found

def scores(model, device):
    asked = [ScoringRequest(prompt[:6], (prompt[6:], prompt[7:])) for prompt in PROMPTS]
    found = dict(score(model.to(device), asked, prompt_logprobs=True))
    return [[*found[index].logprobs, found[index].prompt_logprob] for index in range(2)]

def training(model, device):
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)
    ids, losses = IDS.to(device), []
    for _ in range(3):
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses

def said(*words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        code = main([*words, "--dtype", "float32", "--temperature", "0", "--max-new-tokens", "5"])
    return [code, out.getvalue()]

def everything(device):
    found = {"equal": {}, "close": {}}
    for size in ("7b", "13b"):
        found["equal"][f"{size} replies"] = replies(tiny_model(size), device, KINDS)
        for dtype in (torch.bfloat16, torch.float16):
            found["equal"][f"{size} {dtype}"] = replies(tiny_model(size).to(dtype), device)
        for format in ("int8", "nf4") if size == "7b" else ("int4",):
            found["equal"][f"{size} {format}"] = replies(in_few_bits(tiny_model(size), format), device)
        found["equal"][f"{size} adapters"] = replies(with_adapters(tiny_model(size)), device)
        found["equal"][f"{size} served"] = served(tiny_model(size), device)
        found["close"][f"{size} scores"] = scores(tiny_model(size), device)
        found["close"][f"{size} training"] = training(tiny_model(size), device)
    found["equal"]["served from 8 bits"] = served(tiny_model("7b"), device, kv_cache="int8")
    words = ("-m", "demo-base", "--kv-cache", "int8", "--prompt", "登鹳雀楼->")
    found["equal"]["8 bits"] = said("generate", "--device", device, *words)
    found["equal"]["chat"] = said("chat", "--device", device, "--prompt", "你好")
    return found

try:
    IDS.to("npu") + IDS
    refused = False
except RuntimeError:
    refused = True
print(json.dumps([refused, everything("cpu"), everything("npu")]))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch takes no backend in Python",
)
def test_a_device_that_is_neither_processor_nor_gpu_says_the_same() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ALL], capture_output=True, text=True, check=False, timeout=200, env=environment
    )
    assert done.returncode == 0, done.stderr
    refused, expected, found = json.loads(done.stdout)
    assert refused  # mixing devices is an error there, as on hardware
    assert found["equal"] == expected["equal"]
    assert {name: flat(values) for name, values in found["close"].items()} == {
        name: pytest.approx(flat(values), rel=ALIKE) for name, values in expected["close"].items()
    }
    assert found["equal"]["chat"][1].startswith("你好")


def flat(values: Any) -> list[float]:
    """The numbers of lists within lists."""
    return [number for value in values for number in (flat(value) if isinstance(value, list) else [value])]
