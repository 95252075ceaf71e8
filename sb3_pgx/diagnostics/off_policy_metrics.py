"""
Measure SAC, TD3 and DDPG, of this package or of SB3, D4PG and SoftQLearning, on a sample of their replay memory, without
changing anything.

:data:`~sb3_pgx.diagnostics.METRICS` says what the metrics mean.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import stable_baselines3 as sb3
import torch as th
from gymnasium.spaces.utils import flatdim
from torch import Tensor

from sb3_pgx.algorithms.d4pg import D4PG, distributional_target
from sb3_pgx.algorithms.sac import soft_targets
from sb3_pgx.algorithms.soft_q_learning import SoftQLearning
from sb3_pgx.algorithms.soft_q_learning import soft_targets as targets_of_soft_q
from sb3_pgx.algorithms.td3 import Coefficients, smoothed_targets
from sb3_pgx.diagnostics.dead_units import measure_dead_units
from sb3_pgx.diagnostics.episodes import ObservationRange
from sb3_pgx.diagnostics.snapshot import without_side_effects
from sb3_pgx.diagnostics.update_metrics import Measured, relative_size, summary_metrics
from sb3_pgx.engine.joint_step import Call
from sb3_pgx.ops.distributional import outside
from sb3_pgx.ops.energy_based import effective_samples

MEASURABLE = (sb3.SAC, sb3.TD3, SoftQLearning)  # and those derived from them: DDPG, D4PG, and this package's algorithms
ROWS = 1024  # of a sample
SATURATED = 0.99  # size of an action, scaled to [−1, 1], from which on the derivative of tanh is below 0.02


class MemoryMeter:
    """Measures one model again and again."""

    def __init__(self) -> None:
        self._observations = ObservationRange()
        self._first: tuple[int, int] | None = None  # gradient steps and environment steps at the first measurement

    def measure(self, model: Any, units: bool) -> Measured:
        """
        Return the metrics of the model as it is now.

        :param model: has taken a gradient step
        :param units: whether to measure the critics' hidden units, too
        """
        policy = model.policy
        with _numpy_state_kept(), without_side_effects(policy), th.no_grad():
            batch = model.replay_buffer.sample(ROWS, env=model.get_vec_normalize_env())
            units_measured: AbstractContextManager[Measured] = measure_dead_units(policy.critic) if units else nullcontext({})
            with units_measured as measured:
                values = _values(policy.critic, batch)
            lagged, (targets, of_policy, bonus) = _values(policy.critic_target, batch), _targets_and_policy(model, batch)
            measured |= of_policy
            measured |= critic_metrics(values, lagged, targets)
            measured |= self._observations.update(batch.observations)
            measured |= summary_metrics(reward=batch.rewards)
        measured["reward_size"] = largest = _largest_reward(model)
        if model.gamma < 1:
            measured["q_excess"] = values.abs().max() / max((largest + bonus) / (1 - model.gamma), 1.0)
        return measured | self._replay_metrics(model)

    def _replay_metrics(self, model: Any) -> Measured:
        self._first = first = self._first or (model._n_updates, model.num_timesteps)
        if model.num_timesteps <= first[1]:
            return {}
        return {"samples_per_step": (model._n_updates - first[0]) * model.batch_size / (model.num_timesteps - first[1])}


@contextmanager
def _numpy_state_kept() -> Iterator[None]:
    """Restore NumPy's global generator, from which a replay memory samples."""
    state = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(state)


def _values(critics: Any, batch: Any) -> Tensor:
    return th.cat(critics(batch.observations, batch.actions), dim=1)  # [B, critics]


def _targets_and_policy(model: Any, batch: Any) -> tuple[Tensor, Measured, float]:
    """Return the critics' targets, ``[B, 1]``, metrics of the policy, and the largest bonus for entropy per step."""
    policy = model.policy

    def call(function: Any, *inputs: Any) -> Any:
        return function(policy, *inputs)

    if isinstance(model, SoftQLearning) and model.chooses:
        return _of_soft_q(model, call, batch, {}, math.log(flatdim(model.action_space)))
    saturated = policy._predict(batch.observations, deterministic=True).abs() > SATURATED
    measured: Measured = {"saturated_actions": saturated.float().mean()}
    if isinstance(model, SoftQLearning):
        return _of_soft_q(model, call, batch, measured, saturated.shape[1] * math.log(2))
    if isinstance(model, D4PG):
        target = distributional_target(call, batch, model.gamma)
        measured["clipped_returns"] = outside(target.values, target.probs, target.atoms).mean()
    if not isinstance(model, sb3.SAC):
        noise = (float(model.target_policy_noise),)
        coefficients = Coefficients(model.gamma, model.tau, noise, model.target_noise_clip, False)
        return smoothed_targets(call, batch, coefficients), measured, 0.0
    temperature = model.ent_coef_tensor if model.log_ent_coef is None else model.log_ent_coef.exp()
    _, log_prob = policy.actor.action_log_prob(batch.observations)
    targets = soft_targets(call, batch, model.gamma, temperature)
    measured |= entropy_metrics(log_prob, temperature, targets, float(model.target_entropy), saturated.shape[1])
    return targets, measured, float(temperature * log_prob.abs().max())


def _of_soft_q(
    model: SoftQLearning, call: Call, batch: Any, measured: Measured, log_size: float
) -> tuple[Tensor, Measured, float]:
    """
    Return what :func:`_targets_and_policy` does of soft Q-learning.

    :param measured: metrics of the policy
    :param log_size: logarithm of the number of choices, or of the volume of the Box: the largest entropy
    """
    _, coefficients = model.next_step(0)
    targets, _, values = targets_of_soft_q(call, batch, coefficients)
    if not model.chooses:
        measured["value_samples"] = effective_samples(values, coefficients.temperature).mean()
    temperature = th.tensor(coefficients.temperature)
    measured |= {"temperature": temperature, "relative_temperature": temperature / targets.std(correction=0)}
    return targets, measured, coefficients.temperature * log_size


def critic_metrics(values: Tensor, lagged: Tensor, targets: Tensor) -> Measured:
    """
    Return a summary of the critics' values, and how far they are from their targets and from those of the target networks.

    :param values: Q of stored actions, ``[B, critics]``
    :param lagged: Q of the target networks, ``[B, critics]``
    :param targets: y, to which the values are fitted, ``[B, 1]``
    """
    return {
        **summary_metrics(q=values.mean(dim=1)),
        "td_error": relative_size(values - targets, targets),
        "target_lag": relative_size(values - lagged, values),
    }


def entropy_metrics(log_prob: Tensor, temperature: Tensor, targets: Tensor, target_entropy: float, n_actions: int) -> Measured:
    """
    Return the entropy of a policy and its weight in the critics' targets.

    :param log_prob: log π of sampled actions, ``[B]``
    :param temperature: α
    :param targets: y, ``[B, 1]``
    :param target_entropy: to which a learned temperature leads, in nats
    :param n_actions: number of action components
    """
    entropy = -log_prob.mean()
    return {
        "entropy": entropy,
        "entropy_deficit": (target_entropy - entropy) / n_actions,
        "temperature": temperature.reshape(()),
        "relative_temperature": temperature.reshape(()) / targets.std(correction=0),
    }


def _largest_reward(model: Any) -> float:
    """Return the largest absolute reward in the memory, as the critics see it."""
    memory, normalize = model.replay_buffer, model.get_vec_normalize_env()
    rewards = memory.rewards if memory.full else memory.rewards[: memory.pos]
    return float(np.abs(rewards if normalize is None else normalize.normalize_reward(rewards)).max())
