"""BaichuanConfig: one class for every released folder, from its fields and never from its name.

The released files all say `model_type: baichuan`, whether they hold the rotary 7B or the ALiBi 13B, version 1 or 2.
What differs is derived here once, when the object is made, and is explicit from then on: `position_embedding` and
`normalized_head` are never None afterwards, and both are always written to config.json.
"""

import math
from typing import Any, ClassVar, Literal, TypeGuard

from transformers import PreTrainedConfig

from baichuan2.errors import CheckpointError

V1_VOCAB_SIZE = 64_000
# a Baichuan 1 vocabulary with some tokens added by its user; no released vocabulary lies here
V1_VOCAB_SIZES_EXTENDED = range(V1_VOCAB_SIZE + 1, V1_VOCAB_SIZE + 1025)
V1_7B_CLASS_NAMES = frozenset({"BaiChuanForCausalLM", "BaiChuanForSequenceClassification"})
MOST_LAYERS = 10_000  # each is built before the files are looked at, and a damaged number would never end
# (hidden_size, num_hidden_layers, num_attention_heads) of the released sizes
SHAPE_7B = (4096, 32, 32)
SHAPE_13B = (5120, 40, 40)

POSITIVE_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "model_max_length",
)
NON_NEGATIVE_FIELDS = ("initializer_range", "rms_norm_eps", "z_loss_weight")
ROPE_TYPES = ("default", "linear", "dynamic", "yarn")


