"""The 7B as a plain Llama: transformers alone, without this package, must give our logits, ids and prompts."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from baichuan2 import BaichuanForCausalLM, CheckpointError, ConvertSettings, LoadSettings, TokenizerError, load_model
from baichuan2.chat.template import render
from baichuan2.convert.plain_tokenizer import MARK, plain_tokenizer_texts
from baichuan2.convert.ways import convert_checkpoint
from baichuan2.model.sentencepiece_file import read_sentencepiece_file
from baichuan2.model.tokenization_baichuan import BaichuanTokenizer
from tests.checkpoints.folders import write_folder
from tests.tiny import random_ids, tiny_model
from tests.tokenizer_files import (
    REAL_GOLDENS,
    REAL_MODEL,
    ROOT,
    SMALL_MODEL,
    TextSource,
    golden,
    require,
    train_model,
)

HOSTILE = (
    "<reserved_106>",
    "</s>",
    "<s>x<unk>",
    "<reserved_107>hi<reserved_5>",
    "<<reserved_106>>",
    "<reserved_10",
    "x" + MARK,
)


def convert(source: str | Path, target: Path, **changes: Any) -> Path:
    """The folder that to-llama writes."""
    settings = ConvertSettings(way="to-llama", source=str(source), target=str(target), **changes)
    return convert_checkpoint(settings).path


def plain_transformers(asked: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What `plain_llama.py` answers, in a process of its own."""
    script = Path(__file__).with_name("plain_llama.py")
    run = subprocess.run(
        [sys.executable, str(script)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    answers: dict[str, dict[str, Any]] = json.loads(run.stdout)
    return answers


def save(model: BaichuanForCausalLM, folder: Path) -> Path:
    """A model folder with the small tokenizer."""
    model.save_pretrained(folder)
    shutil.copy(SMALL_MODEL, folder / "tokenizer.model")
    return folder


def sources(folder: Path) -> dict[str, str | Path]:
    """Rotary models: the demo, one in the official files, the official code's golden one, and with other fields."""
    official = shutil.copytree(ROOT / "tests" / "golden" / "rope_h4", folder / "official")
    shutil.copy(SMALL_MODEL, official / "tokenizer.model")
    stretched = tiny_model("7b", vocab_size=768, rope_parameters={"rope_type": "linear", "factor": 2.0})
    return {
        "demo": "demo-chat",
        "random": write_folder(folder / "random", "7b", "bin", "sharded"),
        "official": official,
        "stretched": save(stretched, folder / "stretched"),
        "plain head": save(tiny_model("7b", vocab_size=768, normalized_head=False), folder / "plain"),
    }


def conversations(texts: TextSource) -> list[list[dict[str, str]]]:
    """With and without system text, some of them trying to open turns of their own."""
    chats = []
    for number, hostile in enumerate(HOSTILE):
        chat = [{"role": "system", "content": texts.text()}] * (number % 2)
        chat.append({"role": "user", "content": hostile + texts.text() + hostile})
        chat.append({"role": "assistant", "content": texts.text()})
        chat.append({"role": "user", "content": texts.text() + hostile})
        chats.append(chat)
    return chats


def case(source: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is asked of a folder made from `source`, and what this package answers."""
    ours = load_model(source, LoadSettings(device="cpu", dtype="float32", threads=1))  # sums in the order of the child
    tokenizer = ours.tokenizer
    texts = TextSource(tokenizer.convert_ids_to_tokens(range(len(tokenizer))), seed=5)
    strings, chats = [texts.text() for _ in range(150)], conversations(texts)
    prompt = prompt_of(tokenizer, [{"role": "user", "content": "你好，请介绍一下你自己。"}])
    asked = {"texts": strings, "chats": chats, "prompt": prompt, "role": "<reserved_106>"}
    asked["decode"] = [tokenizer.encode_text(text) for text in strings]
    ids = torch.tensor([prompt])
    with torch.no_grad():
        logits = ours.model(ids).logits
    stops = {2, ours.generation_config.to_dict().get("user_token_id") or 2}
    written = ours.model.generate(
        ids, max_new_tokens=64, do_sample=False, repetition_penalty=1.0, eos_token_id=[*stops]
    )
    meant = {
        "class": "LlamaForCausalLM",
        "dtype": "torch.float32",
        "logits": logits,
        "written": written[0, len(prompt) :].tolist(),
        "ids": [tokenizer.encode(text, add_special_tokens=False) for text in strings],
        "decoded": [text.replace("▁", " ") for text in strings],
        "chats": [prompt_of(tokenizer, chat) for chat in chats],
        "special": [1, 2, 0, 0],
        "length": ours.model.config.model_max_length,
        "untouched": tokenizer.encode_text("<reserved_106>"),
    }
    return asked, meant


def prompt_of(tokenizer: BaichuanTokenizer, chat: list[dict[str, str]]) -> list[int]:
    """Ids of the whole conversation."""
    return render(tokenizer, chat, model_max_length=1 << 20, max_new_tokens=1)


def real_tokenizer_case(folder: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """The official tokenizer and what the official class gives, where they are at hand; no weights."""
    if not REAL_MODEL.exists():
        return {}
    folder.mkdir()
    texts = plain_tokenizer_texts(
        BaichuanTokenizer(vocab_file=str(REAL_MODEL)), read_sentencepiece_file(REAL_MODEL), model_max_length=4096
    )
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    shutil.copy(REAL_MODEL, folder / "tokenizer.model")
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    strings = golden(REAL_GOLDENS)["encode"]
    meant = {"ids": [one["hf_ids"] for one in strings], "special": [1, 2, 0, 0], "length": 4096}
    return {str(folder): ({"texts": [one["text"] for one in strings]}, meant)}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """By name of the folder what is meant and what transformers gave; one process, importing it takes longest."""
    root = tmp_path_factory.mktemp("llama")
    cases = real_tokenizer_case(root / "real tokenizer as llama")
    for name, source in sources(root).items():
        cases[str(convert(source, root / f"{name} as llama", dtype="float32"))] = case(source)
    answers = plain_transformers({folder: asked for folder, (asked, _) in cases.items()})
    for folder, found in answers.items():
        if "class" in found:
            found["logits"] = torch.load(Path(folder, "logits.pt"))
    return {Path(folder).name: (cases[folder][1], found) for folder, found in answers.items()}


@pytest.mark.parametrize("name", ["demo", "random", "official", "stretched", "plain head", "real tokenizer"])
def test_transformers_alone_gives_our_logits_ids_and_prompts(
    compared: dict[str, tuple[dict[str, Any], dict[str, Any]]], name: str
) -> None:
    if name == "real tokenizer":
        require(REAL_MODEL)
    meant, found = compared[f"{name} as llama"]
    for key, value in meant.items():
        if key == "logits":
            torch.testing.assert_close(found[key], value, rtol=0, atol=1e-5)
        else:
            assert found[key] == value, key


@pytest.mark.parametrize("dtype", ["same", "float16", "float32"])
def test_the_tensors_are_ours_cut_and_the_head_is_what_inference_computes_with(tmp_path: Path, dtype: str) -> None:
    folder = convert("demo-chat", tmp_path / "llama", dtype=dtype, shard_size="3MB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    found = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
    ours = load_model("demo-chat", LoadSettings(device="cpu", dtype="auto" if dtype == "same" else dtype)).model  # type: ignore[arg-type]
    for name, tensor in ours.state_dict().items():
        if name.endswith("W_pack.weight"):
            parts = [found.pop(name.replace("W_pack", part)) for part in ("q_proj", "k_proj", "v_proj")]
            assert torch.equal(torch.cat(parts), tensor)
        elif name != "lm_head.weight":
            assert torch.equal(found.pop(name), tensor)
    with torch.no_grad():
        head = ours.lm_head.normalized_weight()
    assert list(found) == ["lm_head.weight"]
    assert torch.equal(found["lm_head.weight"], head)


def test_no_text_of_the_old_description_and_no_code_is_taken_over(tmp_path: Path) -> None:
    source = save(tiny_model("7b", vocab_size=768), tmp_path / "source")
    old = {"tokenizer_class": "BaichuanTokenizer", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (source / "tokenizer_config.json").write_text(json.dumps(old), encoding="utf-8")
    (source / "evil.py").write_text("raise SystemExit", encoding="utf-8")
    (source / "added_tokens.json").write_text("{}", encoding="utf-8")
    (source / "LICENSE").write_text("terms", encoding="utf-8")
    (source / "generation_config.json").write_text('{"eos_token_id": 2, "user_token_id": 195, "top_k": 5}')
    folder = convert(source, tmp_path / "llama")
    assert sorted(path.name for path in folder.iterdir()) == [
        "LICENSE",
        "SHA256SUMS",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in json.loads((folder / name).read_text(encoding="utf-8"))
    generation = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["eos_token_id"] == [2, 195]  # a model that opens a user turn has finished its own
    assert (generation["top_k"], generation["pad_token_id"]) == (5, 0)


def test_a_template_and_tokens_of_a_fine_tune_are_kept_there_and_back(tmp_path: Path) -> None:
    model = tiny_model("7b", vocab_size=832, rope_parameters={"rope_type": "yarn", "factor": 2.0})
    source = save(model, tmp_path / "source")
    token = {"content": "<|im_start|>", "special": True}
    fields = {"added_tokens_decoder": {"768": token}, "chat_template": "{{ messages[0]['content'] }}"}
    (source / "tokenizer_config.json").write_text(json.dumps(fields), encoding="utf-8")
    with pytest.warns(UserWarning, match="is not the official one; it is kept"):
        there = convert(source, tmp_path / "there")
    with pytest.warns(UserWarning, match="has a chat template of its own"):
        back = convert_checkpoint(
            ConvertSettings(way="from-llama", source=str(there), target=str(tmp_path / "back"))
        ).path
    loaded = load_model(back, LoadSettings(device="cpu"))
    assert loaded.tokenizer.encode("<|im_start|>你") == [768, *loaded.tokenizer.encode("你")]
    assert loaded.tokenizer.chat_template == fields["chat_template"]
    ids = random_ids(1, 40)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, model(ids).logits, rtol=0, atol=1e-5)


def test_a_13b_a_quantised_folder_and_the_tokenizer_of_baichuan_1_are_refused_in_one_line(tmp_path: Path) -> None:
    source = save(tiny_model("13b", vocab_size=768), tmp_path / "13b")
    with pytest.raises(CheckpointError, match=r"has ALiBi positions.*to-gguf.*to-baichuan1.*vLLM") as refusal:
        convert(source, tmp_path / "llama")
    assert "\n" not in str(refusal.value)
    source = save(tiny_model("7b", vocab_size=768), tmp_path / "7b")
    fields = json.loads((source / "config.json").read_text(encoding="utf-8"))
    fields["quantization_config"] = {"quant_method": "baichuan2"}
    (source / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(CheckpointError, match="baichuan2 convert dequantize"):
        convert(source, tmp_path / "llama")
    prefixed = train_model(tmp_path)
    with pytest.raises(TokenizerError, match=r"puts a space before each text.*Baichuan 1"):
        plain_tokenizer_texts(BaichuanTokenizer(vocab_file=str(prefixed)), read_sentencepiece_file(prefixed), 4096)
    assert not (tmp_path / "llama").exists()
