"""Searches without training: workers that are threads, and made-up results of runs."""

import time
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Pipe
from pathlib import Path
from threading import Thread

from sb3_pgx.experiments.runs import RunResult, execute
from sb3_pgx.tuning.worker_process import serve

TIMESTEPS, POINTS = 400, 4  # a point each 100 steps: CartPole-v1's entry has 8 environments, whose steps 100 is no multiple of


class ThreadWorker:
    """A worker that is a thread of this process. ``execute`` trains and evaluates a run."""

    def __init__(self, execute=execute):
        self.execute, self.pipe = execute, None

    def submit(self, task):
        if self.pipe is None:
            self.pipe, theirs = Pipe()
            Thread(target=serve, args=(theirs,), daemon=True).start()
        self.pipe.send(replace(task, execute=self.execute))

    def answer(self, go_on):
        self.pipe.send(go_on)

    def receive(self):
        return self.pipe.recv()

    def check_time(self):
        return None

    def close(self):
        if self.pipe is not None:
            self.pipe.close()  # the thread ends when it says or asks something
            self.pipe = None


@dataclass
class Stub:
    """
    Replaces training and evaluation. ``returns`` maps the trial's number, or the number and the seed, to the return;
    ``by_parameters``: the return depends only on settings and seed of the run, not on the number of its trial.
    """

    folder: Path
    returns: dict = field(default_factory=dict)
    errors: dict = field(default_factory=dict)
    hang_at: tuple | None = None
    seconds: float = 0.0
    by_parameters: bool = False

    def execute(self, spec, report, at_point=None):
        trial = int(spec.config.source.split()[1])
        if (trial, spec.seed) == self.hang_at:
            (self.folder / "hanging").touch()
            time.sleep(60)
        with (self.folder / "executions").open("a") as file:
            rate = spec.config.hyperparameters.get("learning_rate")
            file.write(f"{trial} {spec.seed} {rate}\n")
        time.sleep(self.seconds)
        value = self.returns.get((trial, spec.seed), self.returns.get(trial, float(trial)))
        if self.by_parameters:
            value = 1e6 * spec.config.hyperparameters["learning_rate"] % 97 + spec.seed
        common = {"label": spec.label, "env_id": spec.env_id, "seed": spec.seed, "timesteps": spec.timesteps, "source": ""}
        if error := self.errors.get(trial):
            return RunResult(**common, error=error, traceback="Traceback …")
        steps = [TIMESTEPS // POINTS * k for k in range(1, spec.curve_points + 1)]
        for step in steps:
            at_point(step, value)
        curve = {"curve_steps": steps, "curve_returns": [value] * len(steps)}
        return RunResult(**common, **curve, steps=spec.timesteps, returns=[value - 1, value + 1], training_seconds=1.0)

    def executions(self):
        """Return trial and seed of each completed execution."""
        return [tuple(map(int, line.split()[:2])) for line in self._lines()]

    def rates(self):
        return {int(line.split()[0]): line.split()[2] for line in self._lines()}

    def _lines(self):
        path = self.folder / "executions"
        return path.read_text().splitlines() if path.exists() else []
