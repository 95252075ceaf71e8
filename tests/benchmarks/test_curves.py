"""The learning curves of the algorithms' pages: what is trained, and that a record keeps the runs of other seeds."""

import pytest

from benchmarks import curves
from sb3_pgx.settings.configs import check_hyperparameters


@pytest.mark.parametrize("name", curves.CLASSES)
def test_every_algorithm_has_a_task_with_settings_that_its_constructor_takes(name):
    specs = curves.specs_of(name)
    assert [spec.seed for spec in specs] == list(curves.SEEDS) and min(curves.SEEDS) >= 1_000
    for spec in specs:
        check_hyperparameters(spec.algorithm, spec.config)
        assert spec.config.hyperparameters.get("learning_starts", 0) < spec.timesteps


@pytest.mark.slow
def test_a_record_keeps_the_runs_of_other_seeds(tmp_path):
    for seed in (101, 100, 101):
        curves.record("a2c", [seed], tmp_path, timesteps=400)
    (entry,) = curves.recorded(tmp_path).values()
    assert [run["seed"] for run in entry["runs"]] == [100, 101]
    assert all(len(run["steps"]) == len(run["returns"]) == curves.POINTS for run in entry["runs"])
    words = curves.markdown("a2c", tmp_path)
    assert "seeds 100 to 101" in words and "400 steps" in words
