"""The prompts of a comparison: built-in ones in Chinese and English, code and numbers, short and long, or a file's."""

from dataclasses import dataclass
from importlib.resources import files

from baichuan2.chat.messages import Message, to_messages
from baichuan2.chat.text_files import iter_documents, read_file
from baichuan2.errors import DataError, MessageError

__all__ = ["Prompt", "read_prompts"]

BUILT_IN = "comparison.jsonl"
LARGEST_NUMBER = 10_000


@dataclass(frozen=True)
class Prompt:
    """A text, or the messages of a conversation; `number`: which one of its file it is, from 1."""

    number: int
    text: str
    messages: tuple[Message, ...] | None = None

    @property
    def shown(self) -> str:
        """Its last words, for people."""
        return self.text if self.messages is None else self.messages[-1].content

    def as_mappings(self) -> list[dict[str, str]]:
        """The messages as templates take them."""
        return [{"role": message.role, "content": message.content} for message in self.messages or ()]


def read_prompts(path: str | None, limit: int | None) -> list[Prompt]:
    """The prompts of a file, or the built-in ones, at most `limit`.

    A conversation that ends with the assistant's words loses these: what comes next is what models are asked for.

    Raises:
        DataError: the file cannot be read, holds something else, or none.
    """
    if path is None:
        content, name = files("baichuan2.bench").joinpath(BUILT_IN).read_bytes(), BUILT_IN
    else:
        content, name = read_file(path, "--prompts")
    prompts: list[Prompt] = []
    for number, document in enumerate(iter_documents(content, name), 1):
        if len(prompts) == min(limit or LARGEST_NUMBER, LARGEST_NUMBER):
            break
        if isinstance(document, str):
            if any("\ud800" <= character <= "\udfff" for character in document):
                raise DataError(f"{name}: document {number} holds half a character")
            if document:
                prompts.append(Prompt(number, document))
            continue
        try:
            messages = to_messages(document)
        except MessageError as error:
            raise DataError(f"{name}: document {number}: {error}") from error
        while messages and messages[-1].role == "assistant":
            messages.pop()
        if not messages:
            raise DataError(f"{name}: document {number} holds nothing but the assistant's words: nobody asked")
        prompts.append(Prompt(number, "\n".join(message.content for message in messages), tuple(messages)))
    if not prompts:
        raise DataError(f"{name} holds no prompts: write a paragraph, or a line of JSON with a text or messages")
    return prompts
