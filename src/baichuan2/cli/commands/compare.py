"""`baichuan2 compare`: two models, or two forms of one, on the same prompts: how far they are apart, and why."""

import sys

from baichuan2.cli.comparison_text import comparison_words_for
from baichuan2.cli.screen import accept_any_text, notice, print_json
from baichuan2.settings import CompareSettings, OutputSettings

SETTINGS = (CompareSettings, OutputSettings)
EXAMPLES = """\
  baichuan2 compare path/to/model path/to/model-int4             what quantising cost
  baichuan2 compare path/to/model path/to/llama                  a converted folder, run by transformers
  baichuan2 compare path/to/model model.gguf --llama-python venv/bin/python
  baichuan2 compare path/to/model http://localhost:8000          replies of a server beside those of the model
  baichuan2 compare model model --dtype float32,bfloat16         what rounding alone does: the measure for the rest
  baichuan2 compare before after --weights                       also which tensors differ, by name
  baichuan2 compare before after --fail-above 0.01 --json        for a script: exit code 1 above that divergence"""


def run(settings: CompareSettings, output: OutputSettings) -> int:
    """Compares and prints; the exit code, 1 where the divergence is above the limit that was given."""
    accept_any_text()
    words = comparison_words_for(settings.language)
    from baichuan2.bench.comparison import compare
    from baichuan2.cli.comparison_screen import print_comparison, stage

    found = compare(settings, stage=stage(words))
    if output.json:
        print_json(found.as_dict())
    else:
        print_comparison(found, sys.stdout, words)
    limit = settings.fail_above
    # not "above": a divergence that is no number is above every limit
    if limit is not None and found.quality is not None and not found.quality.kl_mean <= limit:
        notice(words.above.format(kl=found.quality.kl_mean, limit=limit))
        return 1
    return 0
