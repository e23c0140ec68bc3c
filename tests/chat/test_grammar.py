"""Forms of replies: whatever a model wants to say, what it has said in the end has the form.

The models here want random tokens; the constraint alone makes sense of them.
"""

import contextlib
import json
import re
import time

import jsonschema_rs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baichuan2.chat import grammar
from baichuan2.chat.grammar import Grammars
from baichuan2.checkpoints.locate import locate
from baichuan2.errors import GenerationError, SettingsError
from baichuan2.model.tokenization_baichuan import BaichuanTokenizer
from tests.chat import talkers

TOKENIZER = BaichuanTokenizer(vocab_file=str(locate("demo-chat") / "tokenizer.model"))
END, USER = 2, 195
CLOSING = [
    END,
    USER,
    *(token_id for token_id in range(len(TOKENIZER)) if TOKENIZER.piece_bytes(token_id) in (b'"', b"}")),
]
VOCABULARY = len(TOKENIZER) + 64  # a model may have more than the tokenizer

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "kind": {"enum": ["猫", "dog", None, 3]},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-c]{1,3}$"}, "maxItems": 3},
        "home": {"$ref": "#/$defs/place"},
    },
    "required": ["name", "age", "home"],
    "additionalProperties": False,
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 5}, "of": {"$ref": "#/$defs/place"}},
            "required": ["city"],
            "additionalProperties": False,
        }
    },
}
SCHEMAS = [
    PERSON,
    {"type": "array", "items": {"type": "number", "minimum": -2, "maximum": 7.5}, "minItems": 2, "maxItems": 4},
    {"anyOf": [{"const": "yes"}, {"type": "boolean"}, {"type": "null"}]},
    {"type": "string", "format": "date"},
    {"type": "integer", "multipleOf": 7},
    {"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 1, "maxProperties": 2},
]


@pytest.fixture(scope="module")
def grammars():
    return Grammars(TOKENIZER, {END, USER})


def follow(constraint, seed, *, wish_to_end=0.0, limit=250):
    """The text that random wishes give, and whether it ended by itself; `wish_to_end` draws to what closes things."""
    generator = torch.Generator().manual_seed(seed)
    ids = []
    for _ in range(limit):
        logits = torch.rand(VOCABULARY, generator=generator)
        logits[CLOSING] += wish_to_end
        constraint.apply(logits)
        token_id = int(logits.argmax())
        assert logits[token_id] > -torch.inf
        constraint.accept(token_id)
        if token_id in (END, USER):
            return text_of(ids), True
        assert TOKENIZER.piece_bytes(token_id)
        assert token_id not in TOKENIZER.guarded_ids
        ids.append(token_id)
    return text_of(ids), False


def text_of(ids):
    return b"".join(map(TOKENIZER.piece_bytes, ids)).decode(errors="replace")


def allowed(constraint):
    logits = torch.zeros(VOCABULARY)
    constraint.apply(logits)
    return set(torch.nonzero(logits == 0).flatten().tolist())


def say(constraint, text):
    """By the longest tokens that may come; whether the form took all of the text."""
    rest = text.encode()
    while rest:
        pieces = {token_id: TOKENIZER.piece_bytes(token_id) for token_id in allowed(constraint) - {END, USER}}
        possible = [token_id for token_id, piece in pieces.items() if rest.startswith(piece)]
        if not possible:
            return False
        token_id = max(possible, key=lambda token_id: len(pieces[token_id]))
        constraint.accept(token_id)
        rest = rest[len(pieces[token_id]) :]
    return True


def fits(constraint, text):
    return say(constraint, text) and END in allowed(constraint)


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
@given(seed=st.integers(0, 2**32), wish_to_end=st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=25, deadline=None)
def test_a_finished_reply_is_valid_json_of_the_schema(grammars, schema, seed, wish_to_end):
    text, has_ended = follow(grammars.json_schema(schema), seed, wish_to_end=wish_to_end)
    if has_ended:
        assert jsonschema_rs.is_valid(schema, json.loads(text)), text


def test_some_of_those_replies_end(grammars):
    for schema in SCHEMAS:
        assert any(follow(grammars.json_schema(schema), seed, wish_to_end=0.5)[1] for seed in range(60)), schema


@pytest.mark.parametrize("seed", range(30))
def test_any_json_object(grammars, seed):
    text, has_ended = follow(grammars.json_object(), seed)
    assert text.startswith("{")
    if has_ended:
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("seed", range(10))
def test_a_regular_expression_matches_the_whole_reply(grammars, seed):
    pattern = r"(\d{2,4}-)?[a-f]+/(是|否)\n"
    text, has_ended = follow(grammars.regex(pattern), seed, wish_to_end=1.0)
    assert has_ended
    assert re.fullmatch(pattern, text)


def test_a_choice_is_one_of_its_texts_to_the_letter(grammars):
    texts = ["a", "ab", 'quo"te\n', "日本😀", "</s>", "<reserved_106>", "\\d/i"]
    found = {follow(grammars.choice(texts), seed, wish_to_end=-1.0)[0] for seed in range(60)}
    assert found <= set(texts)
    assert {"ab", "日本😀", "</s>", "<reserved_106>"} <= found
    for text in texts:
        assert fits(grammars.choice(texts), text)
        assert not fits(grammars.choice(texts), text + "x")
    assert END in allowed(grammars.choice(["", "x"]))


def test_when_nothing_is_left_to_say_only_stop_ids_are(grammars):
    constraint = grammars.json_schema({"const": 5})
    assert say(constraint, "5")
    assert allowed(constraint) == {END, USER}
    constraint.accept(USER)
    assert allowed(constraint) == {END, USER}


def test_stop_ids_are_no_text_and_do_not_come_too_early():
    word = TOKENIZER.encode_text("the")[0]  # a stop id may be an ordinary piece
    constraint = Grammars(TOKENIZER, {END, word}).regex("(the)*x")
    assert allowed(constraint).isdisjoint({END, USER, word})
    assert say(constraint, "thex")
    assert allowed(constraint) == {END, word}


def test_special_tokens_and_ids_beyond_the_tokenizer_are_never_text(grammars):
    ids = allowed(grammars.regex(r"(.|\n)*"))
    assert ids.isdisjoint(TOKENIZER.guarded_ids - {END, USER})
    assert max(ids) < len(TOKENIZER)
    assert len(ids) > 3000


def test_reserved_pieces_are_never_text_even_where_the_text_is_their_name():
    official = (
        talkers.TOKENIZER
    )  # its reserved pieces are user-defined ones with bytes of their own, as the released file's
    role = official.piece_bytes(USER).decode()
    assert role == "<reserved_106>"
    mine = Grammars(official, {END})
    for constraint in (mine.choice([role]), mine.regex(r"(.|\n)*")):
        logits = torch.zeros(len(official))
        constraint.apply(logits)
        ids = set(torch.nonzero(logits == 0).flatten().tolist())
        assert ids
        assert ids.isdisjoint(official.guarded_ids - {END})


def test_blanks_between_the_parts_of_json_are_limited(grammars):
    assert fits(grammars.json_object(), '{"a": 1, "b":[1,\n  2]}')
    for text in ('{"a":  ', '{"a":\n\n', '{"a":\n' + 25 * " ", " {", '{"a":\t'):
        assert not say(grammars.json_object(), text)
    assert not fits(grammars.json_object(), "{} ")


def test_a_schema_cannot_lift_the_limits(grammars):
    schema = {
        "type": "object",
        "x-guidance": {"whitespace_flexible": True, "whitespace_pattern": " *", "lenient": True},
    }
    assert not say(grammars.json_schema(schema), "{  ")
    with pytest.raises(SettingsError, match="uniqueItems"):
        grammars.json_schema({**schema, "properties": {"a": {"type": "array", "uniqueItems": True}}})


def test_forks_go_their_own_ways(grammars):
    first = grammars.choice(["left", "right"])
    second = first.fork()
    assert say(first, "lef")
    assert fits(second, "right")
    assert fits(first, "t")


def test_a_token_that_does_not_fit_is_our_error(grammars):
    with pytest.raises(GenerationError, match="does not fit"):
        grammars.choice(["a"]).accept(TOKENIZER.encode_text("b")[0])


def test_logits_keep_their_values_and_their_kind_of_emptiness(grammars):
    constraint = grammars.choice(["a", "b"])
    logits = torch.randn(VOCABULARY)
    logits[5] = -torch.inf
    before = logits.clone()
    constraint.apply(logits)
    kept = logits > -torch.inf
    assert 2 <= kept.sum() < 10
    assert torch.equal(logits[kept], before[kept])
    assert not logits.isnan().any()


def test_compiled_forms_are_kept_and_the_least_used_dropped(grammars, monkeypatch):
    monkeypatch.setattr(grammar, "MOST_COMPILED", 2)
    mine = Grammars(TOKENIZER, {END})
    compiled = []
    compile_it = mine._compile
    monkeypatch.setattr(mine, "_compile", lambda *source: (compiled.append(source[1]), compile_it(*source))[1])
    for pattern in ("a", "b", "a", "c", "a", "b"):
        mine.regex(pattern)
    assert compiled == ["a", "b", "c", "b"]


def test_a_form_that_failed_is_compiled_anew(monkeypatch):
    monkeypatch.setitem(grammar.LIMITS, "max_lexer_states", 400)
    mine = Grammars(TOKENIZER, {END})
    constraint = mine.regex(".*a.{40}")
    assert mine._compiled
    with pytest.raises(GenerationError, match=r"cannot be followed: .*too many states"):
        follow(constraint, 1)
    assert not mine._compiled


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"if": {}, "then": {}}, "if"),
        ({"type": "strin"}, "strin"),
        ({"type": "string", "format": "klingon"}, "klingon"),
        ({"type": "string", "pattern": "a(?=b)"}, "look-around"),
        ({"$ref": "https://example.com/schema"}, "example.com"),
        ({"$ref": "#/nowhere"}, "nowhere"),
        ({"$ref": "#"}, "no text fits"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "no text fits"),
        ({"enum": []}, "anyOf is empty"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
        ({"type": "string", "minLength": -1}, "minLength"),
        ({"type": "integer", "multipleOf": 99_991}, "multipleOf"),
        ({"allOf": [{"type": "integer", "multipleOf": p} for p in (9_973, 9_967, 9_949)]}, "multipleOf"),
        ({"type": "number", "multipleOf": 1e-300}, "multipleOf"),
        (False, "bool"),
        ([], "list"),
        ("{", "no JSON"),
        ({"const": float("nan")}, "must be JSON"),
        ({"const": "\ud800"}, "cannot be used"),
        ({"const": 10**5000}, "must be JSON"),
        ({"const": object()}, "must be JSON"),
        ({"x": "y" * 200_000}, "too large"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_schemas_that_cannot_be_held_to_are_refused_by_name(grammars, schema, named):
    with pytest.raises(SettingsError, match=r"^the_field ") as caught:
        grammars.json_schema(schema, name="the_field")
    assert named in str(caught.value)
    assert len(str(caught.value)) < 400


def test_true_and_the_text_of_a_schema_are_schemas(grammars):
    assert fits(grammars.json_schema(True), '[1, "a"]')
    assert fits(grammars.json_schema('{"type": "null"}'), "null")


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("(", "unclosed group"),
        (r"a(?=b)", "look-around"),
        (r"(a)\1", "backreferences"),
        (r"[^\s\S]", "no text fits"),
        (r"(?-u:\xff)", "invalid UTF-8"),
        ("a" * 1_000_000, "too large"),
        ("((a{1000}){1000}){1000}", "too many"),
        ("(" * 60_000 + ")" * 60_000, "nest"),
        ("\ud800", "cannot be used"),
        (7, "int"),
    ],
    ids=range(10),
)
def test_regular_expressions_that_cannot_be_followed_are_refused(grammars, pattern, named):
    with pytest.raises(SettingsError, match=r"^regex ") as caught:
        grammars.regex(pattern)
    assert named in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("texts", [[], "abc", None, ["a", 1], ["\ud800"], ["x" * 200_000]])
