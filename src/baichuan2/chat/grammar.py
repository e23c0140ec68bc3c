"""What a reply may look like: JSON, a JSON schema, a regular expression, one of several texts.

`Grammars` compiles such forms for one tokenizer, by the optional package llguidance, into objects that fit
`engine.constraint.Constraint`: before each token they rule out all that would leave the form, and when nothing is left
to say only stop ids remain. A reply that ends by itself has the form; one that is cut by its length is a beginning.

Sources come from strangers: sizes are limited before they are compiled, what compiling and following them may cost is
limited by the library's own counters, and every refusal is one of our errors.
"""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from math import lcm
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

from baichuan2.errors import GenerationError, SettingsError
from baichuan2.optional import require

if TYPE_CHECKING:
    from baichuan2.model.tokenization_baichuan import BaichuanTokenizer

__all__ = ["GrammarConstraint", "Grammars", "schema_source"]

# Blanks between the parts of JSON: none, one, or a line break with an indent. Without a limit a model that finds
# nothing to say writes blanks until its length is out.
BLANKS: Final = r" |\n {0,24}"
MOST_SOURCE_BYTES: Final = 128 * 1024
LONGEST_FORCED: Final = 256  # characters that are tokenized ahead; only the first token is needed
LONGEST_REASON: Final = 300  # characters
MOST_COMPILED: Final = 32  # kept for the next request with the same source
LARGEST_MULTIPLE: Final = 10_000  # of the smallest step of a number; divisibility takes so many states
# The library's counters. With them no source of that size took two seconds to compile, and no mask 30 ms.
LIMITS: Final[Mapping[str, int]] = {
    "max_grammar_size": 50_000,  # symbols; time grows with the square of an object's optional properties
    "max_items_in_row": 5_000,
    "max_lexer_states": 50_000,  # about 1 kB each, kept with the compiled form
}


