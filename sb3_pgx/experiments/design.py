"""The settings that all runs of a comparison share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product

from sb3_pgx.experiments.runs import RunResult


@dataclass(frozen=True)
class ComparisonDesign:
    """
    The settings that all runs of a comparison share, as its report shows them.

    :param env_ids: names of the environments, in the order of the report
    :param algorithms: labels of the algorithms, in the order of the report
    :param seeds: seeds of the runs
    :param timesteps: environment steps per run
    :param thresholds: return that counts as solved, by environment; environments without a threshold are left out
    :param eval_episodes: episodes that each final policy plays
    :param curve_episodes: episodes of each evaluation during training
    :param workers: number of runs at the same time on one machine; ``None`` if unknown or on several machines
    :param normalize: returns that the user wants to count as 0 and as 1, by environment
    :param random_returns: mean return of a random policy, by environment, if the environment's scale needs it
    :param random_failures: why a random policy has no return, by environment, if the environment's scale needs it
    :param command: the command that reproduces the comparison
    :param versions: versions of the packages that affect results
    :param margin: largest difference of means that counts as equivalent, in units of return, or of score if there are scores;
        0 to ask only which algorithm is better
    :param looks: numbers of seeds after which the comparison may end, declared before the first run; empty if it ends only
        when all seeds are done
    """

    env_ids: tuple[str, ...]
    algorithms: tuple[str, ...]
    seeds: tuple[int, ...]
    timesteps: int
    thresholds: Mapping[str, float] = field(default_factory=dict)
    eval_episodes: int = 20
    curve_episodes: int = 5
    workers: int | None = 1
    normalize: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    random_returns: Mapping[str, float] = field(default_factory=dict)
    random_failures: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    margin: float = 0.0
    looks: tuple[int, ...] = ()

    def missing(self, results: Iterable[RunResult]) -> list[tuple[str, str, int]]:
        """Return environment, algorithm and seed of each run that is not among the results."""
        found = {(r.env_id, r.label, r.seed) for r in results}
        return [run for run in product(self.env_ids, self.algorithms, self.seeds) if run not in found]

    def without_scale(self) -> list[str]:
        """Return a sentence for each environment in which a random policy has no return, so that it cannot count as 0."""
        return [
            f"Random actions in {env_id} have no return: {why}. The worst run counts as 0 there; "
            f"--normalize {env_id}=LOW,HIGH gives the returns that count as 0 and as 1."
            for env_id, why in self.random_failures.items()
        ]

    @property
    def scored(self) -> bool:
        """Whether returns are normalised to scores. Returns of a single environment are not, unless the user gave a scale."""
        return len(self.env_ids) > 1 or bool(self.normalize)
