"""
Runs commands of ``sb3-pgx`` in a separate process, because importing rl_zoo3 replaces classes of Gymnasium.

Standard input: a JSON list of argument lists. Standard output: the output of each, and the contents of rl_zoo3's tables.
"""

import contextlib
import io
import json
import runpy
import sys
from argparse import Namespace
from typing import Any
from unittest import mock


def run(arguments: list[str]) -> dict[str, Any]:
    """Run a command line, which may start with ``-m``. Return exit status and output."""
    from sb3_pgx.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if arguments[0] == "-m":
                with mock.patch.object(sys, "argv", arguments[1:]):
                    runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
            status = main(arguments)
        except SystemExit as end:
            status = end.code
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


def read_by_rl_zoo3() -> dict[str, Any]:
    """Return the settings of every published entry as rl_zoo3 reads it, by ``algorithm:environment``."""
    import yaml
    from rl_zoo3.train import ExperimentManager

    import sb3_pgx.tasks  # noqa: F401  # registers environments of some entries
    from sb3_pgx.registry import ALGORITHMS
    from sb3_pgx.settings.configs import config_folder
    from sb3_pgx.settings.registration import register_environment

    entries = {}
    for algorithm in ALGORITHMS:
        known = yaml.safe_load((config_folder() / f"{algorithm}.yml").read_text(encoding="utf-8"))
        with mock.patch.object(yaml, "safe_load", lambda *_, known=known: {k: dict(v) for k, v in known.items()}):
            for env_id in known.keys() - {"atari", "default"}:
                register_environment(env_id)
                with contextlib.redirect_stdout(io.StringIO()):
                    experiment = ExperimentManager(Namespace(), algorithm, env_id, "logs")
                    hyperparameters, *_ = experiment._preprocess_hyperparams(experiment.read_hyperparameters()[0])
                read = {"n_envs": experiment.n_envs, "n_timesteps": experiment.n_timesteps}
                read["normalize"] = experiment.normalize_kwargs if experiment.normalize else None
                entries[f"{algorithm}:{env_id}"] = {**read, "hyperparameters": repr(sorted(hyperparameters.items()))}
    return entries


def trials() -> list[tuple[str, str]]:
    """Return the arguments that our sampler suggested in some trials, with those that rl_zoo3 loads for the same trial."""
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER
    from rl_zoo3.train import ExperimentManager

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage, sampler = JournalStorage(JournalFileBackend("study.log")), optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(storage=storage, study_name="search", sampler=sampler)
    sampled = []
    for _ in range(10):
        trial = study.ask()
        sampled.append(HYPERPARAMS_SAMPLER["npg"](trial, 0, 2, {}))
        study.tell(trial, 0.0)
    experiment = ExperimentManager(Namespace(), "npg", "Acrobot-v1", "logs")
    experiment._check()
    return [(repr(s), repr(experiment.load_trial("study.log", "search", i))) for i, s in enumerate(sampled)]


if __name__ == "__main__":
    import sb3_pgx.cli
    import sb3_pgx.rl_zoo3.plugin  # noqa: F401

    imported = sorted({module.partition(".")[0] for module in sys.modules})
    results = [run(arguments) for arguments in json.load(sys.stdin)]
    from rl_zoo3 import ALGOS

    tables = {name: f"{algorithm.__module__.partition('.')[0]}.{algorithm.__name__}" for name, algorithm in ALGOS.items()}
    answer = {"imported": imported, "results": results, "tables": tables}
    json.dump({**answer, "entries": read_by_rl_zoo3(), "trials": trials()}, sys.stdout)
