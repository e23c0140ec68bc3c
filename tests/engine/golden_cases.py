"""Where the official numbers lie."""

from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = ["rope_h4", "alibi_h5", "alibi_h6", "alibi_h8", "alibi_h10"]
