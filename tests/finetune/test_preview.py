"""The preview shows what is learnt with colours and without, and nothing that a terminal would obey."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from baichuan2.cli.preview_screen import data_summary, plain, print_preview
from baichuan2.cli.preview_text import CHINESE, ENGLISH
from baichuan2.finetune.data import prepare_data
from baichuan2.finetune.preview import Preview, shown_examples, shown_tokens, visible
from baichuan2.settings import FinetuneSettings
from tests.tokenizer_files import tokenizer


def preview_of(folder: Path, rows: list[Any], count: int = 9, **settings: Any) -> Preview:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    chosen = FinetuneSettings(data_path=str(path), **settings)
    data = prepare_data(chosen, tokenizer("small"), folder / "store")
    return Preview(tuple(shown_examples(data, tokenizer("small"), count)), data.report, None, chosen.packing)


def printed(found: Preview, words: Any = ENGLISH, **console: Any) -> str:
    stream = io.StringIO()
    options = {"file": stream, "highlight": False, "soft_wrap": True, "markup": False, "emoji": False, **console}
    print_preview(found, words, Console(**options))
    return stream.getvalue()


def test_marks_show_what_is_learnt(tmp_path: Path) -> None:
    talk = [
        {"from": name, "value": text} for name, text in (("human", "你"), ("gpt", "好"), ("human", "再"), ("gpt", "见"))
    ]
    found = preview_of(tmp_path, [{"conversations": talk, "system": "是"}])
    (example,) = found.examples
    assert plain(example.tokens).replace("│", "") == "是<user>你<assistant>⟦好⟧{<user>}再<assistant>⟦见⟧{</s>}"
    assert (example.num_tokens, example.num_learnt, example.num_cut) == (10, 4, 0)
    assert example.origin == f"{tmp_path}/data.jsonl, line 1"


def test_text_cannot_pass_for_a_role_or_reach_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;title\x07\x9b2J\x00\u202e</s>\t\n🤖"
    found = preview_of(tmp_path, [{"instruction": evil, "output": evil}])
    for text in (
        printed(found),
        re.sub(r"\x1b\[[\d;]*m", "", printed(found, force_terminal=True, color_system="truecolor")),
    ):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2028]", text)
        assert "\\x1b" in text
        assert "\\u202e" in text
        assert "⇥" in text
        assert "🤖" in text


def test_colours_are_for_terminals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = preview_of(tmp_path, [{"instruction": "你", "output": "好"}])
    assert "\x1b" not in printed(found)
    assert "⟦好⟧" in printed(found)
    coloured = printed(found, force_terminal=True, color_system="standard")
    assert "\x1b[30;42m" in coloured or "\x1b[30;102m" in coloured
    assert "⟦" not in coloured
    assert "⟦好⟧" in printed(found, force_terminal=True, color_system="standard", no_color=True)


def test_counts_and_cuts_are_shown_in_both_languages(tmp_path: Path) -> None:
    rows = [{"instruction": "a", "output": "b" * 5}, {"instruction": "c", "output": "好" * 90}] * 2
    found = preview_of(tmp_path, rows, model_max_length=16, packing=True)
    english, chinese = printed(found), printed(found, CHINESE)
    assert "more tokens are cut by --model-max-length" in english
    assert "== row 1 (packed)" in english
    assert re.search(r"examples +4\n", english)
    assert "已截去" in chinese
    assert "拼接" in chinese
    lines = list(data_summary(found.report, found.examples[0], ENGLISH))
    assert lines[0].startswith("data: 4 rows (alpaca), 4 examples to learn; ")
    assert "packed into" in lines[0]
    assert lines[1].startswith(f"first example, {tmp_path}/data.jsonl, line ")


def test_pairs_show_both_replies(tmp_path: Path) -> None:
    text = printed(preview_of(tmp_path, [{"prompt": "你", "chosen": "好", "rejected": "见"}], objective="dpo"))
    assert "<user>你<assistant>⟦好⟧{</s>}" in text
    assert "<user>你<assistant>⟦见⟧{</s>}" in text
    assert "the rejected reply" in text


def test_characters_of_several_tokens_are_shown_whole() -> None:
    small = tokenizer("small")
    ids = small.encode_text("🤖鱻")
    tokens = list(shown_tokens(ids, ids, small))
    assert [token.text for token in tokens] == ["🤖", "鱻"]
    assert "".join(token.text for token in shown_tokens(ids[:2], ids[:2], small)) == "<F0><9F>"
    assert visible("好\r".encode() + b"\xff") == "好\\x0d<FF>"
