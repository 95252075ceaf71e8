"""
Returns and advantages of a rollout, as pure functions of ``[T, N]`` tensors (time first, then environments).

All functions describe the data in the same way:

- ``next_values[t]`` is V(s_{t+1}): V of the *final* observation where the episode was truncated, 0 where it
  terminated. No function needs a special case for the end of an episode.
- ``ends[t]`` is true where an episode ended at t, by termination or by truncation.
- ``valid[t]`` is false for rows to ignore (padding, an environment that waits for others). An invalid row contributes to no
  other row, and its own result is 0.

A sequence is cut after the end of an episode, after the last row and before an invalid row. A cut sequence is completed with
``next_values``.
"""

from collections.abc import Sequence

import torch as th
from torch import Tensor


def cuts(ends: Tensor, valid: Tensor | None = None) -> Tensor:
    """
    Return where row t + 1 does not continue row t.

    :param ends: true where an episode ended at t, ``[T, N]``
    :param valid: true for rows that count, ``[T, N]``; ``None``: all
    :return: ``[T, N]``, boolean
    """
    cut = th.cat([ends[:-1].bool(), th.ones_like(ends[-1:], dtype=th.bool)])
    if valid is not None:
        cut[:-1] |= ~valid.bool()[1:]
    return cut


def masked(values: Tensor, valid: Tensor | None) -> Tensor:
    """
    Replace invalid rows by 0, whatever they hold (even NaN).

    :param values: ``[T, N]``
    :param valid: true for rows that count, ``[T, N]``; ``None``: all
    """
    return values if valid is None else th.where(valid.bool(), values, th.zeros_like(values))


def next_values(
    values: Tensor, last_values: Tensor, terminated: Tensor, truncated: Tensor, final_values: Tensor | None = None
) -> Tensor:
    """
    Return V(s_{t+1}) of each row, as the other functions of this module expect it.

    :param values: V(s_t), ``[T, N]``
    :param last_values: V of the observations after the last row, ``[N]``
    :param terminated: true where an episode terminated at t, ``[T, N]``
    :param truncated: true where an episode was truncated at t, ``[T, N]``
    :param final_values: V of the final observation where truncated, ``[T, N]``; ``None``: no episode was truncated
    :return: ``[T, N]``
    """
    following = th.cat([values[1:], last_values[None]])
    if final_values is not None:
        following = th.where(truncated, final_values, following)
    return following.masked_fill(terminated, 0.0)


def discounted_sums(terms: Tensor, factors: Tensor) -> Tensor:
    """
    Return x_t = terms_t + factors_t x_{t+1}, with x_T = 0.

    Each pass over all rows doubles the number of terms in every sum, so there are log₂ T passes instead of T steps (Hillis &
    Steele, 1986).

    :param terms: ``[T, N]``
    :param factors: ``[T, N]``; the last row has no influence
    :return: x_t, ``[T, N]``
    """
    n, span = len(terms), 1  # x_t holds the terms of rows t to t + span - 1, and factors_t is the product over them
    while span < n:
        terms = th.cat([terms[:-span] + factors[: n - span] * terms[span:], terms[-span:]])
        factors = factors[:-span] * factors[span:]
        span *= 2
    return terms


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    ends: Tensor,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
    valid: Tensor | None = None,
) -> Tensor:
    """
    Return generalised advantage estimates (Schulman et al., 2016, eq. 16).

        δ_t = r_t + γ V(s_{t+1}) − V(s_t)
        Â_t = δ_t + γ λ (1 − cut_t) Â_{t+1}

    λ = 0 gives δ_t; λ = 1 gives the discounted return minus V(s_t).

    :param rewards: r_t as the environment gave it, ``[T, N]``
    :param values: V(s_t), ``[T, N]``
    :param next_values: V(s_{t+1}), see the module's docstring, ``[T, N]``
    :param ends: true where an episode ended at t, ``[T, N]``
    :param gamma: discount factor, in [0, 1]
    :param gae_lambda: λ, in [0, 1]
    :param valid: true for rows that count, ``[T, N]``; ``None``: all
    :return: Â_t, ``[T, N]``
    """
    deltas = masked(rewards + gamma * next_values - values, valid)
    return discounted_sums(deltas, gamma * gae_lambda * (~cuts(ends, valid)).to(deltas.dtype))


