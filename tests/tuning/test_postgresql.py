"""A study in PostgreSQL: on a private server in a temporary folder, which only this test can reach."""

import getpass
import multiprocessing as mp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
USER = "postgres" if os.name == "posix" and os.getuid() == 0 else None  # the server refuses to run as root

pytest.importorskip("psycopg2", reason="psycopg2, the driver of PostgreSQL, is not installed")
pytestmark = [
    pytest.mark.skipif(not BINARIES, reason="PostgreSQL is not installed (Debian: apt-get install postgresql)"),
    pytest.mark.skipif(sys.platform != "linux", reason="the server is started as Debian installs it"),
]


@pytest.fixture(scope="module")
def server():
    """The address of the server, which listens only on a socket in its folder."""
    bin_folder = BINARIES[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short: the path of a socket has little room
    user = USER or getpass.getuser()
    if USER:
        shutil.chown(folder, user)

    def run(program, *arguments):
        command = [str(bin_folder / program), "-D", str(folder / "data"), *arguments]
        subprocess.run(["runuser", "-u", USER, "--", *command] if USER else command, check=True, cwd="/", timeout=60)

    try:
        run("initdb", "-A", "trust", "-U", user, "--no-sync", "-E", "UTF8", "--locale=C")
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", f"-c listen_addresses='' -k {folder} -F", "start")
        yield f"postgresql://{user}@/postgres?host={folder}"
        run("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def test_machines_share_a_study_in_postgresql_and_a_killed_one_loses_nothing(server, stub, plan, search, killed_at):
    killed_at(plan(storage=server), trial=1, seed=101)
    assert stub.executions() == [(0, 100), (0, 101), (1, 100)]
    p = plan(trials=6, workers=2, storage=server, sampler="random", sampler_seed=None)
    machines = [mp.get_context("fork").Process(target=search, args=(p,)) for _ in range(2)]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join(60)
        assert machine.exitcode == 0
    summary, study = search(p)
    executions = stub.executions()
    assert len(summary.trials) == 6 and len(set(executions)) == len(executions) == 12
    replaced = next(trial for trial in study.trials if trial.user_attrs.get("instead of") == 1)
    assert replaced.params == study.trials[1].params and replaced.state.name == "COMPLETE"
    assert (replaced.number, 100) not in executions and (replaced.number, 101) in executions
