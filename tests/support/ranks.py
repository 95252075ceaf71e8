"""Start several processes as ``torchrun`` does, and collect what they return."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("rank_runs.py")
ROOT = PROGRAM.parents[2]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def started(folder, *checks, size=2):
    """Start the processes, each with its rank in its environment."""
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    common["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return [
        subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM), str(folder), *checks],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def on_ranks(folder, *checks, size=2, seconds=300):
    """
    Run checks of :mod:`support.rank_runs` in several processes.

    :param folder: for their results
    :param checks: names of functions, with an argument after a colon
    :return: results by check, for each process
    """
    processes = started(folder, *checks, size=size)
    try:
        outputs = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(size)]
