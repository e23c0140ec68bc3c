"""What a reply becomes on the page, and that nothing in it can load or draw by itself."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baichuan2.web.markup import JOINER, Code, Markdown, parts_of


def shown(reply):
    """The parts with the joiners, which nobody sees, left out."""
    return [Markdown(part.text.replace(JOINER, "")) if isinstance(part, Markdown) else part for part in parts_of(reply)]


def test_text_stays_text():
    reply = "**粗体**、`代码` 和 $E=mc^2$。\n\n1. 一\n2. 二\n\n| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert parts_of(reply) == [Markdown(reply)]


def test_fenced_code_is_taken_out():
    reply = "看：\n```python\nprint('![x](y)')\n\n    deeper\n```\n完。"
    assert parts_of(reply) == [Markdown("看："), Code("print('![x](y)')\n\n    deeper", "python"), Markdown("完。")]


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("```\na", Code("a", "")),  # still being written
        ("```py", Code("", "py")),
        ("~~~ C++ x\na\n~~~", Code("a", "c++")),
        ("````md\n```py\nx\n```\n````", Code("```py\nx\n```", "md")),
        ("~~~\n```\n~~~", Code("```", "")),
        ("   ```js\n   a\n     b\n   ```", Code("a\n  b", "js")),
        ("```\r\na\r\n```", Code("a", "")),
        ("```Python {title=x}\na\n```", Code("a", "python")),
    ],
)
def test_fences(reply, code):
    assert parts_of(reply) == [code]


def test_a_fence_in_a_list_is_taken_out_with_its_indent():
    assert parts_of("1. 先\n   ```sh\n   ls\n   ```\n2. 后") == [
        Markdown("1. 先"),
        Code("ls", "sh"),
        Markdown("2. 后"),
    ]


def test_a_fence_behind_the_mark_of_a_list_ends_where_it_ends():
    reply = "- ```js\n  a\n  ```\n- b\n\n```\nc\n```"
    assert shown(reply) == [Markdown("- ``` js\n  a\n  ```\n- b"), Code("c", "")]


def test_three_ticks_inside_a_line_are_no_fence():
    assert parts_of("用 ```a``` 和 ```b`` c") == [Markdown("用 ```a``` 和 ```b`` c")]


@pytest.mark.parametrize(
    "reply",
    [
        "![x](http://e/x.png)",
        r"\![x](http://e/x.png)",
        r"\\![x](http://e/x.png)",
        "[![x](http://e/x.png)](http://e)",
        "![x][r]\n\n[r]: http://e/x.png",
        "`$`$ ![x](http://e/x.png) `",  # code to CommonMark, formula and picture to a reader of formulas
        "$$\n```\n$$\n![x](http://e/x.png)",
        "<!--\n![x](http://e/x.png)\n-->",
        "> > - ![x](http://e/x.png)",
    ],
)
def test_no_picture_survives(reply):
    for part in parts_of(reply):
        assert isinstance(part, Code) or "![" not in part.text
    assert "".join(part.text for part in shown(reply)).count("x.png") == 1


@pytest.mark.parametrize("info", ["mermaid", " Mermaid", "language-mermaid", "&#109;ermaid", "{.mermaid}"])
@pytest.mark.parametrize("fence", ["```", "~~~~"])
@pytest.mark.parametrize("container", ["> ", "- ", "1. ", "[^1]: ", "> - ", "* [ ] "])
def test_a_fence_left_to_markdown_has_no_language(container, fence, info):
    (part,) = parts_of(f"{container}{fence}{info}\ntext")
    first_line = part.text.split("\n")[0]
    assert first_line.startswith(f"{container}{fence}{JOINER} ")  # its language is the joiner


def test_the_end_of_such_a_fence_is_left_alone():
    (part,) = parts_of("> ```js\n> a\n> ```\nb")
    assert part.text.split("\n")[2] == "> ```"


@pytest.mark.parametrize("directive", [":red[x]", ":color[x]{a=b}", ":material/home:", ":streamlit:", "::video{src=x}"])
def test_the_pages_own_directives_are_text(directive):
    (part,) = parts_of(directive)
    assert part.text != directive
    assert part.text.replace(JOINER, "") == directive


def test_colons_of_everyday_text_are_left_alone():
    text = "时间 12:30，std::vector，https://example.org/a:b，注：见[上](x)"
    assert parts_of(text) == [Markdown(text)]


PIECES = ["```", "~~~", "`", "$", "$$", "!", "[", "](u)", "\\", "\n", "\r", "> ", "- ", " ", "mermaid", ":a", "字"]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_any_reply_is_harmless_and_nothing_is_lost(reply):
    parts = parts_of(reply)
    assert all(isinstance(part, Code) or "![" not in part.text for part in parts)
    kept = "".join("".join(part.text.split()) for part in parts)
    for line in re.split(r"[\r\n]", reply):
        if "```" not in line and "~~~" not in line:
            assert "".join(line.split()) in kept.replace(JOINER, "")
