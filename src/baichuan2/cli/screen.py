"""What reaches the terminal: replies on standard output, everything else on standard error.

Text of a model is untrusted: control characters are taken out, so that a reply can't move the cursor, recolour the
screen or answer in the terminal's name. It knows nothing about models, only chunks of text with a usage on the last.
"""

import io
import json
import re
import sys
from collections.abc import Generator, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baichuan2.chat.reply import ReplyChunk, Usage

# C0 without tab and newline, DEL, and C1, whose 0x9b some terminals read like ESC [
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# what json.dumps(ensure_ascii=False) leaves as it is, but a terminal might obey
RAW_IN_JSON = re.compile(r"[\x7f-\x9f]")
# halves of UTF-16 pairs that stand for no byte; U+DC80 to U+DCFF are Python's stand-ins for bytes
OTHER_SURROGATES = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def printable(text: str) -> str:
    """`text` without the characters that a terminal obeys; newline and tab stay."""
    return CONTROL_CHARACTERS.sub("", text)


def one_line(text: str) -> str:
    """`text` on one line, without control characters."""
    return printable(" ".join(text.split()))


def notice(text: str) -> None:
    """Prints the program's own words on standard error."""
    print(printable(text), file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    """Prints `value` as one line of JSON on standard output; a terminal finds nothing in it to obey."""
    text = json.dumps(value, ensure_ascii=False)
    text = RAW_IN_JSON.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def accept_any_text() -> None:
    """Lets the standard streams carry every text: what they cannot encode or decode is replaced, never an error."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def without_surrogates(text: str) -> str:
    """`text` with the stand-ins for undecodable bytes (in arguments, in terminal input) as U+FFFD."""
    text = OTHER_SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class ReplyPrinter:
    """Prints replies: live, at once, or as JSON.

    Args:
        text_key: the name of the text in a JSON object: "reply" or "completion".
        is_live: show the text while it is being written.
        is_json: print one JSON object a reply and nothing else.
        speed_format: a line with {tokens}, {speed}, {prompt_tokens} and {prefill} for standard error; None: no line.
    """

    def __init__(self, text_key: str, *, is_live: bool, is_json: bool, speed_format: str | None) -> None:
        self.text_key = text_key
        self.is_live = is_live
        self.is_json = is_json
        self.speed_format = speed_format

    def print_reply(self, chunks: "Iterator[ReplyChunk]") -> "ReplyChunk | None":
        """Prints one reply to its end; its last chunk, which holds finish reason and usage.

        Raises:
            KeyboardInterrupt: the user stopped it; what was said so far stands printed and its line is ended.
        """
        text = ""
        chunk: ReplyChunk | None = None
        is_interrupted = False
        try:
            for chunk in chunks:
                if self.is_live and not self.is_json:
                    sys.stdout.write(printable(chunk.text))
                    sys.stdout.flush()
                text += chunk.text
        except KeyboardInterrupt:
            is_interrupted = True
            raise
        finally:
            if isinstance(chunks, Generator):
                chunks.close()  # whoever writes hears now, not at some garbage collection, that nobody reads
            finish_reason = "cancelled" if is_interrupted else None if chunk is None else chunk.finish_reason
            if text or finish_reason is not None:  # a reply that failed before its first word leaves no trace
                self._end(text, finish_reason, None if chunk is None else chunk.usage)
        return chunk

    def _end(self, text: str, finish_reason: str | None, usage: "Usage | None") -> None:
        if self.is_json:
            counts: dict[str, Any] | None = None if usage is None else asdict(usage)
            print_json({self.text_key: text, "finish_reason": finish_reason, "usage": counts})
        else:
            sys.stdout.write("\n" if self.is_live else printable(text) + "\n")
            sys.stdout.flush()
        if self.speed_format is not None and usage is not None:
            # the first token comes out of the prefill; a reply of one token has no decoding speed
            num_decoded = usage.completion_tokens - 1
            speed = num_decoded / usage.seconds_decode if usage.seconds_decode > 0 else 0.0
            notice(
                self.speed_format.format(
                    tokens=usage.completion_tokens,
                    speed=speed,
                    prompt_tokens=usage.prompt_tokens,
                    prefill=usage.seconds_prefill,
                )
            )
