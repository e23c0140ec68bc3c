"""The processes of one run, on one machine or on many: which of them this is, and how they start and agree.

A launcher (`deepspeed`, `torchrun`) starts one process for each device and tells each by environment variables who it
is. Without a launcher there is one. Importing this module costs nothing, so that even a wrong flag is told once.
"""

import contextlib
import os
import socket
import warnings
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from baichuan2.errors import TrainingError
from baichuan2.launched import is_first, num_processes, one_report, rank

__all__ = [
    "agree",
    "announce_accelerator",
    "is_first",
    "join",
    "leave",
    "num_processes",
    "one_report",
    "start_deepspeed",
]

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def announce_accelerator() -> None:
    """Tells DeepSpeed, before it is imported, that there is no accelerator, and torch what DeepSpeed knows already.

    Else each process warns once of the former, and at every step of names that DeepSpeed still calls.
    """
    import torch

    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def start_deepspeed(timeout: timedelta) -> None:
    """Joins the processes on the processor in DeepSpeed's own way.

    The framework does so by itself on a GPU. On the processor it joins them as if DeepSpeed were not there, and ZeRO-3
    would then cut the weights for one process, as `from_pretrained` runs before DeepSpeed is set up.

    Raises:
        TrainingError: the processes cannot reach each other.
    """
    _be_alone_without_launcher()
    import deepspeed

    # all-reduce through shared memory, which DeepSpeed would compile here for minutes, and only with a C++ compiler;
    # what gloo does in its place is not what training on a processor waits for
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    with _reachable():
        deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, timeout=timeout, verbose=False)


def join(timeout: timedelta) -> None:
    """Joins the processes on the processor, where a launcher has started several."""
    import torch

    if num_processes() > 1 and not torch.distributed.is_initialized():
        with _reachable():
            torch.distributed.init_process_group("gloo", timeout=timeout)


def agree(value: Any) -> Any:
    """The first process's `value`, in every process that has joined."""
    import torch

    if num_processes() == 1 or not torch.distributed.is_initialized():
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def leave() -> None:
    """Takes leave of the other processes at the end of a run, which torch complains about where it is left out."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _be_alone_without_launcher() -> None:
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(zip(VARIABLES, ("0", "1", "0", "127.0.0.1", str(port)), strict=True))


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:  # torch's DistNetworkError and DistStoreError are the first
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrainingError(
            f"process {rank()} of {num_processes()} cannot join the others at {place}: {reason}; is the port free, "
            "can every machine reach it, and does GLOO_SOCKET_IFNAME name the network between them?"
        ) from error
