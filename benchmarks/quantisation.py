"""What quantising costs: our formats beside llama.cpp's, on one model and one text, in one run.

    python benchmarks/quantisation.py --peer-python /path/to/python-with-llama-cpp-python

prints the table and writes quantisation_cpu_DATE.md and .json into `--output`. Without `--peer-python` the llama.cpp
rows are left out, and the page says so. The `gguf` package is needed for them on this side.

The reference is the model's own bfloat16 weights computed in float32. The text: held-out questions of the demo model,
rendered as conversations, each with the reference's own greedy reply; and plain prose of this repository. Formats are
measured as they run, and by their weights alone: what the codes stand for, computed in float32 by our model, so that
neither side's arithmetic is mixed in.
"""

import argparse
import copy
import dataclasses
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from quantisation_page import COLUMNS, Row, cells, page  # noqa: E402
from recipes.demo.heldout import SETS  # noqa: E402
from recipes.demo.score import CHAT_TOKENS, STOP_IDS, answer, prompt_ids  # noqa: E402
from recipes.demo.tasks import Question, conversation_tasks, paraphrase_tasks  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from baichuan2.bench.memory import measure_load  # noqa: E402
from baichuan2.bench.quality import Quality, compare_logits, compare_models, token_windows  # noqa: E402
from baichuan2.checkpoints.load import load_model  # noqa: E402
from baichuan2.checkpoints.locate import locate  # noqa: E402
from baichuan2.convert.quantize import quantize_checkpoint  # noqa: E402
from baichuan2.engine.generate import generate_batch  # noqa: E402
from baichuan2.engine.sampling import Sampling  # noqa: E402
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM  # noqa: E402
from baichuan2.quantization.linear import Int8Embedding, QuantizedLinear  # noqa: E402
from baichuan2.settings import LoadSettings, QuantizeSettings  # noqa: E402

PEER_FORMATS = ("F16", "Q8_0", "Q5_K_M", "Q4_K_M", "Q4_0")
PROSE = ("README_zh.md", "recipes/demo/heldout/README.md")
PROSE_TOKENS = 2048  # of each file
WINDOW = 512
LINEAR_KINDS = ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj")
SEED = 1234


def ours() -> dict[str, dict[str, Any]]:
    """Our formats: name -> the settings of `baichuan2 quantize`."""
    return {
        "int8": {"format": "int8"},
        "int8, head and embedding too": {"format": "int8", "head": "int8", "embedding": "int8"},
        "int8, head in int8": {"format": "int8", "head": "int8"},
        "int4": {"format": "int4"},
        "int4, head and embedding in int8": {"format": "int4", "head": "int8", "embedding": "int8"},
        "int4, groups of 64": {"format": "int4", "group_size": 64},
        "int4, groups of 64, head in int8": {"format": "int4", "group_size": 64, "head": "int8"},
        "int4, groups of 64, head in int4": {"format": "int4", "group_size": 64, "head": "int4"},
        "int4, groups of 128": {"format": "int4", "group_size": 128},
        "int4, rounded to nearest": {"format": "int4", "method": "nearest", "codebook": "uniform"},
        "nf4 (official 4bits files)": {"format": "official-4bits"},
    }


@dataclasses.dataclass(frozen=True)
class Text:
    """What the models are compared on: sequences of ids, and for each how many are only read."""

    sequences: list[Tensor]
    starts: list[int]


