"""Opening a study: other settings are refused, and so is a storage that cannot be reached."""

import dataclasses
import importlib
import multiprocessing as mp
import os
import re
import subprocess
import sys

import optuna
import pytest

from sb3_pgx.cli import main
from sb3_pgx.core.optional_packages import install_command
from sb3_pgx.core.search_space import ENTROPY
from sb3_pgx.tuning import study as studies
from sb3_pgx.tuning import trial_records
from sb3_pgx.tuning.journal import Journal
from sb3_pgx.tuning.study import AGREEMENT, StudyMismatch, open_storage, open_study
from sb3_pgx.tuning.tuning_plan import plan_tuning


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"seeds": 3}, r"started with seeds \[100, 101\], and now it is \[100, 101, 102\]"),
        ({"timesteps": 500}, "started with timesteps 400, and now it is 500"),
        ({"pruner": "median"}, "started with pruner none, and now it is median"),
        ({"vec_env": "vector"}, "started with configuration vec_env='dummy', and now it is vec_env='vector'"),
        ({"algorithm": "ppo", "study_name": "tune-a2c-CartPole-v1"}, "started with algorithm a2c, and now it is ppo"),
        (
            {"env": "Acrobot-v1", "study_name": "tune-a2c-CartPole-v1"},
            "started with environment CartPole-v1, and now it is Acr",
        ),
    ],
)
def test_other_settings_are_refused_with_old_and_new(plan, changes, sentence):
    open_study(plan())
    with pytest.raises(StudyMismatch, match=f"{sentence}.*another --output or --study-name, or --force"):
        open_study(plan(**changes))


def test_another_search_space_is_refused_with_what_is_new_in_it(plan):
    """As if another version of the package had created the study."""
    study = open_study(plan())
    agreement = study.user_attrs[AGREEMENT]
    wider = [repr(dataclasses.replace(ENTROPY, high=0.5)) if d == repr(ENTROPY) else d for d in agreement["search space"]]
    study.set_user_attr(AGREEMENT, {**agreement, "search space": wider})
    with pytest.raises(StudyMismatch) as error:
        open_study(plan())
    assert "started with search space Real(argument='ent_coef', low=1e-06, high=0.5" in str(error.value)
    assert "and now it is Real(argument='ent_coef', low=1e-06, high=0.1" in str(error.value)


