"""The tokenizer of a checkpoint as llama.cpp's SentencePiece tokenizer reads it: the same ids for the same text.

Role tokens and the other reserved pieces become control tokens there, although tokenizer.model calls them user-defined:
llama.cpp makes control tokens of a text only where its caller asks for special tokens (`parse_special`), so that a text
that spells `<reserved_106>` stays a text everywhere else, as with `BaichuanTokenizer.encode_text`. Chats are where it
asks for them, so the chat template takes such names in messages apart by a space.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from baichuan2.errors import TokenizerError
from baichuan2.model.prompt_format import chat_template
from baichuan2.model.sentencepiece_file import read_sentencepiece_file
from baichuan2.model.special_tokens import USER_TOKEN_ID, PieceKind, is_guarded
from baichuan2.model.tokenization_baichuan import BaichuanTokenizer

__all__ = ["Vocabulary", "vocabulary_of"]

LOWEST_SCORE = -1e9  # of pieces that no two others may be joined to
NEVER = (PieceKind.CONTROL, PieceKind.UNKNOWN)  # what no message may become
CONTENT = "message['content']"
NUMBERED = re.compile(r"^(<\w+_)\d+>$")  # <reserved_12>, <reserved_13> ...: one name for all of them
GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # transformers' own, unknown to llama.cpp


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Pieces, scores and kinds by id, as many as the model has rows in its embedding; and how text becomes pieces."""

    pieces: Sequence[str]
    scores: Sequence[float]
    kinds: Sequence[int]
    add_dummy_prefix: bool
    chat_template: str | None
    user_token_id: int | None
    """The token that begins a user turn; None: a model without turns."""


def vocabulary_of(tokenizer: BaichuanTokenizer, vocab_size: int) -> Vocabulary:
    """The vocabulary of `tokenizer`, added tokens included, filled up to `vocab_size` with unused pieces.

    Raises:
        TokenizerError: it has more pieces than the model has, or it drops spaces, which llama.cpp does not.
    """
    file = read_sentencepiece_file(tokenizer.vocab_file)
    if file.trim_spaces:
        raise TokenizerError("the tokenizer drops repeated spaces, which llama.cpp does not: its ids would differ")
    pieces, scores, kinds = list(file.pieces), list(file.scores), list(file.kinds)
    for token_id, piece, kind in file.special_pieces:
        if is_guarded(piece, kind):
            kinds[token_id] = int(PieceKind.UNKNOWN if kind == PieceKind.UNKNOWN else PieceKind.CONTROL)
            scores[token_id] = LOWEST_SCORE
    guarded = tokenizer.guarded_ids
    for token_id in range(len(pieces), len(tokenizer)):  # added to the folder by its user
        pieces.append(str(tokenizer.convert_ids_to_tokens(token_id)))
        scores.append(LOWEST_SCORE)
        kinds.append(int(PieceKind.CONTROL if token_id in guarded else PieceKind.USER_DEFINED))
    if len(pieces) > vocab_size:
        raise TokenizerError(f"the tokenizer has {len(pieces)} tokens, the model only {vocab_size}")
    for token_id in range(len(pieces), vocab_size):
        pieces.append(f"[PAD{token_id}]")
        scores.append(LOWEST_SCORE)
        kinds.append(int(PieceKind.UNUSED))
    if len(set(pieces)) != len(pieces):
        raise TokenizerError("the tokenizer has the same token twice, which llama.cpp cannot tell apart")
    return Vocabulary(
        pieces=pieces,
        scores=scores,
        kinds=kinds,
        add_dummy_prefix=file.add_dummy_prefix,
        chat_template=_template_of(
            tokenizer, [piece for piece, kind in zip(pieces, kinds, strict=True) if kind in NEVER]
        ),
        user_token_id=USER_TOKEN_ID if kinds[USER_TOKEN_ID : USER_TOKEN_ID + 1] == [int(PieceKind.CONTROL)] else None,
    )


def _template_of(tokenizer: BaichuanTokenizer, guarded: Sequence[str]) -> str | None:
    """The chat template as llama.cpp takes it; the class's own one keeps messages from spelling a guarded piece.

    A template that the folder brings is taken as it is, less the tags that only transformers knows.
    """
    template = tokenizer.chat_template
    if not isinstance(template, str):
        return None
    roles = (tokenizer.user_token_id, tokenizer.assistant_token_id)
    is_own = len(tokenizer) > max(roles) and template == chat_template(*tokenizer.convert_ids_to_tokens(roles))
    if is_own:
        names = dict.fromkeys(NUMBERED.sub(r"\1", piece) for piece in guarded)
        apart = ((json.dumps(name), json.dumps(f"{name[0]} {name[1:]}")) for name in names)
        template = template.replace(CONTENT, CONTENT + "".join(f".replace({old}, {new})" for old, new in apart))
    return GENERATION_TAG.sub("", template)
