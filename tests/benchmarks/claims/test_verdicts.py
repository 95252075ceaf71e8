"""Verdicts about intervals, each way that an interval can lie."""

from math import nan

import pytest

from benchmarks.claims.verdicts import at_least, at_most, difference, least_favourable


@pytest.mark.parametrize(
    ("interval", "above", "below"),
    [
        ((1.1, 2.0), "reached", "not reached"),
        ((0.0, 0.9), "not reached", "reached"),
        ((0.9, 5.0), "undecided", "undecided"),  # a point estimate would have passed
        ((nan, nan), "undecided", "undecided"),
        ((1.0, 1.0), "reached", "reached"),
    ],
)
def test_a_bound_is_reached_by_the_whole_interval(interval, above, below):
    assert (at_least(interval, 1.0), at_most(interval, 1.0)) == (above, below)


@pytest.mark.parametrize(
    ("interval", "tost", "verdict"),
    [
        ((-2.0, 2.0), (-1.5, 1.5), "equivalent"),
        ((0.5, 2.0), (0.6, 1.9), "equivalent"),  # a difference that is there, and too small to matter
        ((-6.0, 2.0), (-4.9, 1.0), "equivalent"),  # two one-sided tests of 5 % have an interval of 90 %
        ((-9.0, 9.0), (-8.0, 8.0), "undecided"),  # contains 0, and says nothing
        ((-1.0, 6.0), (-0.5, 5.5), "undecided"),
        ((1.0, 9.0), (2.0, 8.0), "better"),
        ((-9.0, -1.0), (-8.0, -2.0), "worse"),
        ((nan, nan), (nan, nan), "undecided"),
    ],
)
def test_two_are_equivalent_if_the_interval_lies_within_the_margin(interval, tost, verdict):
    assert difference(interval, tost, margin=5.0) == verdict


def test_without_a_margin_nothing_is_equivalent():
    assert difference((0.0, 0.0), (0.0, 0.0), margin=0.0) == "undecided"


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        (["equivalent", "better"], "better"),
        (["equivalent", "undecided"], "undecided"),
        (["better", "worse"], "worse"),
        (["reached", "not reached", "undecided"], "not reached"),
        (["equivalent", "equivalent"], "equivalent"),
    ],
)
def test_the_number_that_speaks_most_against_a_claim_decides_it(verdicts, whole):
    assert least_favourable(verdicts) == whole
