"""A comparison that is killed, or whose disk is full: nothing that was computed is lost, and the tables are the same."""

import multiprocessing as mp
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support.comparisons import ENV, TABLES, comparison_into, importable, tables  # noqa: F401
from support.full_disk import full_disk
from support.run_in_process import compare_here

from sb3_pgx.experiments import compare
from sb3_pgx.experiments.pool import read_result, run_here
from sb3_pgx.experiments.runs import RunSpec
from sb3_pgx.settings.configs import RunConfig

PICTURES = ("curves.png", "profiles.png", "wall_clock.png")
FILES = {*TABLES, *PICTURES, "comparison.json", "report.md", "report.html", *(f"sb3-a2c-seed{seed}.json" for seed in range(3))}
pytestmark = pytest.mark.usefixtures("importable", "jax_unseen")


def into(folder):
    return comparison_into(folder, seeds=3)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, importable):  # noqa: F811
    folder = tmp_path_factory.mktemp("uninterrupted") / "out"
    assert compare_here(into(folder)) == 0
    return folder


def assert_same(folder, uninterrupted):
    assert tables(folder) == tables(uninterrupted)
    assert {path.name for path in folder.rglob("*") if path.is_file()} == FILES
    for path in folder.rglob("*-seed*.json"):
        assert read_result(path).error is None


def whole_files_only(folder):
    """Check that a killed process leaves no incomplete file under a final name."""
    for path in folder.rglob("*-seed*.json"):
        read_result(path)
    for path in folder.rglob("*.png"):
        assert path.read_bytes().endswith(b"IEND\xaeB`\x82"), path
    for path in folder.rglob("report.html"):
        assert path.read_text().rstrip().endswith("</html>")


def test_a_comparison_that_is_killed_at_any_moment_has_the_tables_of_one_start(uninterrupted, tmp_path):
    for _ in range(3):
        process = mp.get_context("fork").Process(target=compare_here, args=(into(tmp_path / "out"),))
        process.start()
        process.join(random.uniform(0.05, 1.5))
        process.kill()
        process.join()
        whole_files_only(tmp_path / "out")
    assert compare_here(into(tmp_path / "out")) == 0
    assert_same(tmp_path / "out", uninterrupted)


def test_a_report_that_is_killed_in_the_middle_of_a_picture_keeps_the_old_one(uninterrupted, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(uninterrupted, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def die_in_the_middle():
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # what a process gets that writes beyond the limit
        with full_disk(15_000):
            compare_here(into(folder))

    process = mp.get_context("fork").Process(target=die_in_the_middle)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGXFSZ
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


@pytest.mark.slow
def test_the_command_that_is_killed_at_any_moment_has_the_tables_of_one_start(uninterrupted, tmp_path):
    """Uses real worker processes."""
    command = [sys.executable, "-c", f"from sb3_pgx.cli import main; main({into(tmp_path / 'out')!r})"]
    for _ in range(12):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(random.uniform(3.0, 16.0))
        os.killpg(process.pid, signal.SIGKILL) if random.random() < 0.5 else process.kill()
        process.wait()
        whole_files_only(tmp_path / "out")
    time.sleep(3)  # runs end with the process that started them
    subprocess.run(command, check=True)
    assert_same(tmp_path / "out", uninterrupted)


def test_a_report_that_finds_the_disk_full_is_printed_and_written_at_the_next_start(uninterrupted, tmp_path, capsys):
    with full_disk(20_000):  # runs fit, pictures do not
        assert compare_here(into(tmp_path / "out")) == 1
    captured = capsys.readouterr()
    assert "| sb3:a2c |" in captured.out and "written to" not in captured.out
    path = tmp_path / "out" / "curves.png"
    said = f"sb3-pgx: {path} cannot be written: File too large; run the same command again to write the report"
    assert said in captured.err and "Traceback" not in captured.err
    assert compare_here(into(tmp_path / "out")) == 0
    assert_same(tmp_path / "out", uninterrupted)


def test_compare_returns_what_it_could_not_write(tmp_path):
    sentence = r"curves\.png cannot be written: File too large; the value that compare\(\) returned has all"
    with pytest.warns(UserWarning, match=sentence), full_disk(20_000):
        found = compare(ENV, ["sb3:a2c"], 40, 1, tmp_path / "out", eval_episodes=2, progress=False, runner=run_here)
    assert len(found.results) == 1 and "| sb3:a2c |" in found.brief and isinstance(found.unwritten, OSError)


def test_a_run_whose_file_cannot_be_written_is_in_the_report_all_the_same(tmp_path, capsys):
    from stable_baselines3 import A2C

    spec = RunSpec("sb3:a2c", A2C, "CartPole-v1", 0, 20, RunConfig(source="test", n_envs=4), curve_points=0, eval_episodes=2)
    with full_disk(100):
        (result,) = run_here([spec], [tmp_path / "run.json"])
    assert result.error is None and np.isfinite(result.mean_return) and not list(tmp_path.iterdir())
    assert (
        f"{tmp_path / 'run.json'} cannot be written: File too large; a report of this start includes the run"
        in capsys.readouterr().err
    )
