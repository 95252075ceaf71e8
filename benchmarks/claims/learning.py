"""Learning claims: an algorithm with its published settings reaches a return within a number of environment steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.claims.measure import EVAL_EPISODES, SEEDS, describe, measure, tell
from benchmarks.claims.verdict import Settings, Verdict, provenance
from sb3_pgx.experiments.number_format import thousands
from sb3_pgx.experiments.runs import RunResult


@dataclass(frozen=True)
class LearningClaim:
    """The interquartile mean over seeds of the final return is at least ``threshold`` after ``timesteps`` steps."""

    algorithm: str
    env_id: str
    timesteps: int
    threshold: float
    seeds: tuple[int, ...] = SEEDS
    eval_episodes: int = EVAL_EPISODES

    @property
    def statement(self) -> str:
        """The claim in words."""
        return f"{self.algorithm} reaches {self.threshold:g} on {self.env_id} within {thousands(self.timesteps)} steps"

    @property
    def trains(self) -> tuple[tuple[str, str], ...]:
        """The algorithm in the environment."""
        return ((self.algorithm, self.env_id),)

    def __call__(self, settings: Settings) -> Verdict:
        """Trains every seed and judges; raises what :func:`~sb3_pgx.experiments.compare` raises for bad arguments."""
        results = measure(self.algorithm, self.env_id, self.timesteps, self.seeds, settings, self.eval_episodes)
        return judge(self, results, settings.command)


def judge(claim: LearningClaim, results: Sequence[RunResult], command: str) -> Verdict:
    """
    :param claim: the claim
    :param results: one run for each of its seeds
    :param command: what reproduces the verdict, for the record
    :return: the verdict; a run that failed makes the claim fail
    """
    summary = describe(results)
    iqm, interval = summary["interquartile_mean"], summary["interval_95"]
    passed = iqm is not None and not summary["errors"] and iqm >= claim.threshold
    lines = tell(results)
    if iqm is not None:
        spread = f", 95 % interval [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else ""
        lines.append(f"interquartile mean {iqm:.1f}{spread}, threshold {claim.threshold:g}")
    lines.append("this package tunes hyperparameters on seeds 100 and up, never on these")
    record = {
        "claim": claim.statement,
        "passed": passed,
        "threshold": claim.threshold,
        "timesteps": claim.timesteps,
        **summary,
        **provenance(claim, command),
    }
    return Verdict(claim.env_id, claim.statement, passed, tuple(lines), record)
