"""Checks whether a budget of environment steps is enough to learn from, and says which part of it is not."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_pgx.experiments.number_format import thousands
from sb3_pgx.experiments.runs import RunSpec
from sb3_pgx.settings.configs import RunConfig

NEGLIGIBLE = 0.02  # share of a budget that is not worth a line
FITTED = "to fit into"  # in the source of settings whose rollouts were shortened


@dataclass(frozen=True)
class Budget:
    """
    What an algorithm learns from in a run.

    :param timesteps: environment steps of the run, summed over its parallel environments
    :param unit: environment steps of a rollout; or, off-policy, the steps before learning starts
    :param on_policy: whether ``unit`` is a rollout
    """

    timesteps: int
    unit: int
    on_policy: bool

    @property
    def learned_from(self) -> int:
        """Environment steps that the algorithm learns from. A rollout that the end of the budget cuts short does not count."""
        return self.timesteps // self.unit * self.unit if self.on_policy else self.timesteps * (self.timesteps > self.unit)


def budget_of(algorithm: type[BaseAlgorithm], config: RunConfig, timesteps: int) -> Budget | None:
    """
    Return what an algorithm learns from; ``None`` if that is not known beforehand, because its rollouts are whole episodes.

    :param algorithm: class of the algorithm
    :param config: the settings
    :param timesteps: environment steps of the run
    """
    on_policy = issubclass(algorithm, OnPolicyAlgorithm)
    name, factor = ("n_steps", config.n_envs) if on_policy else ("learning_starts", 1)
    steps = _argument(algorithm, config, name)
    return Budget(timesteps, steps * factor, on_policy) if isinstance(steps, int) and steps > 0 else None


def check_budget(label: str, env_id: str, algorithm: type[BaseAlgorithm], config: RunConfig, timesteps: int) -> None:
    """
    Check that a run would learn anything. Its untrained policy would be ranked otherwise.

    :param label: name of the algorithm
    :param env_id: Gymnasium's name of the environment
    :param algorithm: class of the algorithm
    :param config: the settings
    :param timesteps: environment steps of the run
    :raises ValueError: the budget ends before the first update
    """
    budget = budget_of(algorithm, config, timesteps)
    if budget is None or budget.learned_from:
        return
    if not budget.on_policy:
        raise ValueError(
            f"{label} would learn nothing in {env_id}: it starts to learn after {budget.unit} steps, and timesteps is "
            f"{timesteps}; raise timesteps, or lower learning_starts"
        )
    shorter = (
        f"set n_steps to {timesteps // config.n_envs} or less" if timesteps >= config.n_envs else "use fewer environments"
    )
    raise ValueError(
        f"{label} would learn nothing in {env_id}: one rollout has {budget.unit} steps ({config.n_envs} environments times "
        f"n_steps), and timesteps is {timesteps}; raise timesteps to {budget.unit}, or {shorter}"
    )


def shorten_rollouts(algorithm: type[BaseAlgorithm], config: RunConfig, timesteps: int) -> RunConfig:
    """
    Return settings whose rollouts fit into a run; ``source`` says so if they are shorter than before.

    :param algorithm: class of the algorithm
    :param config: the settings
    :param timesteps: environment steps of the run
    """
    budget = budget_of(algorithm, config, timesteps)
    if budget is None or not budget.on_policy or budget.learned_from or timesteps < config.n_envs:
        return config
    n_steps = budget.unit // config.n_envs
    while n_steps * config.n_envs > timesteps:
        n_steps //= 2  # keeps powers of two, which minibatches divide evenly
    shorter = {**config.hyperparameters, "n_steps": n_steps}
    if isinstance(batch_size := _argument(algorithm, config, "batch_size"), int):
        shorter["batch_size"] = min(batch_size, n_steps * config.n_envs)
    source = f"{config.source}, n_steps={n_steps} {FITTED} {timesteps} steps"
    return replace(config.with_hyperparameters(shorter), source=source)


def unlearned_lines(specs: Sequence[RunSpec]) -> list[str]:
    """Return a sentence for each algorithm and environment in which a part of the budget is not learned from."""
    lines = {}
    for spec in specs:
        budget = budget_of(spec.algorithm, spec.config, spec.timesteps)
        if budget is not None and budget.learned_from < (1 - NEGLIGIBLE) * spec.timesteps:
            lines[spec.kind] = (
                f"{spec.kind} learns from {thousands(budget.learned_from)} of {thousands(spec.timesteps)} steps: "
                f"rollouts have {thousands(budget.unit)} steps, and the last one is cut short"
            )
    return list(lines.values())


def _argument(algorithm: type[BaseAlgorithm], config: RunConfig, name: str) -> Any:
    """Return the value of a constructor argument; ``None`` if the algorithm has none of that name."""
    parameter = inspect.signature(algorithm).parameters.get(name)
    return None if parameter is None else config.hyperparameters.get(name, parameter.default)
