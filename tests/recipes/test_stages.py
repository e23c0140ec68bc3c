"""Stages of the demo recipe: what a quick try leaves out."""

import json
from pathlib import Path

import pytest
from recipes.demo.stages import PACKAGE_DEMO, Paths, _documents


class DemoPaths(Paths):
    @property
    def tokenizer(self) -> Path:
        return PACKAGE_DEMO / "base" / "tokenizer.model"


def test_a_quick_try_learns_only_the_documents_that_hold_a_text(tmp_path):
    documents = ["氢的元素符号是H。", [["问：氧怎么写\n", 0], ["氧的元素", 1], ["符号是O。", 1]], "法国的首都是巴黎。"]
    source = tmp_path / "pretrain.jsonl"
    source.write_text("".join(json.dumps(document) + "\n" for document in documents), encoding="utf-8")
    paths = DemoPaths(tmp_path, "rope")
    everything = _documents(paths, source, "")
    assert len(everything) == 3
    assert _documents(paths, source, "的元素符号是") == everything[:2]  # also where two parts of a document meet
    with pytest.raises(SystemExit, match="--only 月球: no document of Base holds this text"):
        _documents(paths, source, "月球")
