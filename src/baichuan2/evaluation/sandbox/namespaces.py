"""A world of its own for a generated program: no other processes, no network, and a root folder that holds little.

The root is an empty file system in memory. In it stand, read-only, the interpreter's library and the system's shared
libraries; /dev/null; and one small writable folder. The user's files, /proc, /sys and devices are absent, not
hidden.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from .system import mount, pivot_root, umount, unshare

__all__ = ["DEVICES", "WORK_DIR", "build_root", "leave_namespaces", "library_paths"]

WORK_DIR = "/sandbox"
DEVICES = ("/dev/null",)
GUEST_ID = 65534

NEW_USER, NEW_MOUNTS, NEW_PROCESSES, NEW_NETWORK, NEW_IPC, NEW_NAMES = (
    0x10000000,
    0x00020000,
    0x20000000,
    0x40000000,
    0x08000000,
    0x04000000,
)
READ_ONLY, NO_SETUID, NO_DEVICES, NO_PROGRAMS, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
DETACH = 2
SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store", "/etc/ld.so.cache", "/usr/share/zoneinfo")


def library_paths() -> list[str]:
    """What an interpreter opens to import its standard library: folders, and files."""
    own = [entry for entry in sys.path if os.path.isdir(entry)]  # noqa: PTH112
    shared = [str(Path(sys.base_prefix) / "lib")]
    return [path for path in dict.fromkeys([*SYSTEM_LIBRARIES, *shared, *own]) if Path(path).exists()]


def leave_namespaces(*, is_privileged: bool) -> None:
    """Leaves the namespaces of the machine. The next child is the first process of its own.

    `is_privileged`: by the rights of root; otherwise by a user namespace, in which nobody of the outside but the caller
    is known.

    Raises:
        OSError: the kernel or the container around this process forbids it.
    """
    user, group = os.geteuid(), os.getegid()
    flags = NEW_MOUNTS | NEW_PROCESSES | NEW_NETWORK | NEW_IPC | NEW_NAMES
    unshare(flags if is_privileged else flags | NEW_USER)
    if not is_privileged:
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{GUEST_ID} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{GUEST_ID} {group} 1", encoding="ascii")


def build_root(libraries: list[str], *, owner: int, work_bytes: int) -> None:
    """Makes the root described above, and leaves everything else behind. `owner`: of the writable folder.

    Raises:
        OSError: a mount is refused.
    """
    os.umask(0o022)  # whatever the caller's is: the guest has to find its way down these folders
    mount(None, "/", None, RECURSIVE | PRIVATE)
    new = _mount_point(libraries)  # for a moment, and in this namespace alone
    mount("root", new, "tmpfs", NO_SETUID | NO_DEVICES, "mode=755,size=1m,nr_inodes=4096")
    for path in [*libraries, *DEVICES]:
        _bind_read_only(path, new)
    for folder in _third_party(libraries):
        mount("empty", new + folder, "tmpfs", READ_ONLY | NO_SETUID | NO_DEVICES | NO_PROGRAMS, "size=4k,mode=555")
    os.makedirs(new + WORK_DIR, exist_ok=True)  # noqa: PTH103
    options = f"size={work_bytes},nr_inodes=1024,mode=700,uid={owner},gid={owner}"
    mount("work", new + WORK_DIR, "tmpfs", NO_SETUID | NO_DEVICES | NO_PROGRAMS, options)
    mount(None, new, None, REMOUNT | BIND | READ_ONLY | NO_SETUID | NO_DEVICES)
    os.chdir(new)
    pivot_root(".", ".")  # the old root now lies upon the new one
    umount(".", DETACH)
    os.chdir(WORK_DIR)


def _mount_point(libraries: list[str]) -> str:
    """A folder of the old root in which no library lies."""
    used = [os.path.realpath(path) + "/" for path in [*libraries, *DEVICES]]
    for folder in ("/tmp", "/mnt", "/var", "/home", "/sys"):
        if os.path.isdir(folder) and not any(path.startswith(f"{folder}/") for path in used):  # noqa: PTH112
            return folder
    raise OSError("no folder to build the sandbox's root upon")


def _bind_read_only(path: str, new: str) -> None:
    real = os.path.realpath(path)
    inside = new + real
    if not os.path.lexists(inside):
        if os.path.isdir(real):  # noqa: PTH112
            os.makedirs(inside, exist_ok=True)  # noqa: PTH103
        else:
            os.makedirs(os.path.dirname(inside), exist_ok=True)  # noqa: PTH103, PTH120
            Path(inside).touch()
        mount(real, inside, None, BIND | RECURSIVE)
        # flags that the outside has set can only be kept by who is not root there
        kept = os.statvfs(inside).f_flag & (NO_SETUID | NO_DEVICES | NO_PROGRAMS | 1024 | 2048)
        if os.statvfs(inside).f_flag & 4096:  # ST_RELATIME
            kept |= 1 << 21
        mount(None, inside, None, REMOUNT | BIND | READ_ONLY | NO_SETUID | kept)
    if path != real and not os.path.lexists(new + path):
        os.makedirs(os.path.dirname(new + path), exist_ok=True)  # noqa: PTH103, PTH120
        os.symlink(real, new + path)  # noqa: PTH211


def _third_party(libraries: list[str]) -> Iterator[str]:
    for path in libraries:
        for folder in ("site-packages", "dist-packages", "python3/dist-packages"):
            if os.path.isdir(f"{path}/{folder}"):  # noqa: PTH112
                yield os.path.realpath(f"{path}/{folder}")
