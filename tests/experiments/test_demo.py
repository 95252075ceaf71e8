"""The demonstration: its three findings from made-up runs, and once from short runs."""

import pytest

from sb3_pgx.diagnostics import Above, Rule
from sb3_pgx.diagnostics.rules import RuleState
from sb3_pgx.experiments.demo import BASELINE, PLAIN, baseline, finding, same_curve, show
from sb3_pgx.experiments.pool import run_here


def test_the_findings_are_those_of_the_runs(result):
    def one(label, seed, curve, seconds):
        return result(label, seed, curve_steps=[1, 2], curve_returns=curve, returns=[curve[-1]], training_seconds=seconds)

    runs = [
        one("sb3:ppo", 0, [1.0, 2.0], 30.0),
        one("sb3:ppo", 1, [1.0, 2.0], 50.0),
        one("ppo", 0, [1.0, 2.0], 9.0),
        one("ppo", 1, [1.0, 3.0], 11.0),
        one(PLAIN, 0, [1.0, 40.0], 1.0),
        one(BASELINE, 0, [1.0, 70.0], 1.0),
    ]
    assert (
        "in less time: on the same seeds, the first 1 of 2 evaluations of ppo equal those of sb3:ppo to the last digit; later"
        in same_curve(runs)
    )
    assert "all 2 evaluations of ppo equal those of sb3:ppo to the last digit. A" in same_curve(runs[::2])
    assert "10.0 s instead of 40.0 s" in same_curve(runs)
    assert "return of 40 (seeds: 40), and with a learned baseline of 70 (seeds: 70)" in baseline(runs)
    worse = one(BASELINE, 0, [1.0, 30.0], 1.0)
    assert "does not show it" in baseline([*runs[:-1], worse]) and "does not show it" not in baseline(runs)
    assert "in less time" not in same_curve([runs[0], one("ppo", 0, [1.0, 2.0], 31.0)])
    assert same_curve(runs[:2]) == "" == baseline(runs[:5])
    states = [
        RuleState(Rule(name, "kl", Above(1), "meaning", "remedy"), judged=9, alarms=n) for name, n in (("a", 2), ("b", 5))
    ]
    assert "b, at 5 of 9 updates: meaning. Try this: remedy." in finding(states) and finding([]) == ""


@pytest.mark.slow
def test_the_report_opens_with_the_findings(tmp_path):
    found = show(tmp_path / "out", timesteps=400, seeds=1, progress=False, runner=run_here)
    opening = found.report.partition("## CartPole-v1")[0]
    assert "## What you see" in opening and "![The run with learning_rate=0.05" in opening
    assert (
        "The same curve in less time" in opening
        and "A baseline lowers" in opening
        and "A finding of the health check" in opening
    )
    assert (tmp_path / "out" / "finding.png").exists() and "finding" in found.brief
