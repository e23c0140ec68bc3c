"""The stages of the recipe: what each reads, what it writes, and when it has nothing to do.

A finished stage leaves `<stage>.done` beside its results with the digest of everything it depends on. Training needs no
such mark: its checkpoint says how far it is, and it starts over when its data or its recipe changed.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from baichuan2.finetune.dataset import encode_conversation, read_conversations
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from baichuan2.model.tokenization_baichuan import BaichuanTokenizer
from recipes.demo.curve import draw_losses
from recipes.demo.export import Stage, add_card, export_model, replace_folder
from recipes.demo.model_card import model_card
from recipes.demo.packing import DocumentEncoder, Example, load_rows, pack_by_length, read_documents, save_rows
from recipes.demo.score import ask_samples, run_scoring
from recipes.demo.tasks import heldout_prompts
from recipes.demo.tokenizer import train_tokenizer
from recipes.demo.training import MAX_LENGTH, TrainingPlan, load_weights, new_model, train

RECIPE = Path(__file__).parent
PACKAGE_DEMO = RECIPE.parents[1] / "src" / "baichuan2" / "demo"


@dataclass(frozen=True)
class Paths:
    """Where each result lies below the output folder; what depends on the position scheme has it in its name."""

    out: Path
    position: Literal["rope", "alibi"]

    @property
    def tokenizer(self) -> Path:
        """The trained tokenizer.model."""
        return self.out / "tokenizer.model"

    @property
    def pretrain(self) -> Path:
        """The documents of Base."""
        return self.out / "pretrain.jsonl"

    @property
    def conversations(self) -> Path:
        """The conversations of Chat, in the fine-tuning format."""
        return self.out / "conversations.json"

    def rows(self, stage: Stage) -> Path:
        """The packed training rows."""
        return self.out / f"rows-{stage}.npz"

    def checkpoint(self, stage: Stage) -> Path:
        """The training state."""
        return self.out / f"{stage}-{self.position}.pt"

    def folder(self, stage: Stage) -> Path:
        """The exported model folder."""
        return self.out / self.position / stage

    def snapshot(self, stage: Stage, step: int) -> Path:
        """The exported model folder of the weights after `step` steps."""
        return self.out / self.position / f"{stage}-checkpoints" / f"checkpoint-{step}"


def digest_of(paths: Iterable[Path], *options: object) -> str:
    """One digest over the contents of files (folders: all files below) and the printed options."""
    total = hashlib.sha256(repr(options).encode())
    for path in paths:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            if "__pycache__" not in file.parts:
                total.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def run_once(mark: Path, digest: str, results: Sequence[Path], work: Callable[[], None]) -> None:
    """Does `work` unless `mark` says that it was done with this digest and its results are there."""
    name = mark.stem
    if mark.exists() and mark.read_text() == digest and all(path.exists() for path in results):
        print(f"{name}: up to date", flush=True)
        return
    print(f"{name}: running", flush=True)
    mark.unlink(missing_ok=True)
    work()
    mark.write_text(digest)


def run_stages(options: argparse.Namespace) -> int:
    """Runs the stages named in `options`, in their order; 0, or 1 when the score misses a target."""
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    paths = Paths(options.out, options.position)
    if "corpus" in options.stages:
        _make_corpus(paths, options)
    if "tokenizer" in options.stages:
        text = paths.out / "tokenizer_text.txt"
        run_once(
            paths.out / "tokenizer.done",
            digest_of([text, RECIPE / "tokenizer.py"]),
            [paths.tokenizer],
            lambda: train_tokenizer(text, paths.tokenizer),
        )
    if "pack" in options.stages:
        _pack("base", paths, paths.pretrain, options)
        _pack("chat", paths, paths.conversations, options)
    for stage in ("base", "chat"):
        if stage in options.stages:
            _train(stage, paths, options)
    if "export" in options.stages:
        for stage in ("base", "chat"):
            weights = load_weights(paths.checkpoint(stage))
            config = new_model(options.position, seed=options.seed).config
            export_model(weights, config, paths.tokenizer, paths.folder(stage), stage=stage)
            print(f"export: {paths.folder(stage)}", flush=True)
    status = 0
    if "score" in options.stages:
        status = run_scoring(
            paths.folder("chat"),
            paths.folder("base"),
            conversations=paths.conversations,
            json_path=paths.out / f"score-{options.position}.json",
            show=options.show,
        )
        _write_cards(paths)
    if "install" in options.stages:
        if status:
            print("install: the score misses a target, nothing was copied", flush=True)
        else:
            _install(paths)
    return status


def _make_corpus(paths: Paths, options: argparse.Namespace) -> None:
    from recipes.demo.corpus import build_corpus

    def work() -> None:
        summary = build_corpus(
            paths.out,
            seed=options.seed,
            heldout_prompts=heldout_prompts(),
            # the final set came after Base: it must change neither Base nor the tokenizer
            base_heldout_prompts=heldout_prompts(["development"]),
        )
        print(summary, flush=True)

    sources = [RECIPE / "corpus", RECIPE / "facts", RECIPE / "heldout"]
    results = [paths.pretrain, paths.conversations, paths.out / "tokenizer_text.txt"]
    run_once(paths.out / "corpus.done", digest_of(sources, options.seed), results, work)


def _pack(stage: Stage, paths: Paths, source: Path, options: argparse.Namespace) -> None:
    def work() -> None:
        only = options.only or ""
        examples = _documents(paths, source, only) if stage == "base" else _conversations(paths, source)
        rows = pack_by_length(examples, seed=options.seed)
        for group in rows:
            num_rows, length = group.input_ids.shape
            print(
                f"pack {stage}: {num_rows} rows of {length}, {group.num_tokens} tokens "
                f"({group.num_tokens / (num_rows * length):.1%} full), {group.num_targets} with loss",
                flush=True,
            )
        save_rows(rows, paths.rows(stage))

    chosen = [options.only] if options.only and stage == "base" else []
    digest = digest_of([source, paths.tokenizer, RECIPE / "packing.py"], options.seed, *chosen)
    run_once(paths.out / f"pack-{stage}.done", digest, [paths.rows(stage)], work)


def _documents(paths: Paths, source: Path, only: str) -> list[Example]:
    """The documents that hold the text `only`."""
    encoder = DocumentEncoder(paths.tokenizer)
    documents = [
        document
        for document in read_documents(source)
        if only in (document if isinstance(document, str) else "".join(text for text, _ in document))
    ]
    if not documents:
        raise SystemExit(f"error: --only {only}: no document of Base holds this text")
    return [encoder.encode(document) for document in documents]


def _conversations(paths: Paths, source: Path) -> list[Example]:
    tokenizer = BaichuanTokenizer(vocab_file=str(paths.tokenizer))
    examples: list[Example] = []
    for conversation in read_conversations(source):
        example = encode_conversation(tokenizer, conversation, model_max_length=MAX_LENGTH)
        size = sum(example.attention_mask)
        examples.append((example.input_ids[:size], example.labels[:size]))
    return examples


def _train(stage: Stage, paths: Paths, options: argparse.Namespace) -> None:
    """Base from drawn weights, Chat from Base; a checkpoint of other data or another recipe is put aside."""
    plan = TrainingPlan(
        num_steps=options.steps_base if stage == "base" else options.steps_chat,
        minutes=options.minutes_base if stage == "base" else options.minutes_chat,
        learning_rate=options.rate_base if stage == "base" else options.rate_chat,
        tokens_per_step=options.tokens_per_step,
        noise=options.noise_chat if stage == "chat" else 0.0,
        seed=options.seed,
        is_compiled=not options.eager,
        num_snapshots=options.checkpoints,
    )
    checkpoint = paths.checkpoint(stage)
    start = [] if stage == "base" else [weights_digest_file(paths)]
    digest = digest_of(
        [paths.rows(stage), *start],
        options.position,
        options.seed,
        plan.learning_rate,
        plan.tokens_per_step,
        *([plan.noise] if plan.noise else []),
    )
    mark = checkpoint.with_suffix(".inputs")
    if checkpoint.exists() and (not mark.exists() or mark.read_text() != digest):
        print(f"{stage}: data or recipe changed, the old checkpoint becomes {checkpoint.name}.old", flush=True)
        checkpoint.replace(checkpoint.with_name(checkpoint.name + ".old"))
    mark.write_text(digest)
    model = new_model(options.position, seed=options.seed)
    if stage == "chat":
        model.load_state_dict(load_weights(paths.checkpoint("base")))
    tokenizer = BaichuanTokenizer(vocab_file=str(paths.tokenizer))

    def show_samples(trained: BaichuanForCausalLM) -> None:
        for prompt, reply in ask_samples(trained, tokenizer, stage):
            print(f"    {prompt!r} -> {reply!r}", flush=True)

    def take_snapshot(trained: BaichuanForCausalLM, step: int) -> None:
        folder = paths.snapshot(stage, step)
        export_model(trained.state_dict(), trained.config, paths.tokenizer, folder, stage=stage)
        print(f"{stage}: {folder}", flush=True)

    rows = load_rows(paths.rows(stage))
    state = train(model, rows, plan, checkpoint, name=stage, show_samples=show_samples, take_snapshot=take_snapshot)
    losses = paths.out / f"losses-{options.position}.json"
    history = json.loads(losses.read_text()) if losses.exists() else {}
    history[stage] = state.losses
    losses.write_text(json.dumps(history))
    draw_losses(
        {f"{name} ({options.position})": history[name] for name in ("base", "chat") if name in history},
        paths.out / f"losses-{options.position}.png",
    )


def weights_digest_file(paths: Paths) -> Path:
    """A small file with the digest of the finished Base weights: Chat starts over only when those changed."""
    weights = load_weights(paths.checkpoint("base"))
    total = hashlib.sha256()
    for name, tensor in weights.items():
        total.update(name.encode() + tensor.contiguous().numpy().tobytes())
    path = paths.out / f"base-{paths.position}.sha256"
    path.write_text(total.hexdigest())
    return path


def _write_cards(paths: Paths) -> None:
    """Renews the model card of both folders from the figures just measured."""
    report = json.loads((paths.out / f"score-{paths.position}.json").read_text(encoding="utf-8"))
    losses = json.loads((paths.out / f"losses-{paths.position}.json").read_text(encoding="utf-8"))
    for stage in ("base", "chat"):
        add_card(paths.folder(stage), model_card(stage, paths.position, report, losses))


def _install(paths: Paths) -> None:
    """Copies both folders into the package."""
    for stage in ("base", "chat"):
        source = paths.folder(stage)

        def fill(beside: Path, source: Path = source) -> None:
            for file in source.iterdir():
                (beside / file.name).write_bytes(file.read_bytes())

        replace_folder(PACKAGE_DEMO / stage, fill)
        print(f"install: {PACKAGE_DEMO / stage}", flush=True)
