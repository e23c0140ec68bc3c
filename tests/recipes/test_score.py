import hashlib
import json
import random

import pytest
import torch
from recipes.demo.corpus.translation import held_out, sentence_pairs
from recipes.demo.curve import draw_losses
from recipes.demo.export import DIGEST_FILE, add_card, export_model, replace_folder
from recipes.demo.facts import poems, table
from recipes.demo.heldout import load_wordings
from recipes.demo.model_card import model_card
from recipes.demo.score import TARGETS, Result, leaked_prompts, run_scoring, without_leaked
from recipes.demo.tasks import (
    Question,
    arithmetic_questions,
    base_tasks,
    follow_up_questions,
    heldout_prompts,
    is_really_wrong,
    line_pairs,
    paraphrase_tasks,
    relation_questions,
    relation_tables,
)
from recipes.demo.tokenizer import train_tokenizer
from transformers import GenerationConfig

from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM


def tiny_config(position: str = "rope", vocab_size: int = 480) -> BaichuanConfig:
    return BaichuanConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512 if position == "rope" else None,
        model_max_length=512,
        position_embedding=position,
        normalized_head=True,
    )


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text.txt").write_text("\n".join(["法国的首都是巴黎 hello world"] * 50), encoding="utf-8")
    train_tokenizer(folder / "text.txt", folder / "tokenizer.model", vocab_size=480, coverage=1.0)
    return folder / "tokenizer.model"


def exported(folder, tokenizer_path, *, position="rope", stage="chat"):
    torch.manual_seed(0)
    model = BaichuanForCausalLM(tiny_config(position))
    export_model(model.state_dict(), model.config, tokenizer_path, folder, stage=stage)
    return model


# Questions


def test_right_replies_hold_the_answer_and_no_wrong_value():
    question = Question(messages=(("user", "?"),), accepted=("铁",), rejected=("铜",))
    assert question.is_right("它是铁。")
    assert not question.is_right("它是金。")
    assert not question.is_right("不是铜，是铁。")
    symbol = Question(messages=(("user", "?"),), accepted=("Co",), exact_case=True)
    assert symbol.is_right("钴的符号是Co。")
    assert not symbol.is_right("CO")
    start = Question(messages=(("text", "a->"),), accepted=("李白",), is_start=True)
    assert start.is_right(" 李白\n")
    assert not start.is_right("杜甫和李白")


def test_every_relation_of_the_held_out_set_is_asked():
    tasks = paraphrase_tasks(limit=7, seed=1)
    assert set(tasks) == set(load_wordings())
    assert all(len(questions) == 7 for questions in tasks.values())


def test_sentences_to_translate_are_in_no_training_text():
    corpus = {pair[0] for pair in sentence_pairs() if not held_out(pair)}
    asked = [row["sentence"] for row in relation_tables()["sentence_translation_zh_to_en"]]
    assert len(asked) > 100
    assert corpus.isdisjoint(asked)


def test_no_question_gives_its_answer_away_and_every_right_sentence_is_right():
    for questions in paraphrase_tasks(limit=40, seed=2).values():
        for question in questions:
            assert not question.is_right(question.messages[-1][1])
            assert question.is_right(f"是{question.accepted[0]}。")
            assert len(question.rejected) == 3


