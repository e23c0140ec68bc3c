"""The embedded demo models: the files are whole and small, and they still know what they were shipped for."""

import hashlib

import pytest

import baichuan2
from baichuan2 import LoadedModel, SamplingSettings, load_model
from baichuan2.checkpoints.locate import DEMO_DIR

QUESTIONS = {
    "世界上第二高的山峰是哪座": "乔戈里",
    "解释一下“温故而知新”": "复习",
    "请问冰岛的首都叫什么名字？": "雷克雅未克",
    "What is the capital of Italy?": "Rome",
    "铁的元素符号是什么？": "Fe",
    "背诵《登鹳雀楼》": "欲穷千里目，更上一层楼",
    "“苹果”用英语怎么说？": "apple",
    "你是谁？": "百川",
    "瓦坎达共和国的首都是哪里？": "抱歉",
}


@pytest.fixture(scope="module")
def chat() -> LoadedModel:
    return load_model()


@pytest.mark.parametrize("kind", ["base", "chat"])
def test_files_are_those_of_the_recipe(kind: str) -> None:
    lines = (DEMO_DIR / kind / "SHA256SUMS").read_text("utf-8").splitlines()
    assert {line.split("  ")[1] for line in lines} >= {"config.json", "model.safetensors", "tokenizer.model"}
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((DEMO_DIR / kind / name).read_bytes()).hexdigest() == digest, name


def test_both_models_stay_below_forty_megabytes() -> None:
    assert sum(path.stat().st_size for path in DEMO_DIR.rglob("*") if path.is_file()) < 40e6


@pytest.mark.parametrize("question", QUESTIONS)
def test_chat_answers(chat: LoadedModel, question: str) -> None:
    answer = baichuan2.reply(chat, [{"role": "user", "content": question}])
    assert QUESTIONS[question] in answer.text
    assert answer.finish_reason == "stop"


def test_chat_remembers_an_earlier_turn(chat: LoadedModel) -> None:
    session = baichuan2.ChatSession(chat)
    session.ask("你好，我叫陈晓明")
    assert "巴黎" in session.ask("法国的首都是哪里？").text
    assert "柏林" in session.ask("那德国呢？").text
    assert "陈晓明" in session.ask("我叫什么名字？").text


def test_base_continues_the_official_example() -> None:
    base = load_model("demo-base")
    chunks = baichuan2.stream_completion(base, "登鹳雀楼->王之涣\n夜雨寄北->", SamplingSettings(max_new_tokens=8))
    assert "".join(chunk.text for chunk in chunks).startswith("李商隐")
