"""
Runs rl_zoo3's commands with this package's algorithms in addition to its own.

rl_zoo3 reads its algorithms from tables. :func:`register` adds ours; importing this module does not. Mistakes of the user are
found before rl_zoo3 starts, if possible, and are reported in one sentence.
"""

import argparse
import contextlib
import importlib
import itertools
import re
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_pgx.core.files import replacing
from sb3_pgx.core.optional_packages import ZOO, require_extra
from sb3_pgx.environments.evaluation import acting_in
from sb3_pgx.registry import EVERY_ALGORITHM, RENAMED_IN_RL_ZOO3
from sb3_pgx.rl_zoo3.arguments import LOGS, check_names, plain_amounts, read_names, without_modules
from sb3_pgx.rl_zoo3.invalid_request import InvalidRequest, invalid_requests
from sb3_pgx.settings.configs import suggestion


def register() -> None:
    """
    Put this package's algorithms and their search spaces into rl_zoo3's tables, and
    :class:`~sb3_pgx.rl_zoo3.experiment_manager.PgxExperimentManager` into its ``train``, whose evaluations use action masks.
    If rl_zoo3 has an algorithm of the same name, the name stands for ours from then on; rl_zoo3's own gets the name in
    :data:`~sb3_pgx.registry.RENAMED_IN_RL_ZOO3`.

    :raises ImportError: rl_zoo3 is not installed; says how to install it
    """
    require_extra("rl_zoo3's commands", ZOO, "zoo")
    from rl_zoo3 import exp_manager, train
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
    from rl_zoo3.utils import ALGOS

    from sb3_pgx.rl_zoo3.experiment_manager import (
        PgxCheckpointCallback,
        PgxEvalCallback,
        PgxExperimentManager,
        PgxTrialEvalCallback,
        converter,
        sampler,
    )

    train.ExperimentManager = PgxExperimentManager  # type: ignore[misc]
    exp_manager.EvalCallback = PgxEvalCallback  # type: ignore[misc]
    exp_manager.CheckpointCallback = PgxCheckpointCallback  # type: ignore[misc]
    exp_manager.TrialEvalCallback = PgxTrialEvalCallback  # type: ignore[misc]
    tables: tuple[dict[str, Any], ...] = (ALGOS, HYPERPARAMS_SAMPLER, HYPERPARAMS_CONVERTER)
    for name, theirs in RENAMED_IN_RL_ZOO3.items():
        for table in tables:
            table.setdefault(theirs, table[name])
    for name, algorithm in EVERY_ALGORITHM.items():
        for table, entry in zip(tables, (algorithm, sampler(name), converter(name)), strict=True):
            table[name] = entry


def run_command(name: str, arguments: Sequence[str]) -> None:
    """
    Run a command of rl_zoo3.

    :param name: a key of :data:`COMMANDS`
    :param arguments: rl_zoo3's command-line arguments
    :raises InvalidRequest: the command cannot be run with these arguments
    :raises SystemExit: rl_zoo3 showed its help
    """
    command = COMMANDS[name]
    asks_for_help = not {"-h", "--help"}.isdisjoint(arguments)
    if asks_for_help:
        print(f"{command.description}\n")
    with invalid_requests():
        register()
        if not asks_for_help:
            arguments = plain_amounts(arguments)
            asked = read_names(name, arguments)
            check_names(name, asked)
            arguments = without_modules(name, asked, arguments)
    with _process_arguments([f"sb3-pgx {name}", *command.defaults, *arguments]), _short_refusals():
        command.run()