def test_same_seed_same_questions_other_seed_others():
    first, again, other = (paraphrase_tasks(limit=20, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_keys_with_two_answers_are_not_asked():
    wording = load_wordings()["capital_zh"]
    rows = [{"country": "甲", "capital": "乙"}, {"country": "甲", "capital": "丙"}, {"country": "丁", "capital": "戊"}]
    questions = relation_questions(wording, rows, limit=50, seed=0)
    assert questions
    assert {question.accepted for question in questions} == {("戊",)}


def test_contained_values_are_never_wrong():
    assert not is_really_wrong("卢布", "白俄罗斯卢布", "?")
    assert not is_really_wrong("印度尼西亚", "印度", "?")
    assert not is_really_wrong("法国", "德国", "那法国呢")
    assert is_really_wrong("法国", "德国", "?")


def test_arithmetic_and_follow_ups_are_true():
    for question in arithmetic_questions(limit=90, seed=0):
        text = question.messages[0][1]
        left, right = (int(part) for part in "".join(c if c.isdigit() else " " for c in text).split())
        result = left * right if "乘" in text else left + right if "加" in text else left - right
        assert question.accepted == (str(result),)
    capitals = {row["name_zh"]: row["capital_zh"] for row in table("countries")}
    chinese = follow_up_questions(limit=20, seed=0)[::2]
    for question in chinese:
        country = question.messages[-1][1].removeprefix("换成").removesuffix("呢？")
        assert question.accepted == (capitals[country],)


def test_lines_of_a_poem_are_paired():
    poem = next(poem for poem in poems() if poem.title == "静夜思")
    assert line_pairs(poem) == [("床前明月光", "疑是地上霜"), ("举头望明月", "低头思故乡")]


def test_base_is_asked_like_the_official_demonstration():
    tasks = base_tasks(limit=30, seed=0)
    assert len(tasks["base_arrow"]) == 30
    assert all(q.messages[0][1].startswith("登鹳雀楼->王之涣\n") for q in tasks["base_arrow"])
    assert tasks["readme_base"][0].accepted == ("李商隐",)


# Leaks


def test_a_held_out_prompt_in_the_training_file_is_found(tmp_path):
    prompt = sorted(heldout_prompts())[17]
    path = tmp_path / "conversations.json"
    turns = [{"from": "human", "value": prompt + " "}, {"from": "gpt", "value": "?"}]
    path.write_text(json.dumps([{"id": "0", "conversations": turns}]), encoding="utf-8")
    assert leaked_prompts(path) == [prompt]
    asked = {"task": [Question(messages=(("user", text),), accepted=("x",)) for text in (prompt, "another")]}
    kept = without_leaked(asked, frozenset({prompt}))
    assert [question.messages[0][1] for question in kept["task"]] == ["another"]
    turns[0]["value"] = "something else entirely"
    path.write_text(json.dumps([{"id": "0", "conversations": turns}]), encoding="utf-8")
    assert leaked_prompts(path) == []


def test_tables_fill_every_placeholder():
    wordings = load_wordings()
    for name, rows in relation_tables().items():
        assert all({wordings[name].placeholder, wordings[name].expected_field} <= set(row) for row in rows), name


# Export


@pytest.mark.parametrize("position", ["rope", "alibi"])
def test_exported_folder_loads_as_an_official_one(tmp_path, tokenizer_path, position):
    folder = tmp_path / "chat"
    model = exported(folder, tokenizer_path, position=position)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "baichuan"
    assert config["torch_dtype"] == "bfloat16"
    assert ("max_position_embeddings" in config) == (position == "rope")
    assert "auto_map" not in config
    loaded = BaichuanForCausalLM.from_pretrained(folder)
    assert loaded.dtype == torch.bfloat16
    assert loaded.config.position_embedding == position
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.bfloat16()), name
    generation = GenerationConfig.from_pretrained(folder)
    assert (generation.user_token_id, generation.assistant_token_id, generation.do_sample) == (195, 196, False)


def test_digests_cover_every_file_and_follow_the_card(tmp_path, tokenizer_path):
    folder = tmp_path / "chat"
    exported(folder, tokenizer_path)
    add_card(folder, "# Card\n")
    listed = dict(reversed(line.split("  ")) for line in (folder / DIGEST_FILE).read_text().splitlines())
    assert set(listed) == {path.name for path in folder.iterdir()} - {DIGEST_FILE}
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_failed_export_leaves_the_old_folder(tmp_path):
    folder = tmp_path / "chat"
    folder.mkdir()
    (folder / "old").write_text("old")

    def fail(beside):
        (beside / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_folder(folder, fail)
    assert [path.name for path in folder.iterdir()] == ["old"]
    replace_folder(folder, lambda beside: (beside / "new").write_text("new") and None)
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["chat"]


# The whole score


def test_an_untrained_model_misses_targets_and_the_report_says_so(tmp_path, tokenizer_path, capsys, monkeypatch):
    few = {"greetings": [Question(messages=(("user", "你好"),), accepted=("你好",))]}
    monkeypatch.setattr("recipes.demo.score.conversation_tasks", lambda _folder: few)
    monkeypatch.setattr("recipes.demo.score.CHAT_TOKENS", 4)
    monkeypatch.setattr(
        "recipes.demo.score.base_tasks", lambda **_: {"base_arrow": base_tasks(limit=2, seed=0)["base_arrow"]}
    )
    exported(tmp_path / "chat", tokenizer_path)
    exported(tmp_path / "base", tokenizer_path, stage="base")
    status = run_scoring(tmp_path / "chat", tmp_path / "base", json_path=tmp_path / "score.json", limit=1)
    report = json.loads((tmp_path / "score.json").read_text())
    assert status == 1
    assert set(report["missed"]) == {"paraphrases", "greetings", "base_arrow"}
    assert report["figures"]["paraphrases"] == 0
    assert "MISSED paraphrases" in capsys.readouterr().out
    card = model_card("chat", "rope", report, {"base": [(50, 3.0)], "chat": [(50, 0.5)]})
    assert "Chat: 50 steps, last mean loss 0.500" in card
    assert f"| 0.000 | {TARGETS['paraphrases']:.2f} |" in card


def test_accuracy_counts_right_replies():
    questions = [Question(messages=(("user", str(n)),), accepted=(str(n),)) for n in range(4)]
    result = Result(questions, ["0", "1", "x", "3"])
    assert result.accuracy == 0.75
    assert [reply for _, reply in result.mistakes(5)] == ["x"]


def test_curve_is_a_picture(tmp_path):
    draw = random.Random(0)
    losses = [(step, 3 / step + draw.random()) for step in range(1, 50)]
    draw_losses({"base": losses, "chat": losses}, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
