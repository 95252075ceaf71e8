"""The measured coverage of intervals, as reports quote it."""

import json

from benchmarks.coverage import FILE, SIZES
from sb3_pgx.experiments.report.explanations import COVERED


def test_reports_quote_the_measured_coverage():
    rows = json.loads(FILE.read_text(encoding="utf-8"))["rows"]
    measured = {row["distribution"]: row["report"] for row in rows if (row["statistic"], row["seeds"]) == ("mean", SIZES[0])}
    assert {name: round(100 * measured[name]) for name in COVERED} == COVERED
