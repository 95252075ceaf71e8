"""Plays a random policy in a process of its own, because environments may end their process."""

import sys
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection

from sb3_pgx.core.errors import type_and_text
from sb3_pgx.experiments.child_process import ChildProcess, ProcessDied
from sb3_pgx.experiments.normalized_scores import random_return
from sb3_pgx.settings.configs import RunConfig

SECONDS_TO_PLAY = 600.0


def random_returns(configs: Mapping[str, RunConfig], timeout: float | None = None) -> tuple[dict[str, float], dict[str, str]]:
    """
    Play a random policy in each environment, see :func:`~sb3_pgx.experiments.normalized_scores.random_return`.

    :param configs: settings whose environment arguments and wrappers are used, by environment
    :param timeout: seconds that one environment may take; default: :data:`SECONDS_TO_PLAY`, because nothing is shown meanwhile
    :return: the mean return by environment; and for each environment that fails, ends its process, hangs, or ends no episode,
        why there is none
    """
    timeout = SECONDS_TO_PLAY if timeout is None else timeout
    returns: dict[str, float] = {}
    failures: dict[str, str] = {}
    while rest := {env_id: config for env_id, config in configs.items() if env_id not in {*returns, *failures}}:
        # JAX is full of threads, and environments that use it would hang in a copy of this process.
        process = ChildProcess(_play, rest, fork="jax" not in sys.modules, env_ids=rest)
        env_id = next(iter(rest))
        try:
            process.receive()  # it has started, which may take seconds that are not the environments'
            for env_id in rest:
                outcome = process.receive_in_time("process", time.monotonic(), timeout)
                (failures if isinstance(outcome, str) else returns)[env_id] = outcome
        except ProcessDied as death:  # the other environments need another process
            failures[env_id] = str(death)
        finally:
            process.close(kill=True)
    return returns, failures


def _play(pipe: Connection, configs: Mapping[str, RunConfig]) -> None:
    """Send that the process has started, and then the return in each environment, or why there is none."""
    pipe.send(None)
    for env_id, config in configs.items():
        try:
            pipe.send(random_return(env_id, config))
        except Exception as error:  # the environment may do anything
            pipe.send(type_and_text(error))
