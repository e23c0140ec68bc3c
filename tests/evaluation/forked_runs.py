"""Runs of `baichuan2 evaluate` as processes of their own, forked from one that has imported everything already.

    python -m tests.evaluation.forked_runs JOBS.json

JOBS.json: a list of {"processes": N, "arguments": [...], "log": FILE, "end": [rank, after, how]}. Each process gets the
variables that a launcher sets, and appends what it prints to FILE. "end", where it is given: that process gets a signal
of that number, or fails by a full disk where `how` is "full", when it has so many answers. On standard output one line
of exit codes for each job, those of signals negative.
"""

import errno
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import matplotlib.figure  # noqa: F401

import baichuan2.evaluation.run
import baichuan2.model.modeling_baichuan  # noqa: F401  # for all of the processes at once
from baichuan2 import launched
from baichuan2.cli.main import main
from baichuan2.evaluation.suite_folder import ItemLog

launched.SECONDS_FOR_THE_FIRST = 1.0


def end_after(count: int, how: int | str) -> None:
    """Lets this process come to an end when it has written so many answers."""
    append, done = ItemLog.append, 0

    def counted(log, record):
        nonlocal done
        if done == count and how == "full":
            os.write = full
        append(log, record)
        done += 1
        if done == count and how != "full":
            os.kill(os.getpid(), how)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    ItemLog.append = counted


def be_process(rank: int, job: dict, port: int) -> int:
    """Runs as one process of a job; its exit code."""
    world = job["processes"]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if world > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    descriptor = os.open(job["log"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if "end" in job and job["end"][0] == rank:
        end_after(*job["end"][1:])
    try:
        return main(["evaluate", *job["arguments"]])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 71
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def run_job(job: dict) -> list[int]:
    """Exit codes of a job's processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    children = []
    for rank in range(job["processes"]):
        child = os.fork()
        if child == 0:
            os._exit(be_process(rank, job, port))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


if __name__ == "__main__":
    for one in json.loads(Path(sys.argv[1]).read_text()):
        print(*run_job(one), flush=True)
