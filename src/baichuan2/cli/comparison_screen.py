"""A comparison of two models as people read it: what is the same, what is not, and the verdict at the end."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

from baichuan2.cli.comparison_text import ComparisonWords
from baichuan2.cli.progress import progress_bar
from baichuan2.cli.screen import notice, one_line, printable

if TYPE_CHECKING:
    from baichuan2.bench.comparison import Comparison, SideFacts, Stage
    from baichuan2.bench.comparison_ids import IdsFinding
    from baichuan2.bench.comparison_replies import ReplyPair
    from baichuan2.bench.weight_differences import WeightDifferences

__all__ = ["print_comparison", "stage"]

WIDTH = 100  # of the table where standard output is no terminal
MOST_PARTINGS = 4
MOST_TENSORS = 10
LONGEST_TEXT = 40


def stage(words: ComparisonWords) -> "Stage":
    """What tells each step in a line, with a bar for those that count."""

    @contextlib.contextmanager
    def show(name: str, kind: str) -> Iterator[Callable[[int, int], None]]:
        line = {"load": words.load, "reply": words.reply, "read": words.read, "weights": words.weights_step}[kind]
        notice(line.format(name=name))
        with progress_bar(one_line(name)) as bar:
            yield bar

    return show


def print_comparison(found: "Comparison", file: TextIO, words: ComparisonWords) -> None:
    """Prints everything that was found, the verdict last."""

    def say(text: str, indent: int = 0) -> None:
        print(" " * indent + printable(text), file=file)

    for letter, side in (("A", found.a), ("B", found.b)):
        say(_side(letter, side, words))
    _print_ids(found, say, words)
    _print_table(found, file, words)
    _print_replies(found.replies, say, words)
    if found.sampling_differences:
        fields = ", ".join(f"{name} {a} / {b}" for name, (a, b) in found.sampling_differences.items())
        say(words.sampling.format(fields=fields))
    if found.weights is not None:
        _print_weights(found.weights, say, words)
    for number, text in enumerate(_verdict(found, words)):
        say(words.verdict.format(text=text) if number == 0 else text, 0 if number == 0 else 2)


Say = Callable[..., None]


def _side(letter: str, side: "SideFacts", words: ComparisonWords) -> str:
    form = side.number_format
    if side.stored_as is not None:
        form = words.few_bits.format(format=form, bits=side.stored_as)
    return words.side.format(letter=letter, name=side.name, program=side.program, format=form)


def _print_ids(found: "Comparison", say: Say, words: ComparisonWords) -> None:
    text, chat = found.text_ids, found.chat_ids
    is_counted = found.quality is None  # of a server, which tells numbers of tokens at best
    if text.num_prompts:
        same = words.ids_counted if is_counted else words.ids_same
        _print_finding(text, say, words, same=same, different=words.ids_different)
    else:
        say(words.ids_unknown)
    if chat is not None:
        same = words.chat_counted if is_counted else words.chat_same
        _print_finding(chat, say, words, same=same, different=words.chat_different)
    else:
        say(words.chat_none)


def _print_finding(finding: "IdsFinding", say: Say, words: ComparisonWords, *, same: str, different: str) -> None:
    if finding.num_different == 0:
        say(same.format(count=finding.num_prompts))
        return
    counts = {"count": finding.num_different, "total": finding.num_prompts, "prompt": finding.prompt}
    if finding.a_count is not None:
        say(words.ids_counts.format(**counts, a=finding.a_count, b=finding.b_count))
    else:
        say(different.format(**counts, position=finding.position))
        for letter, pieces in (("A", finding.a_pieces), ("B", finding.b_pieces)):
            say(f"{letter}: {' '.join(map(_quoted, pieces))}", 2)
    say({"begin": words.hint_begin, "space": words.hint_space}.get(finding.hint or "", words.hint_other), 2)


def _quoted(piece: str) -> str:
    return repr(piece)


def _print_table(found: "Comparison", file: TextIO, words: ComparisonWords) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column(words.measure)
    table.add_column(words.value, justify="right")
    quality, logits, none = found.quality, found.differences, words.not_available
    if logits is not None:
        table.add_row(words.places, f"{logits.num_places}")
        table.add_row(words.maximum, f"{logits.maximum:.4g} / {logits.mean:.4g}")
        table.add_row(words.centred, f"{logits.centred_maximum:.4g} / {logits.centred_mean:.4g}")
        table.add_row(words.relative, f"{logits.relative:.3g}")
    if quality is not None:
        parts = (quality.kl_mean, quality.kl_median, quality.kl_percentile_99)
        table.add_row(words.kl, " / ".join(f"{part:.3g}" for part in parts))
        table.add_row(words.agreement, f"{100 * quality.agreement:.2f}")
        table.add_row(words.perplexity, f"{quality.reference_perplexity:.5g} / {quality.perplexity:.5g}")
    else:
        table.add_row(words.kl, none)
        table.add_row(words.perplexity, none)
    difference = found.logprob_difference
    table.add_row(words.logprobs, none if difference is None else f"{difference:.3g}")
    console = Console(file=file, width=None if file.isatty() else WIDTH, highlight=False, emoji=False)
    console.print(table)


def _print_replies(replies: "tuple[ReplyPair, ...]", say: Say, words: ComparisonWords) -> None:
    parted = [pair for pair in replies if pair.parting is not None]
    if not parted:
        say(words.replies_same.format(count=len(replies), tokens=sum(pair.num_tokens for pair in replies)))
        return
    say(words.replies_part.format(count=len(parted), total=len(replies)))
    for pair in parted[:MOST_PARTINGS]:
        found = pair.parting
        assert found is not None
        before = one_line(pair.prompt_text + found.before)[-LONGEST_TEXT:]
        a, b = _marked(found.a_piece, found.a_text), _marked(found.b_piece, found.b_text)
        say(words.parting.format(prompt=pair.prompt, position=found.position, before=before, a=a, b=b), 2)
        aa, ab, ba, bb = (
            words.not_available if value is None else f"{value:.4f}"
            for value in (*found.a_probabilities, *found.b_probabilities)
        )
        margin = words.not_available if found.margin is None else f"{found.margin:.3g}"
        tie = words.near_tie if found.is_near_tie else words.no_tie
        say(words.probabilities.format(aa=aa, ab=ab, ba=ba, bb=bb, margin=margin, tie=tie), 4)
    if len(parted) > MOST_PARTINGS:
        say(words.more_partings.format(count=len(parted) - MOST_PARTINGS), 2)


def _marked(piece: str, text: str) -> str:
    """The text of a reply from where it parts, its first token in brackets: two tokens may begin alike."""
    return one_line(f"[{piece}]{text.removeprefix(piece)}")[:LONGEST_TEXT]


def _print_weights(weights: "WeightDifferences", say: Say, words: ComparisonWords) -> None:
    different = weights.different
    if not different:
        say(words.weights_equal.format(count=weights.num_equal))
    else:
        say(words.weights_different.format(count=len(different), total=weights.num_equal + len(different)))
        if weights.num_cast:
            say(words.weights_cast.format(count=weights.num_cast), 2)
        for one in different[:MOST_TENSORS]:
            if one.relative is None:
                say(f"{one.name}  {words.weights_shape}", 2)
            else:
                say(f"{one.name}  {one.relative:.3g} (max {one.maximum:.3g}, {' / '.join(one.formats)})", 2)
        if len(different) > MOST_TENSORS:
            say(words.weights_more.format(count=len(different) - MOST_TENSORS), 2)
    for letter, names in (("A", weights.only_a), ("B", weights.only_b)):
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            say(words.weights_only.format(letter=letter, count=len(names), names=shown), 2)


def _verdict(found: "Comparison", words: ComparisonWords) -> Iterator[str]:
    """The class, then a sentence for each cause."""
    verdict = found.verdict
    level = getattr(words, f"level_{verdict.level.replace('-', '_')}")
    yield level.format(format=verdict.number_format)
    if found.text_ids.num_different:
        yield words.cause_tokenizer
    elif found.chat_ids is not None and found.chat_ids.num_different:
        yield words.cause_template
    for cause in verdict.causes:
        yield getattr(words, f"cause_{cause.key.replace('-', '_')}").format(**cause.values)
