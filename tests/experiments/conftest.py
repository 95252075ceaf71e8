"""Results of runs for several test files."""

from collections.abc import Callable

import pytest

from sb3_pgx.experiments.runs import RunResult


@pytest.fixture
def result() -> Callable[..., RunResult]:
    """Make the result of a finished run, or with ``error`` of a failed one, without training."""

    def make(label: str = "a", seed: int = 0, **outcome) -> RunResult:
        given = {"env_id": "CartPole-v1", "timesteps": 1000, "steps": 1000, "training_seconds": 2.0, **outcome}
        return RunResult(label=label, seed=seed, source=f"{label}.yml: default", **given)

    return make
