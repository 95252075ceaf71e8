"""
Compare the speed of the last commit with that of an earlier one: both train the same cases in turns.

    python -m benchmarks.speed.pairs fec10dd --cases ppo-cartpole a2c-cartpole
    python -m benchmarks.speed.pairs fec10dd --restarts 3 --rounds 5 --dry

Processes of the same code differ by up to 5 %, for as long as they live. So each case is measured in several pairs of fresh
processes; the 95 % interval of the median ratio is bootstrapped over the pairs of processes, not over rounds. Both commits are
checked out into temporary folders, so that the working tree may change meanwhile.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks import RESULTS
from benchmarks.provenance import ROOT, git, provenance
from benchmarks.speed.cases import Case, select_cases
from benchmarks.speed.timed_code import hash_of_all
from sb3_pgx.experiments.pool import write_json

RESTARTS, ROUNDS = 9, 12
WORKER = Path(__file__).with_name("pairs_worker.py")


class Training:
    """
    A process that trains a case with the package of one checkout.

    :param case: case of the benchmark; only this package's algorithm is trained
    :param checkout: folder of the checkout
    :param cache: folder for compiled code
    """

    def __init__(self, case: Case, checkout: Path, cache: Path):
        paths = os.pathsep.join(map(str, (checkout, ROOT)))  # an early commit has no environments for benchmarks
        places = {"TORCHINDUCTOR_CACHE_DIR": str(cache / "torch"), "SB3_PGX_CACHE_DIR": str(cache / "graphs")}
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), json.dumps(asdict(case) | {"arguments": case.arguments(case.algorithm)})],
            env={**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1", **places},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> None:
        """Wait until the model has compiled what it compiles, and stay on one core from then on."""
        self._answer()
        os.sched_setaffinity(self._process.pid, {max(os.sched_getaffinity(0))})

    def seconds(self, timesteps: int) -> float:
        """Continue training; return the seconds that it took."""
        assert self._process.stdin is not None
        print(timesteps, file=self._process.stdin, flush=True)
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a training ended with exit code {self._process.wait()}; its error is above")
        return line

    def __enter__(self) -> "Training":
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


def speed_ratios(case: Case, checkouts: Sequence[Path], rounds: int, timesteps: int, caches: Path) -> list[float]:
    """
    Train in one pair of fresh processes. Return how many times as fast the first checkout is as the second, per round.

    :param case: case of the benchmark
    :param checkouts: two folders
    :param rounds: number of rounds; the order changes from round to round
    :param timesteps: environment steps per round
    :param caches: folder with the compiled code of earlier processes
    """
    with ExitStack() as stack:
        pair = [stack.enter_context(Training(case, place, caches / str(i))) for i, place in enumerate(checkouts)]
        for training in pair:
            training.wait()
        ratios = []
        for turn in range(rounds):
            order = pair if turn % 2 else pair[::-1]
            seconds = {training: training.seconds(timesteps) for training in order}
            ratios.append(seconds[pair[1]] / seconds[pair[0]])
    return ratios


def median_and_interval(ratios: np.ndarray) -> tuple[float, float, float]:
    """
    Return the median, and its 95 % interval by 4,000 bootstrap draws over rows.

    :param ratios: ``[pairs of processes, rounds]``
    """
    rows = np.random.default_rng(0).integers(len(ratios), size=(4000, len(ratios)))
    low, high = np.quantile(np.median(ratios[rows].reshape(len(rows), -1), axis=1), [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """Check a commit out into a temporary folder, and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="sb3-pgx-pairs-") as folder:
        place = Path(folder) / "checkout"
        subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--detach", "--quiet", str(place), commit], check=True)
        try:
            yield place
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(place)], check=True)


def main(arguments: list[str]) -> int:
    """Run the command. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.pairs", description=__doc__.strip().split("\n")[0])
    parser.add_argument("commit", help="commit to compare with")
    parser.add_argument("--cases", nargs="+", help="cases of the benchmark (default: all that train this package)")
    parser.add_argument("--restarts", type=int, default=RESTARTS, help="pairs of processes per case (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds per pair of processes (default: %(default)s)")
    parser.add_argument("--dry", action="store_true", help="print the ratios and write no file")
    options = parser.parse_args(arguments)
    other = git(ROOT, "rev-parse", "--verify", f"{options.commit}^{{commit}}")
    if other is None:
        parser.error(f"{options.commit!r} is no commit of this repository")
    source = {**provenance(), "code_hash": hash_of_all()}
    file = RESULTS / "pairs" / f"{str(source['commit'])[:7]}-{other[:7]}.json"
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["cases"] if file.exists() else {}
    caches = tempfile.TemporaryDirectory(prefix="sb3-pgx-pairs-")
    with worktree("HEAD") as ours, worktree(other) as theirs, caches as folder:
        for case in select_cases(options.cases):
            if ":" in case.algorithm:
                continue
            cache = Path(folder) / case.name
            ratios = [
                speed_ratios(case, (ours, theirs), options.rounds, case.timesteps, cache) for _ in range(options.restarts)
            ]
            median, low, high = (round(x, 3) for x in median_and_interval(np.array(ratios)))
            print(f"{case.name}: {median} [{low}, {high}] times as fast as {other[:7]}", flush=True)
            command = f"python -m benchmarks.speed.pairs {' '.join(arguments)}"
            results[case.name] = {
                "median": median,
                "interval": [low, high],
                "ratios": [[round(x, 4) for x in row] for row in ratios],
                "command": command,
            }
            if not options.dry:
                write_json(file, {"provenance": source, "other": other, "cases": results})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
