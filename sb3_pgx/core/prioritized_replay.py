"""A replay memory from which transitions are drawn in proportion to their last errors (Schaul et al., 2016)."""

from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from sb3_pgx.core.replay_sampling import n_step_arrays

EPSILON = 1e-6  # added to each error, so that a transition without one may be drawn again


class PrioritizedSamples(NamedTuple):
    """
    Transitions as in SB3's ``ReplayBufferSamples``, and how they were drawn.

    :param probabilities: probability of each transition times the number of transitions: 1 if all are equally likely,
        ``[B, 1]``
    :param rows: where each transition is in the memory, ``[B]``
    """

    observations: Tensor
    actions: Tensor
    next_observations: Tensor
    dones: Tensor
    rewards: Tensor
    discounts: Tensor
    probabilities: Tensor
    rows: Tensor


class PrioritizedReplayBuffer(NStepReplayBuffer):
    """
    SB3's memory for n-step returns, with proportional prioritisation (Schaul et al., 2016, section 3.3).

        P(i) = p_i^α / Σ_j p_j^α,   p_i = |δ_i| + ε

    A new transition gets the largest priority so far. Draws are stratified: each of ``batch_size`` equal parts of the sum of
    the priorities gives one transition.

    :param args: arguments of SB3's replay memory
    :param alpha: α > 0; 1 draws in proportion to the errors
    :param n_steps: steps of the returns
    :param gamma: γ
    :param kwargs: further arguments of SB3's replay memory
    """

    def __init__(self, *args: Any, alpha: float = 0.6, n_steps: int = 1, gamma: float = 0.99, **kwargs: Any):
        super().__init__(*args, n_steps=n_steps, gamma=gamma, **kwargs)
        self.alpha = alpha
        self.largest = 1.0  # p^α of new transitions
        self.priorities = np.zeros(self.buffer_size * self.n_envs)  # p^α, by step, then by environment
        self._tree = SumTree(self.priorities)

    def __getstate__(self) -> dict[str, Any]:
        return {name: x for name, x in vars(self).items() if name != "_tree"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._tree = SumTree(self.priorities)

    def add(self, *args: Any, **kwargs: Any) -> None:
        """As SB3's: store one step of each environment."""
        rows = self.pos * self.n_envs + np.arange(self.n_envs)
        super().add(*args, **kwargs)
        self._set(rows, np.full(self.n_envs, self.largest))

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> PrioritizedSamples:  # type: ignore[override]
        """
        Draw transitions.

        :param batch_size: B
        :param env: normalises observations and rewards
        """
        rows = self._tree.draw(batch_size)
        likely = self.priorities[rows] * (self.size() * self.n_envs / self._tree.total)
        arrays = n_step_arrays(self, *np.divmod(rows, self.n_envs), env)
        return PrioritizedSamples(*map(self.to_torch, (*arrays, likely.astype(np.float32)[:, None], rows)))

    def update_priorities(self, rows: Tensor, errors: Any) -> None:
        """
        Set priorities.

        :param rows: of a sample
        :param errors: |δ| of its transitions, ``[B]``
        """
        new = (np.asarray(errors, np.float64) + EPSILON) ** self.alpha
        self.largest = max(self.largest, float(new.max()))
        self._set(rows.cpu().numpy(), new)

    def _set(self, rows: np.ndarray, new: np.ndarray) -> None:
        self.priorities[rows] = new
        self._tree.update(rows, self.priorities[rows])


class SumTree:
    """
    Sums of priorities over halves, quarters, …, in which a draw takes logarithmic time.

    :param priorities: not negative, ``[R]``
    """

    def __init__(self, priorities: np.ndarray):
        self._first_leaf = 1 << max(len(priorities) - 1, 1).bit_length()
        self._sums = np.zeros(2 * self._first_leaf)  # the children of node i are 2 i and 2 i + 1; node 1 is the root
        self._sums[self._first_leaf :][: len(priorities)] = priorities
        for i in range(self._first_leaf.bit_length() - 2, -1, -1):
            self._add_up(np.arange(1 << i, 2 << i))

    @property
    def total(self) -> float:
        """Sum of all priorities."""
        return float(self._sums[1])

    def update(self, rows: np.ndarray, priorities: np.ndarray) -> None:
        """Set the priorities of some rows."""
        nodes = self._first_leaf + rows
        self._sums[nodes] = priorities
        while nodes[0] > 1:
            nodes = nodes // 2
            self._add_up(nodes)

    def draw(self, n: int) -> np.ndarray:
        """Draw n rows in proportion to their priorities, one from each n-th part of their sum."""
        left = (np.arange(n) + np.random.random_sample(n)) * (self.total / n)
        nodes = np.ones(n, np.int64)
        while nodes[0] < self._first_leaf:
            nodes *= 2
            before = self._sums[nodes]
            # Rounding must not lead to where all priorities are 0.
            right = (left >= before) & (self._sums[nodes + 1] > 0)
            left -= before * right
            nodes += right
        return nodes - self._first_leaf

    def _add_up(self, nodes: np.ndarray) -> None:
        self._sums[nodes] = self._sums[2 * nodes] + self._sums[2 * nodes + 1]
