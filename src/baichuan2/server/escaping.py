"""Text from outside in a line of the log."""

__all__ = ["escaped"]

MOST_CHARACTERS = 200


def escaped(text: str, most: int | None = MOST_CHARACTERS) -> str:
    """`text` without a character that a terminal or a reader of lines obeys, and of `most` characters; None: all."""
    shown = text if most is None or len(text) <= most else text[:most] + "..."
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in shown
    )