def test_another_configuration_is_refused_and_only_the_difference_is_told(plan, tmp_path):
    for folder, gamma in (("old", 0.9), ("new", 0.95)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a2c.yml").write_text(f"default:\n  n_envs: 2\n  gamma: {gamma}\n")
    open_study(plan(configs=tmp_path / "old"))
    with pytest.raises(
        StudyMismatch, match=r"configuration hyperparameters=\{'gamma': 0.9\}, and .*\{'gamma': 0.95\}"
    ) as error:
        open_study(plan(configs=tmp_path / "new"))
    assert "n_envs" not in str(error.value)


def test_force_starts_anew(plan):
    open_study(plan()).ask()
    study = open_study(plan(seeds=3, force=True))
    assert [trial.state.name for trial in study.trials] == ["WAITING"]


def test_force_spares_a_study_at_which_somebody_is(plan):
    trial_records.record_heartbeat(open_study(plan()).ask())
    with pytest.raises(ValueError, match=rf"cannot be deleted: process {os.getpid()} on .* is working on it; stop that first"):
        open_study(plan(force=True))
    assert len(open_study(plan()).trials) == 1


def test_whoever_comes_while_another_machine_makes_the_study_waits_for_it(plan):
    """If the other machine has died, this one creates the study."""
    p = plan(seconds_to_start=0.1)
    optuna.create_study(storage=open_storage(p.storage), study_name=p.study_name, direction="maximize")
    study = open_study(p)
    assert [trial.state.name for trial in study.trials] == ["WAITING"] and open_study(p).user_attrs == study.user_attrs


def test_an_entry_of_the_journal_that_is_half_written_is_dropped_with_a_note(plan, capsys):
    p = plan()
    open_study(p)
    whole = (p.output / "journal.log").read_bytes()
    (p.output / "journal.log").write_bytes(whole + b'{"op_code": 5, "worker')
    study = open_study(p)
    assert "incomplete" in capsys.readouterr().out
    study.ask()  # writes behind it
    assert len(open_study(p).trials) == 1 and (p.output / "journal.log").read_bytes().startswith(whole)
    assert Journal(p.output / "journal.log").mend() == 0


@pytest.mark.parametrize(
    "storage, sentence",
    [
        ("sqlite:////no/such/folder/study.db", "cannot be reached: unable to open database file"),
        ("postgresql://me:secret@127.0.0.1:9/db", "cannot be reached: connection to server"),
        ("grpc://127.0.0.1:9", "cannot be reached: GRPC connection timeout"),
        ("grpc://nowhere", "write grpc://host:port"),
        ("nosuch://host/db", "not an address that SQLAlchemy accepts"),
        ("/proc/no/journal.log", "No such file"),
        ("/proc", "/proc is a folder: give the path of a file, such as /proc/journal.log"),
    ],
)
def test_a_storage_that_cannot_be_reached_is_one_sentence(plan, storage, sentence):
    if storage.startswith("postgresql"):
        pytest.importorskip("psycopg2", reason="psycopg2, the driver of PostgreSQL, is not installed")
    with pytest.raises((OSError, ValueError)) as error:
        open_study(plan(storage=storage, seconds_to_connect=0.2))
    assert sentence in str(error.value) and "secret" not in str(error.value) and "\n" not in str(error.value)


def test_a_driver_that_is_missing_is_named_with_the_command(plan, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(ImportError, match=rf"psycopg2? is not installed; {re.escape(install_command('postgresql'))}"):
        open_study(plan(storage="postgresql://me@127.0.0.1:9/db"))


def test_grpc_proxy_serves_several_machines(plan):
    pytest.importorskip("grpc", reason="grpcio is not installed")
    server = (
        "import socket, optuna; s = socket.socket(); s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]; s.close(); "
        "print(port, flush=True); "
        "optuna.storages.run_grpc_proxy_server(optuna.storages.InMemoryStorage(), host='127.0.0.1', port=port)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", server], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            storage = f"grpc://127.0.0.1:{process.stdout.readline().strip()}"
            p = plan(storage=storage)
            one, other = open_study(p), open_study(p)
            assert one.ask().number == 0 and other.ask().number == 1
            assert [trial.state.name for trial in one.trials] == ["RUNNING", "RUNNING"]
            with pytest.raises(StudyMismatch):
                open_study(plan(storage=storage, seeds=5))
            process.kill()
            process.wait()
            with pytest.raises(OSError, match=rf"^storage {storage} cannot be reached: (?!<).*(connect|Socket closed)"):
                with studies.reachable(storage):
                    one.ask()
            for study in (one, other):
                study._storage.close()
        finally:
            process.kill()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--algo", "pqo"], "algorithm 'pqo' is unknown; choose ppo"),
        (["--algo", "sb3:dqn"], "sb3:dqn has no search space; choose one of"),
        (["--algo", "a2c[gamma=0.9]"], "put the settings in brackets into a file for --configs"),
        (["--env", "CartPole-v7"], "environment 'CartPole-v7' is unknown"),
        (["--pruner", "wilcoxon"], "use --seeds 5 or more"),
        (["--pruner", "meridian"], "choose median, hyperband, wilcoxon, none"),
        (["--sampler", "tpp"], "choose tpe, random"),
        (["--vec-env", "arrays"], "vec_env 'arrays' is unknown; choose dummy, subproc, vector, envpool"),
        (["--vec-env", "subproc"], "a worker of a search starts no processes of its own: choose another vec_env"),
        (["--algo", "sb3:a2c", "--vec-env", "vector"], "A2C of stable_baselines3 learns from every step"),
        (["--trials", "0"], "trials is 0; it must be at least 1"),
        (["--seeds", "0"], "seeds is 0; it must be at least 1"),
    ],
)
def test_bad_arguments_are_one_sentence_and_nothing_is_written(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "--algo", "a2c", "--env", "CartPole-v1", *arguments]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("sb3-pgx: ") and sentence in printed and printed.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_budget_is_the_configurations_where_none_is_given(tmp_path):
    assert plan_tuning("a2c", "CartPole-v1").timesteps == 500_000
    (tmp_path / "a2c.yml").write_text("default:\n  gamma: 0.9\n")
    with pytest.raises(ValueError, match="has no n_timesteps: give the length of a run with --timesteps"):
        plan_tuning("a2c", "CartPole-v1", configs=tmp_path)


def test_importing_brings_no_optuna():
    context = mp.get_context("fork")
    answer, theirs = context.Pipe()
    process = context.Process(target=_import_anew, args=(theirs,))
    process.start()
    assert answer.recv() == ["sb3_pgx.tuning", "sb3_pgx.tuning.tuner"]
    process.join()
    answer.close(), theirs.close()


def _import_anew(pipe):
    heavy = ("optuna", "plotly", "sqlalchemy", "matplotlib")
    for name in list(sys.modules):
        if name.startswith(("sb3_pgx", *heavy)):
            del sys.modules[name]
    importlib.import_module("sb3_pgx.tuning")
    pipe.send(sorted({*heavy, "sb3_pgx.tuning", "sb3_pgx.tuning.tuner"} & set(sys.modules)))
