"""The Baichuan tokenizer: official behaviour, built from `tokenizer.model` alone.

One class serves `use_fast=True` and `use_fast=False`. Its ids equal those of the official slow tokenizer. On top of
that `encode_text` guarantees that text stays text, and `apply_chat_template` builds its ids with that guarantee.
"""

import codecs
import copy
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, normalizers
from transformers import BatchEncoding, TokenizersBackend

from baichuan2.errors import TokenizerError
from baichuan2.model.byte_pair_backend import SPACE_SYMBOL, build_backend
from baichuan2.model.prompt_format import chat_ids, chat_template
from baichuan2.model.sentencepiece_file import SentencePieceFile, read_sentencepiece_file
from baichuan2.model.special_tokens import (
    ASSISTANT_TOKEN_ID,
    BOS_TOKEN_ID,
    EOS_TOKEN_ID,
    PAD_TOKEN_ID,
    UNKNOWN_TOKEN_ID,
    USER_TOKEN_ID,
    PieceKind,
    is_guarded,
)

__all__ = ["BaichuanTokenizer"]

_REPLACE_EACH_BYTE = "baichuan2.replace_each_byte"

# Arguments of the official class or of loading that must neither change the result nor be written by save_pretrained:
# there is one implementation for fast and slow, and the code in a model folder is never run.
_IGNORED_ARGUMENTS = ("auto_map", "is_local", "local_files_only", "sp_model_kwargs", "tokenizer_file", "use_fast")


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    """Decoding handler: one U+FFFD per wrong byte, as SentencePiece writes them (Python joins some into one)."""
    assert isinstance(error, UnicodeDecodeError)
    return "�", error.start + 1


codecs.register_error(_REPLACE_EACH_BYTE, _replace_each_byte)


