"""Amounts and durations on the command line."""

import pytest

from sb3_pgx.settings.amounts import read_amount, read_duration


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("40000", 40_000),
        ("40k", 40_000),
        ("1e5", 100_000),
        ("1.5M", 1_500_000),
        ("2.5e3", 2_500),
        ("40_000", 40_000),
        ("40,000", 40_000),
        ("0", 0),
        ("-1", -1),
        (" 7 ", 7),
        (".5k", 500),
        ("1G", 10**9),
    ],
)
def test_amounts_are_read_as_people_write_them(text, value):
    assert read_amount(text) == value


@pytest.mark.parametrize("text", ["", "k", "4z", "1.5", "1e-3", "1e400", "nan", "inf", "forty", "4 0", "0x10", "1e5e5"])
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="is not a whole number: write it as 40000, 40k or 4e4"):
        read_amount(text)


@pytest.mark.parametrize(("text", "value"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400), (".5", 0.5)])
def test_durations_are_seconds_unless_a_unit_says_otherwise(text, value):
    assert read_duration(text) == value


@pytest.mark.parametrize("text", ["0", "-3", "5k", "soon", "nan"])
def test_no_other_duration_is_read(text):
    with pytest.raises(ValueError, match="is not a duration: write it as 90"):
        read_duration(text)
