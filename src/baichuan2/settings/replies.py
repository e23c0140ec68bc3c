"""How replies are made, in conversations and from the command line."""

from dataclasses import dataclass
from typing import Literal

from baichuan2.settings.fields import KV_CACHE_HELP, check_bounds, language_setting, setting


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How the next token is chosen, and how many are; not given: generation_config.json of the checkpoint decides."""

    max_new_tokens: int | None = setting(None, "longest reply, in tokens", minimum=1, metavar="N")
    do_sample: bool | None = setting(None, "sample; with no: always the most likely token (greedy)")
    temperature: float | None = setting(
        None, "sharpness of sampling; 0 means greedy", minimum=0.0, maximum=100.0, metavar="T"
    )
    top_k: int | None = setting(None, "sample from the K most likely tokens; 0: no limit", minimum=0, metavar="K")
    top_p: float | None = setting(
        None, "sample from the smallest set that holds this probability", minimum=0.0, maximum=1.0, metavar="P"
    )
    repetition_penalty: float | None = setting(
        None, "above 1: discourage tokens that stand in prompt or reply already", minimum=0.01, metavar="R"
    )
    min_p: float | None = setting(
        None,
        "leave out tokens less likely than this part of the most likely one; 0: none",
        minimum=0.0,
        maximum=1.0,
        metavar="P",
    )
    presence_penalty: float | None = setting(
        None, "above 0: discourage tokens that stand in the reply already", minimum=-2.0, maximum=2.0, metavar="A"
    )
    frequency_penalty: float | None = setting(
        None,
        "above 0: discourage tokens more the more often they stand in the reply",
        minimum=-2.0,
        maximum=2.0,
        metavar="A",
    )
    seed: int | None = setting(None, "makes sampling repeatable", minimum=0, metavar="N")
    draft_tokens: int | None = setting(
        None,
        "at most so many next tokens guessed from prompt and reply, and checked in one pass: the same reply, sooner "
        "where text is copied; 0: none; not given: as many as cost next to nothing here, mostly none; a GPU, or torch "
        "alone, rounds several tokens differently than one, which can tip a close choice in 16 bits",
        minimum=0,
        maximum=63,
        metavar="N",
    )
    kv_cache: Literal["same", "int8"] = setting("same", KV_CACHE_HELP)

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """How a conversation is held."""

    system: str | None = setting(None, "system text that stands before the conversation", metavar="TEXT")
    stream: bool = setting(True, "show the reply while it is being written")

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """One run of a model from the command line: what it is given, and what is told about it."""

    prompt: str | None = setting(
        None, "answer this text once and exit; - takes all of standard input", short="-p", metavar="TEXT"
    )
    show_speed: bool = setting(False, "report tokens per second on standard error after each reply")
    language: Literal["auto", "zh", "en"] = language_setting()

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """How results are printed."""

    json: bool = setting(False, "print JSON, one object a line, in place of text")

    def __post_init__(self) -> None:
        check_bounds(self)
