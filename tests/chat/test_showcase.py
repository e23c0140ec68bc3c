"""The example conversations: which suit a model, how they are asked, and what counts as right."""

import json
from dataclasses import replace

import pytest

from baichuan2 import BaichuanTokenizer
from baichuan2.chat.showcase import Example, Turn, choose_examples, holds_any, play, read_examples, style_and_questions
from baichuan2.checkpoints.load import load_for_replies
from baichuan2.checkpoints.locate import DEMO_DIR
from baichuan2.errors import SettingsError
from baichuan2.settings import LoadSettings, SamplingSettings, ShowcaseSettings
from baichuan2.settings.showing import SHOWCASE_KINDS
from tests.chat.talkers import talker

SETS = [(questions, style) for questions in ("official", "demo") for style in ("chat", "base")]


@pytest.mark.parametrize(("questions", "style"), SETS)
def test_the_data_file_is_in_order(questions, style):
    examples = read_examples(questions, style)
    places = [SHOWCASE_KINDS.index(example.kind) for example in examples]
    assert places == sorted(places)
    titles = [example.title["en"] for example in examples]
    assert len(set(titles)) == len(titles)
    for example in examples:
        assert set(example.title) == {"zh", "en"}
        assert all(turn.say.strip() for turn in example.turns)
        assert all(isinstance(key, str) and key.strip() for turn in example.turns for key in turn.expect)
        if style == "base":
            assert len(example.turns) == 1
            assert example.system is None
        else:
            assert example.stop is None


def test_all_kinds_of_the_official_readme_are_there():
    kinds = {example.kind for example in read_examples("official", "chat")}
    assert {"coding", "maths", "instructions", "quiz"} < kinds
    assert set(SHOWCASE_KINDS) == {example.kind for names in SETS for example in read_examples(*names)}


@pytest.mark.parametrize("style", ["chat", "base"])
def test_the_demo_models_answer_most_of_their_own_questions_rightly(style):
    if not (DEMO_DIR / style / "config.json").is_file():
        pytest.skip("this installation has no demo model")
    loaded = load_for_replies(f"demo-{style}")
    # what cannot be written in the demo's pieces is no question for it
    tokenizer = BaichuanTokenizer.from_pretrained(DEMO_DIR / style)
    answers = []
    for example in read_examples("demo", style):
        answers += play(loaded, example)
        assert all(tokenizer.decode(tokenizer.encode_text(turn.say)) == turn.say for turn in example.turns)
    checked = [answer for answer in answers if answer.is_right is not None]
    assert len(checked) >= 5
    assert sum(answer.is_right for answer in checked) > 0.8 * len(checked), [
        (answer.turn.say, answer.reply.text) for answer in checked if not answer.is_right
    ]


def test_a_conversation_is_asked_in_view_of_its_own_replies():
    loaded = talker("好的", "四十")
    example = Example(
        kind="conversation",
        style="chat",
        title={},
        system="你是谁",
        turns=(Turn("记住这个", ("不",)), Turn("再说", ("四十", "三十")), Turn("还有")),
    )
    seen = []
    answers = []
    for answer in play(loaded, example, None, lambda turn, chunks: seen.append((turn.say, next(chunks).text))):
        answers.append(answer)
        if len(answers) == 2:
            break
    assert [answer.reply.text for answer in answers] == ["好的", "四十"]  # whole, though only the first chunk was read
    assert [say for say, _ in seen] == ["记住这个", "再说"]
    assert [answer.is_right for answer in answers] == [False, True]
    assert loaded.model.prompt_texts[1] == (
        "你是谁<reserved_106>记住这个<reserved_107>好的<reserved_106>再说<reserved_107>"
    )


def test_a_text_goes_on_without_roles_and_ends_at_its_stop():
    loaded = talker("一二三四五六")
    example = Example(kind="poem", style="base", title={}, turns=(Turn("请数一数"),), stop="四")
    (answer,) = play(loaded, example)
    assert (answer.reply.text, answer.is_right) == ("一二三", None)
    assert loaded.model.prompt_texts == ["请数一数"]
    (answer,) = play(talker("一二三四五六"), replace(example, stop=None, max_new_tokens=3), SamplingSettings())
    assert answer.reply.usage.completion_tokens == 3
    (answer,) = play(
        talker("一二三四五六"), replace(example, stop=None, max_new_tokens=3), SamplingSettings(max_new_tokens=2)
    )
    assert answer.reply.usage.completion_tokens == 2  # the user's bound may only be the smaller one


