"""ALiBi in vLLM: the slopes of one rank's heads, and the attention backends that add them. Knows nothing of vLLM."""

from baichuan2.errors import SettingsError
from baichuan2.model.alibi import alibi_slopes

__all__ = ["ALIBI_BACKENDS", "FALLBACK_BACKEND", "needs_other_backend", "slopes_of_rank"]

ALIBI_BACKENDS = frozenset(
    {"CPU_ATTN", "FLASH_ATTN", "TRITON_ATTN", "ROCM_ATTN", "ROCM_AITER_FA", "ROCM_AITER_UNIFIED_ATTN"}
)
"""Those that pass the slopes on to their kernels, read in vLLM 0.32. FlashInfer and TurboQuant take slopes and forget
them without a word, FlexAttention and others refuse them."""
FALLBACK_BACKEND = "TRITON_ATTN"


def slopes_of_rank(num_heads: int, rank: int, num_ranks: int) -> list[float]:
    """The slopes of the heads that tensor-parallel rank `rank` of `num_ranks` computes: neighbours, in order.

    The slopes are those of all `num_heads` heads, cut: a rank's own number of heads has other ones.
    """
    here = num_heads // num_ranks
    return alibi_slopes(num_heads)[rank * here : (rank + 1) * here]


def needs_other_backend(chosen: str, *, by_user: bool) -> bool:
    """Whether the attention backend `chosen` has to give way to `FALLBACK_BACKEND`, as it forgets the slopes.

    Raises:
        SettingsError: likewise, but the user asked for it.
    """
    if chosen in ALIBI_BACKENDS:
        return False
    if by_user:
        raise SettingsError(
            f"the attention backend {chosen} computes no ALiBi positions, which Baichuan 13B needs: leave "
            f"--attention-backend out, or take one of {', '.join(sorted(ALIBI_BACKENDS))}"
        )
    return True
