"""What the official way costs, for `benchmarks/cpu.py`: transformers' Llama of the same shape, driven over pipes.

Not for use by hand. The official 7B code is a Llama of this shape with plain ("eager") attention; the real thing is not
run here. Whole models are too large in 32 bits, so each figure is of a few layers and of a few more: what a layer costs
is their difference, and the rest follows (`extrapolate` in `cpu_rows`). `--way bnb-nf4` puts bitsandbytes' 4-bit
layers in the place of the linear ones.
"""

import argparse
import copy
import re
import time
from typing import Any

import torch
import transformers
from cpu_child import serve
from cpu_models import SHAPES, VOCABULARY
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

BLOCK = (1 << 20) + 1  # numbers; no divisor of a row
WAYS = {
    "eager-fp32": (torch.float32, "eager"),
    "eager-bf16": (torch.bfloat16, "eager"),
    "sdpa-bf16": (torch.bfloat16, "sdpa"),
    "bnb-nf4": (torch.bfloat16, "sdpa"),
}


def build(shape_name: str, way: str, layers: int) -> LlamaForCausalLM:
    """A Llama with random weights."""
    shape = {"vocab_size": VOCABULARY, **SHAPES[shape_name]}
    dtype, attention = WAYS[way]
    config = LlamaConfig(
        vocab_size=shape["vocab_size"],
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"],
        num_hidden_layers=layers,
        num_attention_heads=shape["num_attention_heads"],
        max_position_embeddings=4096,
        attn_implementation=attention,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to(dtype).to_empty(device="cpu")
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    block = torch.empty(BLOCK).uniform_(-0.035, 0.035).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            # the same numbers again and again, as drawing billions takes a minute
            for part in parameter.view(-1).split(BLOCK) if parameter.dim() == 2 else ():
                part.copy_(block[: part.numel()])
            if parameter.dim() == 1:
                parameter.fill_(1)
    if way == "bnb-nf4":
        _quantize(model)
    return model.eval()


def _quantize(model: nn.Module) -> None:
    """Puts bitsandbytes' NF4 layers in the place of the decoder's linear ones; later layers are copies of the first."""
    from bitsandbytes.nn import Linear4bit

    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"]
    for name in linear:
        first = re.sub(r"layers\.\d+\.", "layers.0.", name)
        if first != name:
            model.set_submodule(name, copy.deepcopy(model.get_submodule(first)))
            continue
        old = model.get_submodule(name)
        new = Linear4bit(old.in_features, old.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
        new.load_state_dict({"weight": old.weight.data})
        model.set_submodule(name, new.to("cpu"))


class Engine:
    """One model whose first layers alone can be run, and its sessions."""

    def __init__(self, shape_name: str, way: str) -> None:
        self.shape_name, self.way = shape_name, way
        self.sessions: dict[str, tuple[Any, Tensor, int]] = {}
        self.generator = torch.Generator().manual_seed(0)

    def load(self, layers: int, threads: int) -> dict[str, Any]:
        """Builds the model; what runs."""
        torch.set_num_threads(threads)
        self.model = build(self.shape_name, self.way, layers)
        self.start("warm-up", context=4, batch=1, layers=layers)
        self.decode("warm-up", tokens=2)
        self.stop("warm-up")
        return {"transformers": transformers.__version__, "torch": torch.__version__}

    def start(self, name: str, context: int, batch: int, layers: int) -> float:
        """Seconds in which the first `layers` layers and the head read `batch` prompts of `context` tokens."""
        vocabulary = self.model.config.vocab_size
        ids = torch.randint(0, vocabulary, (batch, context), generator=self.generator)
        cache = DynamicCache()
        start = time.perf_counter()
        ids = self._pass(ids, cache, layers)
        seconds = time.perf_counter() - start
        self.sessions[name] = (cache, ids, layers)
        return seconds

    def decode(self, name: str, tokens: int) -> list[float]:
        """Seconds of each of `tokens` steps."""
        cache, ids, layers = self.sessions[name]
        seconds = []
        for _ in range(tokens):
            start = time.perf_counter()
            ids = self._pass(ids, cache, layers)
            seconds.append(time.perf_counter() - start)
        self.sessions[name] = (cache, ids, layers)
        return seconds

    def stop(self, name: str) -> None:
        """Frees a session, if there is one of that name."""
        self.sessions.pop(name, None)

    @torch.inference_mode()
    def _pass(self, ids: Tensor, cache: Any, layers: int) -> Tensor:
        self.model.config.num_hidden_layers = layers  # the decoder runs so many of its layers
        logits = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return logits[:, -1:].argmax(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--way", choices=WAYS, required=True)
    arguments = parser.parse_args()
    engine = Engine(arguments.shape, arguments.way)
    serve({"load": engine.load, "start": engine.start, "decode": engine.decode, "stop": engine.stop})


if __name__ == "__main__":
    main()
