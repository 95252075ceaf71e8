"""Stage 2: values, log-probabilities and the bootstrap values of truncated episodes, in one batched pass."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.core.errors import blaming_numbers
from sb3_pgx.core.evaluation import Evaluation, evaluate_actions, evaluate_latents
from sb3_pgx.core.policies import masking
from sb3_pgx.core.recurrent_evaluation import Features, features_of, latents_and_states, one_level, recurrent_values
from sb3_pgx.core.rollout import (
    CollectedRollout,
    EvaluatedRollout,
    Memory,
    Observations,
    PolicyInputs,
    Rollout,
    flatten_by_environment,
    in_fixed_shapes,
    map_tensors,
)
from sb3_pgx.core.undo import Refusal
from sb3_pgx.engine.layers import Modules
from sb3_pgx.engine.policy_graphs import MAX_EVALUATED_ROWS, CompiledPass
from sb3_pgx.ops.returns import next_values

# Numbers of observation that one pass may hold: 64 MiB as float32; a network's activations are a small multiple of it.
MAX_NUMBERS = 2**24
MAX_ROWS = 4096  # of a small network; more would leave the cache


def evaluate_sequences(
    policy: ActorCriticPolicy, inputs: PolicyInputs, actions: Tensor, with_distribution: bool = False
) -> tuple[Evaluation, Memory]:
    """
    Evaluate rows of a recurrent policy, in packed order, like :func:`~sb3_pgx.core.evaluation.evaluate_actions`. Also return
    the states after each row, ``[R, layers, H]``. Only the features are computed in chunks.
    """
    assert inputs.memory is not None
    features = features_in_chunks(policy, inputs.observations, len(actions))
    latents, after = latents_and_states(policy, features, inputs.memory)
    return evaluate_latents(policy, latents, inputs.action_masks, actions, with_distribution), after


class Evaluators(NamedTuple):
    """Functions that evaluate rows of a policy without memory, and all rows of a recurrent policy."""

    rows: Callable[..., Evaluation] = evaluate_actions
    sequences: Callable[..., tuple[Evaluation, Memory]] = evaluate_sequences


EAGER = Evaluators()


def evaluate_rollout(
    policy: ActorCriticPolicy,
    rollout: CollectedRollout,
    with_distribution: bool = False,
    evaluators: Evaluators = EAGER,
) -> EvaluatedRollout:
    """
    Evaluate a rollout in a few passes over all of its rows.

    :param policy: in evaluation mode, as it acted
    :param rollout: the collected rollout; its ``known_rows`` keep their values and log-probabilities
    :param with_distribution: keep the packed parameters of the action distributions
    :param evaluators: functions that evaluate its rows
    :return: the same with values, log-probabilities and bootstrap values
    :raises ValueError: the policy returned NaN or infinity
    """
    given, (n_steps, _) = rollout.known_rows, rollout.shape
    with th.no_grad():
        if rollout.memory is not None or with_distribution or len(given) < n_steps:
            values, log_prob, distribution, memory = _evaluate(policy, rollout, with_distribution, evaluators)
            rollout = copy.copy(rollout)
            rollout.memory = memory
            for t, known in given.items():
                values[t], log_prob[t] = known
        else:
            values, log_prob = (th.stack(x) for x in zip(*(given[t] for t in range(n_steps)), strict=True))
            distribution = None
        last_values = values_of(policy, _last_inputs(rollout), rollout.shape[1])
        final = _final_values(policy, rollout)
        following = next_values(values, last_values, rollout.terminated, rollout.truncated, final)
        _check([values, log_prob, following])
        return rollout.evaluated(values, log_prob, following, last_values, distribution)


def evaluate_by_graph(
    policy: ActorCriticPolicy,
    rollout: CollectedRollout,
    graph: CompiledPass,
    modules: Modules,
    gamma: float,
    gae_lambda: float,
) -> Rollout | None:
    """
    Evaluate the rollout and compute GAE in one compiled graph, without keeping the distribution.

    :param policy: in evaluation mode, as it acted
    :param rollout: as collected
    :param graph: an :func:`~sb3_pgx.engine.policy_graphs.evaluation_pass`
    :param modules: the policy's layers, as they were looked at last
    :param gamma: discount factor
    :param gae_lambda: λ
    :return: ``None`` if there is no graph
    :raises ValueError: the policy returned NaN or infinity
    """
    with th.no_grad():
        like, device = next(iter(modules.parameters.values())), rollout.rewards.device
        # Zeros stand for the final values until the graph is known to exist.
        discounts, no_finals = graph.constants(
            (gamma, gae_lambda, rollout.shape, like.dtype, device),
            lambda: (th.tensor((gamma, gae_lambda), dtype=th.float64, device=device), like.new_zeros(rollout.shape)),
        )
        before = [discounts, rollout.actions, rollout.rewards, rollout.terminated, rollout.truncated]
        after = [
            *graph.encode(map_tensors(lambda x: x.flatten(end_dim=1), rollout.inputs)),
            *graph.encode(PolicyInputs(rollout.last_observations)),
        ]
        if not graph.prepare(policy, modules, [*before, no_finals, *after]):
            return None
        final = _final_values(policy, rollout)
        values, log_prob, following, advantages, returns, last_values, check = graph(
            [*before, no_finals if final is None else final.to(no_finals.dtype), *after]  # the policy's values may be wider
        )
        _check([values, log_prob, following], check)
        return rollout.evaluated(values, log_prob, following, last_values).estimated(advantages, returns)


def rows_by_graph(graph: CompiledPass, modules: Modules, n_rows: int) -> Callable[..., Evaluation]:
    """
    Return what evaluates rows of a policy like :func:`~sb3_pgx.core.evaluation.evaluate_actions`, and in a compiled graph
    where ``MAX_ROWS`` rows come at once, or a short rollout whose distributions are kept: a third of the time, or less.

    :param graph: a :func:`~sb3_pgx.engine.policy_graphs.rows_pass`
    :param modules: the policy's layers, as they were looked at last
    :param n_rows: number of rows of a rollout
    """

    def evaluation(
        policy: ActorCriticPolicy, inputs: PolicyInputs, actions: Tensor, with_distribution: bool = False
    ) -> Evaluation:
        if len(actions) == (n_rows if with_distribution and n_rows <= MAX_EVALUATED_ROWS else MAX_ROWS):
            tensors = [actions, *graph.encode(inputs)]
            if graph.prepare(policy, modules, tensors):
                return Evaluation(*graph(tensors))
        return evaluate_actions(policy, inputs, actions, with_distribution)

    return evaluation


def sequences_by_graph(graph: CompiledPass, modules: Modules, n_rows: int) -> Callable[..., tuple[Evaluation, Memory]]:
    """
    Return what evaluates rows of a recurrent policy like :func:`evaluate_sequences`, in a compiled graph if there are
    ``n_rows``, and few enough for one pass. With 128 steps of 8 environments and an LSTM of 64 units, the graph saves 6 of
    110 ms per rollout.

    :param graph: a :func:`~sb3_pgx.engine.policy_graphs.sequences_pass`
    :param modules: the policy's layers, as they were looked at last
    :param n_rows: number of rows of a rollout; every other number would need its own graph
    """

    def evaluation(
        policy: ActorCriticPolicy, inputs: PolicyInputs, actions: Tensor, with_distribution: bool = False
    ) -> tuple[Evaluation, Memory]:
        at_once = next(chunks(inputs.observations, len(actions))).stop
        if len(actions) == n_rows == at_once and not with_distribution:
            assert inputs.memory is not None
            _, *names = inputs.memory
            tensors = [actions, *graph.encode(inputs._replace(memory=in_fixed_shapes(inputs.memory, n_rows)))]
            if graph.prepare(policy, modules, tensors):
                values, log_prob, entropy, *after = graph(tensors)
                return Evaluation(values, log_prob, entropy, None), dict(zip(names, after, strict=True))
        return evaluate_sequences(policy, inputs, actions, with_distribution)

    return evaluation


def _check(parts: Sequence[Tensor], total: Tensor | None = None) -> None:
    """
    Refuse values that are not finite. Their sum is tested first; it may have overflowed, so then each part is.

    :param total: the sum of all parts; computed if it is not given
    """
    total = th.stack([x.sum() for x in parts]).sum() if total is None else total
    if not math.isfinite(total) and not all(th.isfinite(x).all() for x in parts):
        raise _not_finite()


def _not_finite() -> Refusal:
    return Refusal(
        "the policy gives values or log-probabilities that are not finite for the observations of this rollout: "
        "the step before was too large (lower learning_rate, set max_grad_norm) or the observations are huge "
        "(wrap the environment in VecNormalize)."
    )


def _refusals() -> Any:
    """Turn the errors of torch's distributions about NaN into a refusal. Errors of the policy's own code pass through."""
    return blaming_numbers(lambda what: _not_finite(), lambda: "while the policy evaluated a rollout")


def evaluate_rows(
    policy: ActorCriticPolicy, rollout: CollectedRollout, with_distribution: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """
    Return V(s_t) and log π(a_t|s_t), ``[T, N]``, and the packed parameters of π(·|s_t), ``[T, N, K]``. A recurrent policy goes
    through the rollout again, from the states before its first row.

    :raises Refusal: a value or a log-probability is not finite
    """
    return _evaluate(policy, rollout, with_distribution)[:3]


@_refusals()
def _evaluate(
    policy: ActorCriticPolicy,
    rollout: CollectedRollout,
    with_distribution: bool,
    evaluators: Evaluators = EAGER,
) -> tuple[Tensor, Tensor, Tensor | None, Memory | None]:
    """Return what :func:`evaluate_rows` returns, and the states of a recurrent policy, ``[T + 1, N, layers, H]``."""
    if rollout.memory is None:
        (values, log_prob, distribution), memory = _by_rows(policy, rollout, with_distribution, evaluators.rows), None
    else:
        evaluation = evaluators.sequences
        (values, log_prob, distribution), memory = _by_sequences(policy, rollout, with_distribution, evaluation)
    _check([values, log_prob])
    shape = rollout.shape
    packed_distribution = None if distribution is None else distribution.unflatten(0, shape)
    return values.view(shape), log_prob.view(shape), packed_distribution, memory


def _by_rows(
    policy: ActorCriticPolicy, rollout: CollectedRollout, with_distribution: bool, evaluation: Callable[..., Evaluation]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return values, log-probabilities and distributions of the rows, ``[T N, ...]``."""
    inputs = map_tensors(lambda x: x.flatten(end_dim=1), rollout.inputs)
    actions = rollout.actions.flatten(end_dim=1)
    values, log_prob, distribution = [], [], []
    for rows in chunks(inputs.observations, len(actions)):
        picked = map_tensors(lambda x, rows=rows: x[rows], inputs)
        evaluated = evaluation(policy, picked, actions[rows], with_distribution)
        values.append(evaluated.values)
        log_prob.append(evaluated.log_prob.flatten())
        if evaluated.distribution is not None:
            distribution.append(evaluated.distribution)
    return th.cat(values), th.cat(log_prob), th.cat(distribution) if with_distribution else None


