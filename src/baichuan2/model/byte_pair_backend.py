"""A `tokenizers` pipeline that gives the same ids as SentencePiece for a byte-pair model.

SentencePiece stores no merges: at every step it joins the two neighbouring symbols whose union is the piece with the
highest score, the leftmost such pair first. Here the merges are derived from the pieces and ranked by score.
"""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from baichuan2.errors import TokenizerError
from baichuan2.model.sentencepiece_file import SentencePieceFile
from baichuan2.model.special_tokens import UNKNOWN_TOKEN_ID, PieceKind, is_guarded

__all__ = ["SPACE_SYMBOL", "build_backend", "derive_merges"]

SPACE_SYMBOL = "▁"  # U+2581: how SentencePiece writes a space


def build_backend(file: SentencePieceFile) -> Tokenizer:
    """The pipeline for `file`, without dummy prefix and space trimming, which the tokenizer class does beforehand.

    Pieces that text spells as a whole (user-defined ones, control ones) are added tokens. Raises TokenizerError when
    the pieces cannot be reproduced by merges.
    """
    vocabulary = {piece: token_id for token_id, piece in enumerate(file.pieces)}
    if len(vocabulary) != len(file):
        raise TokenizerError("the tokenizer file holds the same piece twice")
    backend = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=derive_merges(file),
            unk_token=file.pieces[UNKNOWN_TOKEN_ID],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    backend.normalizer = normalizers.Replace(" ", SPACE_SYMBOL)
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE_SYMBOL, " "), decoders.ByteFallback(), decoders.Fuse()])
    whole = [
        AddedToken(piece, normalized=False, special=kind != PieceKind.USER_DEFINED)
        for _, piece, kind in file.special_pieces
        if kind == PieceKind.USER_DEFINED or is_guarded(piece, kind)
    ]
    backend.add_tokens(whole)
    return backend


def derive_merges(file: SentencePieceFile) -> list[tuple[str, str]]:
    """Every way to join two normal pieces into a third, best first.

    Two pieces of equal score need no order of their own: in the official file, whose appended pieces repeat the scores
    of older ones, no two of them can compete for a symbol (tests/model/test_tokenization_ties.py checks it). Splits of
    the *same* piece are ranked longest left part first, because SentencePiece takes the leftmost: of `er`+`e` and
    `e`+`re`, both `ere`, only the former can stand further left in a text where they compete (`er` `e` `re`).
    """
    # these few lines are most of the time that a tokenizer takes to load: hence plain numbers and comprehensions
    kind_of_text = int(PieceKind.NORMAL)
    normal = {
        piece: score
        for piece, score, kind in zip(file.pieces, file.scores, file.kinds, strict=True)
        if kind == kind_of_text
    }
    unspelled = set("".join(normal)).difference(file.pieces)
    if unspelled:
        raise TokenizerError(f"the tokenizer file has pieces with {min(unspelled)!r}, which is no piece by itself")
    return [
        (left, right)
        for piece in sorted(normal, key=normal.__getitem__, reverse=True)
        for cut in range(len(piece) - 1, 0, -1)
        if (left := piece[:cut]) in normal and (right := piece[cut:]) in normal
    ]
