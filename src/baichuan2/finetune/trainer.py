"""The framework's trainer, which loses nothing: what every objective shares."""

from transformers import Trainer


class BaichuanTrainer(Trainer):
    """Trains a Baichuan model; `train.py` makes it."""