class Evaluation:
    """The reference, the texts and the questions of one run."""

    def __init__(self, model_name: str, heldout_set: str, limit: int, accuracy_limit: int) -> None:
        self.folder = locate(model_name, revision=None, offline=True)
        loaded = load_model(self.folder, LoadSettings(dtype="float32", device="cpu"))
        self.reference, self.tokenizer = loaded.model, loaded.tokenizer
        self.questions = _questions(heldout_set, accuracy_limit)
        self.prompts = [prompt_ids(self.tokenizer, item, max_new_tokens=CHAT_TOKENS) for item in self.questions]
        conversations = self._conversations(_questions(heldout_set, limit))
        whole = [0] * len(conversations.sequences)
        prose = [
            window
            for name in PROSE
            for window in token_windows(self.tokenizer, REPOSITORY / name, length=WINDOW, limit=PROSE_TOKENS)
        ]
        self.texts = {
            "conversations": Text(conversations.sequences, whole),
            "replies": conversations,
            "prose": Text(prose, [0] * len(prose)),
        }

    def _conversations(self, questions: Sequence[Question]) -> Text:
        prompts = [prompt_ids(self.tokenizer, item, max_new_tokens=CHAT_TOKENS) for item in questions]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        replies: list[list[int]] = [[] for _ in prompts]
        with torch.inference_mode():
            for start in range(0, len(order), 32):
                chosen = order[start : start + 32]
                batch = [prompts[index] for index in chosen]
                outputs = generate_batch(self.reference, batch, Sampling(max_new_tokens=64), stop_ids=STOP_IDS)
                for index, reply in zip(chosen, outputs, strict=True):
                    replies[index] = list(reply)
        sequences = [torch.tensor(ids + reply) for ids, reply in zip(prompts, replies, strict=True)]
        return Text(sequences, [len(ids) for ids in prompts])

    def compare(self, other: Any) -> dict[str, Quality]:
        """The figures of a model on each text."""
        return {
            name: compare_models(self.reference, other, text.sequences, starts=text.starts)
            for name, text in self.texts.items()
        }

    def compare_written(self, logits: np.ndarray) -> dict[str, Quality]:
        """The figures of logits (all tokens of `all_sequences`, V) on each text."""
        ends = np.cumsum([0, *(len(sequence) for sequence in self.all_sequences())])
        offsets = {"conversations": 0, "replies": 0, "prose": len(self.texts["conversations"].sequences)}

        def rows_from(offset: int) -> Callable[[int], np.ndarray]:
            return lambda index: np.array(logits[ends[offset + index] : ends[offset + index + 1]])

        return {
            name: compare_logits(self.reference, rows_from(offsets[name]), text.sequences, starts=text.starts)
            for name, text in self.texts.items()
        }

    def all_sequences(self) -> list[Tensor]:
        """Every sequence once, those of the conversations first."""
        return self.texts["conversations"].sequences + self.texts["prose"].sequences

    def accuracy(self, model: BaichuanForCausalLM) -> float:
        """Share of held-out questions that the model answers rightly."""
        with torch.inference_mode():
            replies = answer(model, self.tokenizer, self.questions, max_new_tokens=CHAT_TOKENS)
        return self.share_right(replies)

    def share_right(self, replies: Iterable[str]) -> float:
        """Share of right replies to `questions`."""
        right = [item.is_right(reply) for item, reply in zip(self.questions, replies, strict=True)]
        return sum(right) / len(right)

    def with_plain_head(self, state: dict[str, Tensor]) -> BaichuanForCausalLM:
        """A float32 model with some weights replaced, whose head is taken as it is: it has been normalised before."""
        config = copy.deepcopy(self.reference.config)
        config.normalized_head = False
        model = BaichuanForCausalLM(config).eval()
        own = {name: tensor.clone() for name, tensor in self.reference.state_dict().items()}
        own["lm_head.weight"] = nn.functional.normalize(own["lm_head.weight"])
        model.load_state_dict(own | state)
        return model


