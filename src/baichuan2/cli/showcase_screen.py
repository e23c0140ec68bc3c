"""A showcase on the screen, as JSON lines, and as a page in Markdown.

Questions are ours, replies are a model's: on the screen they lose control characters, on the page they stand in fences
that they cannot close.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from baichuan2.cli.screen import ReplyPrinter, one_line, print_json, printable
from baichuan2.cli.showcase_text import ShowcaseWords
from baichuan2.cli.text import words_for

if TYPE_CHECKING:
    from baichuan2.chat.reply import ReplyChunk
    from baichuan2.chat.showcase import Answer, Example, Turn
    from baichuan2.engine.sampling import Sampling


@dataclass
class Showcase:
    """What is shown of which model, and what it has answered so far."""

    model: str
    numbers: str
    style: str
    questions: str
    sampling: "Sampling"
    num_examples: int
    shown: "list[tuple[Example, list[Answer]]]" = field(default_factory=list)

    @property
    def answers(self) -> "list[Answer]":
        """All of them, in the order in which they were given."""
        return [answer for _, answers in self.shown for answer in answers]

    @property
    def num_complete(self) -> int:
        """How many examples were answered to their end."""
        return sum(len(answers) == len(example.turns) for example, answers in self.shown)

    @property
    def num_checked(self) -> int:
        """How many answers can be told right from wrong."""
        return sum(answer.is_right is not None for answer in self.answers)

    @property
    def num_right(self) -> int:
        """How many of those hold what was expected."""
        return sum(answer.is_right is True for answer in self.answers)

    @property
    def num_tokens(self) -> int:
        """Of all replies."""
        return sum(answer.reply.usage.completion_tokens for answer in self.answers)

    @property
    def speed(self) -> float:
        """Tokens a second while decoding; the first of each reply comes out of its prompt's pass."""
        usages = [answer.reply.usage for answer in self.answers]
        seconds = sum(usage.seconds_decode for usage in usages)
        return sum(usage.completion_tokens - 1 for usage in usages) / seconds if seconds > 0 else 0.0


class ShowcaseScreen:
    """Shows example after example while they are being answered; with `is_json` only what is complete, as JSON."""

    def __init__(self, words: ShowcaseWords, *, is_json: bool) -> None:
        self._words = words
        self._is_json = is_json
        self._labels = words_for(words.language)

    def start(self, number: int, total: int, example: "Example") -> None:
        """Tells what comes now."""
        if self._is_json:
            return
        gap = "\n" if number > 1 else ""
        self._write(f"{gap}[{number}/{total}] {self._title(example)}\n")
        if example.system:
            self._write(f"{self._words.system}{example.system}\n")

    def turn(self, example: "Example", turn: "Turn", chunks: "Iterator[ReplyChunk]") -> None:
        """Prints what is said and the reply to it, while it is written."""
        if self._is_json:
            for _ in chunks:
                pass
            return
        is_base = example.style == "base"
        before = self._words.text if is_base else self._labels.user_label
        after = self._words.continuation if is_base else self._labels.model_label
        self._write(f"{before}{turn.say}\n{after}")
        ReplyPrinter("reply", is_live=True, is_json=False, speed_format=None).print_reply(chunks)

    def mark(self, answer: "Answer") -> None:
        """Tells whether a reply holds what was expected."""
        if self._is_json:
            return
        if answer.reply.finish_reason == "length":
            self._write(self._words.cut + "\n")
        if answer.is_right is not None:
            form = self._words.right if answer.is_right else self._words.wrong
            self._write(form.format(expected=" / ".join(answer.turn.expect)) + "\n")

    def end(self, example: "Example", answers: "Sequence[Answer]") -> None:
        """Prints one example as JSON."""
        if self._is_json:
            turns = [_answer_as_json(answer) for answer in answers]
            title = example.title[self._words.language]
            print_json({"kind": example.kind, "title": title, "system": example.system, "turns": turns})

    def summary(self, showcase: Showcase) -> None:
        """The last line."""
        if self._is_json:
            print_json(as_json(showcase))
            return
        form = self._words.summary if showcase.num_checked else self._words.summary_none
        values = {"checked": showcase.num_checked, "right": showcase.num_right, "tokens": showcase.num_tokens}
        self._write("\n" + form.format(model=one_line(showcase.model), speed=showcase.speed, **values) + "\n")

    def _title(self, example: "Example") -> str:
        return f"{self._words.kinds[example.kind]} · {example.title[self._words.language]}"

    def _write(self, text: str) -> None:
        sys.stdout.write(printable(text))
        sys.stdout.flush()


