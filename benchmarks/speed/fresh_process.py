"""Run a worker script in a fresh process, which finds of earlier compilations only what it is given."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.provenance import ROOT


def run_fresh(worker: Path, job: dict[str, Any], graphs: Path, compilers_own: Path) -> tuple[Any, float]:
    """
    Run a worker script.

    :param worker: the script; its last line is what it measured, in JSON, such as a number of seconds
    :param job: its argument
    :param graphs: folder of this package's kept graphs
    :param compilers_own: folder of TorchInductor's cache
    :return: what the worker printed, and the seconds of the whole process
    :raises RuntimeError: the worker failed; the message is the last line of its error
    """
    places = {"TORCHINDUCTOR_CACHE_DIR": str(compilers_own), "SB3_PGX_CACHE_DIR": str(graphs)}
    paths = {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(worker), json.dumps(job)], env={**os.environ, **places, **paths}, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{json.dumps(job)}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1]), seconds
