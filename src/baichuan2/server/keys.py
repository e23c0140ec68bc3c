"""API keys: where they come from, and whether a request shows one."""

import hashlib
import hmac
import os
from pathlib import Path

from baichuan2.errors import SettingsError
from baichuan2.settings import ServeSettings

__all__ = ["Keys", "key_texts", "read_keys"]

VARIABLE = "BAICHUAN2_API_KEY"
SHORTEST_KEY = 8  # characters; what is shorter is guessed, or no key at all but a slip of the shell


class Keys:
    """A set of keys of which any one lets in; without keys everybody is let in."""

    def __init__(self, keys: list[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner(self, authorization: str | None) -> str | None:
        """A short name for whoever shows `authorization`, a header `Bearer KEY`; None: not let in.

        The time that it takes tells nothing of any key: digests of one length are compared, always all of them, each in
        constant time. The name is a digest too, from which the key cannot be found.
        """
        if not self._digests:
            return ""
        scheme, _, key = (authorization or "").partition(" ")
        shown = _digest(key.strip().encode("latin-1", "replace"))  # headers are bytes, told as Latin-1
        found = ""
        for digest in self._digests:
            if hmac.compare_digest(digest, shown):
                found = digest.hex()[:12]
        return found if found and scheme.lower() == "bearer" else None


def read_keys(settings: ServeSettings) -> Keys:
    """The keys that flag, environment and file give together. Raises SettingsError as `key_texts`."""
    return Keys(key_texts(settings))


def key_texts(settings: ServeSettings) -> list[str]:
    """Those keys as they were written, for an engine with a check of its own.

    Raises SettingsError for a flag, a variable or a file that was meant to hold a key and does not, for a file that
    cannot be read, and for a key that cannot be shown in a header.
    """
    given = settings.api_key
    keys = [] if given is None else [key.strip() for key in given.split(",") if key.strip()]
    if given is not None and not keys:
        raise SettingsError("--api-key holds no key: give one, or leave it out")
    if given is None and os.environ.get(VARIABLE) == "":  # one that was to be filled in, by a compose file perhaps
        raise SettingsError(f"{VARIABLE} is set but holds no key: fill it in, or unset it")
    if settings.api_key_file is not None:
        keys += _keys_in(Path(settings.api_key_file))
    for key in keys:
        if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise SettingsError(
                f"an API key must be {SHORTEST_KEY} characters or more, ASCII letters, digits and signs without "
                f"spaces; key {keys.index(key) + 1} of {len(keys)} is not (openssl rand -hex 24 makes a good one)"
            )
    return keys


def _keys_in(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise SettingsError(f"--api-key-file {path}: cannot be read: {reason}") from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise SettingsError(f"--api-key-file {path}: holds no key; write one a line")
    return keys


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
