"""The dialogue: reads messages, obeys the official words, prints replies; the session keeps the history."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from baichuan2.cli.keyboard import Reader
from baichuan2.cli.main import report
from baichuan2.cli.screen import ReplyPrinter, notice
from baichuan2.cli.text import Words
from baichuan2.errors import BaichuanError

if TYPE_CHECKING:
    from baichuan2.chat.reply import ReplyChunk


class Session(Protocol):
    """What a dialogue needs of `chat.session.ChatSession`."""

    def send(self, text: str) -> "Iterator[ReplyChunk]":
        """The reply to `text`, piece by piece."""

    def clear(self) -> None:
        """Forgets the conversation."""


class Conversation:
    """One dialogue from the first message to exit."""

    def __init__(self, session: Session, reader: Reader, printer: ReplyPrinter, words: Words) -> None:
        self.session = session
        self.reader = reader
        self.printer = printer
        self.words = words
        self.num_dropped = 0
        self.exit_code = 0

    def run(self) -> int:
        """Answers messages until exit or the end of the input; the exit code.

        A message that cannot be answered is one line on standard error, and the dialogue goes on. Who was at a terminal
        has seen it; for a pipe the exit code tells it at the end.
        """
        actions = {"clear": self._clear, "vim": self._edit, "stream": self._toggle_stream, "/help": self._help}
        while (message := self.reader.read()) is not None:
            word = message.strip()
            if word == "exit":
                break
            if word in actions:
                actions[word]()
            elif word:
                self._answer(message)
        return self.exit_code

    def _answer(self, message: str) -> None:
        try:
            if self.reader.is_terminal and not self.printer.is_json:
                print(self.words.model_label, end="", flush=True)
            last = self.printer.print_reply(self.session.send(message))
        except KeyboardInterrupt:
            if not self.reader.is_terminal:
                raise
            notice(self.words.interrupted)
        except BaichuanError as error:
            code = report(error)  # the conversation so far is worth more than one message
            if not self.reader.is_terminal:
                self.exit_code = code
        else:
            if last is not None:
                self._explain(last)

    def _explain(self, last: "ReplyChunk") -> None:
        """Says what the reader of a terminal can't see: why the reply stops short, what the model no longer knows."""
        if not self.reader.is_terminal:
            return
        if last.finish_reason == "length":
            notice(self.words.length_limit)
        if last.usage is not None and last.usage.dropped_messages > self.num_dropped:
            self.num_dropped = last.usage.dropped_messages
            notice(self.words.dropped.format(count=self.num_dropped))

    def _clear(self) -> None:
        self.session.clear()
        self.num_dropped = 0
        self.reader.clear_screen()
        notice(self.words.cleared)

    def _edit(self) -> None:
        message = self.reader.read_in_editor()
        if message is not None:
            notice(message)  # the editor took the text off the screen
            self._answer(message)

    def _toggle_stream(self) -> None:
        self.printer.is_live = not self.printer.is_live
        notice(self.words.stream_on if self.printer.is_live else self.words.stream_off)

    def _help(self) -> None:
        notice(self.words.help)
