"""One conversation on the page: who said what, how each reply ended, and which of it the model is shown.

Beside `chat.session` because a page lets its user go back: edit a message, ask for another reply, send from there. It
knows no page and no model.
"""

from dataclasses import dataclass, field
from typing import Literal

from baichuan2.chat.messages import Message
from baichuan2.chat.reply import Usage
from baichuan2.engine.stopping import FinishReason

__all__ = ["Dialogue", "Turn"]

End = FinishReason | Literal["failed"]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message, with a number that no other message of the dialogue has or had."""

    number: int
    role: Literal["user", "assistant"]
    text: str
    end: End | None = None
    """How a reply ended; None for what the user wrote."""
    usage: Usage | None = None


@dataclass
class Dialogue:
    """The turns so far, oldest first."""

    turns: list[Turn] = field(default_factory=list)
    next_number: int = 0

    def ask(self, text: str) -> None:
        """Appends a message of the user."""
        self._append(Turn(number=self._new_number(), role="user", text=text))

    def answer(self, text: str, end: End, usage: Usage | None = None) -> None:
        """Appends a reply to the last message; one without a word leaves no trace."""
        if text or end in ("stop", "length"):
            self._append(Turn(number=self._new_number(), role="assistant", text=text, end=end, usage=usage))

    def edit(self, number: int, text: str) -> None:
        """Puts `text` in the place of the user's message `number`; what came after it is gone."""
        place = self._place(number)
        self.turns[place:] = [Turn(number=self._new_number(), role="user", text=text)]

    def take_back_reply(self) -> None:
        """Removes the reply at the end, so that another one can be asked for."""
        while self.turns and self.turns[-1].role == "assistant":
            self.turns.pop()

    def clear(self) -> None:
        """Forgets every turn; numbers go on."""
        self.turns.clear()

    @property
    def waits_for_reply(self) -> bool:
        """Whether the user spoke last."""
        return bool(self.turns) and self.turns[-1].role == "user"

    def messages(self, system: str = "") -> list[Message]:
        """What the model is shown: all but messages that never got a reply and were written past since."""
        shown = [Message("system", system)] if system.strip() else []
        for place, turn in enumerate(self.turns):
            was_passed_over = [later.role for later in self.turns[place : place + 2]] == ["user", "user"]
            if not was_passed_over:
                shown.append(Message(turn.role, turn.text))
        return shown

    def _append(self, turn: Turn) -> None:
        self.turns.append(turn)

    def _new_number(self) -> int:
        self.next_number += 1
        return self.next_number

    def _place(self, number: int) -> int:
        return next(place for place, turn in enumerate(self.turns) if turn.number == number)
