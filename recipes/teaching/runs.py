"""The runs of the guide to fine-tuning: what each starts from, its flags, and the questions that measure it."""

from dataclasses import dataclass

FOLDER = "examples/finetune"


@dataclass(frozen=True)
class Run:
    """One run; `start` is a model's name, or that of a run whose result is learnt on."""

    start: str
    data: str
    flags: str
    """Of `baichuan2 finetune`, besides the model, the data and the output folder."""
    questions: tuple[str, ...]
    """Files of questions; the first holds what is taught, the others what must not be lost."""
    has_adapter: bool = False

    def command(self, output: str, start: str | None = None) -> str:
        """The command line that writes into `output`."""
        model = start or self.start
        return f"baichuan2 finetune -m {model} -d {FOLDER}/{self.data} --output-dir {output} {self.flags}"


RUNS = {
    "full": Run(
        "demo",
        "colleagues.json",
        "--learning-rate 5e-4 --num-train-epochs 8 --per-device-train-batch-size 16",
        ("colleagues", "known"),
    ),
    "lora": Run(
        "demo",
        "colleagues.json",
        "--method lora --learning-rate 1.5e-3 --num-train-epochs 8 --per-device-train-batch-size 16",
        ("colleagues", "known"),
        has_adapter=True,
    ),
    "qlora": Run(
        "demo",
        "colleagues.json",
        "--method qlora --learning-rate 1.5e-3 --num-train-epochs 8 --per-device-train-batch-size 16",
        ("colleagues", "known"),
        has_adapter=True,
    ),
    "dpo": Run(
        "demo",
        "honesty.jsonl",
        "--objective dpo --dpo-sft-weight 0.5 --learning-rate 2e-4 --num-train-epochs 2 "
        "--per-device-train-batch-size 8",
        ("honesty", "known"),
    ),
    "pretrain": Run(
        "demo-base",
        "documents.jsonl",
        "--objective pretrain --model-max-length 128 --learning-rate 5e-4 --num-train-epochs 20 "
        "--per-device-train-batch-size 4",
        ("documents", "known_beginnings"),
    ),
}
