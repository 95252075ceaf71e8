"""Learning claims: an algorithm with its published settings reaches a return within a number of environment steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from sb3_pgx.compare.peers import prepare
from sb3_pgx.compare.pool import run_all
from sb3_pgx.compare.report import thousands
from sb3_pgx.compare.runs import RunResult, RunSpec, versions
from sb3_pgx.compare.statistics import bootstrap_interval, interquartile_mean
from sb3_pgx.compare.verdict import Settings, Verdict

# Hyperparameters are tuned on seeds 100 and up: none of these had a say in them.
SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class LearningClaim:
    """The interquartile mean over seeds of the final return is at least ``threshold`` after ``timesteps`` steps."""

    algorithm: str
    env_id: str
    timesteps: int
    threshold: float
    seeds: tuple[int, ...] = SEEDS
    eval_episodes: int = 20

    @property
    def statement(self) -> str:
        """The claim in words."""
        return f"{self.algorithm} reaches {self.threshold:g} on {self.env_id} within {thousands(self.timesteps)} steps"

    def __call__(self, settings: Settings) -> Verdict:
        """Trains every seed and judges; raises what :func:`~sb3_pgx.compare.compare` raises for bad arguments."""
        peer, config, _ = prepare(self.algorithm, self.env_id, settings.configs)
        specs = [
            RunSpec(
                peer.label,
                peer.algorithm,
                self.env_id,
                seed,
                self.timesteps,
                config,
                curve_points=0,
                eval_episodes=self.eval_episodes,
            )
            for seed in self.seeds
        ]
        folder = None if settings.output is None else settings.output / "runs" / self.env_id.replace("/", "-")
        results = run_all(specs, folder, settings.workers, settings.progress)
        return judge(self, results, settings.command)


def judge(claim: LearningClaim, results: Sequence[RunResult], command: str) -> Verdict:
    """
    :param claim: the claim
    :param results: one run for each of its seeds
    :param command: what reproduces the verdict, for the record
    :return: the verdict; a run that failed makes the claim fail
    """
    finished = [r for r in results if r.error is None]
    errors = {r.seed: r.error for r in results if r.error is not None}
    means = [r.mean_return for r in finished]
    iqm = float(interquartile_mean(np.array(means))) if means else None
    interval = [float(end) for end in bootstrap_interval(means, interquartile_mean)] if len(means) > 1 else None
    passed = iqm is not None and not errors and iqm >= claim.threshold
    lines = [f"seed {r.seed}: {r.mean_return:.1f} after {thousands(r.steps)} steps" for r in finished]
    lines += [f"seed {seed}: failed, {error}" for seed, error in errors.items()]
    if iqm is not None:
        spread = f", 95 % interval [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else ""
        lines.append(f"interquartile mean {iqm:.1f}{spread}, threshold {claim.threshold:g}")
    lines.append("hyperparameters were tuned on seeds 100 and up, never on these")
    record = {
        "claim": claim.statement,
        "passed": passed,
        "threshold": claim.threshold,
        "timesteps": claim.timesteps,
        "interquartile_mean": iqm,
        "interval_95": interval,
        "mean_return_per_seed": {str(r.seed): r.mean_return for r in finished},
        "returns_per_seed": {str(r.seed): r.returns for r in finished},
        "steps_per_seed": {str(r.seed): r.steps for r in finished},
        "errors": {str(seed): error for seed, error in errors.items()},
        "hyperparameters": results[0].source,
        "versions": versions(),
        "date": date.today().isoformat(),
        "command": command,
    }
    return Verdict(claim.env_id, claim.statement, passed, tuple(lines), record)
