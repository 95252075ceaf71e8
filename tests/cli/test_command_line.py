"""The command line: mistakes get the nearest name, every command has examples, and the package can be run as a module."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_pgx.cli import main, parser
from sb3_pgx.core.files import claimed_folder

HELPS = ["compare", "tune", "plot", "cache", "warmup", "doctor", "doctor env", "doctor algo", "doctor log"]


def fails(capsys, *words):
    with pytest.raises(SystemExit, match="2"):
        parser().parse_args(words)
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("compar --env A", "sb3-pgx: 'compar' is unknown; did you mean compare? (sb3-pgx -h shows the help)"),
        ("xyz", "sb3-pgx: 'xyz' is unknown; choose one of train, enjoy"),
        ("doctor evn A", "sb3-pgx doctor: 'evn' is unknown; did you mean env?"),
        ("compare --env A --algos b --timesteps 1 --sedes 3", "sb3-pgx compare: --sedes 3 is unknown; did you mean --seeds?"),
        ("tune --algo a --env A --trails=3", "sb3-pgx tune: --trails=3 is unknown; did you mean --trials?"),
        (
            "compare --env A --algos b --timesteps 4z",
            "argument --timesteps: '4z' is not a whole number: write it as 40000, 40k",
        ),
        ("compare --env A --algos b --timesteps 4 --timeout-per-run x", "--timeout-per-run: 'x' is not a duration"),
        ("compare --env A --algos b --timestps 4", "sb3-pgx compare: --timestps is unknown; did you mean --timesteps?"),
        ("compare --algos b --timesteps 4", "the following arguments are required: --env"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_nearest_name(capsys, command, sentence):
    assert sentence in fails(capsys, *command.split())


@pytest.mark.parametrize("command", HELPS)
def test_every_help_ends_with_examples_that_parse(capsys, command):
    with pytest.raises(SystemExit, match="0"):
        main([*command.split(), "-h"])
    _, _, examples = capsys.readouterr().out.partition("\nexamples:\n")
    lines = examples.splitlines()
    assert lines
    for line in lines:
        words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", line)]
        assert words[0] == "sb3-pgx" and parser().parse_args(words[1:]).command


def test_amounts_may_have_exponents_and_suffixes():
    words = "compare --env A --algos b --timesteps 1e5 --eval-episodes 1e1 --workers 2 --timeout-per-run 1.5m".split()
    args = parser().parse_args(words)
    assert (args.timesteps, args.eval_episodes, args.workers, args.timeout_per_run) == (100_000, 10, 2, 90.0)
    args = parser().parse_args("tune --algo a --env A --trials 1k --timesteps 40k".split())
    assert (args.trials, args.timesteps) == (1000, 40_000)


def test_the_package_runs_as_a_module_and_finds_modules_in_the_working_folder(tmp_path):
    (tmp_path / "lone_envs.py").write_text("raise ImportError('found, but broken')\n")
    command = [sys.executable, "-m", "sb3_pgx", "doctor", "env", "lone_envs:Walk-v0"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONSAFEPATH": "1"}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == (
        "sb3-pgx: environment lone_envs:Walk-v0: module lone_envs cannot be imported: found, but broken"
    )


def test_commands_leave_the_path_of_modules_as_it_was(capsys):
    before = list(sys.path)
    assert main(["doctor", "env", "CartPol-v1"]) == 2
    assert sys.path == before


def test_a_comparison_does_not_write_into_the_folder_of_another_process(tmp_path, capsys):
    command = ["compare", "--env", "CartPole-v1", "--algos", "sb3:a2c", "--timesteps", "80", "--output", str(tmp_path / "out")]
    with claimed_folder(tmp_path / "out"):
        assert main([*command, "--force"]) == 2
        assert main([*command, "--shard", "1/2"]) == 2
        assert list((tmp_path / "out").iterdir()) == []
    printed = capsys.readouterr().err
    assert printed.count(f"another process is writing to {tmp_path / 'out'}: wait until it has ended") == 2


def test_shards_share_a_folder(tmp_path):
    with claimed_folder(tmp_path, shared=True), claimed_folder(tmp_path, shared=True):
        with pytest.raises(FileExistsError, match="another process"), claimed_folder(tmp_path):
            pass
    with claimed_folder(tmp_path):
        assert list(tmp_path.iterdir()) == []
