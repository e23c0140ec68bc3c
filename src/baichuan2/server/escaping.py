"""Text from outside in a line of the log."""

__all__ = ["escaped"]

MOST_CHARACTERS = 200


def escaped(text: str) -> str:
    """`text` without a character that a terminal or a reader of lines obeys, and not endless."""
    shown = text[:MOST_CHARACTERS] + ("..." if len(text) > MOST_CHARACTERS else "")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in shown
    )
