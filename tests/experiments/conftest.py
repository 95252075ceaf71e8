"""Runs and results that several test files start from."""

from collections.abc import Callable

import pytest

from sb3_pgx.experiments.runs import RunResult


@pytest.fixture
def result() -> Callable[..., RunResult]:
    """A finished run, or with ``error`` a failed one, without training anything."""

    def make(label: str = "a", seed: int = 0, **outcome) -> RunResult:
        given = {"env_id": "CartPole-v1", "timesteps": 1000, "steps": 1000, "training_seconds": 2.0, **outcome}
        return RunResult(label=label, seed=seed, source=f"{label}.yml: default", **given)

    return make
