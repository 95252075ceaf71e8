"""The demonstration: its three findings from made-up runs, and once from short runs."""

import pytest

from sb3_pgx.diagnostics import Above, Rule
from sb3_pgx.diagnostics.rules import RuleState
from sb3_pgx.experiments.demo import BASELINE, ENV, OURS, PLAIN, THEIRS, baseline, finding, same_curve, show
from sb3_pgx.experiments.design import ComparisonDesign
from sb3_pgx.experiments.pool import run_here

DESIGN = ComparisonDesign((ENV,), (THEIRS, OURS, PLAIN, BASELINE), (0, 1, 2), 1000)


def test_the_findings_are_those_of_the_runs(result):
    def one(label, seed, curve, seconds):
        return result(label, seed, curve_steps=[1, 2], curve_returns=curve, returns=[curve[-1]], training_seconds=seconds)

    runs = [
        one(THEIRS, 0, [1.0, 2.0], 30.0),
        one(THEIRS, 1, [1.0, 2.0], 50.0),
        one(OURS, 0, [1.0, 2.0], 9.0),
        one(OURS, 1, [1.0, 3.0], 11.0),
        one(PLAIN, 0, [1.0, 40.0], 1.0),
        one(BASELINE, 0, [1.0, 70.0], 1.0),
    ]
    agree = f"on the same seeds, evaluations of {OURS} and {THEIRS} agree to the last digit"
    assert f"The same curve in less time: {agree} up to step 1; later" in same_curve(runs)
    assert f"{agree} in all 2 evaluations. A" in same_curve(runs[::2])
    assert "10.0 s instead of 40.0 s" in same_curve(runs)
    few = baseline(runs, DESIGN)
    assert "return of 40 (seeds: 40), and with a learned baseline of 70 (seeds: 70). So few runs do not decide" in few
    more = [one(label, s, [1.0, end + s], 1.0) for label, end in ((PLAIN, 40.0), (BASELINE, 70.0)) for s in (0, 1, 2)]
    assert baseline(more, DESIGN).endswith(
        "REINFORCE ends with a mean return of 41 (seeds: 40, 41, 42), and with a learned baseline of 71 (seeds: 70, 71, 72)."
    )
    assert "in less time" not in same_curve([runs[0], one(OURS, 0, [1.0, 2.0], 31.0)])
    assert same_curve(runs[:2]) == "" == baseline(runs[:5], DESIGN)
    states = [
        RuleState(Rule(name, "kl", Above(1), "meaning", "remedy"), judged=9, alarms=n) for name, n in (("a", 2), ("b", 5))
    ]
    assert "b, at 5 of 9 updates: meaning. Try this: remedy." in finding(states) and finding([]) == ""


@pytest.mark.slow
def test_the_report_opens_with_the_findings(tmp_path):
    found = show(tmp_path / "out", timesteps=400, seeds=1, progress=False, runner=run_here)
    opening = found.report.partition("## CartPole-v1")[0]
    assert "## What you see" in opening and "![The run with learning_rate=0.05" in opening
    assert "The same curve" in opening and "A baseline lowers" in opening and "A finding of the health check" in opening
    assert (tmp_path / "out" / "finding.png").exists() and "finding" in found.brief
