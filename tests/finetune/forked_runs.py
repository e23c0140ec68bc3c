"""Runs of `baichuan2 finetune` with several processes each, forked from one that has imported everything already.

    python -m tests.finetune.forked_runs JOBS.json

JOBS.json: a list of {"processes": N, "arguments": [...], "log": FILE}. Each process gets the variables that a launcher
sets; what it prints is appended to FILE. On standard output one line of exit codes for each job.
"""

import json
import os
import socket
import sys
import traceback
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed  # noqa: F401  # for all of the processes at once
import peft  # noqa: F401

import baichuan2.finetune.train  # noqa: F401
from baichuan2.cli.main import main


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def be_process(rank: int, world: int, port: int, arguments: list[str], log: Path) -> int:
    """Runs as one process of a job; its exit code."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    descriptor = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        return main(["finetune", *arguments])
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def run_job(job: dict) -> list[int]:
    """Exit codes of a job's processes."""
    port = free_port()
    children = []
    for rank in range(job["processes"]):
        child = os.fork()
        if child == 0:
            os._exit(be_process(rank, job["processes"], port, job["arguments"], Path(job["log"])))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


if __name__ == "__main__":
    for one in json.loads(Path(sys.argv[1]).read_text()):
        print(*run_job(one), flush=True)
