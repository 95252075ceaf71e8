"""Every script of examples/ runs as the user runs it, prints what it promises, and draws a picture."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from selection import mostly_slow

from sb3_pgx.cli import parser

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path for path in (ROOT / "examples").glob("*.py") if path.stem != "shared")


@pytest.fixture
def run_script(monkeypatch, capsys):
    """
    ``python examples/<script> <arguments>`` in this process; returns what it printed, and keeps in ``progress`` what it said
    meanwhile.
    """
    monkeypatch.syspath_prepend(str(ROOT / "examples"))

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        runpy.run_path(str(script), run_name="__main__")
        printed = capsys.readouterr()
        run.progress = printed.err
        return printed.out

    return run


def expected(script):
    """Regular expressions that the output of ``--quick`` has to contain, from ``tests/examples/<script>.txt``, one a line."""
    lines = (ROOT / "tests" / "examples" / f"{script.stem}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


QUICK = ("gae_lambda",)


@pytest.mark.parametrize("script", mostly_slow(SCRIPTS, lambda path: path.stem in QUICK), ids=lambda path: path.stem)
def test_a_script_prints_its_numbers_and_draws_its_picture(script, run_script, tmp_path):
    output = run_script(script, "--quick", "--output", tmp_path)
    variants = re.findall(r"^  (\S.*, seeds? \d.*)$", run_script.progress, re.MULTILINE)
    assert variants and len(set(variants)) == len(variants), f"each variant that runs is named in\n{run_script.progress}"
    for pattern in expected(script):
        assert re.search(pattern, output, re.MULTILINE), f"{pattern}\nis not in\n{output}"
    assert "This was one seed" in output, "no firm conclusion from one seed"
    table = [line for line in output.splitlines() if line.startswith("|")]
    assert len(table) > 2, f"a table of several rows in\n{output}"
    assert "nan" not in "".join(table), "every number of the table exists"
    picture = imread(tmp_path / f"{script.stem}.png")
    assert min(picture.shape[:2]) > 300 and len(np.unique(picture[..., :3].reshape(-1, 3), axis=0)) > 10


def test_every_script_is_in_the_table_of_examples():
    listed = re.findall(r"^\|.*\| `(\w+\.py)` \|", (ROOT / "examples" / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == [path.name for path in SCRIPTS]


def test_the_slurm_script_submits_an_array_whose_tasks_are_the_shards_and_a_last_job_that_reports(tmp_path):
    """With stand-ins for Slurm and for our command, which record their arguments."""
    for name in ("sbatch", "sb3-pgx"):
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@" >> "$RECORD"; [ {name} = sb3-pgx ] || echo 7\n')
        (tmp_path / name).chmod(0o755)

    def start(*arguments, **variables):
        record = tmp_path / "record"
        record.unlink(missing_ok=True)
        own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RECORD": str(record), **variables}
        subprocess.run(["bash", ROOT / "examples" / "slurm_array.sh", *arguments], env=own, cwd=tmp_path, check=True)
        return record.read_text().splitlines()

    submitted = start(TASKS="3", CPUS="2")
    assert submitted.count("sbatch") == 2 and "--array=1-3" in submitted and "--dependency=afterany:7" in submitted
    assert submitted[-1] == "report"
    command, *words = start(SLURM_JOB_ID="8", SLURM_ARRAY_TASK_ID="2", SLURM_ARRAY_TASK_COUNT="3", CPUS="2")
    task = vars(parser().parse_args(words))
    assert command == "sb3-pgx" and (task.pop("shard"), task.pop("workers")) == ("2/3", 2)
    _, *words = start("report", SLURM_JOB_ID="9")
    report = vars(parser().parse_args(words))
    assert report.pop("report_only") and not task.pop("report_only") and report.pop("shard") is report.pop("workers") is None
    assert report == task


def test_an_earlier_picture_stays_without_force(run_script, tmp_path, capsys):
    (tmp_path / "swap_sb3_ppo.png").write_bytes(b"earlier")
    with pytest.raises(SystemExit) as refusal:
        run_script(ROOT / "examples" / "swap_sb3_ppo.py", "--quick", "--output", tmp_path)
    assert refusal.value.code == 2 and "exists already; --force replaces it" in capsys.readouterr().err
    assert (tmp_path / "swap_sb3_ppo.png").read_bytes() == b"earlier"


def test_a_folder_that_cannot_be_is_refused_before_the_work(run_script, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as refusal:
        run_script(ROOT / "examples" / "swap_sb3_ppo.py", "--quick", "--output", tmp_path / "file")
    printed = capsys.readouterr()
    assert refusal.value.code == 2 and "file: File exists" in printed.err and not printed.out


@pytest.mark.parametrize("a, b, expected", [([9.0, 8, 9], [1.0, 2, 1], 1), ([1.0, 2], [8.0, 9], -1), ([1.0, 5], [2.0, 4], 0)])
def test_settings_are_told_apart_only_where_the_interval_of_their_difference_leaves_out_zero(monkeypatch, a, b, expected):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from shared import direction

    assert direction(a, b) == expected
    assert direction(a[:1], b[:1]) == 0, "one seed tells nothing apart"
