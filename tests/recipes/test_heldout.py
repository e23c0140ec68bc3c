"""The held-out question set: shapes, counts, placeholders, and that echoing a question earns nothing."""

from collections import Counter

import pytest
from recipes.demo import heldout

# relation -> (column put into the question, column that answers it)
COLUMNS = {
    "capital_zh": ("country", "capital"),
    "capital_en": ("country", "capital"),
    "country_of_capital_zh": ("capital", "country"),
    "country_of_capital_en": ("capital", "country"),
    "continent_zh": ("country", "continent"),
    "continent_en": ("country", "continent"),
    "currency_zh": ("country", "currency"),
    "province_capital_zh": ("province", "capital"),
    "province_short_name_zh": ("province", "short_name"),
    "element_symbol_zh": ("element", "symbol"),
    "element_symbol_en": ("element", "symbol"),
    "element_number_zh": ("element", "number"),
    "symbol_to_element_zh": ("symbol", "element"),
    "idiom_meaning_zh": ("idiom", "meaning"),
    "idiom_meaning_en": ("idiom", "meaning"),
    "word_zh_to_en": ("word", "translation"),
    "word_en_to_zh": ("word", "translation"),
    "antonym_zh": ("word", "antonym"),
    "poem_author_zh": ("title", "author"),
    "poem_next_line_zh": ("line", "next_line"),
    "poem_recite_zh": ("title", "text"),
    "sentence_translation_zh_to_en": ("sentence", "translation"),
    "sentence_translation_en_to_zh": ("sentence", "translation"),
}


def test_wordings_cover_every_relation_with_its_columns():
    wordings = heldout.load_wordings()
    assert {name: (one.placeholder, one.expected_field) for name, one in wordings.items()} == COLUMNS
    assert all(name == one.relation for name, one in wordings.items())


def test_wordings_are_8_to_12_distinct_questions_with_one_slot():
    for relation, wording in heldout.load_wordings().items():
        assert 8 <= len(wording.questions) <= 12, relation
        assert len(set(wording.questions)) == len(wording.questions), relation
        for question in wording.questions:
            assert question.count("{" + wording.placeholder + "}") == 1, question
            assert question.count("{") == question.count("}") == 1, question
            assert question == question.strip(), question


def test_english_country_names_may_bring_their_article():
    for relation in ("capital_en", "continent_en"):
        assert not any(q.startswith("{country}") for q in heldout.load_wordings()[relation].questions)


def test_ask_fills_the_slot_and_keeps_braces_of_the_value():
    wording = heldout.load_wordings()["sentence_translation_en_to_zh"]
    questions = wording.ask({"sentence": "Use {word}."})
    assert len(questions) == len(wording.questions)
    assert all("Use {word}." in question for question in questions)
    with pytest.raises(ValueError, match="needs the column 'sentence'; it has \\['word'\\]"):
        wording.ask({"word": "x"})


def test_greetings_are_60_and_name_every_intent():
    greetings = heldout.load_greetings()
    assert Counter(item.intent for item in greetings) == {
        "greet": 10, "identity": 10, "abilities": 8, "thanks": 6, "bye": 6, "human": 6, "size": 4, "maker": 5,
        "feeling": 5,
    }  # fmt: skip
    assert len({item.message for item in greetings}) == 60


def test_unknown_and_general_have_their_counts():
    unknown, general = heldout.load_unknown(), heldout.load_general()
    assert Counter(item.language for item in unknown) == {"zh": 60, "en": 25}
    assert Counter(item.language for item in general) == {"zh": 80, "en": 40}
    assert len({item.message for item in (*unknown, *general)}) == 85 + 120
    for item in unknown:
        refusals = ("抱歉", "不知道", "没有学过") if item.language == "zh" else ("Sorry", "not know", "not learnt")
        assert item.must_contain_any == refusals


def test_every_list_of_keys_can_be_met_and_is_not_met_by_silence():
    for item in (*heldout.load_greetings(), *heldout.load_unknown(), *heldout.load_general()):
        assert item.must_contain_any, item.message
        assert all(heldout.mentions(key, key) for key in item.must_contain_any)
        assert not any(heldout.mentions("", key) for key in item.must_contain_any)


def test_echoing_a_general_question_earns_nothing():
    for item in heldout.load_general():
        assert not any(heldout.mentions(item.message, key) for key in item.must_contain_any), item.message


def test_memory_conversations_have_their_counts_and_lengths():
    conversations = heldout.load_memory()
    named = [item for item in conversations if item.topic == "name"]
    others = [item for item in conversations if item.topic != "name"]
    assert Counter(item.language for item in named) == {"zh": 60, "en": 60}
    assert Counter(item.language for item in others) == {"zh": 10, "en": 10}
    assert Counter((len(item.messages) - 3) // 2 for item in named) == {0: 30, 1: 30, 2: 30, 3: 30}
    assert len({item.expect for item in named}) == 120


def test_memory_conversations_say_the_answer_first_and_not_last():
    for item in heldout.load_memory():
        roles = [turn.role for turn in item.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert heldout.mentions(item.messages[0].content, item.expect)
        assert not heldout.mentions(item.messages[-1].content, item.expect)
        assert not any("{" in turn.content for turn in item.messages)


def test_readme_examples_are_two_chats_and_a_completion():
    first, second, third = heldout.load_readme()
    assert (first.kind, first.prompt, first.must_contain_any) == ("chat", "世界上第二高的山峰是哪座", ("乔戈里",))
    assert (second.kind, second.prompt) == ("chat", "解释一下“温故而知新”")
    assert second.must_contain_any == ("复习", "温习", "新的理解", "新的体会")
    assert (third.kind, third.prompt, third.must_start_with) == (
        "completion",
        "登鹳雀楼->王之涣\n夜雨寄北->",
        "李商隐",
    )


def test_all_prompts_give_every_user_text():
    without_tables = list(heldout.all_prompts({}))
    user_turns = [turn for item in heldout.load_memory() for turn in item.messages if turn.role == "user"]
    assert len(without_tables) == 60 + 85 + 120 + len(user_turns) + 3
    for turn in user_turns:
        assert turn.content in without_tables
    filled = list(heldout.all_prompts({"capital_zh": [{"country": "法国"}, {"country": "德国"}]}))
    assert len(filled) == len(without_tables) + 2 * len(heldout.load_wordings()["capital_zh"].questions)
    assert "德国首都是啥" in filled
    with pytest.raises(ValueError, match="no wordings for \\['rivers'\\]"):
        list(heldout.all_prompts({"rivers": []}))


@pytest.mark.parametrize(
    ("reply", "key", "exact_case", "expected"),
    [
        ("一周有17天。", "7", False, False),
        ("一周有7天。", "7", False, True),
        ("氦的元素符号是He。", "He", True, True),
        ("氦的元素符号是He。", "H", True, False),
        ("钴的符号是CO。", "Co", True, False),
        ("Apple.", "apple", False, True),
        ("This is it.", "Hi", False, False),
        ("白日依山尽，\n黄河入海流。", "白日依山尽，黄河入海流", False, True),
        ("他叫欧阳子衿", "欧阳子衿", False, True),
        ("An open-source project", "open source", False, True),
    ],
)
def test_mentions_takes_latin_keys_as_whole_words(reply, key, exact_case, expected):
    assert heldout.mentions(reply, key, exact_case=exact_case) is expected


def test_mentions_refuses_a_key_without_letters():
    with pytest.raises(ValueError, match="a key needs a letter or digit; got '。'"):
        heldout.mentions("随便", "。")
