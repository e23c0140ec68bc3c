r"""A reply as parts that a page can show: text in Markdown, and code.

A reply is data. Streamlit's Markdown shows HTML as text, but it would load a picture from anywhere (`![](http://...)`)
and draw a diagram that may hold one. So fenced code is taken out here and never reaches Markdown, and in all the rest
what starts a picture, a diagram or one of Streamlit's own directives is broken by a character without width. That holds
wherever such a thing stands, so nothing depends on how the browser reads the text around it.
"""

import re
from dataclasses import dataclass

__all__ = ["Code", "Markdown", "parts_of"]

JOINER = "\N{WORD JOINER}"  # without width, and no place for a line to break
FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^`]*)")
# one that opens behind the mark of a list or a note: left to Markdown, up to its end
ITEM_FENCE = re.compile(r"[ \t>]*(?:[-+*]|\d{1,9}[.)]|\[\^[^\]]+\]:)[ \t]+(?P<fence>`{3,}|~{3,})[^`]*")
LANGUAGE = re.compile(r"[\w+#-]+")
IMAGE = re.compile(r"!(?=\[)")
# a fence with a language, which stands in a quotation or a note: those are left to Markdown
NESTED_FENCE = re.compile(r"(`{3,}(?=[ \t]*[^`\s][^`\n]*$)|~{3,}(?=[ \t]*[^~\s]))", re.MULTILINE)
DIRECTIVE = re.compile(r":(?=[A-Za-z][\w-]*[\[{]|material/|streamlit:)|^[ \t>]*:(?=:)", re.MULTILINE)


@dataclass(frozen=True)
class Markdown:
    """Text in which nothing loads by itself."""

    text: str


@dataclass(frozen=True)
class Code:
    """What stood between fences, without them; `language` is "" where none is named."""

    text: str
    language: str


def parts_of(reply: str) -> list[Markdown | Code]:
    """The parts of a reply in order; of an unfinished one, the last fence may still be open."""
    parts: list[Markdown | Code] = []
    lines: list[str] = []
    opened: re.Match[str] | None = None
    in_item: re.Match[str] | None = None
    for line in re.split(r"\r\n?|\n", reply):
        fence = FENCE.fullmatch(line)
        if in_item is not None:
            lines.append(line)
            in_item = None if fence is not None and _closes(fence, in_item) else in_item
        elif opened is None and fence is not None:
            _add_markdown(parts, lines)
            opened, lines = fence, []
        elif opened is not None and fence is not None and _closes(fence, opened):
            parts.append(_code(opened, lines))
            opened, lines = None, []
        else:
            lines.append(line)
            in_item = ITEM_FENCE.fullmatch(line) if opened is None else None
    if opened is not None:
        parts.append(_code(opened, lines))
    else:
        _add_markdown(parts, lines)
    return parts


def harmless(text: str) -> str:
    """`text` for Streamlit's Markdown, looking the same, with nothing in it that loads or draws by itself."""
    text = IMAGE.sub("!" + JOINER, text)
    text = NESTED_FENCE.sub(lambda match: f"{match[0]}{JOINER} ", text)  # the joiner alone is its language now
    return DIRECTIVE.sub(lambda match: match[0] + JOINER, text)


def _closes(fence: re.Match[str], opened: re.Match[str]) -> bool:
    is_same_kind = fence["fence"].startswith(opened["fence"])
    return is_same_kind and not fence["info"].strip()


def _add_markdown(parts: list[Markdown | Code], lines: list[str]) -> None:
    text = "\n".join(lines).strip("\n")
    if text.strip():
        parts.append(Markdown(harmless(text)))


def _code(opened: re.Match[str], lines: list[str]) -> Code:
    indent = len(opened["indent"].expandtabs(4))
    language = LANGUAGE.match(opened["info"])
    text = "\n".join(_without_indent(line, indent) for line in lines)
    return Code(text, language[0].lower() if language is not None else "")


def _without_indent(line: str, width: int) -> str:
    stripped = line.lstrip(" \t")
    have = len(line[: len(line) - len(stripped)].expandtabs(4))
    return " " * max(have - width, 0) + stripped if width else line
