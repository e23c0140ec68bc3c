"""Where the official numbers lie."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
GOLDEN = next(
    (path for path in (TESTS / "golden", TESTS.parents[1] / "shared" / "golden") if (path / "rope_h4").is_dir()),
    TESTS / "golden",
)
CASES = ["rope_h4", "alibi_h5", "alibi_h6", "alibi_h8", "alibi_h10"]
