"""Token ids to text, piece by piece, never half a character.

An incremental UTF-8 decoder over the bytes of each piece: a character that spans several tokens appears when its last
byte has come. Waiting for a trailing U+FFFD to go away, as others do, would stall when the model really says U+FFFD.
"""

import codecs
from collections.abc import Callable

__all__ = ["Detokenizer", "spelled"]

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    """One U+FFFD for each wrong byte, as sentencepiece does; Python's own handler puts one for a whole broken run."""
    assert isinstance(error, UnicodeDecodeError)
    return REPLACEMENT * (error.end - error.start), error.end


codecs.register_error("baichuan2.each_byte", _replace_each_byte)
_new_decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """Turns ids into text; the pushes and the finish joined are what `decode` gives for all ids at once.

    `piece_bytes` gives the bytes that one token adds to the text, none for a token that is not shown.
    """

    def __init__(self, piece_bytes: Callable[[int], bytes]) -> None:
        self._piece_bytes = piece_bytes
        self._decoder = _new_decoder(errors="baichuan2.each_byte")

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is unfinished or the token is not shown."""
        return self._decoder.decode(self._piece_bytes(token_id))

    def finish(self) -> str:
        """What was still unfinished, one U+FFFD a byte; the next push starts anew."""
        return self._decoder.decode(b"", final=True)

    @property
    def unfinished(self) -> str:
        """What `finish` would give now, without finishing."""
        pending, _ = self._decoder.getstate()
        return REPLACEMENT * len(pending)


def spelled(piece: bytes) -> str:
    """A token as OpenAI's completions spell it: its text; a part of a character by its bytes, `bytes:\\xe4\\xbd`."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
