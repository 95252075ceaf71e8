"""Compile ahead what the runs of an algorithm in an environment will need."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger

from sb3_pgx.experiments.forwarded_log import ForwardedLog
from sb3_pgx.experiments.peers import constructor_arguments, prepare, resolve_peer
from sb3_pgx.settings.action_noise import with_action_noise
from sb3_pgx.settings.configs import CLASS_DEFAULTS, RunConfig, check_hyperparameters
from sb3_pgx.settings.environments import check_environment, choose_policy, make_train_env
from sb3_pgx.stages.off_policy import OffPolicy


@dataclass(frozen=True)
class Warmup:
    """
    What to compile.

    :param algorithm: class of the algorithm
    :param env_id: Gymnasium's name of the environment
    :param config: settings
    """

    algorithm: type[BaseAlgorithm]
    env_id: str
    config: RunConfig


def plan_warmup(name: str, env_id: str, configs: Path | None = None, defaults: bool = False) -> Warmup:
    """
    Check the arguments. Compile nothing.

    :param name: name of the algorithm, such as ``"ppo"`` or ``"ppo[batch_size=256]"``
    :param env_id: Gymnasium's name of the environment
    :param configs: folder of hyperparameter files; default: this package's
    :param defaults: the constructor's default arguments and one environment, instead of the settings of a file
    :raises ValueError: a name is unknown, the algorithm does not compile, or the settings have a mistake
    :raises ImportError: a package that the algorithm or the environment needs is not installed
    """
    peer = resolve_peer(name)
    if ":" in name.partition("[")[0]:
        raise ValueError(f"{name} is not an algorithm of this package, which alone are compiled")
    if defaults:
        config = peer.adapt(RunConfig(source=CLASS_DEFAULTS, n_envs=1))
        check_hyperparameters(peer.algorithm, config)
        config = choose_policy(config, check_environment(env_id, config, peer.algorithm).observation_space, peer.algorithm)
    else:
        peer, config, _ = prepare(name, env_id, configs)
    return Warmup(peer.algorithm, env_id, config)


def warm_up(plan: Warmup, tell: Callable[[str], None] = print) -> None:
    """
    Train for the first rollouts. Their graphs are compiled and kept, unless they are kept already.

    :param plan: what to compile
    :param tell: function that gets a sentence per graph
    """
    config = plan.config
    env = make_train_env(config, plan.env_id, 0)
    try:
        given = with_action_noise(config.hyperparameters, env.action_space, config.source)
        arguments = {**constructor_arguments(plan.algorithm, given), "compile": True}
        if issubclass(plan.algorithm, OffPolicy):
            arguments["learning_starts"] = 1  # which changes no graph
        model: Any = plan.algorithm(config.policy, env, seed=0, device="cpu", **arguments)
        model.set_logger(Logger(None, [ForwardedLog(tell)]))
        if isinstance(model, OffPolicy):
            updates = getattr(model, "policy_delay", 1)  # until each kind of step has been taken
            model.learn(sys.maxsize, callback=lambda *_: model.n_gradient_steps < updates)
        else:
            model.learn(2 * model.n_steps * model.n_envs + getattr(model, "replay_start", 0))  # ACER replays from some step on
    finally:
        env.close()