def retrace(
    rewards: Tensor,
    action_values: Tensor,
    next_values: Tensor,
    traces: Tensor,
    ends: Tensor,
    gamma: float | Tensor,
    valid: Tensor | None = None,
) -> Tensor:
    """
    Return off-policy returns of state-action pairs (Munos et al., 2016; Wang et al., 2017, eq. 5).

        Q^ret_t = r_t + γ [V(s_{t+1}) + c_{t+1} (1 − cut_t) (Q^ret_{t+1} − Q(s_{t+1}, a_{t+1}))]

    c = min(1, ρ) is Retrace, λ min(1, ρ) Retrace(λ); c = 1 gives the Q^opc of Harutyunyan et al. (2016), and c = 0 one-step
    targets.

    :param rewards: r_t, ``[T, N]``
    :param action_values: Q(s_t, a_t), ``[T, N]``
    :param next_values: V(s_{t+1}) of the policy to evaluate, see the module's docstring, ``[T, N]``
    :param traces: c_t of the action taken at t, in [0, 1], ``[T, N]``
    :param ends: true where an episode ended at t, ``[T, N]``
    :param gamma: discount factor, in [0, 1]
    :param valid: true for rows that count, ``[T, N]``; ``None``: all
    :return: Q^ret_t, ``[T, N]``
    """
    action_values = masked(action_values, valid)
    deltas = masked(rewards + gamma * next_values, valid) - action_values
    following = th.cat([masked(traces, valid)[1:], th.zeros_like(traces[:1])])  # c_{t+1}
    decay = gamma * following * (~cuts(ends, valid)).to(deltas.dtype)
    return action_values + discounted_sums(deltas, decay)


def v_trace(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    weights: Tensor,
    traces: Tensor,
    ends: Tensor,
    gamma: float | Tensor,
    valid: Tensor | None = None,
) -> Tensor:
    """
    Return off-policy returns of states (Espeholt et al., 2018, eq. 1).

        v_t = V(s_t) + ρ̄_t (r_t + γ V(s_{t+1}) − V(s_t)) + γ c_t (1 − cut_t) (v_{t+1} − V(s_{t+1}))

    ρ̄ = c = 1 gives n-step returns. Unlike :func:`retrace`, whose fixed point is Q^π, ρ̄ < ρ moves the fixed point to V of a
    policy between behaviour and target.

    :param rewards: r_t, ``[T, N]``
    :param values: V(s_t), ``[T, N]``
    :param next_values: V(s_{t+1}), see the module's docstring, ``[T, N]``
    :param weights: ρ̄_t = min(ρ̄, ρ_t), ``[T, N]``
    :param traces: c_t = λ min(c̄, ρ_t), ``[T, N]``
    :param ends: true where an episode ended at t, ``[T, N]``
    :param gamma: discount factor, in [0, 1]
    :param valid: true for rows that count, ``[T, N]``; ``None``: all
    :return: v_t, ``[T, N]``
    """
    deltas = masked(weights * (rewards + gamma * next_values - values), valid)
    decay = gamma * masked(traces, valid) * (~cuts(ends, valid)).to(deltas.dtype)
    return masked(values, valid) + discounted_sums(deltas, decay)


def monte_carlo(rewards: Tensor, next_values: Tensor, ends: Tensor, gamma: float, valid: Tensor | None = None) -> Tensor:
    """
    Return the discounted sum of rewards to the end of the sequence, completed there with ``next_values`` (Sutton & Barto,
    eq. 3.9).

        G_t = r_t + γ G_{t+1},  and  G_t = r_t + γ V(s_{t+1})  where the sequence is cut

    With zeros for ``next_values``, this is the return of the episode as it was played.

    :param rewards: r_t, ``[T, N]``
    :param next_values: V(s_{t+1}), read only where the sequence is cut, ``[T, N]``
    :param ends: true where an episode ended at t, ``[T, N]``
    :param gamma: discount factor, in [0, 1]
    :param valid: true for rows that count, ``[T, N]``; ``None``: all
    :return: G_t, ``[T, N]``
    """
    cut = cuts(ends, valid)
    rewards, next_values = masked(rewards, valid), masked(next_values, valid)
    bootstraps = th.where(cut, next_values, th.zeros_like(next_values))
    return discounted_sums(rewards + gamma * bootstraps, gamma * (~cut).to(rewards.dtype))


def standardize(values: Tensor, valid: Tensor) -> Tensor:
    """
    Standardise values to mean 0 and standard deviation 1 over the rows that count.

    Equal values give 0. The computation uses float64, so that the rounding error of their mean is not amplified.

    :param values: ``[T, N]``
    :param valid: true for rows that count, ``[T, N]``
    :return: ``[T, N]``, 0 where not valid
    """
    counted = values[valid].double()
    result = (values.double() - counted.mean()) / (counted.std(correction=0) + 1e-8)
    return masked(result.to(values.dtype), valid)


def episode_ages(episode_starts: Tensor, before: Sequence[int] | None = None) -> Tensor:
    """
    Return the number of steps since the start of the episode.

    :param episode_starts: true in the first row of an episode, ``[T, N]``
    :param before: numbers for the row before the first one, ``[N]``; ``None``: there is no such row
    :return: 0 in the first row of an episode, ``[T, N]``
    """
    age = th.as_tensor([-1] * episode_starts.shape[1] if before is None else before, device=episode_starts.device)
    ages = []
    for starts in episode_starts.bool().unbind():
        age = (age + 1).masked_fill(starts, 0)
        ages.append(age)
    return th.stack(ages)
