"""Shards of a comparison: together they are the whole comparison, whatever the order or the moment in which they run."""

import json
import multiprocessing as mp
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.comparisons import ENV, assert_same, comparison_into, importable  # noqa: F401
from support.full_disk import full_disk
from support.run_in_process import compare_here

from sb3_pgx.cli import main
from sb3_pgx.core.files import UNFINISHED
from sb3_pgx.experiments.comparison import plan_comparison
from sb3_pgx.experiments.output_folder import RECORD
from sb3_pgx.experiments.pool import read_result, run_here, write_result
from sb3_pgx.experiments.shards import Shard, read_shard

pytestmark = pytest.mark.usefixtures("importable", "jax_unseen", "undrawn")


@given(st.lists(st.integers()), st.integers(1, 40))
def test_shards_partition_the_runs_evenly(items, count):
    shares = [Shard(number, count).of(range(len(items))) for number in range(1, count + 1)]
    assert sorted(index for share in shares for index in share) == list(range(len(items)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0/10", "shard 0/10: shards are numbered from 1 to their count"),
        ("11/10", "shard 11/10: shards are numbered from 1 to their count"),
        ("1/0", "shard 1/0: shards are numbered"),
        ("a/b", "shard a/b: write NUMBER/COUNT, such as 3/10"),
        ("-1/3", "shard -1/3: write NUMBER/COUNT"),
        ("3", "shard 3: write NUMBER/COUNT"),
        ("1/2/3", "shard 1/2/3: write NUMBER/COUNT"),
    ],
)
def test_a_shard_that_does_not_exist_is_refused(text, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        read_shard(text)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, importable):  # noqa: F811
    """The folder of the comparison that one process makes at once."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert compare_here(comparison_into(folder)) == 0
    return folder


def shard(folder, number, count=3):
    return compare_here([*comparison_into(folder), "--shard", f"{number}/{count}"])


def seeds_in(folder):
    return sorted(path.name for path in folder.rglob("*-seed*.json"))


def test_shards_one_after_the_other_and_a_report_are_the_whole_comparison(whole, tmp_path, capsys):
    folder = tmp_path / "out"
    seen: set[str] = set()
    for number in (2, 3, 1):
        assert shard(folder, number) == 0
        new = set(seeds_in(folder)) - seen
        assert new and not list(folder.glob("report*"))
        seen |= new
    assert "shard 1/3: 2 of 5 runs" in capsys.readouterr().out
    assert compare_here([*comparison_into(folder), "--report-only"]) == 0
    assert_same(folder, whole)


def test_shards_at_the_same_time_are_the_whole_comparison(whole, tmp_path):
    folder = tmp_path / "out"
    processes = [mp.get_context("fork").Process(target=lambda k=k: sys.exit(shard(folder, k))) for k in (1, 2, 3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]

    def train_nothing(specs, *_):
        raise AssertionError(f"{len(specs)} runs are missing")

    assert compare_here(comparison_into(folder), train_nothing) == 0
    assert_same(folder, whole)


def test_a_shard_whose_runs_cannot_be_written_says_so(tmp_path, capsys):
    folder = tmp_path / "out"

    def on_a_full_disk(*arguments):
        with full_disk(100):
            return run_here(*arguments)

    assert compare_here([*comparison_into(folder), "--shard", "1/3"], on_a_full_disk) == 1
    assert f"sb3-pgx: 2 finished runs could not be written to {folder}: run the same command again" in capsys.readouterr().err
    assert shard(folder, 1) == 0 and len(seeds_in(folder)) == 2


def test_a_process_that_starts_while_another_one_writes_its_first_file_is_not_refused(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / f".comparison.json.0123456789abcdef{UNFINISHED}").write_text("{")
    record = json.dumps(plan_comparison(ENV, ["sb3:a2c"], 80, 2, folder).record)
    looks = []

    def then_written(look):
        """The other process writes its record directly after the first look into the folder."""

        def look_and_write(path):
            found = look(path)
            if path in (folder, folder / RECORD):
                found = list(found) if path == folder else found  # `iterdir` looks only when it is iterated over
                looks.append(path)
                (folder / RECORD).write_text(record)
            return found

        return look_and_write

    monkeypatch.setattr(Path, "iterdir", then_written(Path.iterdir))
    monkeypatch.setattr(Path, "exists", then_written(Path.exists))
    plan_comparison(ENV, ["sb3:a2c"], 80, 2, folder)
    assert looks, "the other process came in between"


def test_a_shard_resumes_and_force_repeats_only_its_own_runs(tmp_path):
    folder, trained = tmp_path / "out", []

    def recorded(specs, *others):
        trained.extend(spec.seed for spec in specs)
        return run_here(specs, *others)

    def command(*options):
        trained.clear()
        assert compare_here([*comparison_into(folder), *options], recorded) == 0
        return list(trained)

    assert command("--shard", "1/2") == [0, 2, 4] and command("--shard", "1/2") == []
    assert command("--shard", "2/2") == [1, 3]
    assert command("--shard", "1/2", "--force") == [0, 2, 4]
    assert command() == []


def test_the_report_of_an_incomplete_comparison_names_what_is_missing_and_failed(whole, tmp_path, capsys):
    folder = tmp_path / "out"
    shard(folder, 1)  # seeds 0 and 3
    first, second = sorted(folder.rglob("*-seed*.json"))
    write_result(replace(read_result(second), error="MemoryError: no", returns=[]), second)
    before = {path: path.read_bytes() for path in folder.rglob("*-seed*.json")}
    capsys.readouterr()
    assert compare_here([*comparison_into(folder), "--report-only"]) == 1
    printed = capsys.readouterr().out
    assert "3 runs of 5 missing: this report is about the others" in printed
    for seed in (1, 2, 4):
        assert f"- sb3:a2c on {ENV}, seed {seed}\n" in printed
    assert f"- sb3:a2c on {ENV}, seed 3: MemoryError: no" in printed and "(1 of 2 runs; the others failed)" in printed
    assert f"{json.loads(first.read_text())['mean_return']:.1f} (no interval from one seed)" in printed
    assert " of 2 seeds reached it)" in printed, "a run that is missing did not fail to reach the threshold"
    assert {path: path.read_bytes() for path in folder.rglob("*-seed*.json")} == before
    assert compare_here(comparison_into(folder)) == 1
    assert "1 of these failed; --retry-failed repeats them" in capsys.readouterr().out
    assert compare_here([*comparison_into(folder), "--retry-failed"]) == 0
    assert_same(folder, whole)


def test_a_report_of_environments_and_algorithms_without_any_run_is_written(tmp_path):
    command = ["compare", "--env", ENV, "CartPole-v1", "--algos", "sb3:a2c", "a2c", "--seeds", "1", "--timesteps", "40"]
    command += ["--eval-episodes", "2", "--output", str(tmp_path / "out")]
    assert compare_here([*command, "--shard", "1/4"]) == 0
    assert compare_here([*command, "--report-only"]) == 1
    report = (tmp_path / "out" / "report.md").read_text()
    assert "3 runs of 4 missing" in report and "- a2c on CartPole-v1, seed 0" in report


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--shard", "0/10"], "shard 0/10: shards are numbered from 1"),
        (["--shard", "a/b"], "shard a/b: write NUMBER/COUNT"),
        (["--shard", "1/2", "--ray", "auto"], "--shard and --ray exclude each other"),
        (["--workers", "2", "--ray", "auto"], "--workers is for this machine"),
        (["--report-only", "--ray", "auto"], "--report-only trains nothing, so it cannot be combined with --ray"),
        (["--report-only", "--shard", "1/2"], "--report-only trains nothing, so it cannot be combined with --shard"),
        (["--report-only", "--retry-failed"], "--report-only trains nothing, so it cannot be combined with --retry-failed"),
        (["--report-only", "--force"], "--report-only trains nothing, so it cannot be combined with --force"),
        (["--report-only"], "out holds no run of this comparison"),
    ],
)
def test_options_that_make_no_sense_are_one_sentence_and_leave_no_folder(options, sentence, tmp_path, capsys):
    assert main([*comparison_into(tmp_path / "out"), *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("sb3-pgx: ") and printed.err.count("\n") == 1
    assert sentence in printed.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [["--shard", "1/2"], ["--report-only"]])
def test_several_commands_need_a_folder_that_they_share(option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = comparison_into("out")
    assert main([*command[: command.index("--output")], *option]) == 2
    assert f"{option[0]} needs --output: the folder" in capsys.readouterr().err and not list(tmp_path.iterdir())