def _by_sequences(
    policy: ActorCriticPolicy,
    rollout: CollectedRollout,
    with_distribution: bool,
    evaluation: Callable[..., tuple[Evaluation, Memory]],
) -> tuple[tuple[Tensor, Tensor, Tensor | None], Memory]:
    """
    Run a recurrent policy over all sequences of the rollout at once. Return what :func:`_by_rows` returns, and the states
    before each row and after the last one.
    """
    places = th.arange(rollout.valid.numel(), device=rollout.valid.device).view(rollout.shape)
    index, memory = rollout.selected(flatten_by_environment(places))
    assert rollout.memory is not None

    def picked(values: Tensor) -> Tensor:
        return values.flatten(end_dim=1)[index]

    def in_place(values: Tensor) -> Tensor:
        return th.empty_like(values).index_copy_(0, index, values)

    inputs = map_tensors(picked, rollout.inputs)._replace(memory=memory)
    evaluated, after = evaluation(policy, inputs, picked(rollout.actions), with_distribution)
    start = map_tensors(lambda x: x[:1], rollout.memory)
    states = {name: th.cat([start[name], in_place(x).unflatten(0, rollout.shape)]) for name, x in after.items()}
    distribution = None if evaluated.distribution is None else in_place(evaluated.distribution)
    return (in_place(evaluated.values), in_place(evaluated.log_prob), distribution), states


