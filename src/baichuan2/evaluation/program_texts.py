"""From what a model wrote to the program that is tested: each tool's way to find where code begins and ends.

Texts are hostile: no rule may fail or run for long, whatever is in them.
"""

from collections.abc import Callable, Mapping

from baichuan2.evaluation.items import Item

__all__ = ["PROGRAMS"]

FENCE = "```"
INDENT = "    "


def _function_body(text: str, item: Item) -> str:
    """The prompt, and behind it the body of its function: up to the first empty line, without a repeated head.

    Code in a fence, imports and the line with `def` above the body are passed over, and lines that do not begin with
    four spaces are indented, as OpenCompass did in 2023.
    """
    body = text.split("\n\n", 1)[0]
    if FENCE in body:
        body = body.split(FENCE)[1]
        if not body.startswith("\n"):  # the name of the language
            body = body.partition("\n")[2]
    if body.lstrip().startswith(("from", "import")):
        head = body.find("def")
        if head >= 0:
            body = body[head:].partition("\n")[2]
    if body.lstrip().startswith("def"):
        body = body.partition("\n")[2]
    if not body.startswith(INDENT):
        lines = [body.lstrip()] if body.startswith(" ") else body.split("\n")
        body = "\n".join(INDENT + line for line in lines)
    return item.question + body


def _first_block(text: str, item: Item) -> str:
    """The prompt, and behind it the first code block, or all of the text where there is none."""
    _, fence, rest = text.partition(FENCE)
    language, line_end, inner = rest.partition("\n")
    code, closed, _ = inner.partition(FENCE)
    is_block = fence and line_end and closed and (not language or language.replace("_", "a").isalnum())
    return item.question + (code if is_block else text)


def _behind_prompt(text: str, item: Item) -> str:
    return item.question + text


def _until_done(text: str, item: Item) -> str:
    """What stands before `[DONE]` and after `[BEGIN]`, without the quotes around it that the examples have."""
    del item
    done = text.find("DONE")
    if done >= 0:
        text = text[:done].removesuffix("[")
    _, begin, rest = text.partition("BEGIN")
    text = (rest.removeprefix("]") if begin else text).strip()
    # code that was not opened by a quote may end with one of its own
    return text[1:].removesuffix("'") if text.startswith("'") else text


def _whole(text: str, item: Item) -> str:
    del item
    return text


PROGRAMS: Mapping[str, Callable[[str, Item], str]] = {
    "function_body": _function_body,
    "first_block": _first_block,
    "behind_prompt": _behind_prompt,
    "until_done": _until_done,
    "whole": _whole,
}
"""The program in a text that was written about an item. Its tests are the item's `details["tests"]`."""
