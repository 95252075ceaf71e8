"""Start several processes as ``torchrun`` does, and collect what they return."""

import json
import multiprocessing
import os
import socket
import time
from pathlib import Path

from support.rank_runs import run_rank

# Copies of a process that has imported the package, see conftest.py: importing it takes each process some seconds.
CONTEXT = multiprocessing.get_context("forkserver")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def started(folder, *checks, size=2):
    """Start the processes, each with its rank in its environment. Their output is in the folder, see :func:`output`."""
    common = {**os.environ, "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common["GLOO_SOCKET_IFNAME"] = "lo"
    variables = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    processes = [CONTEXT.Process(target=run_rank, args=(own, str(folder), *checks), daemon=True) for own in variables]
    for process in processes:
        process.start()
    return processes


def output(folder, rank):
    """Return what a process has printed."""
    return Path(folder, f"{rank}.txt").read_text()


def on_ranks(folder, *checks, size=2, seconds=300):
    """
    Run checks of :mod:`support.rank_runs` in several processes.

    :param folder: for their results
    :param checks: names of functions, with an argument after a colon
    :return: results by check, for each process
    """
    processes, deadline = started(folder, *checks, size=size), time.monotonic() + seconds
    try:
        for process in processes:
            process.join(max(deadline - time.monotonic(), 0.0))
    finally:
        for process in processes:
            process.kill()
    for rank, process in enumerate(processes):
        assert process.exitcode == 0, output(folder, rank)
    return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(size)]
