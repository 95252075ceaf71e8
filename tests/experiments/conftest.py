"""Results of runs, and what makes short comparisons shorter, for several test files."""

import sys
from collections.abc import Callable, Iterator

import pytest

from sb3_pgx.experiments.runs import RunResult


@pytest.fixture
def result() -> Callable[..., RunResult]:
    """Make the result of a finished run, or with ``error`` of a failed one, without training."""

    def make(label: str = "a", seed: int = 0, **outcome) -> RunResult:
        given = {"env_id": "CartPole-v1", "timesteps": 1000, "steps": 1000, "training_seconds": 2.0, **outcome}
        return RunResult(label=label, seed=seed, source=f"{label}.yml: default", **given)

    return make


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """Leave pictures empty: drawing them takes longer than the runs of a short comparison."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.backends.backend_agg.FigureCanvasAgg.print_png", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def jax_unseen() -> Iterator[None]:
    """
    Forget that other tests have imported JAX. Random actions are then played in a copy of this process, which starts at once;
    the environments of these tests do not use JAX.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "jax", raising=False)
        yield
