"""The processes that share an evaluation: which of them this is, what each does, and how they wait for each other.

`torchrun` starts them and tells each by environment variables who it is. Each loads the model and answers its share
into a log of its own; the first one joins the logs. They agree through the network, but write into one folder, which
all of them must see. Without a launcher there is one process, and none of this costs anything.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from baichuan2.errors import SettingsError
from baichuan2.launched import is_first, local_rank, num_processes, one_report, rank

__all__ = [
    "first_decides",
    "is_first",
    "join",
    "leave",
    "num_processes",
    "one_report",
    "own_device",
    "rank",
    "share",
    "wait_for_all",
]

Part = TypeVar("Part")
MEETING = timedelta(minutes=5)
WAITING = timedelta(days=30)
"""For those whose share is done sooner; one that has died is noticed by its closed connection, not by the time."""

_groups: list[Any] = []  # the one by which the processes wait for each other, once they have met


def own_device(device: str) -> str:
    """The accelerator of this process among those of its machine, where several processes share one machine's."""
    if num_processes() == 1 or device == "cpu" or ":" in device:
        return device
    from baichuan2.devices import make_present, own_accelerator  # with torch, which a wrong flag need not wait for

    found = own_accelerator(device, local_rank())
    if found is None:
        return device
    make_present(found)
    return found


def join() -> None:
    """Meets the other processes, where there are any.

    Raises:
        SettingsError: they cannot be reached.
    """
    if num_processes() == 1 or _groups:
        return
    import torch.distributed as distributed

    if not distributed.is_available():
        raise SettingsError("this torch cannot connect processes: start baichuan2 evaluate without torchrun")
    with _connected("cannot be reached"):
        if not distributed.is_initialized():
            distributed.init_process_group("gloo", timeout=MEETING)
        _groups.append(distributed.new_group(backend="gloo", timeout=WAITING))


def first_decides(make: Callable[[], Part]) -> Part:
    """What `make` gives in the first process, in all of them; where it fails there, all end.

    Raises:
        SystemExit: in the others, without a word, as the first one says what has failed.
    """
    if num_processes() == 1 or not _groups:
        return make()
    import torch.distributed as distributed

    box: list[Any] = [None, False]
    if is_first():
        try:
            box = [make(), True]
        except BaseException:
            with contextlib.suppress(Exception), _connected("has ended"):
                distributed.broadcast_object_list(box, src=0, group=_groups[0])
            raise
    with _connected("has ended"):
        distributed.broadcast_object_list(box, src=0, group=_groups[0])
    if not box[1]:
        raise SystemExit(2)
    return box[0]  # type: ignore[no-any-return]  # what the first made


def wait_for_all() -> None:
    """Returns when every process has come here.

    Raises:
        SettingsError: one of them has ended before.
    """
    if _groups:
        import torch.distributed as distributed

        with _connected("has ended"):
            distributed.barrier(group=_groups[0])


def leave() -> None:
    """Takes leave of the other processes, which torch complains about where it is left out."""
    if _groups:
        import torch.distributed as distributed

        _groups.clear()
        with contextlib.suppress(RuntimeError):
            distributed.destroy_process_group()


def share(parts: Sequence[Part], cost: Callable[[Part], int]) -> list[Part]:
    """This process's part of `parts`: neighbours stay together, and every process gets the same cost, nearly."""
    count = num_processes()
    if count == 1:
        return list(parts)
    costs = [cost(part) for part in parts]
    total, done, own = sum(costs), 0, []
    for part, one in zip(parts, costs, strict=True):
        # by the middle of the part, so that neither end of the row is favoured
        if min(count - 1, (2 * done + one) * count // (2 * total)) == rank():
            own.append(part)
        done += one
    return own


@contextlib.contextmanager
def _connected(what: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:  # torch's errors of networks are the first
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise SettingsError(
            f"process {rank()} of {num_processes()}: another process {what} ({reason}); its own line says why, and the "
            "same command goes on from what is there"
        ) from error