class BaichuanTokenizer(TokenizersBackend):
    """Text to token ids and back, for Baichuan 2 and Baichuan 1 files.

    `BaichuanTokenizer.from_pretrained(folder)` or `BaichuanTokenizer(vocab_file="tokenizer.model")`. Raises
    TokenizerError when there is no `tokenizer.model` or when it is damaged.

    `encode` behaves like the official tokenizer: a text that spells `</s>` or `<reserved_106>` yields that token. Use
    `encode_text` for text that somebody else wrote.
    """

    vocab_files_names = {"vocab_file": "tokenizer.model", "tokenizer_file": "tokenizer.json"}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
    user_token_id: int = USER_TOKEN_ID
    assistant_token_id: int = ASSISTANT_TOKEN_ID

    def __init__(self, vocab_file: str | None = None, **kwargs: Any) -> None:
        if vocab_file is None:
            folder = kwargs.get("name_or_path")
            raise TokenizerError(f"there is no tokenizer.model in {folder}" if folder else "vocab_file is missing")
        if kwargs.pop("tokenizer_object", None) is not None:
            raise TokenizerError("a BaichuanTokenizer is made from a tokenizer.model file only; train that instead")
        for name in _IGNORED_ARGUMENTS:
            kwargs.pop(name, None)
        file = read_sentencepiece_file(vocab_file)
        _check_control_pieces(file, str(vocab_file))
        self._model_content = file.content
        self._tokenizer = build_backend(file)
        self._pieces = file.pieces
        self._special_bytes = {token_id: _text_bytes(piece, kind) for token_id, piece, kind in file.special_pieces}
        self._guarded_ids = {token_id for token_id, piece, kind in file.special_pieces if is_guarded(piece, kind)}
        self._add_dummy_prefix = file.add_dummy_prefix
        self._trim_spaces = file.trim_spaces
        self._own_chat_template = (
            chat_template(file.pieces[USER_TOKEN_ID], file.pieces[ASSISTANT_TOKEN_ID])
            if len(file) > max(USER_TOKEN_ID, ASSISTANT_TOKEN_ID)
            else None
        )
        if kwargs.get("chat_template") is None:
            kwargs["chat_template"] = self._own_chat_template
        super().__init__(vocab_file=str(vocab_file), **_with_special_tokens(kwargs, file))

    @classmethod
    def convert_to_native_format(cls, **kwargs: Any) -> dict[str, Any]:
        """`kwargs` as they are: `__init__` reads tokenizer.model itself, so nothing has to be extracted before."""
        kwargs.pop("trust_remote_code", None)
        return kwargs

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size})"

    @property
    def guarded_ids(self) -> frozenset[int]:
        """Ids that no text may become: control, role and reserved tokens; see `special_tokens.is_guarded`."""
        return frozenset(self._guarded_ids)

    # Text to ids

    def encode_text(self, text: str) -> list[int]:
        """Ids of `text` taken as text: never a control, role or reserved token, whatever the text spells.

        Equal to `encode(text, add_special_tokens=False)` for text that spells none of them, and decodes back to `text`
        (except that U+2581 comes back as a space, as always with SentencePiece). Raises TokenizerError for half a
        character (a lone surrogate) and for what is no string.
        """
        if not isinstance(text, str):
            raise TokenizerError(f"text must be a string, got {type(text).__name__}")
        if self._tokenizer.truncation is not None:  # left behind by an earlier call with limits
            self._tokenizer.no_truncation()
        if self._tokenizer.padding is not None:
            self._tokenizer.no_padding()
        try:
            return self._unguarded_ids(self._prepare(text))
        except TypeError as error:
            raise TokenizerError(f"text must be a string of whole characters, got {text[:40]!r}") from error

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_text` of each text, on all processor cores: for much text."""
        if self._tokenizer.truncation is not None or self._tokenizer.padding is not None:
            return [self.encode_text(text) for text in texts]
        try:
            encodings = self._tokenizer.encode_batch_fast(
                [self._prepare(text) for text in texts], add_special_tokens=False
            )
        except TypeError:
            return [self.encode_text(text) for text in texts]  # whose message names the wrong one
        return [
            encoding.ids if self._guarded_ids.isdisjoint(encoding.ids) else self.encode_text(text)
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def _unguarded_ids(self, text: str) -> list[int]:
        """Ids of prepared text, cutting every guarded token behind its first character until none is left."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        if self._guarded_ids.isdisjoint(encoding.ids):
            return list(encoding.ids)
        ids: list[int] = []
        begin = 0
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id not in self._guarded_ids:
                continue
            if end - start > 1:
                ids += self._unguarded_ids(text[begin : start + 1])
                begin = start + 1
            else:  # one character cannot be cut: spell it in bytes
                ids += self._unguarded_ids(text[begin:start])
                ids += self.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in text[start:end].encode()])
                begin = end
        return ids + self._unguarded_ids(text[begin:])

    def _prepare(self, text: str) -> str:
        """Text as SentencePiece sees it: the dummy prefix and the trimming of spaces that some files ask for."""
        if self._trim_spaces:
            text = re.sub(" {2,}", " ", text).lstrip(" ").rstrip(" " + SPACE_SYMBOL)
        return " " + text if self._add_dummy_prefix and text else text

    def _prepare_input(self, text: Any) -> Any:
        """`_prepare` for a string or nested lists of strings; like the official class, between special tokens anew."""
        if isinstance(text, str):
            special = "|".join(re.escape(token) for token in self.all_special_tokens)
            parts = re.split(f"({special})", text)
            return "".join(part if index % 2 else self._prepare(part) for index, part in enumerate(parts))
        if isinstance(text, list | tuple):
            return type(text)(self._prepare_input(part) for part in text)
        return text

    def _encode_plus(self, text: Any, text_pair: Any = None, **kwargs: Any) -> BatchEncoding:
        if self._add_dummy_prefix or self._trim_spaces:
            text, text_pair = self._prepare_input(text), self._prepare_input(text_pair)
        return super()._encode_plus(text=text, text_pair=text_pair, **kwargs)

    def _add_tokens(self, new_tokens: list[str | AddedToken], special_tokens: bool = False) -> int:
        count: int = super()._add_tokens(new_tokens, special_tokens=special_tokens)
        for token in new_tokens:
            token_id = self._tokenizer.token_to_id(str(token))
            if token_id is not None and (special_tokens or getattr(token, "special", False)):
                self._guarded_ids.add(token_id)
        return count

    # Ids to text

    def piece_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that a token adds to a text; b"" for control tokens; maybe only a part of a character.

        Raises TokenizerError for an id outside the vocabulary.
        """
        if 0 <= token_id < len(self._pieces):
            special = self._special_bytes.get(token_id)
            return _text_bytes(self._pieces[token_id], PieceKind.NORMAL) if special is None else special
        return b"" if token_id in self._guarded_ids else self._spelling(token_id).encode()

    def _spelling(self, token_id: int) -> str:
        piece: str | None = self._tokenizer.id_to_token(token_id) if token_id >= 0 else None
        if piece is None:
            raise TokenizerError(f"token id {token_id} is outside the vocabulary of {len(self)} tokens")
        return piece

    def _decode(self, token_ids: int | Sequence[int], skip_special_tokens: bool = False, **_ignored: Any) -> str:
        """Official decoding, with its habit of writing a space (before everything) ahead of a special token."""
        special_ids = set(self.all_special_ids)
        text, pending = "", list[bytes]()
        previous_is_special = True  # no space at the very beginning
        for token_id in [token_ids] if isinstance(token_ids, int) else token_ids:
            if token_id not in special_ids:
                pending.append(self._visible_bytes(int(token_id), skip_special_tokens))
                previous_is_special = False
            elif not skip_special_tokens:
                text += ("" if previous_is_special else " ") + self._join(pending) + self._spelling(token_id)
                pending, previous_is_special = [], True
        return text + self._join(pending)

    def _visible_bytes(self, token_id: int, skip_special_tokens: bool) -> bytes:
        """`piece_bytes`, but control pieces of a file whose roles are control pieces are spelled unless skipped."""
        contribution = self.piece_bytes(token_id)
        return contribution if contribution or skip_special_tokens else self._spelling(token_id).encode()

    def _join(self, contributions: list[bytes]) -> str:
        """Text of neighbouring tokens, less the space at its start where the file's flags have put or expect one."""
        if self._add_dummy_prefix or self._trim_spaces:
            for index, contribution in enumerate(contributions):
                contributions[index] = contribution.removeprefix(b" ")
                if contributions[index] or not self._trim_spaces:
                    break
        return b"".join(contributions).decode("utf-8", errors=_REPLACE_EACH_BYTE)

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """The text that the pieces give when decoded."""
        return self._decode([self._convert_token_to_id_with_added_voc(token) for token in tokens])

    # Chat

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """transformers' method of that name, with the class's own template safe against forged roles.

        With the class's own template and `tokenize=True` (the default) ids are not made from the rendered text but
        message by message with `encode_text`, so a message can hold `<reserved_106>` or `</s>` and stay a message; the
        assistant mask marks the contents of assistant messages. These are the ids of `baichuan2.chat.template.render`
        (which also fits them into the context). `tokenize=False` returns plain Jinja text: it cannot carry the
        distinction, so tokenising it again is *not* protected. The same holds for a template of the caller's own.

        In training, `finetune/dataset.py` has the labels of the official script: this mask's positions, and in
        addition an end token as the label at every user token and at the very end (official habit: what the model
        learns to say after its turn is `</s>`, although the next input is the user token).
        """
        bound = inspect.signature(TokenizersBackend.apply_chat_template).bind(self, conversation, *args, **kwargs)
        options = {**bound.arguments.pop("kwargs", {}), **bound.arguments}
        template = options.get("chat_template") or self.chat_template
        if not options.get("tokenize", True) or self._own_chat_template is None or template != self._own_chat_template:
            return super().apply_chat_template(conversation, *args, **kwargs)
        return self._protected_chat(conversation, options)

    def _protected_chat(self, conversation: Any, options: Mapping[str, Any]) -> Any:
        if options.get("continue_final_message") and options.get("add_generation_prompt"):
            raise TokenizerError("continue_final_message and add_generation_prompt exclude each other")
        if options.get("return_assistant_tokens_mask") and not options.get("return_dict", True):
            raise TokenizerError("return_assistant_tokens_mask=True needs return_dict=True")
        conversation = getattr(conversation, "messages", conversation)
        is_batch = len(conversation) > 0 and (
            isinstance(conversation[0], list | tuple) or hasattr(conversation[0], "messages")
        )
        rows = [
            chat_ids(
                self,
                getattr(messages, "messages", messages),
                add_generation_prompt=bool(options.get("add_generation_prompt")),
            )
            for messages in (conversation if is_batch else [conversation])
        ]
        batch = self._pad_chat(rows, options, is_batch=is_batch)
        return batch if options.get("return_dict", True) else batch["input_ids"]

    def _pad_chat(
        self, rows: Sequence[tuple[list[int], list[int]]], options: Mapping[str, Any], *, is_batch: bool
    ) -> BatchEncoding:
        """Ids (and masks) cut, padded and turned into tensors as the options of apply_chat_template ask."""
        details = dict(options.get("tokenizer_kwargs") or {})
        details.pop("add_special_tokens", None)  # the template writes them
        unknown = details.keys() - {"padding_side", "pad_to_multiple_of", "return_attention_mask", "verbose"}
        if unknown:
            raise TokenizerError(f"tokenizer_kwargs cannot hold {', '.join(sorted(unknown))} in a protected chat")
        max_length = options.get("max_length")
        if options.get("truncation"):
            limit = self.model_max_length if max_length is None else max_length
            keep = slice(limit) if self.truncation_side == "right" else slice(-limit, None)
            rows = [(ids[keep], mask[keep]) for ids, mask in rows]
        batch = self.pad(
            {"input_ids": [ids for ids, _ in rows]},
            padding=options.get("padding", False),
            max_length=max_length,
            **details,
        )
        if options.get("return_assistant_tokens_mask"):
            is_left = details.get("padding_side", self.padding_side) == "left"
            masks = []
            for (_, mask), ids in zip(rows, batch["input_ids"], strict=True):
                filler = [0] * (len(ids) - len(mask))
                masks.append(filler + mask if is_left else mask + filler)
            batch["assistant_masks"] = masks
        return_tensors = options.get("return_tensors")
        if return_tensors is None and not is_batch:
            batch = BatchEncoding({name: values[0] for name, values in batch.items()})
        return batch.convert_to_tensors(return_tensors)

    # Files

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Writes tokenizer.model, byte for byte the file that was loaded; returns its path."""
        target = Path(save_directory) / ((f"{filename_prefix}-" if filename_prefix else "") + "tokenizer.model")
        target.write_bytes(self._model_content)
        return (str(target),)

    def _save_pretrained(
        self, save_directory: str, file_names: tuple[str, ...], filename_prefix: str | None = None, **kwargs: Any
    ) -> tuple[str, ...]:
        """tokenizer.json for other programs beside tokenizer.model, from which this class is made again."""
        plain = self._tokenizer
        if self._add_dummy_prefix:  # the JSON format has no exact form of it; this is the usual near one
            self._tokenizer = copy.deepcopy(plain)
            self._tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE_SYMBOL), plain.normalizer])
        try:
            names: tuple[str, ...] = super()._save_pretrained(
                save_directory, file_names, filename_prefix=filename_prefix, **kwargs
            )
        finally:
            self._tokenizer = plain
        return names + self.save_vocabulary(save_directory, filename_prefix)


def _check_control_pieces(file: SentencePieceFile, name: str) -> None:
    expected = {
        UNKNOWN_TOKEN_ID: PieceKind.UNKNOWN,
        BOS_TOKEN_ID: PieceKind.CONTROL,
        EOS_TOKEN_ID: PieceKind.CONTROL,
    }
    if len(file) <= EOS_TOKEN_ID or any(file.kinds[token_id] != kind for token_id, kind in expected.items()):
        raise TokenizerError(f"{name} is not a Baichuan tokenizer: ids 0, 1, 2 must be unknown, begin and end")


def _with_special_tokens(kwargs: dict[str, Any], file: SentencePieceFile) -> dict[str, Any]:
    """`kwargs` with the four special tokens, the folder's or else the official ones, as plain strings.

    The flags that folders give them (`single_word` and others) had no effect in the official tokenizer.
    """
    for name, token_id in (
        ("unk_token", UNKNOWN_TOKEN_ID),
        ("bos_token", BOS_TOKEN_ID),
        ("eos_token", EOS_TOKEN_ID),
        ("pad_token", PAD_TOKEN_ID),
    ):
        given = kwargs.get(name)
        if isinstance(given, Mapping):
            given = given.get("content")
        kwargs[name] = str(given or file.pieces[token_id])
    return kwargs


def _text_bytes(piece: str, kind: int) -> bytes:
    if kind in (PieceKind.CONTROL, PieceKind.UNKNOWN):
        return b""
    if kind == PieceKind.BYTE:
        return bytes([int(piece[1:-1], 16)])
    return piece.replace(SPACE_SYMBOL, " ").encode()
