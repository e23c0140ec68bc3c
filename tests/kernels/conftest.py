"""What tests of steps share."""

from collections.abc import Iterator

import pytest
import torch

from baichuan2.kernels.library import limit, opened
from tests.kernels.tiny_steps import LEVELS


@pytest.fixture(params=["avx2", "avx512", "avx512_bf16", "amx"])
def level(request: pytest.FixtureRequest) -> Iterator[None]:
    """Steps and products of that instruction set."""
    library = opened().library
    assert library is not None
    number = LEVELS[request.param]
    if min(library.baichuan2_instructions(), limit(number)) < number:
        pytest.skip(f"there is no {request.param} here")
    library.rows_limit(number)
    yield
    library.rows_limit(-1)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread at first, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
