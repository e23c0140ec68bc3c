"""When a reply ends: the reasons, and the token ids that end it."""

from typing import Literal

from baichuan2.errors import SettingsError

__all__ = ["FinishReason", "stop_ids_from"]

FinishReason = Literal["stop", "length", "cancelled"]


def stop_ids_from(generation_config: object, *, user_turn: bool = True) -> frozenset[int]:
    """The end-of-text ids of a generation config and, with `user_turn`, its user token.

    A model that starts a user turn has finished its own: what follows would be words put into the user's mouth. The
    official code stops at the end-of-text id only. Raises SettingsError when no id is known at all, as a reply could
    then only end by its length.
    """
    end = getattr(generation_config, "eos_token_id", None)
    user = getattr(generation_config, "user_token_id", None) if user_turn else None
    ids = [*(end if isinstance(end, list | tuple | set | frozenset) else [end]), user]
    found = frozenset(int(token_id) for token_id in ids if token_id is not None)
    if not found:
        raise SettingsError("generation config names no eos_token_id, so no reply would ever end; add it")
    return found
