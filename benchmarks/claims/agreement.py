"""Agreement claims: an algorithm of this package learns as its peer does with the same settings, neither worse nor better."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.claims.measure import describe, difference_of, measure, tell, tell_difference
from benchmarks.claims.verdict import Settings, Verdict, provenance
from sb3_pgx.experiments.number_format import thousands
from sb3_pgx.experiments.runs import RunResult
from sb3_pgx.experiments.statistics import area_under_curve


@dataclass(frozen=True)
class AgreementClaim:
    """
    The 95 % interval of the difference of interquartile means over seeds contains 0, both for the final return and for the
    area under the learning curve. An interval that is wide contains 0 easily: its width is part of the verdict.

    ``algorithm`` and ``peer`` read the same hyperparameter file.
    """

    algorithm: str
    peer: str
    env_id: str
    timesteps: int
    seeds: tuple[int, ...] = tuple(range(10))

    @property
    def statement(self) -> str:
        """The claim in words."""
        return f"{self.algorithm} learns as {self.peer} does on {self.env_id} in {thousands(self.timesteps)} steps"

    @property
    def trains(self) -> tuple[tuple[str, str], ...]:
        """Both algorithms in the environment."""
        return ((self.algorithm, self.env_id), (self.peer, self.env_id))

    def __call__(self, settings: Settings) -> Verdict:
        """Trains every seed of both and judges; raises what :func:`~sb3_pgx.experiments.compare` raises for bad arguments."""
        ours, theirs = (
            measure(name, self.env_id, self.timesteps, self.seeds, settings) for name in (self.algorithm, self.peer)
        )
        return judge(self, ours, theirs, settings.command)


def judge(claim: AgreementClaim, ours: Sequence[RunResult], theirs: Sequence[RunResult], command: str) -> Verdict:
    """
    :param claim: the claim
    :param ours: one run of the algorithm for each seed
    :param theirs: one run of the peer for each seed
    :param command: what reproduces the verdict, for the record
    :return: the verdict; a run that failed makes the claim fail
    """
    runs = {claim.algorithm: ours, claim.peer: theirs}
    lines = [f"{label}, {line}" for label, results in runs.items() for line in tell(results)]
    differences: dict[str, Any] = {}
    if not any(r.error for results in runs.values() for r in results):
        differences["final return"] = difference_of({k: {r.seed: r.mean_return for r in v} for k, v in runs.items()})
        differences["area under the learning curve"] = difference_of(
            {k: {r.seed: area_under_curve(r.curve_steps, r.curve_returns) for r in v} for k, v in runs.items()}
        )
    lines += [tell_difference(name, d) for name, d in differences.items()]
    passed = bool(differences) and all(d["interval_95"][0] <= 0 <= d["interval_95"][1] for d in differences.values())
    record = {
        "claim": claim.statement,
        "passed": passed,
        "timesteps": claim.timesteps,
        "differences": differences,
        "runs": {label: describe(results) for label, results in runs.items()},
        **provenance(claim, command),
    }
    return Verdict(f"as {claim.peer}, {claim.env_id}", claim.statement, passed, tuple(lines), record)
