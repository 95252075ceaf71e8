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

from sb3_pgx.core.distributions import distribution_kept, packed
from sb3_pgx.core.rollout import Batch, Rollout, map_tensors
from sb3_pgx.core.rollout_buffer import RolloutView
from sb3_pgx.engine.step import Evaluation, evaluated_actions
from sb3_pgx.stages.evaluate import chunks

# Layers whose output in training is another one than in evaluation.
MODE_DEPENDENT = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)

FEW = 256


@dataclass(frozen=True)
class Snapshot:
    """
    A rollout and the policy that acted in it, before the update.

    :param rows: all rows that count, step after step; values, log-probabilities, advantages and returns as the algorithm has
        them, ``[B, ...]``
    :param before: packed parameters of the action distributions, in evaluation mode, ``[B, K]``
    :param parameters: of the policy, copies
    """

    rows: Batch
    before: Tensor
    parameters: list[Tensor]


def take_snapshot(model: OnPolicyAlgorithm) -> Snapshot:
    """
    :param model: at the end of a rollout
    :return: what is known; the arrays of SB3's buffers and of ours are read where they are, not copied
    """
    rows = rows_of(model.rollout_buffer, model.device)
    if not isinstance(model.rollout_buffer, RolloutView):
        rows = rows.replaced([x.clone() for x in rows.tensors()])  # it may write into the arrays again before they are read
    before = kept_distribution(getattr(model, "last_rollout", None))
    if before is None:
        with as_it_acts(model.policy), th.no_grad():
            before = th.cat([packed(model.policy.get_distribution(piece)) for piece in pieces(rows)])
    return Snapshot(rows, before, [p.detach().clone() for p in model.policy.parameters()])


def kept_distribution(rollout: Rollout | None) -> Tensor | None:
    """Packed parameters ``[B, K]`` of the rows that count, where this package's pipeline has them."""
    if rollout is None:
        return None
    kept = rollout.acted if rollout.distribution is None else rollout.distribution
    return None if kept is None else kept.flatten(end_dim=1) if rollout.complete else kept[rollout.valid]


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
    start, parts = 0, []
    with th.no_grad(), fast_tanh(policy):
        for piece in pieces(rows):
            stop = start + len(next(iter(piece.values())) if isinstance(piece, dict) else piece)
            parts.append(evaluated_actions(policy, piece, rows.actions[start:stop], True))
            start = stop
    return Evaluation(*(th.cat(x) for x in zip(*parts, strict=True)))


@contextmanager
def fast_tanh(policy: nn.Module) -> Iterator[None]:
    """
    Within this context tanh layers on a CPU compute 2σ(2x) − 1 as torch's compiler has them do it, in a third of the time and
    exact to rounding (1e-7): tanh is half of a pass over a rollout, and that pass is most of what measuring costs.
    """
    layers = [m for m in policy.modules() if type(m) is nn.Tanh and "forward" not in vars(m)]
    if any(p.device.type != "cpu" for p in policy.parameters()):
        layers = []
    for layer in layers:
        layer.forward = _tanh  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _tanh(x: Tensor) -> Tensor:
    return (2 * x).sigmoid_().mul_(2).sub_(1)


def pieces(rows: Batch) -> Iterator[Any]:
    """The observations of all rows, some at a time."""
    for r in chunks(rows.observations, len(rows)):
        yield map_tensors(lambda x, r=r: x[r], rows.observations)


@contextmanager
def as_it_acts(policy: ActorCriticPolicy, training: bool = False) -> Iterator[None]:
    """
    Within this context the policy is in evaluation mode (or in that of its updates), and whatever it is asked leaves no trace:
    modes, statistics, random numbers and its distribution are as before when the context ends.
    """
    modes = {module: module.training for module in policy.modules()}
    statistics = [(buffer, buffer.clone()) for buffer in policy.buffers()]
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


def of_first_step(policy: ActorCriticPolicy, rows: Batch) -> Tensor:
    """log π(a|s) as the first step of an update will see it, of the first 256 rows, ``[≤ B]``."""
    few: Any = map_tensors(lambda x: x[:FEW], rows.observations)
    with th.no_grad(), as_it_acts(policy, training=depends_on_mode(policy)):
        return evaluated_actions(policy, few, rows.actions[:FEW], False).log_prob
