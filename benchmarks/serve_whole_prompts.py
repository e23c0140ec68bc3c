"""`baichuan2 serve` that computes a prompt before anything else: what `benchmarks/serve.py` shows pieces against.

    python benchmarks/serve_whole_prompts.py serve --model FOLDER --port 8001

The same command, engine and step sizes, but while a prompt is not computed no reply gets its next token.
"""

import sys
from collections.abc import Sequence

from baichuan2.cli.main import main
from baichuan2.engine.job import Job
from baichuan2.engine.rounds import Round

shares_beside_replies = Round._shares


def shares_of_prompts_first(self: Round, running: Sequence[Job]) -> dict[Job, int]:
    """The oldest prompt that is not computed has the step for itself."""
    prompts = [job for job in running if job.num_pending > 1]
    if not prompts:
        return shares_beside_replies(self, running)
    oldest = min(prompts, key=lambda job: job.number)
    return {oldest: min(oldest.num_pending, self._batch.most_tokens)}


if __name__ == "__main__":
    Round._shares = shares_of_prompts_first  # type: ignore[method-assign]
    sys.exit(main())
