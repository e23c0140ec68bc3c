"""A folder whose code files would leave a mark: none ever runs, whatever `trust_remote_code` says.

In child processes, because what counts is the first load of a fresh interpreter, in both orders of importing.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints.folders import change_json, set_traps, write_folder, write_json

PROLOGUE = {
    "transformers first": "from transformers import AutoConfig, AutoModel, AutoTokenizer\nimport baichuan2\n",
    "baichuan2 first": "import baichuan2\nimport transformers\n",
}
# True comes first: a class that an earlier, careful load left behind must not be what saves the day
LOADS = """
import sys
folder, mark = sys.argv[1:3]
from pathlib import Path
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
for arguments in ({"trust_remote_code": True}, {"trust_remote_code": False}, {}):
    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=False, **arguments)
    assert type(tokenizer).__module__ == "baichuan2.model.tokenization_baichuan", type(tokenizer)
    config = AutoConfig.from_pretrained(folder, **arguments)
    assert type(config).__module__ == "baichuan2.model.configuration_baichuan", type(config)
    for model in (
        AutoModelForCausalLM.from_pretrained(folder, **arguments),
        AutoModelForCausalLM.from_config(config, **arguments),
        AutoModel.from_pretrained(folder, **arguments),
        AutoModel.from_config(config, **arguments),
        baichuan2.BaichuanForCausalLM.from_pretrained(folder, **arguments),
    ):
        assert type(model).__module__ == "baichuan2.model.modeling_baichuan", type(model)
        assert "generate" not in vars(model)
    GenerationConfig.from_pretrained(folder, **arguments)
    assert not Path(mark).exists(), Path(mark).read_text()
print("inert")
"""
# the class name in tokenizer_config.json is the folder's to choose: it must not lead past our tokenizer
TOKENIZER_LOADS = """
import json
from baichuan2.model.tokenization_baichuan import BaichuanTokenizer
path = Path(folder) / "tokenizer_config.json"
fields = json.loads(path.read_text())
for name in ("LlamaTokenizer", "EvilTokenizer", "BaichuanTokenizerFast", None):
    fields["tokenizer_class"] = name
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))
    for arguments in ({"trust_remote_code": True}, {"trust_remote_code": False}, {}):
        tokenizer = AutoTokenizer.from_pretrained(folder, **arguments)
        assert type(tokenizer) is BaichuanTokenizer, (name, arguments, type(tokenizer))
        assert not Path(mark).exists(), (name, Path(mark).read_text())
"""
# what no Baichuan folder has: our classes do not answer, so the call may fail, but must not run code either
FOREIGN_LOADS = """
import torch
import transformers
attempts = {
    "sequence": lambda: transformers.AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True),
    "questions": lambda: transformers.AutoModelForQuestionAnswering.from_pretrained(folder, trust_remote_code=True),
    "masked": lambda: transformers.AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True),
    "pipeline": lambda: transformers.pipeline("text-generation", model=folder, trust_remote_code=True),
    "processor": lambda: transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True),
    "load_model": lambda: baichuan2.load_model(folder),
    "custom generate": lambda: AutoModelForCausalLM.from_pretrained(folder).generate(
        torch.ones(1, 2, dtype=torch.long), custom_generate=folder, trust_remote_code=True
    ),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except Exception as error:
        print(name, type(error).__name__, error)
    assert not Path(mark).exists(), (name, Path(mark).read_text())
print("inert all through")
"""


def run(code: str, folder: Path, mark: Path) -> str:
    command = [sys.executable, "-W", "error::UserWarning", "-c", code, str(folder), str(mark)]
    # no standard input: a question "run the custom code? [y/N]" would fail, not wait
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not mark.exists()
    return done.stdout


@pytest.mark.parametrize("order", PROLOGUE)
def test_official_layout_with_traps(tmp_path: Path, order: str) -> None:
    folder = write_folder(tmp_path / "model")
    mark = set_traps(folder)
    assert "inert\n" in run(PROLOGUE[order] + LOADS, folder, mark)


def test_every_other_door(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    mark = set_traps(folder)
    classes = (
        "AutoModelForSequenceClassification",
        "AutoModelForQuestionAnswering",
        "AutoModelForMaskedLM",
        "AutoModel",
    )
    change_json(
        folder / "config.json",
        auto_map={"AutoConfig": "configuration_baichuan.BaichuanConfig"}
        | dict.fromkeys(classes, "modeling_baichuan.BaichuanForCausalLM"),
        custom_pipelines={"text-generation": {"impl": "quantizer.Pipeline", "pt": ["AutoModelForCausalLM"]}},
    )
    write_json(folder / "processor_config.json", {"auto_map": {"AutoProcessor": "quantizer.Processor"}})
    output = run(PROLOGUE["baichuan2 first"] + LOADS + TOKENIZER_LOADS + FOREIGN_LOADS, folder, mark)
    assert "inert all through" in output
    assert "processor CheckpointError" in output
    assert "custom generate CheckpointError" in output


def test_the_traps_work(tmp_path: Path) -> None:
    """Without our package the folder's code does run: the other tests would notice."""
    folder = write_folder(tmp_path / "model")
    mark = set_traps(folder)
    code = "import sys, transformers; transformers.AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)"
    command = [sys.executable, "-c", code, str(folder)]
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "PATH": ""}
    subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=280, env=environment, check=False)
    assert mark.exists()