def features_in_chunks(policy: ActorCriticPolicy, observations: Observations, total: int) -> Features:
    """Return the features of many observations, ``[total, *obs]``."""
    parts = [features_of(policy, map_tensors(lambda x, r=r: x[r], observations)) for r in chunks(observations, total)]
    return Features(*(th.cat(x) for x in zip(*parts, strict=True)))


def _last_inputs(rollout: CollectedRollout) -> PolicyInputs:
    """Return the observations after the last row, and the states there: zeros where an episode has ended."""
    if rollout.memory is None:
        return PolicyInputs(rollout.last_observations, rollout.last_masks)
    at_end = rollout.ends[-1, :, None, None]
    states = map_tensors(lambda x: th.where(at_end, 0.0, x[-1]), rollout.memory)
    return PolicyInputs(rollout.last_observations, memory=one_level(states))


def _final_inputs(rollout: CollectedRollout) -> PolicyInputs:
    """Return the final observations of truncated episodes, and the states after their last rows."""
    assert rollout.final_observations is not None
    if rollout.memory is None:
        return PolicyInputs(rollout.final_observations, rollout.final_masks)
    states = map_tensors(lambda x: x[1:][rollout.truncated], rollout.memory)
    return PolicyInputs(rollout.final_observations, memory=one_level(states))


