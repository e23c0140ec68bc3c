"""`python -m recipes.demo.corpus OUT_DIR`: writes the training data and prints what it holds."""

from __future__ import annotations

import argparse
from pathlib import Path

from recipes.demo.corpus import build_corpus


def main() -> None:
    """Build the corpus and print counts per task."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.demo.corpus", description="Write the demo model's training data."
    )
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--seed", type=int, default=1234)
    arguments = parser.parse_args()
    summary = build_corpus(arguments.out_dir, seed=arguments.seed)
    for task, count in summary.conversations_per_task.items():
        print(f"{task:24} {count:7}")
    for kind, count in summary.documents_per_kind.items():
        print(f"documents: {kind:13} {count:7}")
    print(f"{summary.num_documents} documents, {summary.num_document_chars / 1e6:.2f} M characters")
    print(f"{summary.num_conversations} conversations, {summary.num_conversation_chars / 1e6:.2f} M characters")
    print(f"{summary.num_held_back} held back")


if __name__ == "__main__":
    main()
