"""`model.chat(tokenizer, messages, ...)` as the official README has it.

Two things differ from the released code on purpose: text in a message can't forge a role (`protect=False` brings that
back), and a failing model raises where the released code left the reader of the stream waiting for ever. This is the
one place that knows the cumulative stream: each item is the whole text so far.
"""

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from baichuan2.chat.detokenizer import Detokenizer
from baichuan2.chat.template import render_official
from baichuan2.engine.cache import new_cache
from baichuan2.engine.generate import generate_tokens
from baichuan2.engine.quantized_cache import LAYERS
from baichuan2.engine.sampling import Sampling, resolve
from baichuan2.engine.stopping import stop_ids_from
from baichuan2.errors import GenerationError, SettingsError
from baichuan2.model.modeling_baichuan import CACHE_KEYWORD
from baichuan2.settings import SamplingSettings

if TYPE_CHECKING:
    from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
    from baichuan2.model.tokenization_baichuan import BaichuanTokenizer

__all__ = ["chat"]

SAMPLING_NAMES = frozenset(item.name for item in fields(SamplingSettings))
OURS = frozenset({"seed", "draft_tokens", "kv_cache", "protect"})  # names that no GenerationConfig has
# Settings that choose no token, or that our engine reads itself.
HANDLED = SAMPLING_NAMES | {
    "assistant_token_id",
    "bos_token_id",
    "cache_implementation",
    "eos_token_id",
    "max_length",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "return_dict_in_generate",
    "transformers_version",
    "use_cache",
    "user_token_id",
}
# Settings that do nothing when they are 1; all others do nothing when they are 0, False, empty or unset.
NEUTRAL_AT_ONE = frozenset(
    {
        "encoder_repetition_penalty",
        "length_penalty",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "typical_p",
    }
)


def chat(
    model: "BaichuanForCausalLM",
    tokenizer: "BaichuanTokenizer",
    messages: Sequence[Mapping[str, str]],
    stream: bool = False,
    generation_config: GenerationConfig | None = None,
    **overrides: Any,
) -> str | Iterator[str]:
    """The reply to `messages`; with `stream=True` an iterator of the whole text so far, once a token.

    While a character is unfinished the streamed text ends in U+FFFD, as the official stream does. The reply ends at
    the end-of-text id, after `max_new_tokens`, or where the context is full.

    `generation_config` stands in for the model's own, and `overrides` change single values of it for this call:
    `max_new_tokens=64`, `temperature=0.7`, `num_beams=3` (beams and other choices that need the whole reply do not
    stream). Four names are ours: `seed` makes sampling repeatable, `draft_tokens=0` guesses no tokens ahead,
    `kv_cache="int8"` keeps keys and values in 8 bits, and `protect=False` encodes message text as the released code
    does, so that text which spells `<reserved_106>` becomes that token.

    A conversation that leaves no room for `max_new_tokens` loses its beginning, as in the released code;
    `baichuan2.reply` reports that instead.

    Raises SettingsError (unknown override, bad value, stream with beams) and MessageError at the call, GenerationError
    when the model fails.
    """
    if generation_config is not None and not isinstance(generation_config, GenerationConfig):
        raise SettingsError(
            f"generation_config must be a GenerationConfig, got {type(generation_config).__name__}: give single values "
            "by name, such as temperature=0.7"
        )
    config, sampling, protect = _settle(generation_config or model.generation_config, overrides)
    if config.eos_token_id is None:  # one that was made by hand seldom names it, and a reply must end
        config.eos_token_id = model.generation_config.eos_token_id
    context = model.config.model_max_length
    assert context is not None  # the config derives it where the file leaves it out
    # a limit beyond the context would make the official rule cut the prompt at a senseless place
    room = sampling.max_new_tokens if sampling.max_new_tokens < context else context // 2
    prompt_ids = render_official(tokenizer, messages, model_max_length=context, max_new_tokens=room, protect=protect)
    beyond = _beyond_the_engine(config)
    if beyond and stream:
        raise SettingsError(f"{', '.join(beyond)}: works without stream=True only, as it needs the whole reply")
    if beyond and (sampling.presence_penalty or sampling.frequency_penalty):
        raise SettingsError(f"presence_penalty and frequency_penalty work without {', '.join(beyond)} only")
    if beyond:
        sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, context - len(prompt_ids)))
        return _decode(tokenizer, _generate_with_framework(model, prompt_ids, config, sampling))
    stop_ids = stop_ids_from(config, user_turn=False)
    steps = generate_tokens(model, prompt_ids, sampling, stop_ids=stop_ids)
    if stream:
        return _cumulative((step.token_id for step in steps), tokenizer)
    return _decode(tokenizer, [step.token_id for step in steps])