def test_choices_that_are_none_are_refused(grammars, texts):
    with pytest.raises(SettingsError, match=r"^choice "):
        grammars.choice(texts)


def _nested(depth):
    schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def _doubled(depth):
    """2 ** depth strings."""
    parts = {f"d{n}": {"type": "array", "prefixItems": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(depth)}
    return {"$defs": parts | {f"d{depth}": {"type": "string"}}, "$ref": "#/$defs/d0"}


HOSTILE = {
    "deep": _nested(5_000),
    "less deep": _nested(50),
    "many properties": {"properties": {f"p{n}": {"type": "string"} for n in range(4_000)}},
    "some properties": {"properties": {f"p{n}": {"type": "string"} for n in range(900)}},
    "huge enum": {"enum": [f"value {n}" for n in range(8_000)]},
    "long enum": {"enum": ["v" * 10_000 + str(n) for n in range(10)]},
    "doubled references": _doubled(30),
    "product of choices": {
        "allOf": [{"anyOf": [{"properties": {f"a{n}": {"const": m}}} for m in range(3)]} for n in range(14)]
    },
    "reference to a part of itself": {
        "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}},
        "$ref": "#/$defs/a",
    },
    "endless": {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
    "long": {"type": "array", "minItems": 10**9, "items": {"type": "string", "minLength": 10**9}},
    "exponential": {"type": "string", "pattern": "^(a|b)*a(a|b){30}$"},
    "exponential together": {"allOf": [{"type": "string", "pattern": f"^[ab]*a[ab]{{{n}}}$"} for n in range(1, 12)]},
    "far numbers": {"type": "number", "minimum": 1.23456789e-300, "maximum": 1.23456789e300},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_cost_little(grammars, name):
    started = time.process_time()
    try:
        constraint = grammars.json_schema(HOSTILE[name])
    except SettingsError:
        constraint = None
    assert time.process_time() - started < 4  # about 1 s at most where this was written
    if constraint is None:
        return
    started = time.process_time()
    with contextlib.suppress(GenerationError):
        follow(constraint, 1, limit=200)
    assert time.process_time() - started < 8


def test_stop_ids_must_be_in_the_vocabulary():
    for stop_ids in ([], [-1], [len(TOKENIZER)]):
        with pytest.raises(SettingsError, match="stop ids"):
            Grammars(TOKENIZER, stop_ids)
