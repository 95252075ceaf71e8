"""Tuning claims: hyperparameters that ``sb3-pgx tune`` found beat the defaults of the class, on seeds that it never saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.claims.measure import describe, difference_of, measure_config, tell, tell_difference
from benchmarks.claims.verdict import Settings, Verdict, provenance
from sb3_pgx.experiments.number_format import thousands
from sb3_pgx.experiments.peers import resolve_peer
from sb3_pgx.experiments.runs import RunResult
from sb3_pgx.settings.configs import CLASS_DEFAULTS, RunConfig, config_folder, load_config

TUNED = "tuned"  # the folder with what the searches found, beside the published hyperparameters


@dataclass(frozen=True)
class TuningClaim:
    """
    The 95 % interval of a difference of interquartile means over seeds lies above 0: the final return with what a search found
    (``zoo_configs/tuned/<algorithm>.yml``, whose first lines say how) minus that with the defaults of the class.
    """

    algorithm: str
    env_id: str
    timesteps: int
    seeds: tuple[int, ...] = tuple(range(10))

    @property
    def statement(self) -> str:
        """The claim in words."""
        return f"{self.algorithm} tuned beats its defaults on {self.env_id} in {thousands(self.timesteps)} steps"

    @property
    def trains(self) -> tuple[tuple[str, str], ...]:
        """The algorithm in the environment."""
        return ((self.algorithm, self.env_id),)

    def __call__(self, settings: Settings) -> Verdict:
        """Trains every seed with both; raises what :func:`~sb3_pgx.experiments.compare` raises for bad arguments."""
        configs = {
            "tuned": load_config(self.algorithm, self.env_id, config_folder() / TUNED),
            "defaults": RunConfig(CLASS_DEFAULTS),
        }
        peer = resolve_peer(self.algorithm)
        runs = {
            name: measure_config(peer, config, self.env_id, self.timesteps, self.seeds, settings)
            for name, config in configs.items()
        }
        return judge(self, runs, settings.command)


def judge(claim: TuningClaim, runs: Mapping[str, Sequence[RunResult]], command: str) -> Verdict:
    """
    :param claim: the claim
    :param runs: one run for each seed, tuned, and with the defaults
    :param command: what reproduces the verdict, for the record
    :return: the verdict; a run that failed makes the claim fail
    """
    lines = [f"{name}, {line}" for name, results in runs.items() for line in tell(results)]
    differences: dict[str, Any] = {}
    if not any(r.error for results in runs.values() for r in results):
        gain = difference_of({name: {r.seed: r.mean_return for r in results} for name, results in runs.items()})
        differences = {"final return": gain}
        lines.append(tell_difference("final return", gain))
    passed = bool(differences) and differences["final return"]["interval_95"][0] > 0
    record = {
        "claim": claim.statement,
        "passed": passed,
        "timesteps": claim.timesteps,
        "differences": differences,
        "runs": {name: describe(results) for name, results in runs.items()},
        **provenance(claim, command),
    }
    return Verdict(f"{claim.algorithm}, {claim.env_id}", claim.statement, passed, tuple(lines), record)
