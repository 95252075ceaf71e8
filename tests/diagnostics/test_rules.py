"""What each condition means, on series made for it, and how a rule counts."""

import math

import pytest

from sb3_pgx.diagnostics import Above, Below, Fell, Grew, Outside, Parted, Rule, Spiked
from sb3_pgx.diagnostics.conditions import Watch

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
        (Spiked(factor=10.0, window=3), [2.0, 3.0, 2000.0], False),  # not long enough to know
        (Spiked(factor=10.0, window=3), [NAN, 2.0, 3.0, 2000.0], False),
    ],
)
def test_a_condition_holds_where_it_says_so(condition, values, holds):
    assert condition.holds({"x": values}, "x") is holds


def test_a_fall_is_counted_in_updates_where_not_all_were_measured():
    fall, series = Fell(high=0.5, low=0.1, within=5), {"x": [0.9, 0.6, 0.05]}
    assert fall.holds({**series, "update": [1, 3, 5]}, "x") and not fall.holds({**series, "update": [100, 200, 300]}, "x")


def test_below_can_depend_on_whether_it_matters():
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
        (RISING, [NAN, *FALLING[1:]], False),  # too few
        (RISING, [*FALLING[:-1], NAN], False),  # nothing new
        ([NAN, *RISING], [NAN, *FALLING], True),
        ([0, 9, 0, 9, 0, 9], FALLING, False),  # chance
        ([0, 0, 0, 0, 0, 1, 1, 1], [100, 0, 3, 2, 2, 1, 1, 1], False),  # 2 % of the range that it has had
    ],
)
def test_two_metrics_part_when_one_rises_and_the_other_falls_by_more_than_chance(values, other, holds):
    assert Parted(other="y", window=6, share=0.2).holds({"x": values, "y": other}, "x") is holds


def watched(rule, values, progress=None):
    watch = Watch(rule)
    steps = progress or [0.0] * len(values)
    return [watch.look({"x": values[: i + 1]}, p) for i, p in enumerate(steps)], watch


def test_a_rule_waits_out_its_warm_up_and_its_patience_and_starts_again_after_a_healthy_update():
    rule = Rule("r", "x", Above(1.0), "s", "m", patience=2, warm_up=1)
    alarms, watch = watched(rule, [9, 9, 9, 0, 9, 9, 9])
    assert alarms == [False, False, True, False, False, True, True]
    assert (watch.known, watch.looked, watch.alarms, watch.in_alarm) == (7, 6, 3, True)


def test_updates_without_the_metric_neither_count_nor_interrupt():
    alarms, watch = watched(Rule("r", "x", Above(1.0), "s", "m", patience=2), [9, NAN, NAN, 9, NAN])
    assert alarms == [False, False, False, True, False] and watch.looked == 2 and watch.in_alarm


def test_a_rule_for_the_beginning_is_silent_later():
    alarms, watch = watched(Rule("r", "x", Above(1.0), "s", "m", until=0.5), [9, 9, 9], [0.4, 0.5, 0.6])
    assert alarms == [True, True, False] and not watch.in_alarm


def test_a_rule_on_two_metrics_judges_nothing_while_one_of_them_is_unknown():
    watch = Watch(Rule("r", "x", Parted(other="y", window=2, share=0.1), "s", "m"))
    assert not watch.look({"x": [1.0]}) and watch.looked == 0
    watch.look({"x": [1.0], "y": [1.0]})
    assert watch.looked == 1


@pytest.mark.parametrize("kwargs", [dict(patience=0), dict(warm_up=-1), dict(until=0.0), dict(until=1.5)])
def test_a_rule_that_makes_no_sense_is_refused(kwargs):
    with pytest.raises(ValueError, match="rule r: "):
        Rule("r", "x", Above(1.0), "s", "m", **kwargs)
