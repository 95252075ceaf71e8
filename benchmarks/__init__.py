"""Claims and speed: measured from a checkout, and not part of the wheel."""

from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"  # what was measured, one file per algorithm and subject
