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


# set -> how many questions of general knowledge in each language
GENERAL = {"development": {"zh": 80, "en": 40}, "final": {"zh": 60, "en": 30}}

both_sets = pytest.mark.parametrize("folder", heldout.SETS)


def test_without_a_name_the_loaders_read_the_final_set():
    for load in (
        heldout.load_wordings,
        heldout.load_greetings,
        heldout.load_unknown,
        heldout.load_memory,
        heldout.load_general,
    ):
        assert load() == load("final")
        assert load() != load("development")


def test_an_unknown_set_is_refused_by_name():
    with pytest.raises(ValueError, match="the held-out set must be one of development, final; got 'third'"):
        heldout.load_greetings("third")


def test_the_sets_share_no_wording_message_or_name():
    first, second = heldout.SETS
    for load in (heldout.load_greetings, heldout.load_unknown, heldout.load_general):
        assert not {item.message for item in load(first)} & {item.message for item in load(second)}
    for relation, wording in heldout.load_wordings(first).items():
        assert not set(wording.questions) & set(heldout.load_wordings(second)[relation].questions), relation
    names = [{item.expect.casefold() for item in heldout.load_memory(folder)} for folder in heldout.SETS]
    assert not names[0] & names[1]
    turns = [
        {item.messages[index].content for item in heldout.load_memory(folder) for index in (0, -1)}
        for folder in heldout.SETS
    ]
    assert not turns[0] & turns[1]


@both_sets
def test_wordings_cover_every_relation_with_its_columns(folder):
    wordings = heldout.load_wordings(folder)
    assert {name: (one.placeholder, one.expected_field) for name, one in wordings.items()} == COLUMNS
    assert all(name == one.relation for name, one in wordings.items())


@both_sets
def test_wordings_are_8_to_12_distinct_questions_with_one_slot(folder):
    for relation, wording in heldout.load_wordings(folder).items():
        assert 8 <= len(wording.questions) <= 12, relation
        assert len(set(wording.questions)) == len(wording.questions), relation
        for question in wording.questions:
            assert question.count("{" + wording.placeholder + "}") == 1, question
            assert question.count("{") == question.count("}") == 1, question
            assert question == question.strip(), question


@both_sets
def test_english_country_names_may_bring_their_article(folder):
    for relation in ("capital_en", "continent_en"):
        assert not any(q.startswith("{country}") for q in heldout.load_wordings(folder)[relation].questions)


def test_ask_fills_the_slot_and_keeps_braces_of_the_value():
    wording = heldout.load_wordings()["sentence_translation_en_to_zh"]
    questions = wording.ask({"sentence": "Use {word}."})
    assert len(questions) == len(wording.questions)
    assert all("Use {word}." in question for question in questions)
    with pytest.raises(ValueError, match="needs the column 'sentence'; it has \\['word'\\]"):
        wording.ask({"word": "x"})


@both_sets
def test_greetings_are_60_and_name_every_intent(folder):
    greetings = heldout.load_greetings(folder)
    assert Counter(item.intent for item in greetings) == {
        "greet": 10, "identity": 10, "abilities": 8, "thanks": 6, "bye": 6, "human": 6, "size": 4, "maker": 5,
        "feeling": 5,
    }  # fmt: skip
    assert len({item.message for item in greetings}) == 60


@both_sets
def test_unknown_and_general_have_their_counts(folder):
    unknown, general = heldout.load_unknown(folder), heldout.load_general(folder)
    assert Counter(item.language for item in unknown) == {"zh": 60, "en": 25}
    assert Counter(item.language for item in general) == GENERAL[folder]
    assert len({item.message for item in (*unknown, *general)}) == 85 + sum(GENERAL[folder].values())
    for item in unknown:
        refusals = ("抱歉", "不知道", "没有学过") if item.language == "zh" else ("Sorry", "not know", "not learnt")
        assert item.must_contain_any == refusals


@both_sets
def test_every_list_of_keys_can_be_met_and_is_not_met_by_silence(folder):
    for item in (*heldout.load_greetings(folder), *heldout.load_unknown(folder), *heldout.load_general(folder)):
        assert item.must_contain_any, item.message
        assert all(heldout.mentions(key, key) for key in item.must_contain_any)
        assert not any(heldout.mentions("", key) for key in item.must_contain_any)


@both_sets
def test_echoing_a_general_question_earns_nothing(folder):
    for item in heldout.load_general(folder):
        assert not any(heldout.mentions(item.message, key) for key in item.must_contain_any), item.message


@both_sets
def test_memory_conversations_have_their_counts_and_lengths(folder):
    conversations = heldout.load_memory(folder)
    named = [item for item in conversations if item.topic == "name"]
    others = [item for item in conversations if item.topic != "name"]
    assert Counter(item.language for item in named) == {"zh": 60, "en": 60}
    assert Counter(item.language for item in others) == {"zh": 10, "en": 10}
    assert Counter((len(item.messages) - 3) // 2 for item in named) == {0: 30, 1: 30, 2: 30, 3: 30}
    assert len({item.expect for item in named}) == 120


@both_sets
def test_memory_conversations_say_the_answer_first_and_not_last(folder):
    for item in heldout.load_memory(folder):
        roles = [turn.role for turn in item.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert heldout.mentions(item.messages[0].content, item.expect)
        assert not heldout.mentions(item.messages[-1].content, item.expect)
        assert not any("{" in turn.content for turn in item.messages)


@both_sets
def test_readme_examples_are_two_chats_and_a_completion(folder):
    first, second, third = heldout.load_readme(folder)
    assert (first.kind, first.prompt, first.must_contain_any) == ("chat", "世界上第二高的山峰是哪座", ("乔戈里",))
    assert (second.kind, second.prompt) == ("chat", "解释一下“温故而知新”")
    assert second.must_contain_any == ("复习", "温习", "新的理解", "新的体会")
    assert (third.kind, third.prompt, third.must_start_with) == (
        "completion",
        "登鹳雀楼->王之涣\n夜雨寄北->",
        "李商隐",
    )


def test_all_prompts_give_every_user_text_of_both_sets():
    without_tables = list(heldout.all_prompts({}))
    user_turns = [
        turn.content
        for folder in heldout.SETS
        for item in heldout.load_memory(folder)
        for turn in item.messages
        if turn.role == "user"
    ]
    num_general = sum(sum(counts.values()) for counts in GENERAL.values())
    assert len(without_tables) == 2 * (60 + 85 + 3) + num_general + len(user_turns)
    assert set(user_turns) <= set(without_tables)
    filled = list(heldout.all_prompts({"capital_zh": [{"country": "法国"}, {"country": "德国"}]}))
    num_wordings = sum(len(heldout.load_wordings(folder)["capital_zh"].questions) for folder in heldout.SETS)
    assert len(filled) == len(without_tables) + 2 * num_wordings
    assert {"德国首都是啥", "告诉我德国的首都"} <= set(filled)
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
