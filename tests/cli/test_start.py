"""What a chat does before its first word: which modules it imports, and that no garbage is looked for meanwhile."""

import gc
import subprocess
import sys

import pytest

from baichuan2.cli.garbage import without_collection

PROBE = """
import gc
import sys
from baichuan2.cli.main import main
code = main(["chat", "--prompt", "hi", "--max-new-tokens", "1"])
assert code == 0, code
packages = {name.partition(".")[0] for name in sys.modules}
needless = {"bitsandbytes", "datasets", "google", "matplotlib", "numba", "pandas", "peft", "prompt_toolkit", "rich"}
needless |= {"scipy", "sentencepiece", "sklearn", "torchvision", "triton"}
assert not needless & packages, needless & packages
ours = {f"baichuan2.{name}" for name in ("bench", "convert", "finetune", "quantization.bnb", "quantization.gptq")}
ours |= {"baichuan2.chat.compat", "baichuan2.cli.commands.plan", "baichuan2.model.modeling_baichuan"}
assert not ours & set(sys.modules), ours & set(sys.modules)
slow = {"accelerate", "sympy", "torch._dynamo", "torch.distributed.tensor", "transformers.modeling_utils"}
slow |= {"transformers.models", "transformers.quantizers"}
assert not slow & set(sys.modules), slow & set(sys.modules)
assert gc.isenabled()
assert gc.get_freeze_count() > 100_000, gc.get_freeze_count()
"""


def test_a_chat_imports_what_it_needs_and_leaves_it_out_of_collections():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_results_are_read_and_compared_without_torch():
    probe = "import sys, baichuan2.evaluation.compare, baichuan2.evaluation.report; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def unfrozen():
    """Takes what the tests freeze back, so that it is looked at again."""
    yield
    gc.unfreeze()
    gc.enable()


def test_no_garbage_is_looked_for_inside(unfrozen):
    before = gc.get_freeze_count()
    with without_collection():
        assert not gc.isenabled()
        kept = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(kept)


def test_an_error_or_an_outer_wish_changes_nothing(unfrozen):
    with pytest.raises(ValueError, match="odd"), without_collection():
        raise ValueError("odd")
    assert gc.isenabled()
    gc.disable()
    with without_collection():
        pass
    assert not gc.isenabled()
