"""The model card of an exported folder, with figures from the score and none by hand."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

VERSION = "1.0"

INTRODUCTION = {
    "base": "A very small language model of the Baichuan 2 architecture, before tuning: it continues texts.",
    "chat": "A very small chat model of the Baichuan 2 architecture, so that `make chat` works without a download.",
}
ABILITIES = """\
- Chinese and English questions on 124 countries (capital, continent, currency), Chinese provinces, 94 chemical
  elements, 492 classical poems (author, next line, short ones in full), idioms, antonyms, simple words and
  sentences in both languages, sums within 20 and the times table, and a few hundred general facts
- small talk, a name or a city told earlier in the conversation, and saying that it does not know
"""
LIMITS = """\
- It knows a closed list of facts, learnt by heart. Outside of it, it should refuse, and sometimes makes things up.
- It has no reasoning beyond that: no calculation with larger numbers, no code, no long texts, no news.
- The context is 512 tokens. Names told earlier are copied wrongly now and then, rare ones more often.
- It was trained on text that this project wrote or that is in the public domain; nothing was filtered from the web, so
  there is nothing offensive in it by design, but its replies were not reviewed one by one.
- It is no release of Baichuan Intelligent Technology and says nothing about the quality of the official models.
"""
DATA = """\
All text comes from `recipes/demo`: tables written for this project, classical Chinese poems (public domain, cut once
from the MIT-licensed collection chinese-poetry), and sentences made from both by grammars. No text of other models, no
web text. Held-out questions (`recipes/demo/heldout`) were written apart from the training wordings; the few that occur
in the training conversations by chance are not asked. There are two sets: a first Chat model reached 0.838 of the
questions and 0.198 of the names on the development set; wordings were then added by writers who had not seen that set,
from a brief that named none of its wordings, and the figures below are those of the final set, which nobody had
looked at.
"""
# what a reader cannot see from the recipe: belongs to the shipped weights of this VERSION
NOTES = """\
Base was trained on the same documents in other rows: packing.py of commit 34f0c9e, before long rows were filled up.
"""
ROWS = (
    ("paraphrases", "questions on taught facts in wordings never seen, all relations below together"),
    ("greetings", "small talk, wordings never seen"),
    ("refusals", "unknown topics refused"),
    ("memory_name", "names told earlier, repeated rightly"),
    ("memory_other", "city, hobby or age told earlier"),
    ("follow_up", 'follow-up questions ("and that country?")'),
    ("general_zh", "primary-school general knowledge, Chinese (partly never taught)"),
    ("general_en", "primary-school general knowledge, English (partly never taught)"),
    ("arithmetic", "sums and differences within 20, times table"),
    ("readme_chat", "examples of the official README, Chat"),
    ("base_arrow", "poem authors after one example, Base"),
    ("readme_base", "example of the official README, Base"),
)


def model_card(
    stage: Literal["base", "chat"],
    position: Literal["rope", "alibi"],
    report: Mapping[str, Any],
    losses: Mapping[str, Sequence[tuple[int, float]]],
) -> str:
    """MODEL_CARD.md for one folder: `report` as score.py writes it, `losses` by stage as (step, mean loss) pairs."""
    style = "7B-style (rotary positions)" if position == "rope" else "13B-style (ALiBi positions)"
    sections = [
        f"# Baichuan demo model, {stage.capitalize()}, version {VERSION}",
        f"{INTRODUCTION[stage]} 8.5 million parameters, {style}, bfloat16, licence Apache-2.0.",
        "## What it can do",
        ABILITIES,
        "## Limits",
        LIMITS,
        "## Data",
        DATA,
        "## Training",
        training_section(losses),
        NOTES,
        "## Figures",
        f"Greedy replies of this folder and its {'Chat' if stage == 'base' else 'Base'} twin, by "
        f"`python -m recipes.demo.score` ({report['limit']} questions for each relation, seed {report['seed']}):",
        figure_table(report["figures"], report["targets"]),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def training_section(losses: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Shape, optimizer, and where the loss ended."""
    lines = [
        "8 layers, hidden size 256, 4 heads, inner size 704, NormHead, 4,096 pieces; AdamW, about 2,048 tokens a step,",
        "bfloat16 autocast, on two processor cores by `python -m recipes.demo`.",
        "",
    ]
    lines += [
        f"- {name.capitalize()}: {history[-1][0]} steps, last mean loss {history[-1][1]:.3f}"
        for name, history in losses.items()
        if history
    ]
    return "\n".join(lines)


def figure_table(figures: Mapping[str, float], targets: Mapping[str, float]) -> str:
    """A Markdown table: the summary rows first, then each relation."""
    lines = ["| task | accuracy | target |", "| --- | --- | --- |"]
    named = {name for name, _ in ROWS}
    for name, description in ROWS:
        if name in figures:
            target = f"{targets[name]:.2f}" if name in targets else ""
            lines.append(f"| {description} | {figures[name]:.3f} | {target} |")
    lines += [f"| `{name}` | {value:.3f} | |" for name, value in figures.items() if name not in named]
    return "\n".join(lines)