def _questions(heldout_set: str, limit: int) -> list[Question]:
    """`limit` questions of each relation, and as large a share of the other conversations as that is of 60."""
    tasks = paraphrase_tasks(limit=limit, seed=SEED, folder=heldout_set)
    chosen = [question for questions in tasks.values() for question in questions]
    for questions in conversation_tasks(heldout_set).values():
        chosen += questions[:: max(1, 60 // limit)]
    return chosen


def dequantized_state(model: nn.Module) -> dict[str, Tensor]:
    """What the codes of a quantised model stand for, in float32, under the names of the plain weights."""
    kinds = (QuantizedLinear, Int8Embedding)
    return {
        f"{name}.weight": layer.dequantize(torch.float32)
        for name, layer in model.named_modules()
        if isinstance(layer, kinds)
    }


def bits_of(model: nn.Module) -> tuple[float, float]:
    """Bits per weight in memory: of the decoder's linear layers, and of all weights; scales included."""
    linear_bytes = linear_weights = 0
    for name, layer in model.named_modules():
        if name.rpartition(".")[2] in LINEAR_KINDS:
            linear_bytes += sum(tensor.nbytes for tensor in (*layer.parameters(), *layer.buffers()))
            linear_weights += layer.in_features * layer.out_features
    kept = [tensor for name, tensor in model.state_dict().items() if "inv_freq" not in name]
    config: Any = model.config
    tables = 2 * config.vocab_size * config.hidden_size
    norms = (2 * config.num_hidden_layers + 1) * config.hidden_size
    all_weights = linear_weights + tables + norms
    return 8 * linear_bytes / linear_weights, 8 * sum(tensor.nbytes for tensor in kept) / all_weights


def measure_plain(evaluation: Evaluation) -> Row:
    """The checkpoint itself, run in bfloat16: what the number format alone costs."""
    model = load_model(evaluation.folder, LoadSettings(dtype="bfloat16", device="cpu")).model
    return _our_row(evaluation, "bfloat16", evaluation.folder, model, "as it runs")


def measure_ours(evaluation: Evaluation, name: str, fields: dict[str, Any], folder: Path) -> list[Row]:
    """One of our formats, quantised into `folder`: as it runs, and by its weights."""
    quantize_checkpoint(QuantizeSettings(source=str(evaluation.folder), target=str(folder), **fields))
    model = load_model(folder, LoadSettings(device="cpu")).model
    running = _our_row(evaluation, name, folder, model, "as it runs")
    plain = evaluation.with_plain_head(dequantized_state(model))
    weights = dataclasses.replace(
        running,
        way="weights in float32",
        memory=None,
        qualities=evaluation.compare(plain),
        accuracy=evaluation.accuracy(plain),
    )
    return [running, weights]


def _our_row(evaluation: Evaluation, name: str, folder: Path, model: BaichuanForCausalLM, way: str) -> Row:
    linear_bits, all_bits = bits_of(model)
    measured = measure_load(folder, LoadSettings(device="cpu"))
    memory = None
    if measured.generated.resident is not None and measured.before.resident is not None:
        memory = measured.generated.resident - measured.before.resident
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    return Row(
        engine="baichuan2",
        name=name,
        way=way,
        linear_bits=linear_bits,
        all_bits=all_bits,
        file_bytes=sum(path.stat().st_size for path in weights),
        memory=memory,
        qualities=evaluation.compare(model),
        accuracy=evaluation.accuracy(model),
    )


class Peer:
    """llama.cpp in an interpreter of its own, with the same model as a file."""

    def __init__(self, python: Path, evaluation: Evaluation, folder: Path, threads: int) -> None:
        from quantisation_gguf import write_gguf

        self.python, self.evaluation, self.folder, self.threads = python, evaluation, folder, threads
        self.source = folder / "F32.gguf"
        write_gguf(evaluation.reference, self.source)
        self._save(evaluation.all_sequences(), folder / "ids.npz")
        self._save([torch.tensor(prompt) for prompt in evaluation.prompts], folder / "prompts.npz")
        self.versions: dict[str, str] = {}

    @staticmethod
    def _save(sequences: Sequence[Tensor], path: Path) -> None:
        np.savez(path, ids=torch.cat(list(sequences)).numpy(), lengths=np.array([len(item) for item in sequences]))

    def call(self, *arguments: object) -> dict[str, Any]:
        """What the other side reports about a task."""
        script = REPOSITORY / "benchmarks" / "quantisation_peer.py"
        command = [self.python, script, *arguments, "--threads", self.threads]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"llama.cpp failed: {done.stderr.strip().splitlines()[-1:]}")
        report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        self.versions = report["versions"]
        return report

    def run(self, path: Path, *options: str) -> tuple[dict[str, Quality], dict[str, Any]]:
        """Figures of llama.cpp itself with the file, and its measured memory."""
        written = self.folder / "logits.npy"
        report = self.call("logits", path, self.folder / "ids.npz", written, *options)
        return self.evaluation.compare_written(np.load(written, mmap_mode="r")), report

    def accuracy(self, path: Path) -> float:
        """Share of held-out questions that llama.cpp itself answers rightly with the file."""
        written = self.folder / "replies.npz"
        stop = ",".join(map(str, sorted(STOP_IDS)))
        options = ("--stop", stop, "--new-tokens", CHAT_TOKENS)
        self.call("replies", path, self.folder / "prompts.npz", written, *options)
        with np.load(written) as stored:
            replies = np.split(stored["ids"], np.cumsum(stored["lengths"])[:-1])
        decode = self.evaluation.tokenizer.decode
        return self.evaluation.share_right(decode(ids.tolist(), skip_special_tokens=True) for ids in replies)

    def check(self) -> float:
        """The mean KL of llama.cpp in float32 to our reference: shows that the file is the same model."""
        qualities, _ = self.run(self.source, "--exact")
        divergence = max(abs(quality.kl_mean) for quality in qualities.values())
        if not divergence <= 1e-5:
            raise SystemExit(f"the GGUF file is not the same model: mean KL {divergence:.1e} in float32")
        return divergence

    def measure(self, name: str, *, keep_ends: bool) -> list[Row]:
        """One format of llama.cpp: as it runs, and by its weights."""
        from quantisation_gguf import read_contents, read_state

        path = self.folder / f"{name}.gguf"
        self.call("quantize", self.source, path, name, *(["--keep-ends"] if keep_ends else []))
        contents = read_contents(path)
        qualities, report = self.run(path)
        running = Row(
            engine="llama.cpp",
            name=f"{name}, embedding and head F16" if keep_ends else name,
            way="as it runs",
            linear_bits=contents.linear_bits,
            all_bits=contents.all_bits,
            file_bytes=contents.num_bytes,
            memory=report["after"]["resident"] - report["before"]["resident"],
            types=contents.types,
            qualities=qualities,
            accuracy=self.accuracy(path),
        )
        heads = self.evaluation.reference.config.num_attention_heads
        plain = self.evaluation.with_plain_head(read_state(path, heads))
        weights = dataclasses.replace(
            running,
            way="weights in float32",
            memory=None,
            qualities=self.evaluation.compare(plain),
            accuracy=self.evaluation.accuracy(plain),
        )
        return [running, weights]


def hardware() -> str:
    """The processor's name and number of logical processors."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} logical processors"


def commit() -> str:
    """The commit of this repository, marked where files differ from it."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="demo-chat", help="name or folder with the demo model's tokenizer")
    parser.add_argument("--peer-python", type=Path, metavar="PATH", help="interpreter that has llama-cpp-python")
    parser.add_argument("--set", choices=SETS, default="final", help="held-out questions; development while at work")
    parser.add_argument("--questions", type=int, default=9, help="conversations for each relation")
    parser.add_argument("--accuracy-questions", type=int, default=20, help="questions to answer for each relation")
    parser.add_argument("--only", nargs="*", metavar="FORMAT", help="only these formats, ours or llama.cpp's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks", metavar="DIR")
    return parser.parse_args()


def measure_all(evaluation: Evaluation, options: argparse.Namespace, facts: dict[str, Any]) -> list[Row]:
    """Every row, printed as it comes."""
    rows: list[Row] = []

    def keep(new: Iterable[Row]) -> None:
        for row in new:
            rows.append(row)
            print(" | ".join(cells(row)), flush=True)

    def is_wanted(name: str) -> bool:
        return not options.only or name in options.only

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keep([measure_plain(evaluation)])
        for number, (label, fields) in enumerate(ours().items()):
            if is_wanted(label):
                keep(measure_ours(evaluation, label, fields, folder / f"ours-{number}"))
        if options.peer_python is not None:
            peer = Peer(options.peer_python, evaluation, folder, options.threads)
            facts["peer_float32_kl"] = peer.check()
            facts["peer"] = peer.versions
            for label in filter(is_wanted, PEER_FORMATS):
                keep(peer.measure(label, keep_ends=False))
                if label != "F16":
                    keep(peer.measure(label, keep_ends=True))
    return rows


def main() -> None:
    """The command line."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    evaluation = Evaluation(options.model, options.set, options.questions, options.accuracy_questions)
    itself = evaluation.compare(evaluation.reference)
    facts: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/quantisation.py", *sys.argv[1:]]),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "model": options.model,
        "set": options.set,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": options.threads,
        "hardware": hardware(),
        "peer": None,
        "tokens": {name: quality.num_tokens for name, quality in itself.items()},
        "reference_perplexity": itself["replies"].perplexity,
        "reference_accuracy": evaluation.accuracy(evaluation.reference),
        "questions": len(evaluation.questions),
    }
    print(" | ".join(COLUMNS))
    rows = measure_all(evaluation, options, facts)
    target = options.output / f"quantisation_cpu_{facts['date']}"
    target.with_suffix(".md").write_text(page(rows, facts), encoding="utf-8")
    report = {**facts, "rows": [dataclasses.asdict(row) for row in rows]}
    target.with_suffix(".json").write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if options.peer_python is None:
        print("llama.cpp was left out: give --peer-python")
    print(f"written: {target}.md and .json")


if __name__ == "__main__":
    main()
