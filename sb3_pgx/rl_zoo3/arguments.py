"""The command-line arguments of rl_zoo3's commands: names are checked before rl_zoo3 starts, and put as it takes them."""

import argparse
import contextlib
import glob
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

from sb3_pgx.registry import EVERY_ALGORITHM, why_not_offered
from sb3_pgx.settings.amounts import read_amount
from sb3_pgx.settings.configs import DUMMY, check_vec_env, suggestion
from sb3_pgx.settings.environments import find_environment
from sb3_pgx.settings.registration import register_environment

LOGS = "logs"  # output folder of rl_zoo3's train
AMOUNTS = (
    *("-n", "--n-timesteps", "--eval-freq", "--eval-episodes", "--save-freq", "--n-trials", "--max-total-trials"),
    *("--n-startup-trials", "--n-evaluations", "-max", "--max-timesteps", "-w", "--episode-window"),
)  # options of rl_zoo3's commands


def plain_amounts(arguments: Sequence[str]) -> list[str]:
    """
    Return command-line arguments with amounts such as ``40k`` or ``1e5`` as rl_zoo3 reads them: ``40000``.

    :param arguments: the arguments; a value that is no amount stays as it is, and rl_zoo3 refuses it
    """
    plain = []
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if equals and option in AMOUNTS:
            argument = f"{option}={_plain(value)}"
        elif i and arguments[i - 1] in AMOUNTS:
            argument = _plain(argument)
        plain.append(argument)
    return plain


def _plain(text: str) -> str:
    with contextlib.suppress(ValueError):
        return str(read_amount(text))
    return text


def without_modules(command: str, asked: argparse.Namespace, arguments: Sequence[str]) -> list[str]:
    """
    Return the arguments with environments' names as rl_zoo3 takes them: without modules, which have been imported; and as
    parts of folder names in ``plot-train``. Options that rl_zoo3's command lacks are left out.
    """
    kept = list(arguments)
    for env in asked.env if command == "plot-train" else [asked.env]:
        plain = env.rpartition(":")[2]
        plain = plain.replace("/", "-") if command == "plot-train" else plain
        kept = [plain if a == env else f"--env={plain}" if a == f"--env={env}" else a for a in kept]
    if command == "record-video" and asked.gym_packages:
        begin = kept.index("--gym-packages")
        del kept[begin : begin + 1 + len(asked.gym_packages)]
    return kept


def check_names(command: str, asked: argparse.Namespace) -> None:
    """
    Check the names that rl_zoo3 would refuse late or with a long message. Import the modules of environments.

    :param command: name of the command
    :param asked: the result of :func:`read_names`
    :raises ValueError: a name is unknown; the message gives the nearest ones
    :raises ImportError: a package of ``--gym-packages`` is not installed, or cannot register its environments
    """
    from rl_zoo3.utils import ALGOS

    if asked.algo is None:
        return  # rl_zoo3 reports that it is required
    if asked.algo not in ALGOS:
        if (reason := why_not_offered(asked.algo)) is not None:
            raise ValueError(reason)
        hint = suggestion(asked.algo, list(ALGOS)) or f"; choose one of {', '.join(sorted(ALGOS))}"
        raise ValueError(f"algorithm {asked.algo!r} is unknown{hint}")
    for package in asked.gym_packages:
        importlib.import_module(package)
    if command == "train":
        _check_training(asked)
        return
    if not (Path(asked.folder, asked.algo).is_dir() or "rl-trained-agents" in asked.folder):  # rl_zoo3 can download these
        raise ValueError(
            f"there is no run of {asked.algo} in {asked.folder}: train one with `sb3-pgx train --algo {asked.algo}`, "
            "or give another folder with -f"
        )
    if command == "plot-train":
        _check_drawn(asked)
    else:
        _check_played(asked)
    if command == "enjoy" and not (asked.no_render or _has_display()):
        raise ValueError("there is no display: pass --no-render, or record a video with `sb3-pgx record-video`")


def _check_training(asked: argparse.Namespace) -> None:
    check_vec_env(asked.vec_env)
    find_environment(asked.env)
    agent = asked.trained_agent
    if agent and not (agent.endswith(".zip") and Path(agent).is_file()):
        raise ValueError(f"--trained-agent {agent}: there is no such file, or it is not a .zip file")
    if asked.resume:
        _check_resume(asked)


def _check_played(asked: argparse.Namespace) -> None:
    name = register_environment(asked.env)
    if name not in gym.registry and _runs(asked, name):
        raise ValueError(
            f"environment {name!r} is unknown, although {asked.folder} has a run in it: name the module that registers it: "
            f"--env my_module:{name}"
        )


def _check_drawn(asked: argparse.Namespace) -> None:
    for env in asked.env:
        if not _runs(asked, env.rpartition(":")[2]):
            names = sorted({path.name.rpartition("_")[0] for path in Path(asked.folder, asked.algo).glob("*_[0-9]*")})
            hint = suggestion(env, names) or f"; it has runs in {', '.join(names)}"
            raise ValueError(f"{asked.folder} has no run of {asked.algo} in {env!r}{hint}")


def _runs(asked: argparse.Namespace, name: str) -> list[Path]:
    """Return the folders of the runs in an environment. plot-train also takes a part of its name."""
    return list(Path(asked.folder, asked.algo).glob(f"*{glob.escape(name.replace('/', '-'))}*_[0-9]*"))


def _check_resume(asked: argparse.Namespace) -> None:
    if asked.algo not in EVERY_ALGORITHM:
        choices = ", ".join(EVERY_ALGORITHM)
        raise ValueError(f"--resume: {asked.algo} writes no checkpoints that can be resumed; choose {choices}")
    if asked.save_freq <= 0:
        raise ValueError("--resume needs checkpoints: add --save-freq 10000, which writes one every 10,000 steps")


def _has_display() -> bool:
    # Without a display, MuJoCo's window ends the process.
    return not sys.platform.startswith("linux") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def read_names(command: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments that are checked here. rl_zoo3 reports any other mistake."""
    parser = argparse.ArgumentParser(f"sb3-pgx {command}", add_help=False, allow_abbrev=False)
    parser.add_argument("-a", "--algo", default=None if command == "plot-train" else "ppo")  # rl_zoo3's defaults
    if command == "plot-train":
        parser.add_argument("-e", "--env", nargs="+", default=[])
    else:
        parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--gym-packages", nargs="+", default=[])
    if command == "train":
        parser.add_argument("-i", "--trained-agent", default="")
        parser.add_argument("--vec-env", default=DUMMY)
        parser.add_argument("--resume", action="store_true")
        parser.add_argument("--save-freq", type=int, default=-1)
    else:
        parser.add_argument("-f", "--folder", "--exp-folder", default=LOGS)
        parser.add_argument("--no-render", action="store_true")
    for options in (("--env-kwargs",), ("--eval-env-kwargs",), ("-params", "--hyperparams")):
        parser.add_argument(*options, nargs="+", action=_CheckValues)
    return parser.parse_known_args(arguments)[0]


class _CheckValues(argparse.Action):
    """Checks each ``name:value``, for which rl_zoo3 would show a traceback if it cannot evaluate the value."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        from rl_zoo3.utils import StoreDict

        for value in values:
            try:
                StoreDict([], self.dest)(parser, argparse.Namespace(), [value])
            except Exception:  # evaluation may raise anything
                raise ValueError(
                    f"{option_string} {value}: write name:value, where the value is a Python expression; a text needs quotes "
                    "of its own, as in learning_rate:\"'lin_0.001'\""
                ) from None
