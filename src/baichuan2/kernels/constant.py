"""Answers that stay the same for the life of a process, marked so that a compiled model holds them."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

__all__ = ["constant"]

P = ParamSpec("P")
R = TypeVar("R")


def constant(function: Callable[P, R]) -> Callable[P, R]:
    """What `torch.compiler.assume_constant_result` does, which imports all of torch's compiler: 1.5 seconds."""
    marked: Any = function
    marked._dynamo_marked_constant = True
    return function
