"""`baichuan2 evaluate`: scores on benchmarks, by named recipes."""

from baichuan2.cli.progress import progress_bar
from baichuan2.cli.screen import accept_any_text, print_json
from baichuan2.errors import SettingsError
from baichuan2.settings import EvaluationSettings, LoadSettings, OutputSettings

SETTINGS = (EvaluationSettings, LoadSettings, OutputSettings)
EXAMPLES = """\
  baichuan2 evaluate ceval --data path/to/data -m baichuan-inc/Baichuan2-7B-Base"""


def run(settings: EvaluationSettings, load: LoadSettings, output: OutputSettings) -> int:
    """Scores the model on each suite; the exit code."""
    accept_any_text()
    del output
    if not settings.suite:
        raise SettingsError("SUITE is missing: baichuan2 evaluate SUITE --data DIR (see baichuan2 evaluate --help)")
    from baichuan2.checkpoints.load import load_model
    from baichuan2.evaluation.run import evaluate_suite

    loaded = load_model(settings=load)
    for name in settings.suite.split(","):
        with progress_bar(name) as show:
            print_json(evaluate_suite(name, settings, loaded, show))
    return 0
