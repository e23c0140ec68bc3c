"""Calls to the Linux kernel that Python's library does not offer."""

import ctypes
import os

__all__ = ["drop_capabilities", "mount", "pivot_root", "prctl", "system_call", "umount", "unshare"]

PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
CAPSET = {"x86_64": 126, "aarch64": 91}
PR_CAPBSET_DROP, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 24, 47, 4
CAPABILITY_VERSION_3 = 0x20080522

library = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, *arguments: int) -> None:
    """`prctl(2)`. Raises OSError."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    _check("prctl", library.prctl(ctypes.c_int(option), *(ctypes.c_ulong(value) for value in padded)))


def unshare(flags: int) -> None:
    """`unshare(2)`. Raises OSError."""
    _check("unshare", library.unshare(ctypes.c_int(flags)))


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """`mount(2)`. Raises OSError."""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    result = library.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])
    _check(f"mount {target}", result)


def umount(target: str, flags: int) -> None:
    """`umount2(2)`. Raises OSError."""
    _check(f"umount {target}", library.umount2(os.fsencode(target), ctypes.c_int(flags)))


def pivot_root(new_root: str, old_root: str) -> None:
    """`pivot_root(2)`. Raises OSError."""
    number = PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(f"pivot_root: unknown on {os.uname().machine}")
    new, old = (ctypes.create_string_buffer(os.fsencode(path)) for path in (new_root, old_root))
    system_call("pivot_root", number, ctypes.addressof(new), ctypes.addressof(old))


def drop_capabilities() -> None:
    """Takes every privilege from this thread: even user id 0 is a mere owner of files then. Raises OSError."""
    number = CAPSET.get(os.uname().machine)
    if number is None:
        raise OSError(f"capset: unknown on {os.uname().machine}")
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:  # past the last one, or none left that could drop it
            break
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    system_call("capset", number, ctypes.addressof(header), ctypes.addressof(nothing))


def system_call(name: str, number: int, *arguments: int) -> int:
    """`syscall(2)`: what the kernel answered. Raises OSError, in whose message `name` stands."""
    result: int = library.syscall(ctypes.c_long(number), *(ctypes.c_long(value) for value in arguments))
    return _check(name, result)


def _check(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result
