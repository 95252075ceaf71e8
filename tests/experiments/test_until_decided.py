"""Comparisons that add seeds until they are decided, with made-up results instead of training."""

import numpy as np
import pytest

from sb3_pgx.cli import main
from sb3_pgx.experiments.comparison import plan_comparison, run_comparison
from sb3_pgx.experiments.pool import keep_result
from sb3_pgx.experiments.runs import RunResult

pytestmark = pytest.mark.usefixtures("undrawn")


class MadeUpRuns:
    """Executes runs whose return is 100, or ``better`` for a2c, with some noise; remembers the seeds."""

    def __init__(self, better):
        self.better, self.seeds = better, []

    def __call__(self, specs, paths, workers, progress, on_result):
        results = []
        for spec, path in zip(specs, paths, strict=True):
            self.seeds.append(spec.seed)
            noise = np.random.default_rng([spec.seed, spec.label == "a2c"]).normal()
            value = (self.better if spec.label == "a2c" else 100.0) + noise
            result = RunResult(
                spec.label, spec.env_id, spec.seed, spec.timesteps, spec.config.source, steps=spec.timesteps,
                curve_steps=[256], curve_returns=[value], returns=[value] * 2, training_seconds=1.0,
                versions=spec.versions, curve_seconds=[1.0],
            )  # fmt: skip
            results.append(keep_result(result, path))
        return results


def plan(folder, **changes):
    given = {"seeds": 3, "until_decided": 9, "eval_episodes": 2, "output": folder / "out", **changes}
    return plan_comparison("CartPole-v1", ["a2c", "ppo"], 256, **given)


def test_a_clear_difference_ends_at_the_first_look(tmp_path):
    runs = MadeUpRuns(better=200.0)
    found = run_comparison(plan(tmp_path, progress=False, runner=runs))
    assert sorted(set(runs.seeds)) == [0, 1, 2] and found.analysis.pairs[0].verdict.verdict == "better"
    assert "Looks were declared after 3, 6, 9 seeds" in found.report and "Look 1 of 3" in found.report
    assert "--seeds 3 --eval-episodes 2 --until-decided 9" in found.report


def test_batches_are_added_up_to_the_limit_and_none_is_trained_twice(tmp_path):
    runs = MadeUpRuns(better=100.0)
    found = run_comparison(plan(tmp_path, progress=False, runner=runs))
    assert sorted(runs.seeds) == [seed for seed in range(9) for _ in range(2)]
    assert found.analysis.pairs[0].verdict.verdict == "undecided" and "Look 3 of 3: this is the last one" in found.report


def test_equivalence_within_a_margin_decides_too(tmp_path):
    runs = MadeUpRuns(better=100.0)
    found = run_comparison(plan(tmp_path, equivalence=10.0, progress=False, runner=runs))
    (pair,) = found.analysis.pairs
    assert pair.verdict.verdict == "equivalent" and max(runs.seeds) == 2
    assert "two one-sided Welch t-tests (Schuirmann, 1987)" in found.report and "to lie within ±10" in found.report
    assert pair.verdict.level == pytest.approx(0.05 / 3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--equivalence", "-1"], "equivalence is -1; it must be a positive number"),
        (["--until-decided", "3"], "until-decided is 3; it must be above the 3 seeds of the first batch"),
        (["--seeds", "1", "--until-decided", "3"], "until-decided needs --seeds 2 or more"),
        (["--until-decided", "9", "--shard", "1/2", "--output", "x"], "--shard and --until-decided exclude each other"),
        (["--until-decided", "9", "--report-only"], "cannot be combined with --until-decided"),
    ],
)
def test_options_without_a_meaning_are_refused(options, sentence, capsys):
    assert main(["compare", "--env", "CartPole-v1", "--algos", "a2c", "ppo", "--timesteps", "256", *options]) == 2
    assert sentence in capsys.readouterr().err
