"""Token steps become text: whole characters, stop strings, the tokens of each piece, and one last piece."""

import random

import pytest

from baichuan2.chat.writer import ReplyPiece, ReplyWriter
from baichuan2.engine.generate import TokenStep
from tests.chat.talkers import END, TOKENIZER

TABLE = {5: b"Hi", 6: b" the", 7: b"re", 8: b"\nUs", 9: b"er:", 10: "好".encode()[:1], 11: "好".encode()[1:], 12: b""}


def step(token_id, reason=None):
    return TokenStep(token_id, reason, -0.5, ((token_id, -0.5), (4, -2.0)))


def write(ids, stops=(), reason="length"):
    """All pieces of ids from the table, the last with the reason."""
    writer = ReplyWriter(TABLE.__getitem__, stops)
    pieces = []
    for place, token_id in enumerate(ids):
        pieces.append(writer.push(step(token_id, reason if place == len(ids) - 1 else None)))
        if pieces[-1].finish_reason:
            break
    return pieces


def texts_and_ids(pieces):
    return [(piece.text, [token.token_id for token in piece.tokens]) for piece in pieces]


def test_each_token_comes_with_its_text():
    pieces = write([5, 6, 7])
    assert texts_and_ids(pieces) == [("Hi", [5]), (" the", [6]), ("re", [7])]
    assert [piece.finish_reason for piece in pieces] == [None, None, "length"]
    [token] = pieces[1].tokens
    assert (token.piece_bytes, token.logprob, token.top_logprobs) == (b" the", -0.5, ((6, -0.5), (4, -2.0)))


def test_a_character_in_two_tokens_comes_with_both():
    assert texts_and_ids(write([5, 10, 11, 5])) == [("Hi", [5]), ("", []), ("好", [10, 11]), ("Hi", [5])]


def test_a_character_that_never_ends_is_told_at_the_end():
    assert texts_and_ids(write([5, 10])) == [("Hi", [5]), ("�", [10])]
    writer = ReplyWriter(TABLE.__getitem__)
    writer.push(step(10))
    assert texts_and_ids([writer.push(step(END, "stop"))]) == [("�", [10])]


def test_a_token_without_text_comes_as_soon_as_all_before_it():
    assert texts_and_ids(write([5, 12, 6])) == [("Hi", [5]), ("", [12]), (" the", [6])]
    assert texts_and_ids(write([8, 12, 6], ["\nUser:"])) == [("", []), ("", []), ("\nUs the", [8, 12, 6])]


def test_a_stop_string_over_two_tokens_ends_the_reply():
    pieces = write([5, 8, 9, 6], ["\nUser:"])
    assert texts_and_ids(pieces) == [("Hi", [5]), ("", []), ("", [])]
    assert pieces[-1].finish_reason == "stop"


def test_a_token_that_reaches_into_the_stop_string_comes_with_the_text_before_it():
    assert texts_and_ids(write([5, 8, 9], ["User"])) == [("Hi", [5]), ("\n", []), ("", [8])]
    assert texts_and_ids(write([5, 6], ["t"])) == [("Hi", [5]), (" ", [6])]


def test_held_back_text_is_let_go_with_its_tokens():
    assert texts_and_ids(write([5, 8, 7, 6], ["\nUser:"])) == [
        ("Hi", [5]),
        ("", []),
        ("\nUsre", [8, 7]),
        (" the", [6]),
    ]
    assert texts_and_ids(write([5, 8], ["\nUser:"])) == [("Hi", [5]), ("\nUs", [8])]


@pytest.mark.parametrize("reason", ["length", "cancelled"])
def test_a_stop_string_in_the_last_token_is_a_stop(reason):
    assert write([5, 8, 9], ["\nUser:"], reason)[-1].finish_reason == "stop"
    assert write([5, 8, 9], ["\nUsed:"], reason)[-1].finish_reason == reason


def test_a_stop_token_has_no_text_even_where_it_would_be_shown():
    writer = ReplyWriter(TABLE.__getitem__, ["\nUser:"])
    assert writer.push(step(8)).text == ""
    last = writer.push(step(5, "stop"))
    assert texts_and_ids([last]) == [("\nUs", [8])]
    assert last.finish_reason == "stop"


def test_a_stop_string_of_replacement_characters_is_found_at_the_end():
    writer = ReplyWriter(TABLE.__getitem__, ["�"])
    assert writer.push(step(10)).text == ""
    last = writer.finish("cancelled")
    assert (last.text, last.finish_reason) == ("", "stop")


def test_nothing_comes_after_the_last_piece():
    writer = ReplyWriter(TABLE.__getitem__, ["Hi"])
    assert writer.push(step(5)).finish_reason == "stop"
    assert writer.is_finished
    assert writer.push(step(6)) == writer.finish("length") == ReplyPiece("", None, ())


def test_a_reply_without_a_step():
    writer = ReplyWriter(TABLE.__getitem__)
    assert writer.finish("cancelled") == ReplyPiece("", "cancelled", ())


@pytest.mark.parametrize("has_stop", [False, True])
def test_pieces_joined_are_the_text_and_every_token_comes_once(has_stop):
    chance = random.Random(3)
    words = [*range(3, len(TOKENIZER)), *range(3, 259)] + TOKENIZER.encode_text("好的😀\n\n") * 40
    for _ in range(150):
        ids = chance.choices(words, k=30)
        text = TOKENIZER.decode(ids)
        begin = chance.randrange(len(text))
        stops = [text[begin : begin + chance.randint(1, 9)]] if has_stop else []
        writer = ReplyWriter(TOKENIZER.piece_bytes, stops)
        pieces = [writer.push(step(token_id, "length" if left == 0 else None)) for left, token_id in _counted(ids)]
        shown = "".join(piece.text for piece in pieces)
        assert shown == (text[: text.find(stops[0])] if stops else text)
        tokens = [token for piece in pieces for token in piece.tokens]
        written = [token.token_id for token in tokens]
        assert written == (ids[: len(written)] if stops else ids)
        joined = b"".join(token.piece_bytes for token in tokens).decode(errors="baichuan2.each_byte")
        assert joined.startswith(shown)


def _counted(ids):
    return zip(range(len(ids) - 1, -1, -1), ids, strict=True)
