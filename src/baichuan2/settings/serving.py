"""How a model is shown to others: as a server, as a page."""

import re
from dataclasses import dataclass
from typing import Literal

from baichuan2.errors import SettingsError
from baichuan2.settings.fields import check_bounds, flag_name, language_setting, parse_bytes, setting


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Where the server listens, whom it lets in, and how much it takes on."""

    host: str = setting(
        "127.0.0.1", "address to listen on; 0.0.0.0: all of this machine, reachable from outside", metavar="ADDRESS"
    )
    port: int = setting(8000, "port to listen on; 0: any free one", minimum=0, maximum=65_535, metavar="N")
    served_model_name: str | None = setting(
        None, "what clients call the model, several names with commas; not given: its own name", metavar="NAME"
    )
    api_key: str | None = setting(
        None,
        "keys that clients must show, with commas between them; better in the variable or a file, as other users of "
        "this machine can read a command line",
        metavar="KEY",
        environment="BAICHUAN2_API_KEY",
    )
    api_key_file: str | None = setting(None, "file with such keys, one a line", metavar="FILE")
    allow_origin: str | None = setting(
        None, "web pages that may ask, such as https://example.org, with commas; *: all", metavar="ORIGIN"
    )
    max_running: int = setting(16, "requests computed together", minimum=1, maximum=1024, metavar="N")
    max_waiting: int = setting(
        64, "requests that wait beyond those; further ones are refused", minimum=0, maximum=65_536, metavar="N"
    )
    cache_memory: str | None = setting(
        None,
        "memory for keys and values of all requests, such as 4GB; not given: a context for each of --max-running, or "
        "half of what is free",
        metavar="SIZE",
    )
    max_choices: int = setting(
        16,
        "replies that one request may ask for: n, times the prompts of a list",
        minimum=1,
        maximum=1024,
        metavar="N",
    )
    max_reply_tokens: int | None = setting(
        None, "longest reply, whatever a request asks for; not given: what the context holds", minimum=1, metavar="N"
    )
    max_connections: int = setting(512, "open connections; further ones are closed", minimum=1, metavar="N")
    max_body: str = setting("4MiB", "largest request", metavar="SIZE")
    drop_oldest: bool = setting(
        False, "leave the oldest rounds out of a conversation that exceeds the context, in place of refusing it"
    )
    receive_seconds: float = setting(
        30.0, "time within which a request must have arrived whole", minimum=0.1, metavar="S"
    )
    request_seconds: float = setting(600.0, "longest time to work on a request", minimum=0.1, metavar="S")
    write_seconds: float = setting(
        30.0, "time after which a reader who takes nothing is left", minimum=0.1, metavar="S"
    )
    shutdown_seconds: float = setting(
        30.0, "time that replies in work get to finish when the server is stopped", minimum=0.0, metavar="S"
    )
    log_messages: bool = setting(False, "write what clients and model say into the log")
    engine: Literal["own", "vllm"] = setting(
        "own", "what computes the replies: own, or vllm, which has to be installed (docs/guides/vllm.md)"
    )
    vllm_args: str | None = setting(
        None, 'further arguments for vLLM, in one text, such as "--tensor-parallel-size 2"', metavar="TEXT"
    )
    language: Literal["auto", "zh", "en"] = language_setting()

    def __post_init__(self) -> None:
        check_bounds(self)
        for name in ("cache_memory", "max_body"):
            value = getattr(self, name)
            if value is not None:
                try:
                    parse_bytes(value)
                except SettingsError as error:
                    raise SettingsError(f"{flag_name(name)}: {error}") from None
        if not self.host:
            raise SettingsError("--host must be an address or a name, such as 127.0.0.1, got an empty text")
        if self.allow_origin is not None:
            _check_origins(self.allow_origin)
        if self.vllm_args is not None and self.engine != "vllm":
            raise SettingsError("--vllm-args needs --engine vllm")


_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_USUAL_PORTS = {"http": ":80", "https": ":443"}  # which browsers leave out


def _check_origins(text: str) -> None:
    """SettingsError for what no browser ever writes, as it would let nobody in."""
    origins = [origin.strip() for origin in text.split(",") if origin.strip()]
    if not origins:
        raise SettingsError("--allow-origin holds no origin: give one, such as https://example.org, or leave it out")
    for origin in origins:
        usual_port = _USUAL_PORTS.get(origin.partition("://")[0])
        if not _ORIGIN.fullmatch(origin) or (usual_port is not None and origin.endswith(usual_port)):
            raise SettingsError(
                f"--allow-origin: {origin[:80]!r} is nothing that a browser sends: write scheme and host in small "
                "letters, no path, a port only if it is unusual, such as https://example.org or http://localhost:3000"
            )


@dataclass(frozen=True, kw_only=True)
class WebSettings:
    """Where the chat page is shown, and how it starts."""

    host: str = setting(
        "localhost",
        "address to listen on; 0.0.0.0: all of this machine, for everybody who reaches it, without a password",
        metavar="ADDRESS",
    )
    port: int = setting(8501, "port to listen on", minimum=1, maximum=65_535, metavar="N")
    open_browser: bool = setting(True, "open the page in the browser of this machine, where it has a screen")
    theme: Literal["auto", "light", "dark"] = setting(
        "auto", "colours of the page; auto: as the browser has it, and each user can change them"
    )
    max_running: int = setting(
        8, "replies written at once; further users wait for their turn", minimum=1, maximum=1024, metavar="N"
    )
    max_message_chars: int = setting(
        20_000, "longest message that can be written", minimum=1, maximum=1_000_000, metavar="N"
    )
    language: Literal["auto", "zh", "en"] = setting(
        "auto",
        "language of the page and the program; auto: the browser's for the page, the locale's for the program",
        environment="BAICHUAN2_LANGUAGE",
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if not self.host:
            raise SettingsError("--host must be an address or a name, such as localhost, got an empty text")
