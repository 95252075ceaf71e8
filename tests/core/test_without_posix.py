"""Windows, as far as Linux can show it: without the names that only POSIX systems have, eager training works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
def test_without_posix_the_package_is_imported_trains_saves_and_resumes():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", TESTS / "support" / "without_posix.py"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["checkpoints", "model.zip"], "no unfinished file is left"
