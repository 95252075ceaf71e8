"""Keep the rollout and the policy as they are before an update, for comparison with the policy after it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from sb3_pgx.core.distributions import distribution_kept
from sb3_pgx.core.evaluation import Evaluation, evaluate_actions, evaluate_latents
from sb3_pgx.core.policies import at_start
from sb3_pgx.core.recurrent_evaluation import latents_of
from sb3_pgx.core.rollout import Batch, PolicyInputs, Rollout, Selection, map_tensors
from sb3_pgx.core.rollout_buffer import RolloutView
from sb3_pgx.stages.evaluate import chunks, features_in_chunks, values_of

# Layers whose output differs between training and evaluation mode.
MODE_DEPENDENT = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)

FIRST_STEP_ROWS = 256  # rows from which the ratio before the first step is measured


@dataclass(frozen=True)
class Snapshot:
    """
    A rollout and the policy that collected it, before the update.

    :param rows: all valid rows, step after step or, for a recurrent policy, as sequences in packed order, with the algorithm's
        own values, log-probabilities, advantages and returns, ``[B, ...]``
    :param before: packed parameters of the action distributions in evaluation mode, ``[B, K]``
    :param parameters: copies of the policy's parameters
    """

    rows: Batch
    before: Tensor
    parameters: list[Tensor]


def take_snapshot(model: OnPolicyAlgorithm) -> Snapshot:
    """
    Return a snapshot of a model at the end of a rollout.

    :param model: algorithm of this package or of SB3; arrays of this package's buffers are not copied
    """
    selection = selected_rows(model)
    rows = rows_from_buffer(model, selection)
    if not isinstance(model.rollout_buffer, RolloutView):
        rows = rows.replaced([x.clone() for x in rows.tensors()])  # another buffer may overwrite its arrays too early
    before = distribution_from_rollout(getattr(model, "last_rollout", None), selection)
    if before is None:
        with without_side_effects(model.policy):
            before = evaluate_batch(model.policy, rows).distribution
    assert before is not None
    return Snapshot(rows, before, [p.detach().clone() for p in model.policy.parameters()])


def selected_rows(model: OnPolicyAlgorithm) -> Selection | None:
    """
    Return the valid rows of a model's last rollout, and the memory of a recurrent policy.

    :param model: algorithm of this package or of SB3
    :return: rows step after step or, for a recurrent policy, as sequences in packed order; ``None``: all of them
    """
    rollout: Rollout | None = getattr(model, "last_rollout", None)
    if rollout is not None and rollout.memory is not None:
        return rollout.selected(rollout.valid_rows())
    valid = getattr(model.rollout_buffer, "valid", None)
    return None if valid is None or valid.all() else Selection(th.from_numpy(np.flatnonzero(valid)))


def distribution_from_rollout(rollout: Rollout | None, selection: Selection | None) -> Tensor | None:
    """
    Return the action distributions that this package's algorithms have kept, as packed parameters.

    :param rollout: the last rollout; ``None`` for other algorithms
    :param selection: result of :func:`selected_rows`
    :return: ``[B, K]``, or ``None`` if they were not kept
    """
    if rollout is None:
        return None
    kept = rollout.behaviour if rollout.distribution is None else rollout.distribution
    if kept is None:
        return None
    flat = kept.flatten(end_dim=1)
    return flat if selection is None else flat[selection.rows.to(flat.device)]


def rows_from_buffer(model: OnPolicyAlgorithm, selection: Selection | None) -> Batch:
    """
    Return the rows of a model's full buffer, from which no minibatches have been drawn yet.

    :param model: algorithm whose buffer has SB3's attributes; an attribute ``action_masks`` holds valid actions
    :param selection: result of :func:`selected_rows`
    """
    buffer: Any = model.rollout_buffer
    masks = getattr(buffer, "action_masks", None)
    rows = None if selection is None else selection.rows.cpu()

    def pick(values: np.ndarray) -> Tensor:
        flat = th.from_numpy(values).flatten(end_dim=1)
        return (flat if rows is None else flat[rows]).to(model.device)

    return Batch(
        observations=map_tensors(pick, buffer.observations),
        actions=pick(buffer.actions),
        values=pick(buffer.values),
        log_prob=pick(buffer.log_probs),
        advantages=pick(buffer.advantages),
        returns=pick(buffer.returns),
        action_masks=None if masks is None else pick(masks.copy()),  # which cannot be written to, as torch warns
        memory=None if selection is None else selection.memory,
    )


def evaluate_batch(policy: ActorCriticPolicy, rows: Batch) -> Evaluation:
    """
    Evaluate the policy on all rows, in its current mode and in chunks that bound the use of memory. Only the features of a
    recurrent policy are computed in chunks.
    """
    with th.no_grad():
        if rows.memory is not None:
            latents = latents_of(policy, features_in_chunks(policy, rows.observations, len(rows)), rows.memory)
            return evaluate_latents(policy, latents, rows.action_masks, rows.actions, True)
        parts = [evaluate_actions(policy, inputs, actions, True) for inputs, actions in chunked(rows)]
    return Evaluation(*(th.cat(x) for x in zip(*parts, strict=True)))


def chunked(rows: Batch) -> Iterator[tuple[PolicyInputs, Tensor]]:
    """Yield policy inputs and actions of all rows, chunk by chunk."""
    for r in chunks(rows.observations, len(rows)):
        yield map_tensors(lambda x, r=r: x[r], rows.inputs), rows.actions[r]


def values_without_memory(policy: ActorCriticPolicy, rows: Batch) -> Tensor:
    """Return V, ``[B]``, of a recurrent policy whose states are zero before each row."""
    with th.no_grad():
        return values_of(policy, at_start(policy, rows.observations, len(rows)), len(rows))


@contextmanager
def without_side_effects(policy: Any, training: bool = False) -> Iterator[None]:
    """
    Evaluate a policy inside the context without changing it.

    When the context ends, the modes of the modules, their buffers, the random number generators and the policy's
    distribution are as they were before.

    :param policy: the policy
    :param training: whether the policy is in training mode inside the context
    """
    modes = {module: module.training for module in policy.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in policy.buffers()]
    devices = [policy.device] if policy.device.type == "cuda" else []
    policy.set_training_mode(training)
    try:
        keeps_distribution = distribution_kept(policy) if hasattr(policy, "action_dist") else nullcontext()
        with th.random.fork_rng(devices), keeps_distribution:
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with th.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def depends_on_mode(policy: nn.Module) -> bool:
    """Return whether the policy's output differs between training and evaluation mode."""
    return any(isinstance(module, MODE_DEPENDENT) for module in policy.modules())


def first_step_log_prob(policy: ActorCriticPolicy, rows: Batch) -> Tensor:
    """
    Return log π(a|s) of the first 256 rows as the first gradient step of the update will compute it, ``[≤ B]``. Of the
    sequences of a recurrent policy, these are the first levels, at least one.
    """
    n, memory = FIRST_STEP_ROWS, rows.memory
    if memory is not None:
        sizes = memory["sizes"][: max(1, int((memory["sizes"].cumsum(0) <= FIRST_STEP_ROWS).sum()))]
        n, memory = int(sizes.sum()), {**memory, "sizes": sizes}
    inputs = map_tensors(lambda x: x[:n], rows.inputs._replace(memory=None))._replace(memory=memory)
    with th.no_grad(), without_side_effects(policy, training=depends_on_mode(policy)):
        return evaluate_actions(policy, inputs, rows.actions[:n], False).log_prob
