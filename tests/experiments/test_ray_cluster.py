"""Comparisons on a Ray cluster: the same results as in processes, and a worker that dies costs only its own run."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import gymnasium
import pytest
from support.comparisons import assert_same, comparison_into
from support.fragile_environment import ENV, FAULTS, FOLDER, STARTS, starts
from support.packages import without
from support.run_in_process import compare_here

from sb3_pgx.cli import main
from sb3_pgx.core.optional_packages import install_command
from sb3_pgx.experiments.comparison import plan_comparison
from sb3_pgx.experiments.pool import read_result
from sb3_pgx.experiments.ray_cluster import ATTEMPTS, ray_runner

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install ray")


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a cluster with one machine and two processors, and the folder of its environments."""
    folder, address = tmp_path_factory.mktemp("fragile"), f"127.0.0.1:{free_port()}"
    (folder / FAULTS).write_text("{}")
    start = "from ray.scripts.scripts import main; main()"
    options = ["--head", "--block", f"--port={address.partition(':')[2]}", "--num-cpus=2", "--include-dashboard=false"]
    path = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, FOLDER: str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["RAY_AUTH_MODE"] = "disabled"  # `ray start` asks for a token if this machine's user has ever made one
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as short:  # sockets have short paths
        command = [sys.executable, "-c", start, "start", *options, f"--temp-dir={short}"]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        with subprocess.Popen(command, env=environment, **pipes) as head:
            printed = []
            for line in head.stdout:
                printed.append(line)
                if "will now block" in line:
                    break
            else:
                pytest.fail(f"no cluster: {''.join(printed)}")
            yield address, folder
            head.terminate()
            head.communicate()


def plan_faults(folder, **faults):
    (folder / FAULTS).write_text(json.dumps({seed.removeprefix("seed"): fault for seed, fault in faults.items()}))
    (folder / STARTS).unlink(missing_ok=True)


@needs_ray
@pytest.mark.slow
def test_a_worker_that_dies_costs_only_its_own_run_and_the_results_are_those_of_one_process(cluster, tmp_path):
    address, folder = cluster
    plan_faults(folder, seed1=("kill parent", 1))
    assert main([*comparison_into(tmp_path / "out", seeds=3, env=ENV), "--ray", address]) == 0
    assert Counter(starts(folder)) == {0: 1, 1: 2, 2: 1}
    assert compare_here(comparison_into(tmp_path / "here", seeds=3, env=ENV)) == 0
    assert_same(tmp_path / "out", tmp_path / "here")
    assert "possibly on different machines" in (tmp_path / "out" / "report.md").read_text()


@needs_ray
@pytest.mark.slow
def test_a_run_that_keeps_failing_is_reported_and_the_same_command_repeats_it_alone(cluster, tmp_path, capsys):
    address, folder = cluster
    command = [*comparison_into(tmp_path, seeds=3, env=ENV), "--ray", address]
    plan_faults(folder, seed1=("kill", 99), seed2=("raise", 99))
    assert main(command) == 1
    assert Counter(starts(folder)) == {0: 1, 1: ATTEMPTS, 2: ATTEMPTS}
    printed = capsys.readouterr().out
    assert "2 runs failed and have no return. Run the same command with --retry-failed to repeat them." in printed
    assert "seed 1: ProcessDied: its process was ended by SIGKILL" in printed
    assert "seed 2: RuntimeError: the power supply is broken" in printed
    errors = [read_result(path).error for path in sorted(tmp_path.rglob("*-seed*.json"))]
    assert errors[0] is None and all(errors[1:])
    plan_faults(folder)
    assert main([*command, "--retry-failed"]) == 0
    assert sorted(starts(folder)) == [1, 2]