class BaichuanConfig(PreTrainedConfig):
    """Shape and numerics of a Baichuan model; the defaults are those of the 7B.

    Beyond the fields of the released files:

    - `position_embedding`: "rope" (7B) or "alibi" (13B). None: derived, see `derive_position_embedding`.
    - `normalized_head`: True for Baichuan 2 (NormHead), False for Baichuan 1. None: derived from the vocabulary.
    - `alibi_numerics`: "exact" keeps the position bias relative, in float32 on the processor and in the dtype of the
      model elsewhere; "official" reproduces the rounding of the released inference code
      (docs/decisions/0002-alibi-numerics.md).
    - `rope_parameters` (or the older `rope_scaling`): the framework's keys for linear, dynamic and yarn scaling.

    Raises:
        CheckpointError: a field has an impossible value, or the position scheme or head is ambiguous.
    """

    model_type = "baichuan"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "cache"]

    vocab_size: int = 125_696
    hidden_size: int = 4096
    intermediate_size: int = 11_008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    hidden_act: str = "silu"
    max_position_embeddings: int | None = None
    model_max_length: int | None = None
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = False
    z_loss_weight: float | int = 0
    position_embedding: Literal["rope", "alibi"] | None = None
    normalized_head: bool | None = None
    alibi_numerics: Literal["exact", "official"] = "exact"
    rope_parameters: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # remote code is never followed, so a saved folder must not point to it; and the released 13B files switch
        # checkpointing on for every training run by a stray comma (reference: §5), which is nobody's choice
        for ignored in ("auto_map", "custom_pipelines", "gradient_checkpointing", "_from_model_config"):
            kwargs.pop(ignored, None)
        self._check_values(kwargs)
        self._check_rope(kwargs)
        if self.position_embedding is None:
            self.position_embedding = self.derive_position_embedding()
        if self.position_embedding == "rope" and self.head_dim % 2:
            raise CheckpointError(
                f"config.json: rotary positions need heads of an even width, hidden_size ({self.hidden_size}) / "
                f"num_attention_heads ({self.num_attention_heads}) is {self.head_dim}"
            )
        if self.normalized_head is None:
            self.normalized_head = self.derive_normalized_head()
        if self.position_embedding == "rope" and self.max_position_embeddings is None:
            self.max_position_embeddings = self.model_max_length or 4096  # the framework's rope scaling asks for it
        if self.model_max_length is None:
            self.model_max_length = self.max_position_embeddings or 4096
        super().__post_init__(**kwargs)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def derive_position_embedding(self) -> Literal["rope", "alibi"]:
        """The position scheme that the fields of a released folder imply.

        `max_position_embeddings` stands in 7B files only; 13B files have `model_max_length` alone (reference: §2).
        The released shapes and the spelling of the version 1 class name must not contradict that.

        Raises:
            CheckpointError: the fields contradict each other, or none of them tells.
        """
        shape = (self.hidden_size, self.num_hidden_layers, self.num_attention_heads)
        votes: dict[str, str] = {}
        if self.max_position_embeddings is not None:
            votes["max_position_embeddings is present"] = "rope"
        elif self.model_max_length is not None:
            votes["model_max_length is present without max_position_embeddings"] = "alibi"
        if shape == SHAPE_7B:
            votes["hidden_size, num_hidden_layers, num_attention_heads are those of the 7B"] = "rope"
        elif shape == SHAPE_13B:
            votes["hidden_size, num_hidden_layers, num_attention_heads are those of the 13B"] = "alibi"
        if V1_7B_CLASS_NAMES.intersection(self.architectures or ()):
            votes["architectures is that of Baichuan 1 7B"] = "rope"
        if len(set(votes.values())) == 1:
            return "rope" if "rope" in votes.values() else "alibi"
        found = "; ".join(f"{reason} (so {scheme})" for reason, scheme in votes.items()) or (
            "neither max_position_embeddings nor model_max_length is present, and the shape is no released one"
        )
        raise CheckpointError(
            f'config.json does not tell rotary from ALiBi positions: {found}. Add "position_embedding": "rope" (7B) '
            'or "alibi" (13B) to it'
        )

    def derive_normalized_head(self) -> bool:
        """Whether the output head normalises its rows: Baichuan 2 does, Baichuan 1 (64,000 pieces) does not.

        Raises:
            CheckpointError: the vocabulary is that of Baichuan 1 with tokens added, which could be either.
        """
        if self.vocab_size == V1_VOCAB_SIZE or V1_7B_CLASS_NAMES.intersection(self.architectures or ()):
            return False
        if self.vocab_size in V1_VOCAB_SIZES_EXTENDED:
            raise CheckpointError(
                f"config.json does not tell a Baichuan 1 head from a Baichuan 2 head: vocab_size is {self.vocab_size}, "
                'close to the 64000 of Baichuan 1. Add "normalized_head": false (Baichuan 1) or true to it'
            )
        return True

    def to_diff_dict(self) -> dict[str, Any]:
        """The fields that config.json gets; what was derived is always among them, so nothing is derived twice."""
        fields: dict[str, Any] = super().to_diff_dict()
        for name in ("position_embedding", "normalized_head", "max_position_embeddings", "model_max_length"):
            fields[name] = getattr(self, name)
        return fields

    def _check_values(self, extra: dict[str, Any]) -> None:
        """Raises CheckpointError for the first field that no model can be built from."""
        for name in POSITIVE_FIELDS:
            value = getattr(self, name)
            if value is None and name in ("max_position_embeddings", "model_max_length"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                raise CheckpointError(f"config.json: {name} must be a positive whole number, got {value!r}")
        if self.num_hidden_layers > MOST_LAYERS:
            raise CheckpointError(
                f"config.json: num_hidden_layers is larger than that of any model ({MOST_LAYERS}): download it again"
            )
        for name in NON_NEGATIVE_FIELDS:
            value = getattr(self, name)
            if not _is_number(value) or value < 0:
                raise CheckpointError(f"config.json: {name} must be a number of at least 0, got {value!r}")
        if self.pad_token_id is not None and self.pad_token_id not in range(self.vocab_size):
            raise CheckpointError(
                f"config.json: pad_token_id must be below vocab_size ({self.vocab_size}), got {self.pad_token_id!r}"
            )
        if self.hidden_size % self.num_attention_heads:
            raise CheckpointError(
                f"config.json: hidden_size ({self.hidden_size}) must be a multiple of "
                f"num_attention_heads ({self.num_attention_heads})"
            )
        choices = {
            "hidden_act": ("silu",),
            "position_embedding": ("rope", "alibi", None),
            "normalized_head": (True, False, None),
            "alibi_numerics": ("exact", "official"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise CheckpointError(f"config.json: {name} must be one of {allowed}, got {getattr(self, name)!r}")
        if self.tie_word_embeddings:
            raise CheckpointError("config.json: tie_word_embeddings must be false, no Baichuan model ties them")
        key_value_heads = extra.get("num_key_value_heads", self.num_attention_heads)
        if key_value_heads != self.num_attention_heads:
            raise CheckpointError(
                f"config.json: num_key_value_heads ({key_value_heads}) differs from num_attention_heads "
                f"({self.num_attention_heads}); Baichuan models have no grouped heads"
            )

    def _check_rope(self, extra: dict[str, Any]) -> None:
        """Raises CheckpointError for rotary settings that the framework would only trip over later."""
        settings = extra.get("rope_scaling") or self.rope_parameters or {}
        if not isinstance(settings, dict):
            raise CheckpointError(f"config.json: rope_scaling must be an object with type and factor, got {settings!r}")
        rope_type = settings.get("rope_type", settings.get("type", "default"))
        if rope_type not in ROPE_TYPES:
            raise CheckpointError(
                f"config.json: the type in rope_scaling must be one of {ROPE_TYPES}, got {rope_type!r}"
            )
        theta = settings.get("rope_theta", extra.get("rope_theta", 10_000.0))
        if not _is_number(theta) or theta <= 0:
            raise CheckpointError(f"config.json: rope_theta must be a number above 0, got {theta!r}")
        factor = settings.get("factor")
        if rope_type != "default" and (not _is_number(factor) or factor < 1):
            raise CheckpointError(
                f"config.json: the factor in rope_scaling must be a number of at least 1, got {factor!r}"
            )


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
