"""
Shows in two minutes what the package is for: ``make demo``.

SB3's PPO and this package's learn on the same seeds, REINFORCE learns with and without a baseline, and a run with a mistake
gets a finding of the health check. The report opens with these three.
"""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

from stable_baselines3.common.env_util import make_vec_env

from sb3_pgx.algorithms.ppo import PPO
from sb3_pgx.diagnostics import HealthCallback
from sb3_pgx.diagnostics.panels import alarmed_families, panels_of
from sb3_pgx.diagnostics.rules import RuleState
from sb3_pgx.experiments.comparison import Comparison, plan_comparison, report_runs, run_share
from sb3_pgx.experiments.pool import Runner, run_all
from sb3_pgx.experiments.runs import RunResult
from sb3_pgx.pages.blocks import Block, Bullets, Section
from sb3_pgx.pages.charts import Chart
from sb3_pgx.pages.pictures import save_picture

ENV, THEIRS, OURS, PLAIN, BASELINE = "CartPole-v1", "sb3:ppo", "ppo", "reinforce", "reinforce_baseline"
TIMESTEPS, SEEDS = 40_000, 3
TOO_HIGH, SICK_STEPS = 0.05, 8_192  # the learning rate of the run with a mistake, and its environment steps


def show(
    output: Path | None = None, timesteps: int = TIMESTEPS, seeds: int = SEEDS, progress: bool = True, runner: Runner = run_all
) -> Comparison:
    """
    Train the runs and write the report.

    :param output: folder for the results; default ``runs/compare-CartPole-v1-<time>``
    :param timesteps: environment steps per run
    :param seeds: number of seeds
    :param progress: whether to show a progress bar and one line per run
    :param runner: executes the runs
    """
    plan = plan_comparison(ENV, [THEIRS, OURS, PLAIN, BASELINE], timesteps, seeds, output)
    results = run_share(plan, progress, runner)
    health = sick_run()
    states = health.rule_states
    steps = [numbers["timesteps"] for numbers in health.history]
    chart = Chart("finding", FINDING, panels_of(alarmed_families(states)[:1], steps, health.series, states))
    if chart.panels:
        save_picture(chart, plan.output / f"{chart.name}.png")
    lines = [line for line in (same_curve(results), baseline(results), finding(states)) if line]
    blocks: tuple[Block, ...] = (Bullets(tuple(lines)), *([chart] if chart.panels else []))
    preface = (Section("What you see", blocks, brief=True),)
    return report_runs(results, plan.design, plan.output, preface)


FINDING = (
    f"The run with learning_rate={TOO_HIGH}: a finding of HealthCallback. Green: healthy range. Dotted red line: beyond it, "
    "the rule is in alarm."
)


def sick_run() -> HealthCallback:
    """Train PPO with a learning rate that is much too high, and return the callback with its findings."""
    env = make_vec_env(ENV, 8, seed=0)
    health = HealthCallback()
    model = PPO("MlpPolicy", env, TOO_HIGH, n_steps=64, batch_size=64, n_epochs=5, seed=0, device="cpu", compile=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report has the finding
        model.learn(SICK_STEPS, callback=health)
    env.close()
    return health


def same_curve(results: Sequence[RunResult]) -> str:
    """Compare the evaluations and the seconds of SB3's PPO and of this package's, seed by seed."""
    theirs, ours = _runs(results, THEIRS), _runs(results, OURS)
    pairs = [(theirs[seed], ours[seed]) for seed in theirs if seed in ours]
    if not pairs:
        return ""
    curve, equal = pairs[0][1].curve_steps, min(_equal_points(*pair) for pair in pairs)
    seconds = [sum(run.training_seconds for run in runs) / len(pairs) for runs in zip(*pairs, strict=True)]
    later = (
        "; later ones differ because compiled code rounds in another order" if equal < len(curve) else ", which is all of them"
    )
    return (
        f"The same curve in less time: on the same seeds, the first {equal} evaluations of {OURS} equal those of {THEIRS} to "
        f"the last digit{later}. A run took {seconds[1]:.1f} s instead of {seconds[0]:.1f} s, compiling included."
    )


def _equal_points(one: RunResult, other: RunResult) -> int:
    """Return the number of evaluations from the start of two runs that are equal."""
    points = list(zip(one.curve_returns, other.curve_returns, strict=False))
    return next((i for i, (a, b) in enumerate(points) if a != b), len(points))


def baseline(results: Sequence[RunResult]) -> str:
    """Compare REINFORCE with and without a baseline."""
    means = [[run.mean_return for run in _runs(results, label).values()] for label in (PLAIN, BASELINE)]
    if not all(means):
        return ""
    without, with_one = (sum(values) / len(values) for values in means)
    return (
        "A baseline lowers the variance of the gradient: REINFORCE ends with a mean return of "
        f"{without:.0f}, and with a learned baseline of {with_one:.0f}, after the same number of steps."
    )


def finding(states: Sequence[RuleState]) -> str:
    """Return the most frequent alarm of a run."""
    alarmed = [state for state in states if state.alarms]
    if not alarmed:
        return ""
    worst = max(alarmed, key=lambda state: state.alarms)
    return (
        f"A finding of the health check in a run with learning_rate={TOO_HIGH}: {worst.rule.name}, at {worst.alarms} of "
        f"{worst.judged} updates: {worst.rule.meaning}. Try this: {worst.rule.remedy}."
    )


def _runs(results: Sequence[RunResult], label: str) -> dict[int, RunResult]:
    """Return the finished runs of an algorithm by seed."""
    return {run.seed: run for run in results if run.label == label and run.error is None}


def main() -> None:
    """Run the demonstration from the command line."""
    parser = argparse.ArgumentParser(prog="python -m sb3_pgx.experiments.demo", description=__doc__)
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the results")
    comparison = show(parser.parse_args().output)
    print(f"\n{comparison.brief}\nopen {comparison.output / 'report.html'} in a browser")


if __name__ == "__main__":
    main()
