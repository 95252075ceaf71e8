"""Claims and speed: measured from a checkout, and not part of the wheel."""

from pathlib import Path

HERE = Path(__file__).resolve().parent
CLAIMS = HERE / "claims"  # what is claimed, one .yml file per subject
RESULTS = HERE / "results"  # what was measured, one file per subject
