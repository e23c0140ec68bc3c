"""Training data of the demo model: everything is generated from the tables in recipes/demo/facts.

Place in the flow: facts -> corpus -> tokenizer -> training. Needs no network and no package. The same seed gives the
same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

from recipes.demo.corpus.arithmetic import arithmetic_conversations, arithmetic_documents
from recipes.demo.corpus.choices import choice_conversations, choice_documents
from recipes.demo.corpus.conversation import Conversation, Document, document_text
from recipes.demo.corpus.copying import copying_documents
from recipes.demo.corpus.memory import memory_conversations
from recipes.demo.corpus.refusals import refusal_conversations
from recipes.demo.corpus.relations import (
    all_relations,
    follow_ups,
    listing_conversations,
    relation_conversations,
    relation_documents,
)
from recipes.demo.corpus.sessions import chain
from recipes.demo.corpus.shapes import widened
from recipes.demo.corpus.smalltalk import fact_conversations, fact_documents, greeted, intent_conversations
from recipes.demo.corpus.stories import story_conversations, story_en, story_zh
from recipes.demo.corpus.tokenizer_text import tokenizer_lines
from recipes.demo.corpus.translation import translation_conversations, translation_documents
from recipes.demo.corpus.verses import poem_conversations, poem_documents
from recipes.demo.corpus.wording import normalise_prompt

__all__ = ["CorpusSummary", "build_conversations", "build_corpus", "build_documents", "normalise_prompt"]


# The examples people copy from the documentation first; they get three times the exposure.
SHOWCASE = ("温故而知新", "乔戈里峰")


@dataclass(frozen=True)
class CorpusSummary:
    """Sizes of what was written. `num_held_back`: conversations left out because a held-out prompt equals them."""

    num_documents: int
    num_document_chars: int
    num_conversations: int
    num_conversation_chars: int
    num_held_back: int
    conversations_per_task: dict[str, int]
    documents_per_kind: dict[str, int]


def build_conversations(seed: int) -> list[Conversation]:
    """All single conversations of all tasks, memory included, before they are chained into sessions."""
    with widened():
        return _conversations(Random(f"widened conversations {seed}"), num_memories=28000)


def _conversations(rng: Random, num_memories: int) -> list[Conversation]:
    relations = all_relations()
    found = [item for relation in relations for item in relation_conversations(relation, rng)]
    found += listing_conversations(rng)
    found += poem_conversations(rng)
    found += fact_conversations(rng)
    found += arithmetic_conversations(rng)
    found += [item for item in found if any(word in item.turns[-1][1] for word in SHOWCASE)] * 2
    found += greeted(found, 4000, rng)
    found += intent_conversations(rng)
    found += refusal_conversations(rng)
    found += translation_conversations(9000, rng)
    found += story_conversations(500, rng)
    found += choice_conversations(2600, rng)
    found += memory_conversations(found, num_memories, rng)
    for relation in relations:
        if relation.follow:
            found += follow_ups(relation, max(250, len(relation.rows) * 5), rng)
    return found


def build_documents(seed: int) -> dict[str, list[Document]]:
    """All pre-training documents by kind."""
    rng = Random(f"documents {seed}")
    kinds: dict[str, list[Document]] = {
        "relations": [item for relation in all_relations() for item in relation_documents(relation, rng)],
        "poems": poem_documents(rng),
        "facts": fact_documents(rng),
        "arithmetic": arithmetic_documents(rng),
        "translation": translation_documents(3000, rng),
        "stories": [make(rng) for make in (story_zh, story_en) for _ in range(700)],
        "choices": choice_documents(2800, rng),
    }
    others = sum(len(document_text(item)) for items in kinds.values() for item in items)
    kinds["copying"] = [*copying_documents(others * 24 // 100, rng)]
    return kinds


def build_corpus(
    out_dir: Path,
    *,
    seed: int = 1234,
    heldout_prompts: frozenset[str] = frozenset(),
    base_heldout_prompts: frozenset[str] | None = None,
) -> CorpusSummary:
    """Sizes, after writing pretrain.jsonl, conversations.json and tokenizer_text.txt to `out_dir`.

    Conversations whose human side equals one of `heldout_prompts` (compared by `normalise_prompt`) are left out; for
    several turns that means the first turn or all turns together, because a later turn may be common ("谢谢").
    `base_heldout_prompts` is the same for the tokenizer's text; None: no difference.
    """
    held = {normalise_prompt(prompt) for prompt in heldout_prompts}
    base_held = held
    if base_heldout_prompts is not None:
        base_held = {normalise_prompt(prompt) for prompt in base_heldout_prompts}
    singles = build_conversations(seed)
    kept = [item for item in singles if not _is_held(item, held)]
    kinds = build_documents(seed)
    # What Base and its tokenizer are made from stays as it was when Chat's wordings grow.
    plain = [item for item in _conversations(Random(f"conversations {seed}"), 14000) if not _is_held(item, base_held)]
    rng = Random(f"order {seed}")
    documents = [item for items in kinds.values() for item in items]
    rng.shuffle(documents)
    rng.shuffle(chain(plain, rng))
    chat_rng = Random(f"widened order {seed}")
    sessions = chain(kept, chat_rng)
    chat_rng.shuffle(sessions)
    out_dir.mkdir(parents=True, exist_ok=True)
    _write(out_dir / "pretrain.jsonl", "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in documents))
    _write(
        out_dir / "conversations.json",
        "[\n"
        + ",\n".join(json.dumps(_official(place, item), ensure_ascii=False) for place, item in enumerate(sessions))
        + "\n]\n",
    )
    _write(out_dir / "tokenizer_text.txt", "\n".join(tokenizer_lines(plain, documents, rng)) + "\n")
    return CorpusSummary(
        num_documents=len(documents),
        num_document_chars=sum(len(document_text(item)) for item in documents),
        num_conversations=len(sessions),
        num_conversation_chars=sum(item.num_chars for item in sessions),
        num_held_back=len(singles) - len(kept),
        conversations_per_task=dict(sorted(Counter(item.task for item in kept).items())),
        documents_per_kind={kind: len(items) for kind, items in kinds.items()},
    )


def _is_held(item: Conversation, held: set[str]) -> bool:
    texts = [human for human, _ in item.turns]
    return bool(held) and (normalise_prompt(texts[0]) in held or normalise_prompt("".join(texts)) in held)


def _official(place: int, item: Conversation) -> dict[str, object]:
    messages = [
        {"from": side, "value": text} for turn in item.turns for side, text in zip(("human", "gpt"), turn, strict=True)
    ]
    return {"id": str(place), "conversations": messages}


def _write(path: Path, text: str) -> None:
    """The file appears whole or not at all."""
    beside = path.with_name(path.name + ".partial")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
