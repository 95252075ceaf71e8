"""Conditions on series made for them, and how a rule counts updates."""

import math

import pytest

from sb3_pgx.diagnostics import Above, Below, Fell, Grew, Outside, RoseWhileOtherFell, Rule, Spiked
from sb3_pgx.diagnostics.rules import RuleState, apply_rules

NAN = math.nan


@pytest.mark.parametrize(
    "condition, values, holds",
    [
        (Above(2.0), [2.1], True),
        (Above(2.0), [9.0, 2.0], False),
        (Below(2.0), [1.9], True),
        (Below(2.0), [2.0], False),
        (Outside(0.8, 1.2), [0.79], True),
        (Outside(0.8, 1.2), [1.21], True),
        (Outside(0.8, 1.2), [0.8], False),
        (Fell(high=0.5, low=0.1, within=2), [0.6, 0.3, 0.05], True),
        (Fell(high=0.5, low=0.1, within=2), [0.6, 0.3, 0.2, 0.05], False),  # too slowly
        (Fell(high=0.5, low=0.1, within=2), [0.05], False),
        (Fell(high=0.5, low=0.1, within=2), [0.6, NAN, 0.1], False),
        (Grew(factor=3.0, floor=2.0), [NAN, 1.0, 0.5, 3.1], True),
        (Grew(factor=3.0, floor=2.0), [1.0, 3.0], False),
        (Grew(factor=3.0, floor=2.0), [0.1, 1.9], False),
        (Spiked(factor=10.0, window=3), [1.0, 2.0, 3.0, 20.1], True),
        (Spiked(factor=10.0, window=3), [1.0, 2.0, 3.0, 20.0], False),
        (Spiked(factor=10.0, window=3, floor=100.0), [0.0, 0.0, 0.0, 99.0], False),
        (Spiked(factor=10.0, window=3), [2.0, 3.0, 2000.0], False),  # the window is not full yet
        (Spiked(factor=10.0, window=3), [NAN, 2.0, 3.0, 2000.0], False),
    ],
)
def test_a_condition_holds_exactly_when_it_says_so(condition, values, holds):
    assert condition.holds({"x": values}, "x") is holds


def test_a_fall_is_counted_in_updates_even_if_not_all_were_measured():
    fall, series = Fell(high=0.5, low=0.1, within=5), {"x": [0.9, 0.6, 0.05]}
    assert fall.holds({**series, "update": [1, 3, 5]}, "x") and not fall.holds({**series, "update": [100, 200, 300]}, "x")


def test_below_can_depend_on_another_metric():
    below = Below(-0.2, other="y", floor=0.01)
    assert below.holds({"x": [-1.0], "y": [0.02]}, "x") and not below.holds({"x": [-1.0], "y": [0.01]}, "x")


RISING, FALLING, FLAT, NOISE = [0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [1] * 6, [9, 5, 1, 4, 0, 5]


@pytest.mark.parametrize(
    "values, other, holds",
    [
        (RISING, FALLING, True),
        (RISING, RISING, False),
        (RISING, FLAT, False),
        (FALLING, RISING, False),
        (RISING, NOISE, False),
        (RISING, [NAN, *FALLING[1:]], False),  # too few numbers
        (RISING, [*FALLING[:-1], NAN], False),  # nothing new at this update
        ([NAN, *RISING], [NAN, *FALLING], True),
        ([0, 9, 0, 9, 0, 9], FALLING, False),  # may be chance
        ([0, 0, 0, 0, 0, 1, 1, 1], [100, 0, 3, 2, 2, 1, 1, 1], False),  # 2 % of its range so far
    ],
)
def test_one_metric_rises_while_the_other_falls_by_more_than_chance(values, other, holds):
    assert RoseWhileOtherFell(other="y", window=6, share=0.2).holds({"x": values, "y": other}, "x") is holds


def applied(rule, values, progress=None):
    state = RuleState(rule)
    steps = progress or [0.0] * len(values)
    return [state.update({"x": values[: i + 1]}, p) for i, p in enumerate(steps)], state


def test_a_rule_waits_for_its_warm_up_and_patience_and_starts_again_after_a_healthy_update():
    rule = Rule("r", "x", Above(1.0), "s", "m", patience=2, warm_up=1)
    alarms, state = applied(rule, [9, 9, 9, 0, 9, 9, 9])
    assert alarms == [False, False, True, False, False, True, True]
    assert (state.measured, state.judged, state.alarms, state.in_alarm) == (7, 6, 3, True)


def test_updates_without_the_metric_are_ignored():
    alarms, state = applied(Rule("r", "x", Above(1.0), "s", "m", patience=2), [9, NAN, NAN, 9, NAN])
    assert alarms == [False, False, False, True, False] and state.judged == 2 and state.in_alarm


def test_a_rule_with_until_is_ignored_later_in_the_run():
    alarms, state = applied(Rule("r", "x", Above(1.0), "s", "m", until=0.5), [9, 9, 9], [0.4, 0.5, 0.6])
    assert alarms == [True, True, False] and not state.in_alarm


def test_a_rule_on_two_metrics_is_not_applied_while_one_of_them_is_unknown():
    state = RuleState(Rule("r", "x", RoseWhileOtherFell(other="y", window=2, share=0.1), "s", "m"))
    assert not state.update({"x": [1.0]}) and state.judged == 0
    state.update({"x": [1.0], "y": [1.0]})
    assert state.judged == 1


@pytest.mark.parametrize("kwargs", [dict(patience=0), dict(warm_up=-1), dict(until=0.0), dict(until=1.5)])
def test_an_invalid_rule_is_refused(kwargs):
    with pytest.raises(ValueError, match="rule r: "):
        Rule("r", "x", Above(1.0), "s", "m", **kwargs)


def test_a_rule_waits_for_its_other_metric_during_the_run_and_after_it():
    rule = Rule("lags", "x", Below(0.0, other="y"), "", "")
    x, y = [-1.0, -1.0, -1.0], [NAN, 1.0, 1.0]
    during = RuleState(rule)
    during.update({"x": x[:1]})  # y is not known yet
    during.update({"x": x[:2], "y": y[:2]})
    during.update({"x": x, "y": y})
    (afterwards,) = apply_rules([rule], {"x": x, "y": y})
    assert during == afterwards and (during.measured, during.alarms) == (2, 2)