def _settle(base: GenerationConfig, overrides: Mapping[str, Any]) -> tuple[GenerationConfig, Sampling, bool]:
    """The generation config of this call, the engine's part of it, and whether text is protected."""
    config = copy.deepcopy(base)
    known = {name for name in vars(config) | vars(GenerationConfig()) if not name.startswith("_")}
    known |= SAMPLING_NAMES | OURS
    for name, value in overrides.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise SettingsError(f"chat() has no setting named {name!r}{hint}")
        if name == "max_length":
            raise SettingsError("max_length counts the prompt as well; set max_new_tokens, the length of the reply")
        if name not in OURS:
            setattr(config, name, value)
    sampling = resolve(
        SamplingSettings(**{name: value for name, value in overrides.items() if name in SAMPLING_NAMES}), config
    )
    return config, sampling, bool(overrides.get("protect", True))


def _beyond_the_engine(config: GenerationConfig) -> list[str]:
    """Names of the settings in force that only the framework's `generate` knows, such as num_beams."""
    return sorted(
        name
        for name, value in vars(config).items()
        if name not in HANDLED and not name.startswith("_") and not _is_neutral(name, value)
    )


def _is_neutral(name: str, value: object) -> bool:
    return not value or (name in NEUTRAL_AT_ONE and value == 1)


def _generate_with_framework(
    model: "BaichuanForCausalLM", prompt_ids: list[int], config: GenerationConfig, sampling: Sampling
) -> list[int]:
    """The new ids by way of `model.generate`, under the same limits as the engine's."""
    config.max_new_tokens = sampling.max_new_tokens
    config.max_length = None
    config.return_dict_in_generate = False
    config.do_sample = not sampling.is_greedy
    config.repetition_penalty = sampling.repetition_penalty
    # under greedy choice the framework complains about other values than its own, and fills in the model's for None
    unused = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}
    for name, value in unused.items():
        setattr(config, name, value if sampling.is_greedy else getattr(sampling, name))
    config.min_p = None if sampling.is_greedy else sampling.min_p or None
    ids = torch.tensor([prompt_ids], device=model.device)
    cache = {} if sampling.kv_cache == "same" else {CACHE_KEYWORD: new_cache(LAYERS[sampling.kv_cache])}
    try:
        with torch.random.fork_rng(enabled=sampling.seed is not None):
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
            output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, **cache)
    except Exception as error:
        raise GenerationError(f"generate() failed: {type(error).__name__}: {error}") from error
    new_ids: list[int] = output[0, len(prompt_ids) :].tolist()
    return new_ids


def _decode(tokenizer: "BaichuanTokenizer", token_ids: list[int]) -> str:
    text: str = tokenizer.decode(token_ids, skip_special_tokens=True)
    return text


def _cumulative(token_ids: Iterator[int], tokenizer: "BaichuanTokenizer") -> Iterator[str]:
    """What decoding all ids so far gives, after each id, without decoding the early ones again and again."""
    detokenizer = Detokenizer(tokenizer.piece_bytes)
    text = ""
    for token_id in token_ids:
        text += detokenizer.push(token_id)
        yield text + detokenizer.unfinished