def _final_values(policy: ActorCriticPolicy, rollout: CollectedRollout) -> Tensor | None:
    """Return the bootstrap values of truncated episodes: V of their final observations, ``[T, N]``; ``None`` if none."""
    if rollout.final_observations is None:
        return None
    values = values_of(policy, _final_inputs(rollout), int(rollout.truncated.sum()))
    for place, value in rollout.known_finals.items():
        values[place] = value
    final = values.new_zeros(rollout.shape)
    final[rollout.truncated] = values
    return final


@_refusals()
def values_of(policy: ActorCriticPolicy, inputs: PolicyInputs, total: int) -> Tensor:
    """Return V of ``total`` states."""
    if inputs.memory is not None:
        return recurrent_values(policy, features_in_chunks(policy, inputs.observations, total), inputs.memory).flatten()
    parts = []
    for r in chunks(inputs.observations, total):
        picked = map_tensors(lambda x, r=r: x[r], inputs)
        with masking(policy, picked.action_masks):
            parts.append(policy.predict_values(picked.observations).flatten())
    return th.cat(parts)


def chunks(observations: Observations, total: int, leading: int = 1) -> Iterator[slice]:
    """
    Consecutive rows, as many at a time as memory allows.

    :param observations: what the rows are made of, ``[..., *obs]``
    :param total: number of rows
    :param leading: dimensions before those of one observation
    """
    tensors = observations.values() if isinstance(observations, dict) else [observations]
    numbers = sum(x.shape[leading:].numel() for x in tensors)
    rows = min(MAX_ROWS, max(1, MAX_NUMBERS // max(numbers, 1)))
    for start in range(0, total, rows):
        yield slice(start, min(start + rows, total))
