"""What can be set, its default, its bounds and its help: the one place, standard library only.

The command line makes its flags from these dataclasses, the documentation its tables. `None` means "the checkpoint's
own value". Precedence: flag, then environment variable, then the checkpoint, then the default here.
"""

from baichuan2.settings.benchmarks import BenchmarkSettings
from baichuan2.settings.comparing import CompareSettings
from baichuan2.settings.converting import ConvertSettings
from baichuan2.settings.evaluating import EvaluationSettings
from baichuan2.settings.fields import check_bounds, flag_name, parse_bytes, setting
from baichuan2.settings.finetuning import FinetuneSettings
from baichuan2.settings.models import LoadSettings, MergeSettings, PlanSettings, QuantizeSettings
from baichuan2.settings.releases import DownloadSettings, ModelsSettings
from baichuan2.settings.replies import ChatSettings, OutputSettings, RunSettings, SamplingSettings
from baichuan2.settings.serving import ServeSettings, WebSettings
from baichuan2.settings.showing import ShowcaseSettings
from baichuan2.settings.training_plans import TrainingPlanSettings

__all__ = [
    "BenchmarkSettings",
    "ChatSettings",
    "CompareSettings",
    "ConvertSettings",
    "DownloadSettings",
    "EvaluationSettings",
    "FinetuneSettings",
    "LoadSettings",
    "MergeSettings",
    "ModelsSettings",
    "OutputSettings",
    "PlanSettings",
    "QuantizeSettings",
    "RunSettings",
    "SamplingSettings",
    "ServeSettings",
    "ShowcaseSettings",
    "TrainingPlanSettings",
    "WebSettings",
    "check_bounds",
    "flag_name",
    "parse_bytes",
    "setting",
]
