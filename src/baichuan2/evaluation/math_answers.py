r"""The answer in a solution of the MATH benchmark, and when two spellings of one are the same.

An answer is a piece of LaTeX. The rules by which `\frac12`, `\dfrac{1}{2}`, `0.5` and `1/2\text{ cm}` count as one are
those that the field settled on: Minerva's (Lewkowycz et al. 2022, appendix D) and those of MATH's own script, as
OpenCompass and lm-evaluation-harness apply them. They are rules about strings; nobody computes anything.
"""

import re
from collections.abc import Callable

__all__ = [
    "boxed_answer",
    "final_answer",
    "final_line",
    "is_same_answer",
    "last_boxed",
    "minerva_answer",
    "minerva_form",
]

LONGEST = 1000  # characters of an answer; a longer one is compared as it stands
FINAL = "The final answer is"
HOPE = " I hope it is correct"
_SPACED = (("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", ""), (" ", ""))
_WORDS = (("mbox", "text"), (",\\text{and}", ","), ("\\text{and}", ","), ("\\text{m}", "\\text{}"))
_UNITS = (
    *("square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units", "\\ldots", "sue"),
    *("points", "feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges"),
    *("students", "childrentickets", "multiples", "\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2"),
    *("\\text{}^3", "\\text{\n}", "\\text{}", "\\mathrm{th}", "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"'),
    "\\dots",
)
"""Taken out one after the other: what one leaves behind may be another."""
_WRAPPED = re.compile(r"\\(?:text|textbf|overline)\{([^{}]*)\}")
_SHORT_FRACTION = re.compile(r"frac([^{])(.)")
_SHORT_ROOT = re.compile(r"sqrt([^{])")
_INDEXED_ROOT, _PLAIN_ROOT = re.compile(r"sqrt(\[[^\]]*\])(\w)"), re.compile(r"sqrt(?!\[)([^{])")
_COMMAND = re.compile(r"(\\[a-zA-Z]+)")
_DOLLARS = re.compile(r".*?\$(.*?)\$.*")
_EACH_WRAPPED = [re.compile(rf"\\{name}\{{(.*?)\}}") for name in ("text", "textbf", "overline")]
_EACH_WRAPPED.append(re.compile(r"\\boxed\{(.*)\}"))
_THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+")
_WORD_UNDER_ROOT = re.compile(r"\\sqrt(\w+)")
_UNIT_AT_END = re.compile(r"\\text\{[^{}]*\}$")
_BOX = re.compile(r"\\mbox\{[^{}]*\}")
_ZEROS = re.compile(r"(\d)\.0+(?=\D|$)")


def final_line(text: str) -> str | None:
    r"""What stands behind the first `The final answer is`, up to ` I hope it is correct` or the line's end."""
    _, found, rest = text.partition(FINAL)
    if not found:
        return None
    return rest.split("\n", 1)[0].split(HOPE, 1)[0].strip().removesuffix(".").strip()


def last_boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` or `\fbox{...}` holds, or the last `\boxed 5`; None where its braces never close."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    start += len("\\boxed") if text.startswith("\\boxed", start) else len("\\fbox")
    if text.startswith(" ", start):
        return text[start + 1 :].split("$", 1)[0].split("\n", 1)[0].strip().removesuffix(".")
    if not text.startswith("{", start):
        return None
    depth = 0
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start + 1 : place]
    return None


def final_answer(text: str) -> str | None:
    """The answer by the line that the examples end with, else by the last box."""
    line = final_line(text)
    return last_boxed(text) if line is None else _inside_dollars(line)


def boxed_answer(text: str) -> str:
    """The answer by the last box, else by the first sentence that calls itself the answer, else by the first one."""
    boxed = last_boxed(text)
    if boxed:
        return boxed[1:-1] if boxed.startswith("{") and boxed.endswith("}") else boxed
    sentences = text.split(".")
    for sentence in sentences:
        lower = sentence.lower()
        for cue in ("final answer is", "answer is", "final answer"):
            place = lower.find(cue)
            if place >= 0:
                return _inside_dollars(sentence[place + len(cue) :].lstrip(": "))
    return _inside_dollars(sentences[0])


def is_same_answer(one: str, other: str) -> bool:
    """Whether two answers are one, by either set of rules or by both, one after the other."""
    if one == other:
        return True
    forms: tuple[Callable[[str], str], ...] = (
        _script_form,
        _opencompass_form,
        lambda answer: _opencompass_form(_script_form(answer)),
    )
    return any(form(one) == form(other) for form in forms)


def minerva_answer(text: str) -> str | None:
    """The answer as lm-evaluation-harness finds it: Minerva's last line, whose end a cut may have taken."""
    cue = f"Final Answer: {FINAL}"
    for line in f"{text}{HOPE.lstrip()}.".split("\n"):
        start = line.find(cue)
        if start < 0:
            continue
        start += len(cue)
        end = line.find(HOPE, start + 1)
        if 0 <= end < len(line) - len(HOPE):
            return line[start : end - 1].strip()
    return None


def minerva_form(answer: str) -> str:
    r"""An answer as Minerva's rules write it, with what lm-evaluation-harness 0.4.13 mended in them.

    Units are no part of a LaTeX command: `\left` keeps its ft. Commas go where they part thousands: `0,1` is a pair.
    """
    if len(answer) > LONGEST:
        return answer
    answer = answer.rsplit("=", maxsplit=1)[-1]
    for unit in _UNITS:
        if unit.isalpha():
            answer = re.sub(rf"(?<!\\)\b{unit}\b", "", answer)
    for before, after in (*_SPACED, *_WORDS):
        answer = answer.replace(before, after)
    for unit in _UNITS:
        answer = _without_unit(answer, unit) if unit.isalpha() else answer.replace(unit, "")
    answer = _DOLLARS.sub(r"$\1$", answer)
    for wrapped in _EACH_WRAPPED:
        answer = wrapped.sub(r"\1", answer)
    answer = _SHORT_FRACTION.sub(r"frac{\1}{\2}", answer)
    answer = _INDEXED_ROOT.sub(r"sqrt\1{\2}", answer)
    answer = _PLAIN_ROOT.sub(r"sqrt{\1}", answer).replace("$", "")
    return answer.replace(",", "") if _THOUSANDS.fullmatch(answer) else answer


def _without_unit(answer: str, unit: str) -> str:
    """The answer without a word, which stays where it is part of a LaTeX command."""
    pieces = _COMMAND.split(answer)  # commands at the odd places
    return "".join(piece if place % 2 else piece.replace(unit, "") for place, piece in enumerate(pieces))


def _opencompass_form(answer: str) -> str:
    if len(answer) > LONGEST:
        return answer
    answer = _without_words(answer).replace("\\le", "<")
    for end in "\n\r\f":
        answer = answer.replace(end, "")
    answer = _unwrapped(answer)
    answer = _inside_dollars(answer).strip()
    if "rac" in answer and "\\frac" not in answer:
        answer = answer.replace("rac", "\\frac")
    return _spelled_out(answer)


def _without_words(answer: str) -> str:
    for before, after in (*_SPACED, *_WORDS):
        answer = answer.replace(before, after)
    for word in _UNITS:
        answer = answer.replace(word, "")
    return answer


def _unwrapped(answer: str) -> str:
    answer = _WRAPPED.sub(r"\1", answer)
    boxed = last_boxed(answer)
    return answer if boxed is None else boxed


def _inside_dollars(answer: str) -> str:
    r"""What stands between the first two `$`, if there are two; a `\$` is a sign of money, which is left out."""
    parts = answer.replace("\\$", "").split("$")
    return parts[1] if len(parts) > 2 else answer


def _spelled_out(answer: str) -> str:
    r"""`\frac12` as `\frac{1}{2}`, `\sqrt3` as `\sqrt{3}`, `1,000` as `1000`; without `$`."""
    answer = _SHORT_FRACTION.sub(r"frac{\1}{\2}", answer)
    answer = _SHORT_ROOT.sub(r"sqrt{\1}", answer).replace("$", "")
    return answer.replace(",", "") if answer.replace(",", "").isdigit() else answer


def _script_form(answer: str) -> str:
    """An answer as MATH's own script writes it, with what OpenCompass' second version leaves out besides."""
    if len(answer) > LONGEST:
        return answer
    answer = answer.strip().replace("\n", "").rstrip(".")
    for old, new in (("\\!", ""), ("\\ ", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac")):
        answer = answer.replace(old, new)
    answer = answer.replace("\\left", "").replace("\\right", "")
    answer = _UNIT_AT_END.sub("", answer).strip() or answer
    for gone in ("^{\\circ}", "^\\circ", "\\$", "$", "\\text", "x\\in", "\\%", "%", "\\cdot", "and", "\\mathbf"):
        answer = answer.replace(gone, "")
    answer = answer.replace(" .", " 0.").replace("{.", "{0.")
    answer = answer.replace("\\infty", "infinity").replace("infinity", "inf").replace("inf", "\\infty")
    answer = _ZEROS.sub(r"\1", _BOX.sub("", answer))
    if "j" in answer and "i" not in answer:
        answer = answer.replace("j", "i")
    if answer.startswith("."):
        answer = "0" + answer
    name, sign, value = answer.partition("=")
    if sign and "=" not in value and len(name) <= 2:  # x = 5
        answer = value
    answer = _WORD_UNDER_ROOT.sub(r"\\sqrt{\1}", answer).replace(" ", "")
    answer = _with_braces(answer)
    return _as_fraction("\\frac{1}{2}" if answer == "0.5" else answer)


def _with_braces(answer: str) -> str:
    r"""`\frac12` and `\frac1{72}` with both braces; `\frac{72}1` stays, as in the script."""
    first, *rest = answer.split("\\frac")
    parts = [first]
    for part in rest:
        if part.startswith("{"):
            parts.append(part)
        elif len(part) < 2:
            return answer
        else:
            below = part[1:] if part[1] == "{" else f"{{{part[1]}}}{part[2:]}"
            parts.append(f"{{{part[0]}}}{below}")
    return "\\frac".join(parts)


def _as_fraction(answer: str) -> str:
    r"""`3/4` as `\frac{3}{4}`, where both are whole numbers in their plainest form."""
    above, slash, below = answer.partition("/")
    try:
        is_plain = bool(slash) and answer == f"{int(above)}/{int(below)}"
    except ValueError:
        return answer
    return f"\\frac{{{above}}}{{{below}}}" if is_plain else answer
