"""The Auto classes find our classes however the two packages are imported, and importing ours costs next to nothing."""

import importlib.util
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

import baichuan2
from baichuan2.model import registration

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "rope_h4"

# every way of importing, with the name that must end up as our class
CHECK = """
import sys
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_config(config)
assert type(model).__module__ == "baichuan2.model.modeling_baichuan", type(model)
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name
tokenizer_class = tokenizer_class_from_name("BaichuanTokenizer")
assert tokenizer_class.__module__ == "baichuan2.model.tokenization_baichuan", tokenizer_class
assert "AutoClassHook" not in str(sys.meta_path), sys.meta_path
"""
ORDERS = {  # those of tests/checkpoints/test_hostile_folder.py are the plain ones
    "ours first, then something that imports them from deep inside": "import baichuan2\nimport transformers.pipelines",
    "ours first, through our own class": "from baichuan2 import BaichuanForCausalLM",
    "half loaded": "from transformers import AutoConfig\nimport baichuan2\nfrom transformers import AutoModel",
    "through another package": "import baichuan2\nimport peft",
}


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=280, check=False, env=os.environ | environment
    )


@pytest.mark.parametrize("order", ORDERS)
def test_auto_classes_are_ours_in_every_order(order: str) -> None:
    done = run(ORDERS[order] + CHECK, str(GOLDEN))
    assert done.returncode == 0, done.stderr[-2000:]


def test_import_is_cheap() -> None:
    code = """
import sys, time
start = time.process_time()  # processor time, or a busy machine would decide
import baichuan2
print(time.process_time() - start)
heavy = {"torch", "transformers", "numpy", "tokenizers", "safetensors", "sentencepiece"} & set(sys.modules)
assert not heavy, heavy
"""
    seconds = []
    for _ in range(5):
        done = run(code)
        assert done.returncode == 0, done.stderr
        seconds.append(float(done.stdout))
    assert statistics.median(seconds) < 0.1, seconds


def test_hook_leaves_modules_as_they_were() -> None:
    code = """
import importlib.util, inspect, sys
import baichuan2
assert "AutoClassHook" in str(sys.meta_path)
assert importlib.util.find_spec("transformers").origin.endswith("__init__.py")  # looking is not importing
assert "transformers" not in sys.modules
try:
    import transformers.no_such_module
except ModuleNotFoundError:
    pass
import transformers.configuration_utils as module
assert type(module.__loader__).__name__ == "SourceFileLoader", module.__loader__
assert module.__spec__.loader is module.__loader__
assert "class PreTrainedConfig" in inspect.getsource(module)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr[-2000:]


def test_old_transformers_gives_one_warning_and_stays_usable(tmp_path: Path) -> None:
    fake = tmp_path / "transformers"
    (fake / "models" / "auto").mkdir(parents=True)
    (fake / "__init__.py").write_text("__version__ = '4.57.6'\n")
    (fake / "models" / "__init__.py").touch()
    (fake / "models" / "auto" / "__init__.py").touch()
    (fake / "models" / "auto" / "configuration_auto.py").write_text("value = 1\n")
    code = "import baichuan2\nfrom transformers.models.auto.configuration_auto import value\nassert value == 1"
    done = run(code, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "baichuan2 needs transformers 5.14 or newer, found 4.57.6" in done.stderr


def test_a_second_install_changes_nothing() -> None:
    before = list(sys.meta_path)
    registration.register()
    registration.install()
    assert [finder for finder in sys.meta_path if isinstance(finder, registration.AutoClassHook)] == []
    assert len(sys.meta_path) == len(before)


def test_classes_in_this_process() -> None:
    config = AutoConfig.from_pretrained(GOLDEN, trust_remote_code=True)
    assert type(config) is baichuan2.BaichuanConfig
    assert not hasattr(config, "auto_map")
    assert type(AutoModelForCausalLM.from_config(config)) is baichuan2.BaichuanForCausalLM
    assert type(AutoModel.from_config(config)) is baichuan2.BaichuanModel
    assert baichuan2.BaichuanConfig not in TOKENIZER_MAPPING  # else remote code would win over our tokenizer


def test_other_models_are_untouched(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "vocab_size": 8}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "OtherTokenizer", "auto_map": {"a": "b.C"}}')
    from transformers.models.auto import tokenization_auto

    assert type(AutoConfig.from_pretrained(tmp_path)).__name__ == "LlamaConfig"
    fields = tokenization_auto.get_tokenizer_config(tmp_path)
    assert fields["tokenizer_class"] == "OtherTokenizer"
    assert "auto_map" in fields


def test_saved_tokenizer_without_a_model_is_found(tmp_path: Path) -> None:
    tokenizer_file = GOLDEN.parent / "text" / "small_tokenizer.model"
    baichuan2.BaichuanTokenizer(vocab_file=str(tokenizer_file)).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((GOLDEN / "config.json").read_text())
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is baichuan2.BaichuanTokenizer


def test_module_names_that_are_watched_exist() -> None:
    assert all(importlib.util.find_spec(name) is not None for name in registration.REGISTRATIONS)


def test_a_second_import_after_removal_from_sys_modules() -> None:
    program = """
import sys
import baichuan2
for name in [name for name in sys.modules if name.partition('.')[0] == 'baichuan2']:
    del sys.modules[name]
import baichuan2
from transformers import AutoConfig
assert AutoConfig.for_model('baichuan', position_embedding='rope').__class__ is baichuan2.BaichuanConfig
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
