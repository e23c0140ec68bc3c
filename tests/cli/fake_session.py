"""A session that replies from a script, so that the dialogue is tested without a model."""

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class FakeUsage:
    prompt_tokens: int = 3
    completion_tokens: int = 20
    seconds_prefill: float = 0.5
    seconds_decode: float = 2.0
    dropped_messages: int = 0


@dataclass(frozen=True)
class FakeChunk:
    text: str
    finish_reason: str | None = None
    usage: FakeUsage | None = None


@dataclass
class FakeSession:
    """Replies `echo:` and the message, in two chunks; a script entry that is an exception is raised after the first."""

    script: dict[str, object] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def send(self, text: str) -> Iterator[FakeChunk]:
        self.sent.append(text)
        entry = self.script.get(text, text)
        try:
            yield FakeChunk("echo:")
            if isinstance(entry, BaseException):
                raise entry
            reason = "length" if text == "long" else "stop"
            yield FakeChunk(str(entry), reason, FakeUsage(dropped_messages=max(0, 2 * len(self.sent) - 4)))
        finally:
            self.events.append(f"closed {text}")

    def clear(self) -> None:
        self.events.append("clear")