@contextlib.contextmanager
def _process_arguments(arguments: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, arguments
    try:
        yield
    finally:
        sys.argv = before


@contextlib.contextmanager
def _short_refusals() -> Iterator[None]:
    """Let rl_zoo3's parser refuse arguments in one sentence with the nearest options, without its usage of many lines."""

    def refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
        unknown = [word.partition("=")[0] for word in message.split() if word.startswith("-")]
        options = re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", parser.format_usage())
        hints = (suggestion(name, options) for name in unknown if name not in options)
        raise InvalidRequest(f"{message}{next(filter(None, hints), '')} ({sys.argv[0]} -h shows the help)")

    original = argparse.ArgumentParser.error
    argparse.ArgumentParser.error = refuse  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        argparse.ArgumentParser.error = original  # type: ignore[method-assign]


def _train() -> None:
    from rl_zoo3 import train

    # rl_zoo3's own parser knows two of the values only, and not --resume.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--vec-env")
    parser.add_argument("--resume", action="store_true")
    asked, sys.argv[1:] = parser.parse_known_args(sys.argv[1:])
    manager: Any = train.ExperimentManager  # that `register` has put there
    train.ExperimentManager = partial(manager, vec_env=asked.vec_env, resume=asked.resume)  # type: ignore[assignment,misc]
    try:
        train.train()
    finally:
        train.ExperimentManager = manager  # type: ignore[misc]


def _enjoy() -> None:
    enjoy = importlib.import_module("rl_zoo3.enjoy")
    with invalid_requests(), _players(enjoy):
        enjoy.enjoy()


def _record_video() -> None:
    from rl_zoo3 import utils

    with invalid_requests(), _players(utils):
        runpy.run_module("rl_zoo3.record_video", run_name="__main__")


@contextlib.contextmanager
def _players(module: Any) -> Iterator[None]:
    """
    Let the models that rl_zoo3 loads act by the action masks of the environments that it has made.

    :param module: module whose ``create_test_env`` rl_zoo3's command calls
    """
    from rl_zoo3.utils import ALGOS

    create, made = module.create_test_env, []

    def create_and_keep(*args: Any, **kwargs: Any) -> VecEnv:
        made.append(create(*args, **kwargs))
        return made[-1]

    players: dict[str, Any] = {name: _Player(algorithm, made) for name, algorithm in EVERY_ALGORITHM.items()}
    module.create_test_env = create_and_keep
    ALGOS.update(players)
    try:
        yield
    finally:
        module.create_test_env = create
        ALGOS.update(EVERY_ALGORITHM)


@dataclass(frozen=True)
class _Player:
    """
    Loads a model without an environment. record_video would load it with the environment of the video, in which the model may
    be unable to train.

    :param algorithm: the model's class
    :param made: the environments that rl_zoo3 has made, the newest one last
    """

    algorithm: type[BaseAlgorithm]
    made: list[VecEnv]

    def load(self, path: str, env: VecEnv | None = None, **kwargs: Any) -> Any:
        return acting_in(self.algorithm.load(path, **kwargs), self.made[-1])


def _plot_train() -> None:
    from matplotlib import pyplot as plt

    rliable = sys.modules.get("rliable")
    sys.modules["rliable"] = None  # type: ignore[assignment]  # plot_train does not need it, and importing it may fail
    try:
        from rl_zoo3.plots import plot_train
    finally:
        del sys.modules["rliable"]
        if rliable is not None:
            sys.modules["rliable"] = rliable
    with invalid_requests(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "FigureCanvas.* is non-interactive|No artists with labels")
        plot_train()
        _keep_picture(plt)


def _keep_picture(plt: Any) -> None:
    """Save the picture to a file if there is no display to show it."""
    if not plt.get_fignums():
        return
    figure = plt.gcf()
    (axes,) = figure.axes
    if not axes.lines:
        plt.close(figure)
        raise ValueError("nothing to draw: no run of that environment has enough episodes to average (--episode-window)")
    name = axes.get_ylabel().lower().replace(" ", "_")
    paths = (Path(f"{name}_{number}.png") for number in itertools.count(1))  # numbered like the runs of train
    path = next(path for path in paths if not path.exists())
    with replacing(path) as file:
        figure.savefig(file, format="png")
    plt.close(figure)
    print(f"there is no display: the picture was saved to {path}")


@dataclass(frozen=True)
class Command:
    """
    One of rl_zoo3's commands.

    :param name: name of the command in ``sb3-pgx``
    :param description: text that is printed before rl_zoo3's own help
    :param defaults: arguments that come before those of the user, which override them
    :param run: calls rl_zoo3, which reads ``sys.argv``
    """

    name: str
    description: str
    defaults: tuple[str, ...]
    run: Callable[[], None]


_NAMES = (
    f"Algorithms: this package's ({', '.join(EVERY_ALGORITHM)}),\nwith the hyperparameters of zoo_configs/, "
    "and those of SB3 and sb3-contrib with rl_zoo3's. If a name exists in both,\n"
    f"the latter are called {', '.join(RENAMED_IN_RL_ZOO3.values())}."
)
TRAIN = Command(
    "train",
    "Train one algorithm in one environment with rl_zoo3's train. Output folder: logs/<algo>/<env>_<number>.\n\n"
    f"{_NAMES}\n\n"
    "  sb3-pgx train --algo ppo_penalty --env CartPole-v1 -n 50k\n"
    "  sb3-pgx train --algo ppo --env my_module:MyEnv-v0 -n 1e5\n"
    "  sb3-pgx train --algo trpo --env Pendulum-v1 -params target_kl:0.02 learning_rate:\"'lin_0.001'\"\n"
    "  sb3-pgx train --algo sb3_ppo --env CartPole-v1 -conf my_settings.yml\n\n"
    "--vec-env also takes vector and envpool: environments that step as arrays. A hyperparameter file may have\n"
    "the same as vec_env.\n\n"
    "With --save-freq 10000, a run of this package's algorithms writes whole checkpoints. The same command with --resume\n"
    "continues the newest run of that algorithm and environment exactly where its newest checkpoint was written; if there\n"
    "is none, it begins a run.",
    (),
    _train,
)
ENJOY = Command(
    "enjoy",
    "Play episodes with a policy that `sb3-pgx train` saved, with rl_zoo3's enjoy.\n"
    "The policy is loaded from logs/, or from the folder given with -f.\n\n"
    "  sb3-pgx enjoy --algo ppo_penalty --env CartPole-v1 --no-render -n 2000\n"
    "  sb3-pgx enjoy --algo ppo --env my_module:MyEnv-v0",
    ("-f", LOGS),
    _enjoy,
)
RECORD_VIDEO = Command(
    "record-video",
    "Record a video of a policy that `sb3-pgx train` saved, with rl_zoo3's record_video: an MP4 file in the\n"
    "run's folder videos/. (MuJoCo without a display: set MUJOCO_GL=egl if EGL is installed.)\n\n"
    "  sb3-pgx record-video --algo ppo_penalty --env CartPole-v1 -n 500\n"
    "  sb3-pgx record-video --algo ppo --env my_module:MyEnv-v0 -n 500",
    ("-f", LOGS),
    _record_video,
)
PLOT_TRAIN = Command(
    "plot-train",
    "Draw returns (or lengths, or successes) of the training episodes of every run, with rl_zoo3's plot_train.\n"
    "Without a display, the picture is saved in the working folder.\n\n"
    "  sb3-pgx plot-train --algo ppo_penalty --env CartPole-v1",
    ("-f", LOGS),
    _plot_train,
)
COMMANDS = {command.name: command for command in (TRAIN, ENJOY, RECORD_VIDEO, PLOT_TRAIN)}
