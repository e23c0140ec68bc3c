"""What keys and values in 8 bits (`--kv-cache int8`) cost in quality, beside the model's own numbers.

    python benchmarks/kv_cache.py [--model demo-chat]

Same weights, same tokens, one pass over each sequence: every place reads the keys and values of all earlier ones, and
its own, back from the cache. The text is that of `baichuan2 quantize --report`. The last line is one JSON object.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from baichuan2 import LoadSettings, load_model
from baichuan2.bench.quality import compare_models
from baichuan2.bench.report_text import built_in_texts
from baichuan2.engine.cache import new_cache
from baichuan2.engine.quantized_cache import Int8Layer
from baichuan2.model.modeling_baichuan import CACHE_KEYWORD


class WithCodes:
    """The model, whose attention sees what an int8 cache holds."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def parameters(self) -> Iterator[nn.Parameter]:
        return self._model.parameters()  # type: ignore[no-any-return]

    def __call__(self, input_ids: Tensor) -> Any:
        return self._model(input_ids=input_ids, use_cache=True, **{CACHE_KEYWORD: new_cache(Int8Layer)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo-chat")
    loaded = load_model(parser.parse_args().model, LoadSettings(dtype="bfloat16"))
    most = loaded.model.config.model_max_length or 512
    figures = {}
    for text in built_in_texts(loaded.tokenizer, is_chat=True, max_length=min(most, 512)):
        quality = compare_models(loaded.model, WithCodes(loaded.model), text.sequences, starts=text.starts)
        figures[text.kind] = dataclasses.asdict(quality)
        print(
            f"{text.kind}: {quality.num_tokens} tokens, KL {quality.kl_mean:.6f}, 99th percentile "
            f"{quality.kl_percentile_99:.5f}, same first choice {100 * quality.agreement:.2f} %"
        )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