@pytest.mark.parametrize(
    ("text", "keys", "expected"),
    [
        ("应找回40元。", ["40"], True),
        ("The price was $300.00.", ["300"], True),
        ("It was 300.", ["300"], True),
        ("1,300 dollars", ["300"], False),
        ("300.5 dollars", ["300"], False),
        ("3,005 or 1300", ["300"], False),
        ("B. 蓝鲸", ["C"], False),
        ("答案是C", ["C"], True),
        ("Cat", ["C"], False),
        ("SORRY, no.", ["sorry"], True),
        ('{"name": "周楠"}', ['"周楠"'], True),
        ("铁的符号是Fe。", ["fe"], True),
        ("", ["7"], False),
        ("乔戈里峰", ["K2", "乔戈里"], True),
    ],
)
def test_what_holds_an_expected_answer(text, keys, expected):
    assert holds_any(text, keys) is expected


def description(folder, name: str, *, vocab_size: int, has_roles: bool):
    """A folder with nothing in it but what says which model it is."""
    place = folder / name
    place.mkdir()
    config = json.loads((DEMO_DIR / "chat" / "config.json").read_text(encoding="utf-8"))
    (place / "config.json").write_text(json.dumps({**config, "vocab_size": vocab_size}))
    generation = {"user_token_id": 195, "assistant_token_id": 196} if has_roles else {}
    (place / "generation_config.json").write_text(json.dumps(generation))
    return LoadSettings(model=str(place))


def test_questions_suit_the_model(tmp_path):
    auto = ShowcaseSettings()
    chat = description(tmp_path, "mine", vocab_size=125_696, has_roles=True)
    assert style_and_questions(auto, chat) == ("chat", "official")
    base = description(tmp_path, "Baichuan2-7B-Base", vocab_size=125_696, has_roles=True)
    assert style_and_questions(auto, base) == ("base", "official")
    silent = description(tmp_path, "silent", vocab_size=64_000, has_roles=False)
    assert style_and_questions(auto, silent) == ("base", "official")
    assert style_and_questions(auto, replace(silent, adapter="somewhere")) == ("chat", "official")
    cache = tmp_path / "models--baichuan-inc--Baichuan2-7B-Intermediate-Checkpoints"
    cache.mkdir()
    cached = description(cache, "1234abcd", vocab_size=125_696, has_roles=True)
    assert style_and_questions(auto, cached) == ("base", "official")
    assert style_and_questions(auto, LoadSettings()) == ("chat", "demo")
    assert style_and_questions(auto, LoadSettings(model="demo-base")) == ("base", "demo")
    asked = ShowcaseSettings(style="base", questions="demo")
    assert style_and_questions(asked, LoadSettings(model="/nowhere")) == ("base", "demo")


def test_kinds_are_chosen_by_name():
    settings = ShowcaseSettings(kind=" poem,maths,poem, ")
    assert settings.kinds == ("poem", "maths")
    assert {example.kind for example in choose_examples(settings, "demo", "chat")} == {"poem", "maths"}
    with pytest.raises(
        SettingsError, match=r"--kind coding: the demo questions for chat models have none; they have m"
    ):
        choose_examples(ShowcaseSettings(kind="coding,maths"), "demo", "chat")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "cooking"}, "--kind: there is no kind 'cooking': use some of coding, maths"),
        ({"kind": ""}, "--kind names nothing"),
        ({"kind": " , "}, "--kind names nothing"),
        ({"markdown": ""}, "--markdown must be a file"),
        ({"markdown": "a\0b"}, "--markdown must be a file"),
        ({"seed": -1}, r"--seed must lie in \[0, "),
        ({"max_new_tokens": 0}, "--max-new-tokens must lie"),
    ],
)
def test_wrong_settings_are_named(values, message):
    with pytest.raises(SettingsError, match=message):
        ShowcaseSettings(**values)


def test_greedy_unless_sampling_is_asked_for():
    assert ShowcaseSettings(seed=3).sampling == SamplingSettings(do_sample=False, max_new_tokens=512)
    assert ShowcaseSettings(seed=3, sample=True).sampling == SamplingSettings(seed=3, max_new_tokens=512)
