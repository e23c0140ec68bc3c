"""Which calls to the kernel a generated program may make: a list of those that computing takes, all others denied.

The list is compiled to a filter in the kernel's packet filter language and handed over by `prctl`; no library is
needed. Denied are, by not being listed: new processes and programs, sockets, mounts, namespaces, tracing, keys, BPF,
io_uring, memory files. Where a listed call could reach further, its arguments are looked at.
"""

import ctypes
import os
import struct
from collections.abc import Sequence

from .system import prctl

__all__ = ["forbid_all_but_computing", "install"]

# name, number on x86-64, number on AArch64; "-": that processor has no such call
CALLS = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, open 2 -, openat 257 56,
close 3 57, lseek 8 62, stat 4 -, lstat 6 -, fstat 5 80, newfstatat 262 79, statx 332 291, access 21 -,
faccessat 269 48, faccessat2 439 439, statfs 137 43, fstatfs 138 44, getdents 78 -, getdents64 217 61,
readlink 89 -, readlinkat 267 78, getcwd 79 17, chdir 80 49, fchdir 81 50, mkdir 83 -, mkdirat 258 34,
rmdir 84 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276, link 86 -,
linkat 265 37, symlink 88 -, symlinkat 266 36, truncate 76 45, ftruncate 77 46, fallocate 285 47, fsync 74 82,
fdatasync 75 83, chmod 90 -, fchmod 91 52, fchmodat 268 53, utimensat 280 88, umask 95 166, flock 73 32,
dup 32 23, dup2 33 -, dup3 292 24, pipe 22 -, pipe2 293 59, poll 7 -, ppoll 271 73, select 23 -,
pselect6 270 72, epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -,
epoll_pwait 281 22, eventfd2 290 19, sendto 44 206, recvfrom 45 207, shutdown 48 210, getsockname 51 204,
getsockopt 55 209, mmap 9 222, munmap 11 215, mprotect 10 226, mremap 25 216, madvise 28 233, brk 12 214,
membarrier 324 283, futex 202 98, set_robust_list 273 99, get_robust_list 274 100, rseq 334 293,
set_tid_address 218 96, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136,
rt_sigtimedwait 128 137, rt_sigsuspend 130 133, sigaltstack 131 132, pause 34 -, restart_syscall 219 128,
nanosleep 35 101, clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169,
time 201 -, times 100 153, alarm 37 -, getitimer 36 102, setitimer 38 103, getpid 39 172, getppid 110 173,
gettid 186 178, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177, getresuid 118 148,
getresgid 120 150, getgroups 115 158, getpgrp 111 -, getpgid 121 155, getsid 124 156, uname 63 160,
sysinfo 99 179, getrusage 98 165, getrlimit 97 163, getrandom 318 278, getcpu 309 168, sched_yield 24 124,
sched_getaffinity 204 123, sched_getparam 143 121, sched_getscheduler 145 120, sched_get_priority_max 146 125,
sched_get_priority_min 147 126, getpriority 140 141, exit 60 93, exit_group 231 94
"""
# allowed for some values of an argument alone
LOOKED_AT = """
clone 56 220, clone3 435 435, fcntl 72 25, ioctl 16 29, kill 62 129, tgkill 234 131, prctl 157 167,
prlimit64 302 261, socketpair 53 199
"""

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, the kernel's name for it (linux/audit.h)
KILL, DENY, NO_SUCH_CALL, ALLOW = 0x80000000, 0x00050000 | 1, 0x00050000 | 38, 0x7FFF0000  # EPERM, ENOSYS
LOAD, JUMP_IF_EQUAL, JUMP_IF_AT_LEAST, JUMP_IF_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, MACHINE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
PR_SET_SECCOMP, FILTER_MODE = 22, 2

CLONE_THREAD, CLONE_NEW_ANYTHING = 0x00010000, 0x7E020000
# F_DUPFD to F_SETLKW, F_DUPFD_CLOEXEC, F_GETPIPE_SZ, F_OFD_*: not F_SETOWN, by which the kernel sends signals
FILE_CONTROLS = (*range(8), 1030, 1032, 36, 37, 38)
DEVICE_CONTROLS = (0x5401, 0x5413, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONBIO, FIONCLEX, FIOCLEX
THREAD_NAMES = (15, 16)  # PR_SET_NAME, PR_GET_NAME
UNIX_FAMILY, STREAM = 1, (1, 1 | 0o2000000, 1 | 0o4000, 1 | 0o2004000)  # SOCK_STREAM, close-on-exec and non-blocking

Instruction = tuple[int, int, int, int]  # operation, jump if true, jump if false, operand


def forbid_all_but_computing() -> None:
    """From here on this thread, and those that it starts, can make listed calls alone. There is no way back.

    To be called by the process that is meant, as the filter holds its id. Needs PR_SET_NO_NEW_PRIVS.

    Raises:
        OSError: this kernel or processor has no such filters.
    """
    install(_filter(os.uname().machine, os.getpid()))


def install(filter_rows: Sequence[Instruction]) -> None:
    """Gives the kernel a filter, which it asks before each call of this thread. Raises OSError."""
    content = b"".join(struct.pack("=HBBI", *row) for row in filter_rows)
    rows = ctypes.create_string_buffer(content, len(content))
    # struct sock_fprog: a count, padding, a pointer
    description = ctypes.create_string_buffer(struct.pack("=H6xQ", len(content) // 8, ctypes.addressof(rows)), 16)
    prctl(PR_SET_SECCOMP, FILTER_MODE, ctypes.addressof(description))


def _filter(machine: str, process_id: int) -> list[Instruction]:
    if machine not in MACHINES or ctypes.sizeof(ctypes.c_void_p) != 8:
        raise OSError(f"no list of calls for {machine}")
    column, name = MACHINES[machine]
    numbers, looked_at = _numbers(CALLS, column), _numbers(LOOKED_AT, column)
    rows: list[Instruction] = [
        (LOAD, 0, 0, MACHINE),
        (JUMP_IF_EQUAL, 1, 0, name),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (JUMP_IF_AT_LEAST, 0, 1, 0x40000000),  # the x32 calls of x86-64 go by other numbers
        (RETURN, 0, 0, KILL),
    ]
    for number in numbers.values():
        rows += [(JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    # the C library then asks by the older call, whose flags a filter can see
    rows += [(JUMP_IF_EQUAL, 0, 1, looked_at["clone3"]), (RETURN, 0, 0, NO_SUCH_CALL)]
    threads_alone = [
        *_argument(0),
        (JUMP_IF_ANY_BIT, 2, 0, CLONE_NEW_ANYTHING),
        (JUMP_IF_ANY_BIT, 0, 1, CLONE_THREAD),
        (RETURN, 0, 0, ALLOW),
    ]
    pairs_alone = [*_argument(0), (JUMP_IF_EQUAL, 1, 0, UNIX_FAMILY), (RETURN, 0, 0, DENY), *_one_of(1, STREAM)]
    checks: dict[str, list[Instruction]] = {
        "clone": threads_alone,
        "fcntl": _one_of(1, FILE_CONTROLS),
        "ioctl": _one_of(1, DEVICE_CONTROLS),
        "kill": _one_of(0, (process_id,)),
        "tgkill": _one_of(0, (process_id,)),
        "prctl": _one_of(0, THREAD_NAMES),
        "prlimit64": _one_of(0, (0,)),  # its own limits; they can only be lowered
        "socketpair": pairs_alone,
    }
    for call, check in checks.items():
        rows += [(JUMP_IF_EQUAL, 0, len(check) + 1, looked_at[call]), *check, (RETURN, 0, 0, DENY)]
    return [*rows, (RETURN, 0, 0, DENY)]


def _numbers(table: str, column: int) -> dict[str, int]:
    calls = {name: numbers for name, *numbers in (row.split() for row in table.replace(",", "\n").split("\n") if row)}
    return {name: int(numbers[column]) for name, numbers in calls.items() if numbers[column] != "-"}


def _argument(position: int) -> list[Instruction]:
    """Loads the low half of an argument, which is all that calls with `int` arguments look at (little-endian)."""
    return [(LOAD, 0, 0, FIRST_ARGUMENT + 8 * position)]


def _one_of(position: int, values: tuple[int, ...]) -> list[Instruction]:
    rows = _argument(position)
    for value in values:
        rows += [(JUMP_IF_EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW)]
    return rows
