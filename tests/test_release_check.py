"""``make release-check``: its results are written as they come, and a part that fails is named with its output."""

import sys

from release_check import Results, quickstart, run


def test_a_part_that_fails_is_named_with_the_end_of_its_output_and_the_next_one_still_runs(tmp_path):
    file = tmp_path / "release.txt"
    results = Results(file)
    assert results.part("first", lambda: "passed") and file.read_text() == "first: passed\n"
    assert not results.part("second", lambda: run(sys.executable, "-c", "print('before'); 1 / 0"))
    assert results.part("third", lambda: "passed")
    lines = file.read_text().splitlines()
    assert lines[1] == "second: failed" and lines[2] == "    before" and lines[-2].startswith("    ZeroDivisionError")
    assert lines[-1] == "third: passed" and results.failed == ["second"]


def test_the_readmes_first_script_is_run_with_few_steps():
    assert "from sb3_pgx import PPO" in quickstart() and "learn(4_096)" in quickstart()
