"""False alarms: how often the package's default rules fire in healthy runs."""

import warnings
from collections import Counter
from pathlib import Path
from time import perf_counter
from typing import Any

import torch as th

from benchmarks.claims.draws import Draw, RunOptions, in_processes
from benchmarks.claims.protocol import Claim
from sb3_pgx.diagnostics import HealthCallback, HealthWarning
from sb3_pgx.experiments.peers import constructor_arguments, prepare
from sb3_pgx.settings.environments import make_train_env

ALARMS, UPDATES, TRAINING_RETURN = "alarms", "updates", "training return"
RULE = "alarms of "  # prefix of a rule's name


def count_all_alarms(claim: Claim, options: RunOptions) -> list[Draw]:
    """Train every seed in every environment with published settings, and count alarms."""
    jobs = [
        (claim.algorithm, env_id, seed, steps, options.configs)
        for env_id, steps in claim.environments.items()
        for seed in claim.seeds
    ]
    return in_processes(count_alarms, jobs, options.workers)


def count_alarms(
    algorithm: str, env_id: str, seed: int, steps: int, configs: Path | None = None, health: "AlarmCounter | None" = None
) -> Draw:
    """
    Train once with published settings and measure every update.

    :param algorithm: name of the algorithm, as ``sb3-pgx compare`` takes it
    :param env_id: Gymnasium's name of the environment
    :param seed: seed of the run
    :param steps: environment steps
    :param configs: folder of hyperparameter files; default: this repository's
    :param health: counts the alarms; default: with the rules that come with the package
    :return: the number of updates and of alarms, and the last mean return during training
    """
    th.set_num_threads(1)
    peer, config, _ = prepare(algorithm, env_id, configs)
    arguments = constructor_arguments(peer.algorithm, config.hyperparameters)
    model: Any = peer.algorithm(config.policy, make_train_env(config, env_id, seed), seed=seed, **arguments)
    health = health or AlarmCounter()
    start = perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HealthWarning)
        model.learn(steps, callback=health, log_interval=1)
    measured = {
        UPDATES: float(len(health.history)),
        ALARMS: float(health.alarms.total()),
        TRAINING_RETURN: float(health.history[-1].get("training_return", float("nan"))),
        **{f"{RULE}{rule}": float(n) for rule, n in health.alarms.items()},
    }
    return Draw(algorithm, env_id, seed, measured, None, model.num_timesteps, perf_counter() - start)


class AlarmCounter(HealthCallback):
    """A health callback that counts the alarms of each rule. An alarm that lasts over several updates counts once."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alarms: Counter[str] = Counter()
        self._firing: set[str] = set()

    def on_measured(self) -> None:
        """Apply the rules, and count those that are newly in alarm."""
        super().on_measured()
        firing = {state.rule.name for state in self.rule_states if state.in_alarm}
        self.alarms.update(firing - self._firing)
        self._firing = firing
