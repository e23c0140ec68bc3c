"""The tokenizer of a folder in the Llama layout: its tokenizer.model, told from that of another model.

Folders hold it in several forms; ours is made from tokenizer.model alone, so what stands beside it is read only for
what it contradicts or adds.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baichuan2.checkpoints.locate import locate
from baichuan2.checkpoints.shards import read_json
from baichuan2.convert.output import files_to_copy
from baichuan2.convert.plain_tokenizer import guarded_pieces, plain_chat_template
from baichuan2.convert.source import WeightSource
from baichuan2.errors import CheckpointError, TokenizerError
from baichuan2.model.sentencepiece_file import SentencePieceFile, read_sentencepiece_file
from baichuan2.model.special_tokens import (
    ASSISTANT_TOKEN_ID,
    BOS_TOKEN_ID,
    EOS_TOKEN_ID,
    PAD_TOKEN_ID,
    UNKNOWN_TOKEN_ID,
    USER_TOKEN_ID,
    is_guarded,
)
from baichuan2.model.tokenization_baichuan import BaichuanTokenizer
from baichuan2.settings import ConvertSettings

__all__ = ["LlamaTokenizerFiles", "find_tokenizer"]

MODEL_FILE = "tokenizer.model"
CONFIG_FILE = "tokenizer_config.json"
JSON_FILE = "tokenizer.json"
ADDED_FILE = "added_tokens.json"
TEMPLATE_FILE = "chat_template.jinja"
EXAMPLE_ID = "baichuan-inc/Baichuan2-7B-Base"
MOST_ROWS_WITHOUT_PIECE = 1024
"""Of an embedding that was made larger for tokens of its own, or rounded up; another model's differs by more."""


@dataclass(frozen=True)
class LlamaTokenizerFiles:
    """What a folder's tokenizer becomes.

    `path`: tokenizer.model. `chat_template`: the folder's own, where it is not the one that `to-llama` writes.
    `added`: tokens behind the pieces, as tokenizer_config.json lists them. `knows_roles`: whether the folder has a
    template that writes role tokens.
    """

    path: Path
    file: SentencePieceFile
    chat_template: str | None
    added: dict[str, Any]
    knows_roles: bool

    def texts(self, model_max_length: int) -> dict[str, str]:
        """tokenizer_config.json and special_tokens_map.json as in the official folders."""
        places = {"bos_token": BOS_TOKEN_ID, "eos_token": EOS_TOKEN_ID, "unk_token": UNKNOWN_TOKEN_ID}
        names = {name: self.file.pieces[place] for name, place in (places | {"pad_token": PAD_TOKEN_ID}).items()}
        config: dict[str, Any] = {
            "tokenizer_class": "BaichuanTokenizer",
            **names,
            "add_bos_token": False,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": model_max_length,
            "use_fast": False,
        }
        if self.added:
            config["added_tokens_decoder"] = self.added
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        files = {CONFIG_FILE: config, "special_tokens_map.json": names}
        return {name: json.dumps(fields, indent=2, ensure_ascii=False) + "\n" for name, fields in files.items()}


def find_tokenizer(source: WeightSource, settings: ConvertSettings) -> LlamaTokenizerFiles:
    """The tokenizer of `source`, or the one that `settings.tokenizer` names; warns of habits that are not official.

    Raises:
        TokenizerError: there is none, or it is of another model.
    """
    path = _model_path(source, settings)
    file = read_sentencepiece_file(path)
    tokenizer = BaichuanTokenizer(vocab_file=str(path))
    _check_pieces(path, file, int(source.tensors["model.embed_tokens.weight"].shape[0]))
    _check_same_ids(source.folder / JSON_FILE, path, file)
    config_path = source.folder / CONFIG_FILE
    config = read_json(config_path) if config_path.is_file() else {}
    if config.get("add_bos_token"):
        warnings.warn(
            f"{config_path} puts {file.pieces[BOS_TOKEN_ID]} before each text, which no Baichuan 2 was trained with: "
            "this package does not; if the model was trained further with it, write it into your prompts",
            stacklevel=2,
        )
    template = _chat_template(source.folder, config)
    roles = (file.pieces[USER_TOKEN_ID], file.pieces[ASSISTANT_TOKEN_ID])
    if template == plain_chat_template(*roles, guarded_pieces(tokenizer)):  # which a Base gets as well
        template = None
    knows_roles = template is not None and all(role in template for role in roles)
    if template is not None:
        warnings.warn(
            f"{source.name} has a chat template of its own, which is kept for apply_chat_template; the commands of "
            "this package write conversations in the official format",
            stacklevel=2,
        )
    return LlamaTokenizerFiles(path, file, template, _added_tokens(source, config, tokenizer), knows_roles)


