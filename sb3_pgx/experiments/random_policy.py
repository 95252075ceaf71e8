"""Plays a random policy in a process of its own, because environments may end their process."""

import sys
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection

from sb3_pgx.core.errors import type_and_text
from sb3_pgx.experiments.child_process import ChildProcess, ProcessDied
from sb3_pgx.experiments.normalized_scores import random_return
from sb3_pgx.settings.configs import RunConfig


def random_returns(configs: Mapping[str, RunConfig], timeout: float | None = None) -> dict[str, float]:
    """
    Return the mean return of a random policy in each environment, see
    :func:`~sb3_pgx.experiments.normalized_scores.random_return`.

    :param configs: settings whose environment arguments and wrappers are used, by environment
    :param timeout: seconds that one environment may take; default: any
    :raises ValueError: an environment fails, ends its process, hangs, or ends no episode; the message says what to do
    """
    if not configs:
        return {}
    # JAX is full of threads, and environments that use it would hang in a copy of this process.
    process = ChildProcess(_play, dict(configs), fork="jax" not in sys.modules, env_ids=configs)
    env_id, played = next(iter(configs)), dict[str, float]()
    try:
        process.receive()  # it has started, which may take seconds that are not the environments'
        for env_id in configs:
            outcome = process.receive_in_time("process", time.monotonic(), timeout)
            if isinstance(outcome, str):
                raise ValueError(_sentence(env_id, outcome))
            played[env_id] = outcome
    except ProcessDied as death:
        raise ValueError(_sentence(env_id, str(death))) from death
    finally:
        process.close(kill=True)
    return played


def _sentence(env_id: str, problem: str) -> str:
    return (
        f"random actions in {env_id} have no return: {problem}; give the returns that count as 0 and as 1: "
        f"--normalize {env_id}=LOW,HIGH"
    )


def _play(pipe: Connection, configs: Mapping[str, RunConfig]) -> None:
    """Send that the process has started, and then the return in each environment, or why there is none."""
    pipe.send(None)
    for env_id, config in configs.items():
        try:
            pipe.send(random_return(env_id, config))
        except Exception as error:  # the environment may do anything
            pipe.send(type_and_text(error))