@needs_ray
@pytest.mark.slow
def test_a_run_that_hangs_is_ended_in_time_and_starts_once(cluster, tmp_path):
    address, folder = cluster
    plan_faults(folder, seed1=("hang", 99))
    command = [*comparison_into(tmp_path, seeds=2, env=ENV), "--ray", address, "--timeout-per-run", "60"]
    assert main(command) == 1
    healthy, hung = (read_result(path) for path in sorted(tmp_path.rglob("*-seed*.json")))
    assert healthy.error is None and hung.error == "TimeLimitExceeded: the run was ended because it took longer than 60 s"
    assert "fragile_environment.py" in hung.traceback and Counter(starts(folder)) == {0: 1, 1: 1}


@needs_ray
@pytest.mark.slow
def test_a_failed_run_is_not_repeated_if_failures_count(cluster, tmp_path):
    address, folder = cluster
    plan_faults(folder, seed0=("raise", 1))
    plan = plan_comparison(ENV, ["sb3:a2c"], 40, 1, tmp_path, eval_episodes=2)
    with ray_runner(address, repeat_failed=False) as runner:
        (result,) = runner(plan.specs, progress=False)
    assert result.error == "RuntimeError: the power supply is broken" and starts(folder) == [0]


@needs_ray
@pytest.mark.slow
def test_each_running_run_has_a_line(cluster, tmp_path, monkeypatch, capsys):
    """A table of a terminal shows a run as soon as it starts on some machine, and then its steps."""
    pytest.importorskip("rich")
    address, folder = cluster
    plan_faults(folder)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    plan = plan_comparison(ENV, ["sb3:a2c"], 4_000, 2, tmp_path, eval_episodes=2)  # long enough for the table to show steps
    with ray_runner(address) as runner:
        results = runner(plan.specs)
    printed = capsys.readouterr().out
    assert [result.error for result in results] == [None, None]
    for seed in (0, 1):
        assert re.search(rf"sb3:a2c on {ENV}, seed {seed} +starts", printed)
        assert re.search(rf"sb3:a2c on {ENV}, seed {seed} +\d[\d ]* of 4 000 ", printed)


@needs_ray
@pytest.mark.slow
def test_a_machine_with_other_versions_ends_the_comparison_before_it_trains(cluster, tmp_path, monkeypatch, capsys):
    address, folder = cluster
    plan_faults(folder)
    version = gymnasium.__version__
    monkeypatch.setattr(gymnasium, "__version__", "0.0")
    assert main([*comparison_into(tmp_path / "out", seeds=1, env=ENV), "--ray", address]) == 2
    sentence = rf"sb3-pgx: the machine \S+ of the cluster has gymnasium {version} instead of gymnasium 0.0; install the same"
    assert re.match(sentence, capsys.readouterr().err) and starts(folder) == []
    assert not list(tmp_path.rglob("*-seed*.json"))


@needs_ray
@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("nowhere", "Ray address nowhere: write host:port, auto or local"),
        ("host:port", "Ray address host:port: write host:port, auto or local"),
        ("ray://host:10001", "Ray address ray://host:10001: write host:port, auto or local"),
        ("127.0.0.1:CLOSED", "the Ray cluster 127.0.0.1:CLOSED cannot be reached: Connection refused; is its head running?"),
        ("nohost.invalid:6379", "the Ray cluster nohost.invalid:6379 cannot be reached: "),
    ],
)
def test_a_cluster_that_cannot_be_reached_is_one_sentence(address, sentence, tmp_path, capsys):
    closed = str(free_port())
    command = [*comparison_into(tmp_path / "out"), "--ray", address.replace("CLOSED", closed)]
    assert main(command) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and sentence.replace("CLOSED", closed) in printed.err
    assert not (tmp_path / "out").exists()


def test_without_ray_the_command_says_how_to_install_it(tmp_path, monkeypatch, capsys):
    without(monkeypatch, "ray")
    assert main([*comparison_into(tmp_path / "out"), "--ray", "auto"]) == 2
    assert capsys.readouterr().err == f"sb3-pgx: runs on a cluster need ray: {install_command('cluster')}\n"
    assert not (tmp_path / "out").exists()