def _model_path(source: WeightSource, settings: ConvertSettings) -> Path:
    """tokenizer.model: the one that was asked for, else the folder's own."""
    if settings.tokenizer is not None:
        given = Path(settings.tokenizer).expanduser()
        if not given.is_file():
            given = locate(settings.tokenizer, offline=settings.offline, with_weights=False) / MODEL_FILE
        if given.name != MODEL_FILE or not given.is_file():
            raise TokenizerError(f"--tokenizer {settings.tokenizer} is no {MODEL_FILE} and holds none")
        return given
    for path in files_to_copy(source.folder):
        if path.name == MODEL_FILE:
            return path
    raise TokenizerError(
        f"{source.name} holds no {MODEL_FILE}, from which the tokenizer is made here: give the one of a Baichuan 2 "
        f"folder, which is the same in all, by  --tokenizer {EXAMPLE_ID}"
    )


def _check_pieces(path: Path, file: SentencePieceFile, num_rows: int) -> None:
    """Raises TokenizerError where the file is not Baichuan's, or not for an embedding of `num_rows`."""
    for place in (USER_TOKEN_ID, ASSISTANT_TOKEN_ID):
        if place >= len(file) or not is_guarded(file.pieces[place], file.kinds[place]):
            found = f"is {file.pieces[place]!r}" if place < len(file) else "is missing"
            raise TokenizerError(
                f"{path} is of no Baichuan: piece {place}, which opens a turn there, {found}; so the model is another "
                "one, or its tokenizer is: give that by --tokenizer"
            )
    if not 0 <= num_rows - len(file) <= MOST_ROWS_WITHOUT_PIECE:
        raise TokenizerError(
            f"{path} has {len(file)} pieces, the embedding {num_rows} rows: they belong to different models; give the "
            "right one by --tokenizer"
        )


def _check_same_ids(other: Path, path: Path, file: SentencePieceFile) -> None:
    """Raises TokenizerError where the folder's tokenizer.json gives a piece another id."""
    if not other.is_file():
        return
    model = read_json(other).get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict):
        return
    for place, piece in enumerate(file.pieces):
        if vocabulary.get(piece, place) != place:
            raise TokenizerError(
                f"{other} gives {piece!r} the id {vocabulary[piece]}, {path} {place}: they belong to different models; "
                "give the right one by --tokenizer"
            )


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / TEMPLATE_FILE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except ValueError as error:
            raise CheckpointError(f"{path} cannot be read as text: {error}") from error
    template = config.get("chat_template")
    return template if isinstance(template, str) else None


def _added_tokens(source: WeightSource, config: dict[str, Any], tokenizer: BaichuanTokenizer) -> dict[str, Any]:
    """Entries of the folder's tokens that are no pieces, by their ids, which must follow on those of the pieces."""
    added: dict[str, Any] = {}
    pieces = tokenizer.get_vocab()
    for place, token in sorted(_listed_tokens(source.folder, config).items()):
        if place < len(tokenizer):
            continue
        if place != len(tokenizer) + len(added):
            raise TokenizerError(
                f"{source.name}: its added token {token['content']!r} has the id {place}, which does not follow on the "
                f"{len(tokenizer) + len(added)} before it"
            )
        if token["content"] in pieces:
            raise TokenizerError(f"{source.name}: its added token {token['content']!r} is a piece already")
        added[str(place)] = token
    return added


def _listed_tokens(folder: Path, config: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Tokens that the files beside tokenizer.model name, by id: each release of transformers had a place for them."""
    listed: list[tuple[Any, Any]] = []
    if (folder / ADDED_FILE).is_file():
        listed += [(place, {"content": name}) for name, place in read_json(folder / ADDED_FILE).items()]
    if (folder / JSON_FILE).is_file():
        tokens = read_json(folder / JSON_FILE).get("added_tokens")
        if not isinstance(tokens, list | None) or not all(isinstance(token, dict) for token in tokens or ()):
            raise TokenizerError(f"{folder / JSON_FILE}: added_tokens must be a list of objects: download it again")
        listed += [(token.get("id"), token) for token in tokens or ()]
    decoder = config.get("added_tokens_decoder")
    listed += list(decoder.items()) if isinstance(decoder, dict) else []
    found: dict[int, dict[str, Any]] = {}
    for place, token in listed:
        content = token.get("content") if isinstance(token, dict) else None
        if not str(place).isdecimal() or not isinstance(content, str) or not content:
            raise TokenizerError(
                f"{folder} lists {token!r} as token {place!r}, which is none: mend its tokenizer files"
            )
        flags = {flag: bool(token.get(flag)) for flag in ("lstrip", "normalized", "rstrip", "single_word", "special")}
        found[int(place)] = {"content": content, **flags}
    return found
