"""Landlock: the kernel's own list of files that a process may open, without root and without namespaces."""

import ctypes
import os
import struct
from collections.abc import Iterable

from .system import system_call

__all__ = ["allow_files_alone"]

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every processor
ASK_VERSION, RULE_PATH_BENEATH = 1, 1
READ_FILE, READ_FOLDER = 1 << 2, 1 << 3
WRITE_FILE, TRUNCATE = 1 << 1, 1 << 14
# by version of Landlock: how many kinds of access there are; the later ones cannot be asked of an older kernel
KINDS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
NETWORK_VERSION, SCOPE_VERSION = 4, 6
BIND_AND_CONNECT = 0b11
ABSTRACT_SOCKETS_AND_SIGNALS = 0b11
EXECUTE, DEVICE_CONTROL = 1 << 0, 1 << 15


def allow_files_alone(readable: Iterable[str], writable: Iterable[str], devices: Iterable[str]) -> None:
    """From here on this process opens files below these paths alone, and connects to nothing. There is no way back.

    `readable`, `writable`: folders, or files. `devices`: files that are opened for reading and writing, such as
    /dev/null. Paths that do not exist are left out. Needs PR_SET_NO_NEW_PRIVS.

    Raises:
        OSError: this kernel has no Landlock, or it is off.
    """
    version = system_call("landlock_create_ruleset", CREATE_RULESET, 0, 0, ASK_VERSION)
    everything = (1 << KINDS.get(version, 16)) - 1
    network = BIND_AND_CONNECT if version >= NETWORK_VERSION else 0
    scope = ABSTRACT_SOCKETS_AND_SIGNALS if version >= SCOPE_VERSION else 0
    size = 24 if scope else 16 if network else 8
    attributes = ctypes.create_string_buffer(struct.pack("=QQQ", everything, network, scope)[:size], size)
    rules = system_call("landlock_create_ruleset", CREATE_RULESET, ctypes.addressof(attributes), size, 0)
    try:
        for path in readable:
            _allow(rules, path, READ_FILE | READ_FOLDER)
        for path in writable:
            _allow(rules, path, everything & ~(EXECUTE | DEVICE_CONTROL))
        for path in devices:
            _allow(rules, path, everything & (READ_FILE | WRITE_FILE | TRUNCATE))
        system_call("landlock_restrict_self", RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _allow(rules: int, path: str, access: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):  # noqa: PTH112
            access &= READ_FILE | WRITE_FILE | TRUNCATE  # the kernel refuses rules about folders for a file
        rule = ctypes.create_string_buffer(struct.pack("=Qi", access, opened), 12)
        system_call("landlock_add_rule", ADD_RULE, rules, RULE_PATH_BENEATH, ctypes.addressof(rule), 0)
    finally:
        os.close(opened)
