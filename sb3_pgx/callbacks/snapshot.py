"""What is known of a rollout and its policy before the update, to be compared with what the update made of the policy."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from sb3_pgx.common.distributions import distribution_kept
from sb3_pgx.common.evaluate import chunks
from sb3_pgx.common.rollout import Batch, map_tensors
from sb3_pgx.common.update.step import Evaluation, evaluated_actions

# Layers whose output in training is another one than in evaluation.
MODE_DEPENDENT = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)


@dataclass(frozen=True)
class Snapshot:
    """
    A rollout and the policy that acted in it, before the update.

    :param rows: all rows that count, step after step; values, log-probabilities, advantages and returns as the algorithm has
        them, ``[B, ...]``
    :param before: what the policy says of the rows, in evaluation mode
    :param parameters: of the policy, copies
    """

    rows: Batch
    before: Evaluation
    parameters: list[Tensor]


def take_snapshot(model: OnPolicyAlgorithm) -> Snapshot:
    """
    :param model: at the end of a rollout
    :return: what is known; the buffer's arrays are read where they are, not copied
    """
    rows = rows_of(model.rollout_buffer, model.device)
    with as_it_acts(model.policy):
        before = evaluate_batch(model.policy, rows)
    return Snapshot(rows, before, [p.detach().clone() for p in model.policy.parameters()])


def rows_of(buffer: RolloutBuffer, device: th.device) -> Batch:
    """
    A full buffer, before anybody has drawn minibatches from it.

    :param buffer: with SB3's attributes, and ``valid`` where some of its rows do not count
    :return: the rows that count, step after step
    """
    valid = getattr(buffer, "valid", None)
    keep = None if valid is None or valid.all() else th.from_numpy(valid.ravel())

    def pick(values: np.ndarray) -> Tensor:
        flat = th.from_numpy(values).flatten(end_dim=1)
        return (flat if keep is None else flat[keep]).to(device)

    return Batch(
        observations=map_tensors(pick, buffer.observations),
        actions=pick(buffer.actions),
        values=pick(buffer.values),
        log_prob=pick(buffer.log_probs),
        advantages=pick(buffer.advantages),
        returns=pick(buffer.returns),
    )


def evaluate_batch(policy: ActorCriticPolicy, rows: Batch) -> Evaluation:
    """What the policy says of all rows, in the mode it is in, in pieces that memory allows."""
    with th.no_grad():
        pieces = [
            evaluated_actions(policy, map_tensors(lambda x, r=r: x[r], rows.observations), rows.actions[r], True)
            for r in chunks(rows.observations, len(rows))
        ]
    return pieces[0] if len(pieces) == 1 else Evaluation(*(th.cat(parts) for parts in zip(*pieces, strict=True)))


@contextmanager
def as_it_acts(policy: ActorCriticPolicy, training: bool = False) -> Iterator[None]:
    """
    Within this context the policy is in evaluation mode (or in that of its updates), and whatever it is asked leaves no trace:
    modes, statistics, random numbers and its distribution are as before when the context ends.
    """
    modes = {module: module.training for module in policy.modules()}
    statistics = [(buffer, buffer.clone()) for buffer in policy.buffers()] if training else []
    devices = [policy.device] if policy.device.type == "cuda" else []
    policy.set_training_mode(training)
    try:
        with th.random.fork_rng(devices), distribution_kept(policy):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with th.no_grad():
            for buffer, value in statistics:
                buffer.copy_(value)


def depends_on_mode(policy: nn.Module) -> bool:
    """Whether the policy says something else in training mode than when it acts."""
    return any(isinstance(module, MODE_DEPENDENT) for module in policy.modules())


def of_first_step(policy: ActorCriticPolicy, rows: Batch, before: Evaluation, limit: int = 1024) -> Tensor:
    """
    log π(a|s) as the first step of the update will see it.

    :param policy: before the update
    :param rows: of the rollout
    :param before: what it says of them in evaluation mode
    :param limit: rows that are looked at where the policy has to be asked again
    :return: of the first rows, ``[≤ B]``
    """
    if not depends_on_mode(policy):
        return before.log_prob
    few: Any = map_tensors(lambda x: x[:limit], rows.observations)
    with th.no_grad(), as_it_acts(policy, training=True):
        return evaluated_actions(policy, few, rows.actions[:limit], False).log_prob
