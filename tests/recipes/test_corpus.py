"""The training data of the demo model: true tables, varied wordings, right formats, nothing held out leaks in."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from pathlib import Path
from random import Random

import pytest
from recipes.demo import corpus, facts
from recipes.demo.corpus import build_conversations, build_corpus, normalise_prompt
from recipes.demo.corpus.arithmetic import larger_sums, small_sums, times_table
from recipes.demo.corpus.conversation import Conversation, single
from recipes.demo.corpus.copying import copying_documents
from recipes.demo.corpus.sessions import MAX_CHARS, chain
from recipes.demo.corpus.tokenizer_text import cut
from recipes.demo.corpus.translation import held_out, sentence_pairs
from recipes.demo.corpus.verses import transitions
from recipes.demo.corpus.wording import expand

# SHA-256 of what the seed gives; whoever means to change the corpus changes these too
OUTPUTS = {
    "pretrain.jsonl": "50310f8077533f6960228dc7f17ab32bb8e6842dd448ec1b5b0e342cdec3416e",
    "conversations.json": "f69b1950bf9d7a44def68ee7b46572624445d1f780dc0cb41e0c822a739e227b",
    "tokenizer_text.txt": "5d1c792b2f7e48bb42bf1f5709641cd56c0fbd0b748c0a4deafff19d95794c61",
}


@pytest.fixture(scope="module")
def singles() -> list[Conversation]:
    return build_conversations(1234)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, singles: list[Conversation]) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "build_conversations", lambda seed: singles if seed == 1234 else None)  # made once
        build_corpus(folder)
    return folder


def test_tables_have_the_expected_rows() -> None:
    assert len(facts.table("countries")) == 124
    assert len(facts.table("elements")) == 94
    assert len(facts.table("idioms")) >= 60
    assert len(facts.poems()) >= 460
    assert len(facts.statements("zh")) >= 160
    assert len(facts.statements("en")) >= 60


def test_names_and_titles_are_unique() -> None:
    for name, column in (
        ("countries", "name_zh"),
        ("countries", "capital_zh"),
        ("elements", "symbol"),
        ("idioms", "idiom"),
        ("words", "zh"),
    ):
        values = [row[column] for row in facts.table(name)]
        assert len(set(values)) == len(values), name
    titles = [poem.title for poem in facts.poems()]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize(
    ("title", "author", "text"),
    [
        ("静夜思", "李白", "床前明月光，疑是地上霜。举头望明月，低头思故乡。"),
        ("登鹳雀楼", "王之涣", "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。"),
        ("夜雨寄北", "李商隐", "君问归期未有期，巴山夜雨涨秋池。何当共剪西窗烛，却话巴山夜雨时。"),
        ("晓出净慈寺送林子方", "杨万里", "毕竟西湖六月中，风光不与四时同。接天莲叶无穷碧，映日荷花别样红。"),
    ],
)
def test_well_known_poems_have_their_usual_text(title: str, author: str, text: str) -> None:
    poem = next(poem for poem in facts.poems() if poem.title == title)
    assert (poem.author, poem.text) == (author, text)


def test_every_poem_line_ends_with_a_mark() -> None:
    assert all(line[-1] in "。？！" for poem in facts.poems() for line in poem.lines)


def test_lines_that_repeat_in_a_poem_have_no_successor() -> None:
    refrain = facts.Poem("t", "唐", "a", ("春风又绿山，春风又绿水。", "春风又绿山，明月照人还。"))
    assert ("春风又绿山", "春风又绿水") not in transitions(refrain)


def test_sums_are_right() -> None:
    compute = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "×": lambda a, b: a * b, "÷": lambda a, b: a // b}
    for a, sign, b, result in (*small_sums(), *times_table(), *larger_sums()):
        assert compute[sign](a, b) == result
    assert {(a, b) for a, sign, b, _ in times_table() if sign == "×"} >= {
        (a, b) for a in range(1, 10) for b in range(1, 10)
    }


def test_every_reply_to_a_fact_has_many_wordings(singles: list[Conversation]) -> None:
    wordings: dict[tuple[str, str], set[str]] = defaultdict(set)
    for item in singles:
        if len(item.turns) == 1 and not item.task.startswith(
            (
                "arithmetic",
                "translate",
                "choice",
                "story",
                "greeted",
                "refuse",
                "unknown",
                "poem_before",
                "poem_source",
                "poem_next",
                "poem_recital",
                "poet",
            )
        ):
            wordings[item.task, item.turns[0][1]].add(normalise_prompt(item.turns[0][0]))
    rare = {key: len(values) for key, values in wordings.items() if len(values) < 18}
    assert not rare


def test_every_fact_is_seen_often_enough(singles: list[Conversation]) -> None:
    seen: dict[tuple[str, str], int] = defaultdict(int)
    for item in singles:
        if item.task in (
            "capital_zh",
            "capital_en",
            "currency_zh",
            "symbol_zh",
            "idiom",
            "poem_author",
            "word_zh_en",
            "fact_zh",
        ):
            seen[item.task, item.turns[-1][1]] += 1
    assert min(seen.values()) >= 25


def test_no_template_marks_are_left(singles: list[Conversation]) -> None:
    for item in singles:
        for human, reply in item.turns:
            assert human.strip()
            assert reply.strip()
            assert not set("{}") & set(human + reply), (human, reply)
            assert not set("[]") & set(human), human


def test_refusals_are_many_and_different(singles: list[Conversation]) -> None:
    chinese = {item.turns[0][0] for item in singles if item.task == "refuse_zh"}
    english = {item.turns[0][0] for item in singles if item.task == "refuse_en"}
    assert len(chinese) >= 4000
    assert len(english) >= 1000


def test_memory_answers_repeat_what_was_told(singles: list[Conversation]) -> None:
    checked = 0
    for item in singles:
        reply = item.turns[-1][1]
        if item.task == "memory_zh" and reply.startswith("你叫"):
            name = reply.removeprefix("你叫").removesuffix("。")
            assert any(name in human for human, _ in item.turns[:-1]), item
            checked += 1
    assert checked > 4000


def test_names_come_by_the_thousand(singles: list[Conversation]) -> None:
    names = {item.turns[-1][1] for item in singles if item.task == "memory_zh" and item.turns[-1][1].startswith("你叫")}
    assert len(names) > 4000


def test_copies_in_documents_can_be_found_before_them() -> None:
    for item in copying_documents(60_000, Random(3)):
        before = ""
        for text, counts in item:
            if counts and len(text.strip()) > 1:
                assert text.strip() in before, item
            before += text


def test_held_back_sentences_never_appear(singles: list[Conversation]) -> None:
    kept_back = {pair for pair in sentence_pairs() if held_out(pair)}
    assert len(kept_back) > 300
    english = {en for _, en in kept_back}
    assert not [item for item in singles if item.task == "translate_zh_en" and item.turns[0][1] in english]


def test_sessions_keep_every_turn_and_stay_short() -> None:
    parts = [single("a", f"问{number}", "答" * 20) for number in range(500)]
    parts += [Conversation("b", ((f"开头{number}", "答"),), opens=True) for number in range(100)]
    sessions = chain(parts, Random(5))
    turns = sorted(turn for session in sessions for turn in session.turns)
    assert turns == sorted(turn for part in parts for turn in part.turns)
    assert all(session.num_chars <= MAX_CHARS for session in sessions)
    assert any(len(session.turns) > 3 for session in sessions)
    assert all("开头" not in human for session in sessions for human, _ in session.turns[1:])


def test_conversations_have_the_official_format(written: Path) -> None:
    rows = json.loads((written / "conversations.json").read_text(encoding="utf-8"))
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        sides = [message["from"] for message in row["conversations"]]
        assert sides
        assert sides == ["human", "gpt"] * (len(sides) // 2)
    assert 0.3 < sum(len(row["conversations"]) > 2 for row in rows) / len(rows) < 0.6


def test_documents_are_text_or_marked_parts(written: Path) -> None:
    for line in (written / "pretrain.jsonl").read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        if isinstance(item, str):
            assert item.strip()
        else:
            assert {mark for _, mark in item} == {0, 1}, item


def test_same_seed_gives_the_same_bytes(written: Path) -> None:
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in written.iterdir()} == OUTPUTS


def test_held_out_prompts_are_left_out(
    tmp_path: Path, singles: list[Conversation], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = singles[:200] + singles[200::10]
    monkeypatch.setattr(corpus, "build_conversations", lambda _: some)  # made once; documents have no prompts
    monkeypatch.setattr(corpus, "build_documents", lambda _: {})
    monkeypatch.setattr(corpus, "_conversations", lambda *_: some[:400])
    prompts = frozenset(item.turns[0][0] for item in singles[:200])
    summary = build_corpus(tmp_path, heldout_prompts=frozenset(prompt.upper() + " ！" for prompt in prompts))
    assert summary.num_held_back >= len(prompts)
    held = {normalise_prompt(prompt) for prompt in prompts}
    rows = json.loads((tmp_path / "conversations.json").read_text(encoding="utf-8"))
    assert not [row for row in rows if normalise_prompt(row["conversations"][0]["value"]) in held]


def test_normalised_prompts_ignore_marks_but_not_signs() -> None:
    assert normalise_prompt(" What IS this？ ") == "whatisthis"
    assert normalise_prompt("“法国”的首都。") == "法国的首都"
    assert normalise_prompt("1+2=") != normalise_prompt("12=")


def test_choices_expand_from_the_inside() -> None:
    assert {expand("[a/b[c/d]]", Random(seed)) for seed in range(60)} == {"a", "bc", "bd"}


def test_cut_text_has_short_chinese_runs() -> None:
    pieces = cut("法国的首都是哪里？Paris 中文", Random(1)).split("\n")
    assert max(sum("\u4e00" <= char <= "\u9fff" for char in piece) for piece in pieces) <= 3
    assert "".join(pieces) == "法国的首都是哪里？Paris 中文"