def print_examples(
    groups: "Mapping[tuple[str, str], Sequence[Example]]", words: ShowcaseWords, *, is_json: bool
) -> None:
    """Prints what is asked, by whose questions and style."""
    for (questions, style), examples in groups.items():
        if not is_json:
            print(words.list_title.format(questions=words.questions[questions], style=words.kinds[style]))
        for example in examples:
            if is_json:
                said = {"turns": [asdict(turn) for turn in example.turns], "system": example.system}
                title = example.title[words.language]
                print_json({"questions": questions, "style": style, "kind": example.kind, "title": title, **said})
            else:
                print(f"  {example.kind:<13} {example.title[words.language]}")


def as_json(showcase: Showcase) -> dict[str, Any]:
    """What an object at the end tells about all of a showcase."""
    from baichuan2.checkpoints.machine import describe_hardware, describe_software

    sampling = asdict(showcase.sampling)
    return {
        "model": showcase.model,
        "numbers": showcase.numbers,
        "style": showcase.style,
        "questions": showcase.questions,
        "sampling": {name: sampling[name] for name in SAMPLING_TOLD},
        "examples": showcase.num_complete,
        "of_examples": showcase.num_examples,
        "checked": showcase.num_checked,
        "right": showcase.num_right,
        "tokens": showcase.num_tokens,
        "tokens_per_second": round(showcase.speed, 2),
        "software": describe_software(),
        "hardware": describe_hardware(),
    }


SAMPLING_TOLD = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "max_new_tokens", "seed")


def _answer_as_json(answer: "Answer") -> dict[str, Any]:
    return {
        "said": answer.turn.say,
        "reply": answer.reply.text,
        "finish_reason": answer.reply.finish_reason,
        "expected": list(answer.turn.expect),
        "right": answer.is_right,
        "usage": asdict(answer.reply.usage),
    }


def markdown(showcase: Showcase, words: ShowcaseWords) -> str:
    """The page: what it was made by and on, then every example."""
    from baichuan2.checkpoints.machine import describe_hardware, describe_software

    software, hardware = describe_software(), describe_hardware()
    names = ("baichuan2", "commit", "python", "torch", "transformers")
    versions = ", ".join(f"{name} {software[name]}" for name in names if software.get(name))
    devices = ", ".join([hardware["processor"], f"{hardware['threads']} threads", *hardware["accelerators"]])
    speed = words.summary if showcase.num_checked else words.summary_none
    counts = {"checked": showcase.num_checked, "right": showcase.num_right, "tokens": showcase.num_tokens}
    facts = {
        words.page_model: _code(showcase.model),
        words.page_numbers: _code(showcase.numbers),
        words.page_questions: f"{words.questions[showcase.questions]}, {words.kinds[showcase.style]}",
        words.page_sampling: sampling_text(showcase.sampling, words),
        words.page_software: _plain(versions),
        words.page_hardware: _plain(devices),
        words.page_result: _plain(speed.format(model=showcase.model, speed=showcase.speed, **counts)),
        words.page_date: datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    }
    lines = [f"# {_plain(words.page_title.format(model=showcase.model))}", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()] + ["", words.page_note]
    if showcase.num_complete < showcase.num_examples:
        partial = words.page_partial.format(shown=showcase.num_complete, total=showcase.num_examples)
        lines += ["", f"**{partial}**"]
    for number, (example, answers) in enumerate(showcase.shown, start=1):
        lines += ["", f"## {number}. {words.kinds[example.kind]}: {example.title[words.language]}"]
        if example.system:
            lines += ["", f"**{words.system.strip(' ：:')}**", "", *_fenced(example.system)]
        for answer in answers:
            lines += _turn_lines(example, answer, words)
    return "\n".join(lines) + "\n"


def sampling_text(sampling: "Sampling", words: ShowcaseWords) -> str:
    """How tokens were chosen, in a sentence."""
    form = words.page_sampled if sampling.do_sample else words.page_greedy
    return form.format(
        seed=sampling.seed,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        penalty=sampling.repetition_penalty,
        tokens=sampling.max_new_tokens,
    )


def _turn_lines(example: "Example", answer: "Answer", words: ShowcaseWords) -> list[str]:
    is_base = example.style == "base"
    before = words.text.strip(" ：:") if is_base else words.page_user
    after = words.continuation.strip(" ：:") if is_base else words.page_reply
    lines = ["", f"**{before}**", "", *_fenced(answer.turn.say), "", f"**{after}**", "", *_fenced(answer.reply.text)]
    if answer.reply.finish_reason == "length":
        lines += ["", _plain(words.cut)]
    if answer.is_right is None:
        return [*lines, "", _plain(words.unchecked)]
    form = words.right if answer.is_right else words.wrong
    return [*lines, "", _plain(form.format(expected=" / ".join(answer.turn.expect)))]


def _fenced(text: str) -> list[str]:
    """`text` in a fence that is longer than any in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", *printable(text).split("\n"), fence]


def _plain(text: str) -> str:
    """One line in which nothing is markup."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", one_line(text))


def _code(text: str) -> str:
    return "`" + one_line(text).replace("`", "'") + "`"
