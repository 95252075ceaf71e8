"""Benchmarks of claims and of speed. They run from a checkout and are not part of the wheel."""

from pathlib import Path

HERE = Path(__file__).resolve().parent
CLAIMS = HERE / "claims"  # the claims, one .yml file per subject
RESULTS = HERE / "results"  # the measured records, one .json file per subject
