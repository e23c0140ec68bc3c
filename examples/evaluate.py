"""Scores a model on questions about what the demo model was taught, and shows what it got wrong.

python examples/evaluate.py [MODEL]
"""

import json
import sys
import tempfile
from pathlib import Path

from baichuan2 import EvaluationSettings, load_model
from baichuan2.evaluation.run import evaluate_suite

loaded = load_model(sys.argv[1] if len(sys.argv) > 1 else "demo-base")
with tempfile.TemporaryDirectory() as folder:
    settings = EvaluationSettings(limit=5, output_dir=folder)  # 5 of each subject; suites with files of yours: data=DIR
    result = evaluate_suite("demo", settings, loaded)
    low, high = result["micro_interval"]
    print(f"{result['items']} questions: {100 * result['micro']:.1f} %, 95 %: {100 * low:.1f} to {100 * high:.1f}")
    for line in (Path(folder) / "demo" / "items.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if not record["is_right"]:
            print(f"{record['subject']} {record['number']}: {record['prediction']}, right is {record['answer']}")
