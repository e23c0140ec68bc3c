"""Training by the framework's own loop on a simulated NPU, found as on hardware: by the package torch-npu."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import backend_registration

from tests.finetune import small_runs

ROOT = Path(__file__).parents[2]
ALIKE = 1e-3  # of losses after steps of Adam, which magnify the last bits of a gradient
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "dpo": {"method": "lora", "objective": "dpo", "lora_dropout": 0.0},
}

SCRIPT = """
import sys
import tests.simulated_npu
tests.simulated_npu.install_package()
from pathlib import Path
from tests.finetune.test_simulated_npu import KINDS, trained
for kind in KINDS:
    print(kind, *trained(Path(sys.argv[1]), "npu", kind), sep="\\n")
"""


def trained(folder: Path, device: str, kind: str) -> list[str]:
    """A run from the model and data in `folder`; what it said."""
    book = small_runs.Book()
    data, held_out = folder / f"{kind}.json", str(folder / f"{kind}-eval.json")
    own = small_runs.settings(folder / "base", data, eval_data_path=held_out, **KINDS[kind])
    values = {"tf32": True, "eval_strategy": "epoch", "dataloader_pin_memory": False, "num_train_epochs": 1}
    small_runs.train(own, folder / f"{kind}-{device}", book, **values)
    return book.notes


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch takes no backend in Python",
)
@pytest.mark.skipif(torch.accelerator.is_available(), reason="is compared with a processor")
def test_an_npu_learns_what_a_processor_learns(tmp_path: Path) -> None:
    small_runs.base_folder(tmp_path / "base")
    for name, layout in (("full", "conversations"), ("dpo", "preference")):
        small_runs.data_file(tmp_path / f"{name}.json", kind=layout)
        small_runs.data_file(tmp_path / f"{name}-eval.json", 3, seed=1, kind=layout)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=200, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" MB on npu:0, 60.0 GB free") == len(KINDS)
    for kind in KINDS:
        trained(tmp_path, "cpu", kind)
        found, expected = (lines(tmp_path / f"{kind}-{device}" / "loss.jsonl") for device in ("npu", "cpu"))
        assert len(found) > 4  # steps, and an evaluation
        for line, other in zip(found, expected, strict=True):
            assert line == pytest.approx(other, rel=ALIKE, abs=1e-6)
        weights, others = (small_runs.weights(tmp_path / f"{kind}-{device}") for device in ("npu", "cpu"))
        assert weights.keys() == others.keys() != set()
        for name, value in weights.items():
            torch.testing.assert_close(value, others[name], rtol=1e-3, atol=1e-3)


def lines(path: Path) -> list[dict[str, float]]:
    """A log without what depends on the clock."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        {name: value for name, value in row.items() if "runtime" not in name and "second" not in name} for row in rows
    ]