def schema_source(schema: object, *, lenient: bool = False, name: str = "schema") -> str:
    """A JSON schema as the text that stands behind `%json` in a grammar; true, {} and a schema's JSON text are schemas.

    `lenient`: keywords that cannot be held to are passed over. Raises SettingsError for what is no schema.
    """
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise SettingsError(f"{name} is no JSON: {error}") from None
    schema = {} if schema is True else schema
    if not isinstance(schema, Mapping):
        raise SettingsError(f"{name} must be a JSON schema, an object, got {type(schema).__name__}")
    options = {"whitespace_pattern": BLANKS, "lenient": lenient, "coerce_one_of": lenient}
    try:
        source = json.dumps({**schema, "x-guidance": options}, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise SettingsError(f"{name} must be JSON: {error}") from None
    _check_multiples(schema, name)
    return source


def _check_multiples(schema: object, name: str) -> None:
    """Refuses `multipleOf` whose states the library would count one by one, without a limit of its own."""
    steps: list[Fraction] = []
    left = [schema]
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            step = value.get("multipleOf")
            if isinstance(step, int | float) and step > 0:
                steps.append(Fraction(str(step)))
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value
    if not steps:
        return
    # parts of one schema may meet in one number, which then is a multiple of all of them
    scale = lcm(*(step.denominator for step in steps))
    if lcm(*(int(step * scale) for step in steps)) > LARGEST_MULTIPLE or scale > 10**15:
        raise SettingsError(
            f"{name} cannot be used: multipleOf {', '.join(map(str, map(float, steps[:4])))} is too large"
        )


class Grammars:
    """Forms of replies, compiled for one tokenizer; the compiled ones are kept, the least used dropped first.

    Building it takes half a second and 45 MB with the released tokenizer; do it once. May be used by several threads.
    """

    def __init__(self, tokenizer: "BaichuanTokenizer", stop_ids: Iterable[int]) -> None:
        """`stop_ids`: what ends a reply; possible wherever the form may end, and nowhere else.

        Raises MissingExtraError without llguidance and SettingsError for stop ids outside of the vocabulary.
        """
        self._library = require("llguidance", extra="server")
        self._vocabulary = self._library.LLTokenizer(
            _Pieces(tokenizer, stop_ids := sorted(set(stop_ids))), n_vocab=len(tokenizer), eos_token=stop_ids
        )
        self._limits = self._library.LLParserLimits(verbose_errors=False, **LIMITS)
        self._compiled: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._lock = threading.Lock()

    def json_object(self) -> "GrammarConstraint":
        """Any JSON object."""
        return self.json_schema({"type": "object"})

    def json_schema(self, schema: object, *, name: str = "schema") -> "GrammarConstraint":
        """JSON that fits a JSON schema (draft 2020-12), properties in the schema's order.

        `name`: how the caller calls it, for the message. Raises SettingsError, which names what is wrong: not a
        schema, a keyword that cannot be held to (`not`, `if`, `uniqueItems` ...), or more than the limits allow.
        """
        return self.lark(f"start: %json {schema_source(schema, name=name)}", name=name)

    def regex(self, pattern: object, *, name: str = "regex") -> "GrammarConstraint":
        """Text that a regular expression matches from its beginning to its end; no look-around, no back references.

        Raises SettingsError.
        """
        if not isinstance(pattern, str):
            raise SettingsError(f"{name} must be a string, got {type(pattern).__name__}")
        return self._constraint("regex", pattern, name)

    def choice(self, texts: object, *, name: str = "choice") -> "GrammarConstraint":
        """One of several texts, exactly. Raises SettingsError."""
        if isinstance(texts, str) or not isinstance(texts, Sequence) or not all(isinstance(t, str) for t in texts):
            raise SettingsError(f"{name} must be a list of strings, got {type(texts).__name__}")
        if not texts:
            raise SettingsError(f"{name} must hold at least one string")
        alternatives = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
        return self.lark(f"start: CHOICE\nCHOICE: {alternatives}", name=name)

    def lark(self, source: str, *, name: str = "grammar") -> "GrammarConstraint":
        """A grammar in the library's own language; for sources that are made by us. Raises SettingsError."""
        return self._constraint("lark", source, name)

    def _constraint(self, kind: Literal["lark", "regex"], source: str, name: str) -> "GrammarConstraint":
        if len(source) > MOST_SOURCE_BYTES or len(source.encode(errors="replace")) > MOST_SOURCE_BYTES:
            raise SettingsError(
                f"{name} is too large: at most {MOST_SOURCE_BYTES // 1024} kB, got {len(source)} characters"
            )
        key = (kind, source)
        with self._lock:
            matcher = self._compiled.get(key)
            if matcher is not None:
                self._compiled.move_to_end(key)
        if matcher is None:
            matcher = self._compile(kind, source, name)
            with self._lock:
                self._compiled[key] = matcher
                while len(self._compiled) > MOST_COMPILED:
                    self._compiled.popitem(last=False)
        return GrammarConstraint(matcher.deep_copy(), lambda: self._forget(key))

    def _compile(self, kind: str, source: str, name: str) -> Any:
        """The library's matcher at the beginning of a reply.

        It is tried on one token: whether any text fits, and whether the limits hold, shows only then.
        """
        try:
            make = getattr(self._library.LLMatcher, f"grammar_from_{kind}")
            matcher = self._library.LLMatcher(self._vocabulary, make(source), log_level=0, limits=self._limits)
            trial = matcher.deep_copy()
            if not trial.is_error():
                mask = np.frombuffer(trial.compute_bitmask(), dtype=np.uint8)
                first = np.flatnonzero(np.unpackbits(mask, bitorder="little"))[-1:]
                if not trial.is_error():
                    trial.consume_token(int(first[0]))
        except Exception as error:  # half a character in a source, for instance
            raise SettingsError(f"{name} cannot be used: {str(error)[:LONGEST_REASON]}") from error
        if trial.is_error():
            raise SettingsError(f"{name} cannot be used: {_reason(trial)}")
        return matcher

    def _forget(self, key: tuple[str, str]) -> None:
        """Compiles that form anew next time; what copies learnt while they were followed is in it."""
        with self._lock:
            self._compiled.pop(key, None)


class GrammarConstraint:
    """One form while it follows one reply; fits `engine.constraint.Constraint`. For one thread at a time."""

    def __init__(self, matcher: Any, forget: Callable[[], None]) -> None:
        """`matcher`: the library's; `forget` is called when it fails."""
        self._matcher, self._forget = matcher, forget

    def fork(self) -> "GrammarConstraint":
        """The same form at the same place, for another reply."""
        return GrammarConstraint(self._matcher.deep_copy(), self._forget)

    def apply(self, logits: Tensor) -> None:
        """Minus infinity, in place, for every token of (V,) float32 that may not come next.

        V may exceed the tokenizer's vocabulary. Raises GenerationError when following the form costs too much.
        """
        allowed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            self._forget()
            raise GenerationError(f"the form of the reply cannot be followed: {_reason(self._matcher)}")
        # One row of eight numbers for each byte, added: a fifth of the time of filling by a mask.
        added = torch.from_numpy(np.take(_ADDED, allowed, axis=0, mode="clip").reshape(-1))
        size = min(len(added), len(logits))
        logits[:size] += added[:size].to(logits.device)
        logits[size:] = -torch.inf

    def accept(self, token_id: int) -> None:
        """Goes on behind a token that `apply` had left; GenerationError for any other."""
        if not self._matcher.consume_token(token_id):
            raise GenerationError(f"token {token_id} does not fit the form of the reply: {_reason(self._matcher)}")


# For each byte of the library's mask, one bit for each token: what is added to these tokens' logits.
_ADDED: Final = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little") > 0, 0, -np.inf
).astype(np.float32)  # (256, 8)


class _Pieces:
    """Our tokenizer as the library wants to see one; its attributes' names are the library's."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: "BaichuanTokenizer", stop_ids: Sequence[int]) -> None:
        if not stop_ids or stop_ids[0] < 0 or stop_ids[-1] >= len(tokenizer):
            raise SettingsError(f"stop ids must lie in the vocabulary of {len(tokenizer)} tokens, got {stop_ids}")
        self._tokenizer = tokenizer
        self.eos_token_id, self.bos_token_id = stop_ids[0], None
        self.tokens = [tokenizer.piece_bytes(token_id) for token_id in range(len(tokenizer))]
        self._byte_ids = tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in range(256)])
        self.special_token_ids = sorted(
            {*stop_ids, *tokenizer.guarded_ids, *(token_id for token_id, piece in enumerate(self.tokens) if not piece)}
        )

    def __call__(self, text: str | bytes) -> list[int]:
        """Ids of a text that the form leaves no choice about, so that they are those the model is used to."""
        text = (text if isinstance(text, str) else text.decode())[:LONGEST_FORCED]
        ids = self._tokenizer.encode_text(text)
        if b"".join(map(self.tokens.__getitem__, ids)) != text.encode():  # a tokenizer that adds a space in front
            ids = [self._byte_ids[byte] for byte in text.encode()]
        return ids


def _reason(matcher: Any) -> str:
    """What the library complains of, in one short line."""
    text = str(matcher.get_error()).strip()
    if text.startswith("NoExtensionBias"):
        return "no text fits it"
    cause = re.search(r"^error: (.*)$", text, flags=re.MULTILINE)  # the last line of a regular expression's message
    line = cause[1] if cause else re.sub(r"^at \d+\(\d+\): ", "", text).split("\n")[0]
    return line[:LONGEST_REASON]
