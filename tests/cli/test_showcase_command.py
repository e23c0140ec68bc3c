"""`baichuan2 showcase` from the command line: the screen, the page, JSON, an interruption, wrong flags."""

import json
import os
import re
import string
from dataclasses import fields

import pytest

from baichuan2.chat import showcase as examples_of
from baichuan2.chat.reply import Reply, Usage
from baichuan2.checkpoints.locate import DEMO_DIR
from baichuan2.cli import showcase_screen
from baichuan2.cli.main import main
from baichuan2.cli.showcase_text import CHINESE, ENGLISH
from baichuan2.settings.showing import SHOWCASE_KINDS

pytestmark = pytest.mark.skipif(
    not (DEMO_DIR / "chat" / "config.json").is_file(), reason="this installation has no demo model"
)


def test_the_screen_and_the_page_tell_the_same(tmp_path, capsys):
    page = tmp_path / "page.md"
    arguments = ["showcase", "--kind", "maths,conversation", "--language", "en", "--markdown", str(page)]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.startswith("[1/3] maths · The times table\nYou: 7乘以8等于多少？\nModel: 7×8=56\n[✓ holds what was")
    assert re.search(r"demo-chat: 5 of 5 answers that can be checked .*; \d+ tokens, [\d.]+ tokens/s\n$", out)
    assert f"written: {page}" in err
    text = page.read_text(encoding="utf-8")
    assert "greedy (always the likeliest token)" in text
    assert "bfloat16, cpu" in text
    replies = re.findall(r"^Model: (.*)$", out, re.MULTILINE)
    assert len(replies) == 6
    assert re.findall(r"\*\*Model\*\*\n\n```text\n(.*?)\n```", text, re.DOTALL) == replies
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]
    assert main(arguments) == 2  # the page of somebody is never overwritten, and that is said before anything is loaded
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error: --markdown {page}: it exists already, and nothing is overwritten: give another name\n"


def test_json_is_an_object_for_each_example_and_one_for_all(capsys):
    assert main(["showcase", "-m", "demo-base", "--kind", "poem", "--json", "--language", "zh"]) == 0
    *examples, whole = map(json.loads, capsys.readouterr().out.splitlines())
    assert [example["kind"] for example in examples] == ["poem", "poem"]
    turn = examples[0]["turns"][0]
    assert (turn["said"], turn["reply"], turn["right"]) == ("登鹳雀楼->王之涣\n夜雨寄北->", "李商隐", True)
    assert (whole["style"], whole["questions"], whole["examples"], whole["right"]) == ("base", "demo", 2, 2)
    assert whole["sampling"]["do_sample"] is False
    assert whole["software"]["torch"]


def test_what_was_answered_before_an_interruption_is_kept(tmp_path, capsys, monkeypatch):
    real = examples_of.stream_reply
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 4:  # the third turn of the conversation with a name
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(examples_of, "stream_reply", interrupted)
    page = tmp_path / "page.md"
    arguments = ["showcase", "--kind", "maths,conversation", "--language", "en", "--markdown", str(page)]
    assert main(arguments) == 130
    out, err = capsys.readouterr()
    assert "[stopped: 1 of 3 examples were shown]" in err
    assert "Traceback" not in err
    assert "tokens/s" not in out
    text = page.read_text(encoding="utf-8")
    assert "**Stopped on the way: the first 1 of 3 examples.**" in text
    assert text.count("**User**") == 3


def test_list_needs_no_model(capsys, monkeypatch):
    monkeypatch.setenv("BAICHUAN2_MODEL", "/nowhere")
    assert main(["showcase", "--list", "--kind", "coding,unknown", "--language", "en"]) == 0
    out = capsys.readouterr().out
    assert "for the official models, conversations for Chat models\n  coding        Writing a function\n" in out
    assert "  unknown       A country that does not exist" in out
    assert "maths" not in out
    assert main(["showcase", "--list", "--kind", "coding", "--questions", "demo"]) == 2
    assert "error: --kind coding" in capsys.readouterr().err
    assert main(["showcase", "--list", "--json", "--style", "base", "--questions", "demo"]) == 0
    assert all(json.loads(line)["style"] == "base" for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kind", "coding"], "--kind coding: the demo questions for chat models have none; they have maths, quiz"),
        (["-m", "/nowhere/at/all"], "there is no folder"),
        (["--markdown", "/nowhere/at/all/page.md"], "--markdown /nowhere/at/all/page.md: /nowhere/at/all is no folder"),
        (["--markdown", "/"], "it exists already"),
        (["--markdown", "x" * 300], "cannot be a file"),
        (["--style", "talk"], "--style: must be one of auto, chat, base"),
        (["--adapter", "a=x,b=y"], "--adapter must be one folder here"),
        (["surplus"], "unrecognized arguments: surplus"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_loaded(flags, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["showcase", *flags, "--language", "en"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_sampling_that_a_model_does_not_want_is_told(capsys):
    assert main(["showcase", "--kind", "maths", "--sample", "--language", "en"]) == 0
    assert ENGLISH.still_greedy in capsys.readouterr().err


def test_nothing_in_a_reply_leaves_its_fence_or_reaches_the_terminal(capsys):
    turn = examples_of.Turn("ask", ("|*x*",))
    usage = Usage(prompt_tokens=1, completion_tokens=3, seconds_prefill=1.0, seconds_decode=0.5)
    reply = Reply("```\n# not a title\n````\x1b[31m\n<script>", "length", usage)
    example = examples_of.Example(kind="quiz", style="chat", title={"en": "t", "zh": "t"}, turns=(turn,))
    sampling = examples_of_sampling()
    shown = showcase_screen.Showcase("a`b|c\nd", "float32, cpu", "chat", "demo", sampling, 1)
    shown.shown.append((example, [examples_of.Answer(turn, reply, False)]))
    text = showcase_screen.markdown(shown, ENGLISH)
    assert "`````text\n```\n# not a title\n````[31m\n<script>\n`````" in text
    assert r"\[✗ expected: \|\*x\*\]" in text
    assert "- model: `a'b|c d`" in text
    assert r"\[stopped at the length limit" in text
    assert shown.speed == 4.0


def examples_of_sampling():
    from baichuan2.engine.sampling import Sampling

    return Sampling()


def test_a_page_that_cannot_be_written_leaves_nothing_behind(tmp_path, capsys, monkeypatch):
    def no_room(self, target):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("pathlib.Path.rename", no_room)
    assert main(["showcase", "--kind", "maths", "--markdown", str(tmp_path / "page.md"), "--language", "en"]) == 2
    assert "page.md cannot be written: No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_both_languages_fill_in_the_same_things():
    def names(text):
        return sorted((name, spec) for _, name, spec, _ in string.Formatter().parse(text) if name is not None)

    for item in fields(CHINESE):
        chinese, english = getattr(CHINESE, item.name), getattr(ENGLISH, item.name)
        assert chinese != english, item.name
        if isinstance(chinese, str):
            assert names(chinese) == names(english), item.name
        else:
            assert list(chinese) == list(english), item.name
    assert set(SHOWCASE_KINDS) | {"chat", "base"} == set(CHINESE.kinds)
