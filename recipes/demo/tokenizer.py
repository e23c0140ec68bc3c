"""The SentencePiece tokenizer of the demo model, trained from the corpus: small, and laid out like the official one.

Ids 0, 1, 2 are <unk>, <s>, </s>; 3 to 199 are control pieces, of which 195 and 196 are <reserved_106> and
<reserved_107>, the role tokens of the official prompt; 256 byte pieces follow. Text can never become a control piece.
"""

import io
from pathlib import Path

import sentencepiece

from baichuan2.model.special_tokens import ASSISTANT_TOKEN_ID, USER_TOKEN_ID

VOCAB_SIZE = 4096
FIRST_CONTROL_ID = 3
NUM_FIXED_IDS = 200
# the official <reserved_N> has id N + 89, which leaves 3 to 88 for pieces that the official file uses otherwise
RESERVED_OFFSET = 89


def control_pieces() -> list[str]:
    """The names of the pieces with ids 3 to 199, in that order."""
    return [
        f"<reserved_{number - RESERVED_OFFSET}>" if number >= RESERVED_OFFSET else f"<extra_{number}>"
        for number in range(FIRST_CONTROL_ID, NUM_FIXED_IDS)
    ]


def train_tokenizer(text_path: Path, out_path: Path, *, vocab_size: int = VOCAB_SIZE, coverage: float = 0.9997) -> None:
    """Writes `out_path` (a tokenizer.model) trained on the lines of `text_path`; equal input gives equal bytes.

    `coverage` is the share of characters that get a piece of their own; rarer ones are spelt in byte pieces.

    Raises:
        RuntimeError: the text is too small for `vocab_size` pieces (sentencepiece's own message).
    """
    trained = io.BytesIO()  # not a file: its name would be written into the model, and equal input give other bytes
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text_path.read_text(encoding="utf-8").splitlines()),
        model_writer=trained,
        vocab_size=vocab_size,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=coverage,
        split_digits=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        control_symbols=control_pieces(),
        max_sentencepiece_length=12,
        max_sentence_length=200_000,
        num_threads=1,  # more threads count in a different order from run to run
        minloglevel=2,
    )
    beside = out_path.with_name(out_path.name + ".part")
    beside.write_bytes(trained.getvalue())
    check_layout(beside)
    beside.replace(out_path)


def check_layout(model_path: Path) -> None:
    """Raises ValueError if a fixed id of the file at `model_path` holds another piece than it must."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model_path))
    wanted = {0: "<unk>", 1: "<s>", 2: "</s>", USER_TOKEN_ID: "<reserved_106>", ASSISTANT_TOKEN_ID: "<reserved_107>"}
    for token_id, piece in wanted.items():
        found = processor.id_to_piece(token_id)
        if found != piece:
            raise ValueError(f"{model_path}: id {token_id} is {found!r}, it must be {piece!r}")
