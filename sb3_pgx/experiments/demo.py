"""
Shows in two minutes what the package is for: ``make demo``.

SB3's PPO and this package's learn on the same seeds, REINFORCE learns with and without a baseline, and a run with a mistake
gets a finding of the health check. The report opens with these three.
"""

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stable_baselines3.common.env_util import make_vec_env

from sb3_pgx.algorithms.ppo import PPO
from sb3_pgx.diagnostics import HealthCallback
from sb3_pgx.diagnostics.panels import alarmed_families, alarmed_metrics, panels_of
from sb3_pgx.diagnostics.rules import RuleState
from sb3_pgx.experiments.analysis import analyse
from sb3_pgx.experiments.comparison import Comparison, plan_comparison, report_runs, run_share
from sb3_pgx.experiments.design import ComparisonDesign
from sb3_pgx.experiments.number_format import thousands
from sb3_pgx.experiments.pool import Runner, run_all
from sb3_pgx.experiments.report.charts import compose_charts
from sb3_pgx.experiments.runs import RunResult
from sb3_pgx.experiments.verdicts import WORSE
from sb3_pgx.pages.blocks import Block, Section
from sb3_pgx.pages.charts import Chart
from sb3_pgx.pages.pictures import save_picture

ENV, PLAIN, BASELINE = "CartPole-v1", "reinforce[baseline=None]", "reinforce_baseline"
THEIRS, OURS = "sb3:ppo[batch_size=64]", "ppo[batch_size=64]"  # SB3's default; in the file of settings it is 256
TIMESTEPS, SEEDS = 20_000, 3  # of PPO 6,250 gradient steps, enough for compiling them to pay
MEASURES_VARIANCE = "examples/baselines_and_variance.py measures the variance itself"
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
    names = [THEIRS, OURS, PLAIN, BASELINE]
    plan = plan_comparison(ENV, names, timesteps, seeds, output, progress=progress, runner=runner)
    results = run_share(plan)
    health = sick_run()
    blocks: list[Block] = []
    for sentence, chart in (
        (same_curve(results), curves("same_curve", results, plan.design, (THEIRS, OURS))),
        (baseline(results, plan.design), curves("baseline", results, plan.design, (PLAIN, BASELINE))),
        (finding(health.rule_states), finding_chart(health)),
    ):
        if sentence:
            save_picture(chart, plan.output / f"{chart.name}.png")
            blocks += [sentence, chart]
    preface = (Section("What you see", tuple(blocks), brief=True),)
    return report_runs(results, plan.design, plan.output, preface)


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
    steps, equal = pairs[0][1].curve_steps, min(_equal_points(*pair) for pair in pairs)
    seconds = [sum(run.training_seconds for run in runs) / len(pairs) for runs in zip(*pairs, strict=True)]
    title = "The same curve in less time" if seconds[1] < seconds[0] else "The same curve"
    agreement = (
        f"in all {len(steps)} evaluations"
        if equal == len(steps)
        else f"up to step {thousands([0, *steps][equal])}; later ones may differ because operations round in another order"
    )
    return (
        f"{title}: on the same seeds, evaluations of {OURS} and {THEIRS} agree to the last digit {agreement}. A run took "
        f"{seconds[1]:.1f} s instead of {seconds[0]:.1f} s."
    )


def _equal_points(one: RunResult, other: RunResult) -> int:
    """Return the number of evaluations from the start of two runs that are equal."""
    points = list(zip(one.curve_returns, other.curve_returns, strict=False))
    return next((i for i, (a, b) in enumerate(points) if a != b), len(points))


def curves(name: str, results: Sequence[RunResult], design: ComparisonDesign, labels: Sequence[str]) -> Chart:
    """Return the learning curves of some algorithms, by environment steps and by seconds."""
    charts = compose_charts(analyse([run for run in results if run.label in labels], design), design)
    panels = [panel for kind in ("curves", "wall_clock") if kind in charts for panel in charts[kind].panels]
    caption = "Return by environment steps, and by seconds of training: mean, every seed as a thin line, and 95 % intervals."
    return Chart(name, caption, tuple(panels))


def baseline(results: Sequence[RunResult], design: ComparisonDesign) -> str:
    """Compare REINFORCE with and without a baseline, and say so if the runs are too few to tell the returns apart."""
    ends = [[run.mean_return for run in _runs(results, label).values()] for label in (PLAIN, BASELINE)]
    if not all(ends):
        return ""
    without, with_one = (sum(values) / len(values) for values in ends)
    (pair,) = analyse([run for run in results if run.label in (PLAIN, BASELINE)], design).pairs
    doubt = "" if pair.verdict.verdict == WORSE else f" So few runs do not decide whether that helped; {MEASURES_VARIANCE}."
    plain, learned = (", ".join(f"{value:.0f}" for value in values) for values in ends)
    return (
        "A baseline lowers the variance of the gradient. After the same number of steps, REINFORCE ends with a mean "
        f"return of {without:.0f} (seeds: {plain}), and with a learned baseline of {with_one:.0f} (seeds: {learned}).{doubt}"
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


def finding_chart(health: HealthCallback) -> Chart:
    """Return a chart of the metric that was most often in alarm."""
    states, steps = health.rule_states, [numbers["timesteps"] for numbers in health.history]
    caption = (
        f"The run with learning_rate={TOO_HIGH}: a finding of HealthCallback. Green: healthy range. Dotted red line: beyond "
        "it, the rule is in alarm."
    )
    metrics = alarmed_metrics(states)[:1]
    families = [replace(family, metrics=tuple(metrics)) for family in alarmed_families(states)[:1]]
    return Chart("finding", caption, panels_of(families, steps, health.series, states))


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
