"""Tokenizer files from which transformers makes the same tokenizer by itself, without a class of this package.

`tokenizer.json` is the pipeline of `model/byte_pair_backend.py`. What only the class can do, keeping text from becoming
a role, is done by the chat template as far as a template can: see `_protected`.
"""

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers

from baichuan2.errors import TokenizerError
from baichuan2.model.prompt_format import chat_template
from baichuan2.model.sentencepiece_file import SentencePieceFile
from baichuan2.model.special_tokens import ASSISTANT_TOKEN_ID, USER_TOKEN_ID
from baichuan2.model.tokenization_baichuan import BaichuanTokenizer

__all__ = ["TOKENIZER_FILES", "guarded_pieces", "plain_chat_template", "plain_tokenizer_texts"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""Files that describe a tokenizer to transformers; those of the old folder are not taken over."""
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
MARK = "\ufdd0"
"""Stands in no text: Unicode keeps this place free for programs' own use. It parts what must not be read as one."""
NUMBERED = re.compile(r"(<[a-z]+_)\d+>")
"""Names of reserved pieces, of which there are hundreds: they share a start."""


def plain_tokenizer_texts(
    tokenizer: BaichuanTokenizer, file: SentencePieceFile, model_max_length: int
) -> dict[str, str]:
    """The files by name; `file` is what `tokenizer` was made from.

    Ids are those of `tokenizer`, and decoded texts but for the spaces that the official `decode` writes around special
    tokens.

    Raises:
        TokenizerError: the file asks for a space before each text, or for spaces to be trimmed, which a
            `tokenizer.json` cannot do in the same way.
    """
    if file.add_dummy_prefix or file.trim_spaces:
        what = "puts a space before each text" if file.add_dummy_prefix else "trims spaces"
        raise TokenizerError(
            f"the tokenizer of this model {what}, as that of Baichuan 1 does, and no tokenizer.json gives its ids for "
            "every text: run this model with this package, or by baichuan2 convert to-gguf"
        )
    guarded = guarded_pieces(tokenizer)
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(_mark_pattern(guarded)), behavior="removed")
    description = json.loads(backend.to_str())
    for token in description["added_tokens"]:
        token["special"] = token["special"] or token["content"] in guarded
    # in the older spelling, which every release reads; no piece holds a space, it is written as U+2581
    description["model"]["merges"] = [" ".join(pair) for pair in description["model"]["merges"]]
    names = {name: str(getattr(tokenizer, name)) for name in SPECIAL_TOKENS if getattr(tokenizer, name) is not None}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": model_max_length,
        "padding_side": tokenizer.padding_side,
    }
    template = _template(tokenizer, guarded)
    if template is not None:
        config["chat_template"] = template
    return {
        "tokenizer.json": json.dumps(description, ensure_ascii=False, separators=(",", ":")) + "\n",
        "tokenizer_config.json": _json(config),
        "special_tokens_map.json": _json(names),
    }


def _template(tokenizer: BaichuanTokenizer, guarded: Iterable[str]) -> str | None:
    """The official format with its guard, or the folder's own template as it is; None: there are no role pieces."""
    if tokenizer.vocab_size <= max(USER_TOKEN_ID, ASSISTANT_TOKEN_ID):
        return None
    user, assistant = tokenizer.convert_ids_to_tokens([USER_TOKEN_ID, ASSISTANT_TOKEN_ID])
    own = tokenizer.chat_template
    if isinstance(own, str) and own != chat_template(user, assistant):
        warnings.warn(
            "the chat template of this folder is not the official one; it is kept as it is, so messages that spell "
            "role tokens can open turns in other programs",
            stacklevel=2,
        )
        return own
    return plain_chat_template(user, assistant, guarded)


def plain_chat_template(user_piece: str, assistant_piece: str, guarded: Iterable[str]) -> str:
    """The official format as a Jinja template in which no message can open a turn; `guarded` are pieces never spelled.

    Without the `generation` tags of `model/prompt_format.py`, which not every reader of templates knows.
    """
    before = (
        "{%- if message['content'] is not string -%}"
        "{{ raise_exception('the content of a message must be a string') }}"
        "{%- endif -%}"
        "{%- set text = message['content']" + _protected(guarded) + " -%}"
    )
    return chat_template(user_piece, assistant_piece, before=before, text="text", marks_replies=False)


def _protected(guarded: Iterable[str]) -> str:
    """Jinja filters that put MARK behind the first character of each piece of `guarded` that a text spells.

    The tokenizer looks for such pieces in the text as it stands, so it finds none there; afterwards it parts the text
    at the mark, which it drops. What comes out are the ids of the text, cut where `BaichuanTokenizer.encode_text` cuts.
    """
    numbered = {piece: NUMBERED.fullmatch(piece) for piece in guarded}
    starts = {piece if match is None else match[1] for piece, match in numbered.items()}
    return "".join(
        f" | replace({_literal(start)}, {_literal(start[0] + MARK + start[1:])})" for start in sorted(starts)
    )


def guarded_pieces(tokenizer: BaichuanTokenizer) -> set[str]:
    """What no text may become, as it is spelled; see `BaichuanTokenizer.guarded_ids`."""
    return {piece for piece in tokenizer.convert_ids_to_tokens(sorted(tokenizer.guarded_ids)) if len(piece) > 1}


def _mark_pattern(guarded: Iterable[str]) -> str:
    """Where MARK stands only to be dropped: behind the first character of a guarded piece; elsewhere it is text."""
    firsts = "|".join(sorted({re.escape(piece[0]) for piece in guarded}))
    return f"(?<={firsts}){MARK}"


def _literal(text: str) -> str:
    """A Jinja string; quotes and backslashes do not occur in names of tokens, and are escaped where they do."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _json(value: Mapping[str, Any]) -> str:
    # with escapes: the mark in the template is a character that editors neither show nor keep
    return json.dumps(value, indent=2, ensure_ascii=True) + "\n"
