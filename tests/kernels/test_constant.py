"""The mark of answers that stay the same is torch's own."""

import torch

from baichuan2.kernels.constant import constant


def test_the_mark_is_torchs() -> None:
    def ours() -> int:
        return 1

    def theirs() -> int:
        return 1

    assert constant(ours) is ours
    torch.compiler.assume_constant_result(theirs)
    assert vars(ours) == vars(theirs) != {}
