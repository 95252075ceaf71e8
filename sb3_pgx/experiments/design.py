"""What all runs of a comparison share, and what its report has to say about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ComparisonDesign:
    """
    :param env_ids: the environments, in the order of the report
    :param algorithms: labels of the algorithms, likewise
    :param seeds: of the runs
    :param timesteps: environment steps for each run
    :param thresholds: return that counts as solved, by environment, where there is one
    :param eval_episodes: episodes that each final policy played
    :param curve_episodes: episodes of each evaluation during training
    :param workers: runs at a time
    :param normalize: returns that the user wants to count as 0 and 1, by environment
    :param random_returns: mean return of a random policy, by environment, where the scale needs it
    :param command: what reproduces the comparison
    :param versions: of what decides the outcome
    """

    env_ids: tuple[str, ...]
    algorithms: tuple[str, ...]
    seeds: tuple[int, ...]
    timesteps: int
    thresholds: Mapping[str, float] = field(default_factory=dict)
    eval_episodes: int = 20
    curve_episodes: int = 5
    workers: int = 1
    normalize: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    random_returns: Mapping[str, float] = field(default_factory=dict)
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def scored(self) -> bool:
        """Whether returns become scores; those of a single environment stay returns, unless the user gave a scale."""
        return len(self.env_ids) > 1 or bool(self.normalize)
