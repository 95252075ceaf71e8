"""
SB3's rollout buffers as a façade over a :class:`~sb3_pgx.common.rollout.Rollout`, so that callbacks find what they know,
and the way back: a rollout fed into a buffer class of the user's own.
"""

from collections.abc import Generator
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from sb3_pgx.common.rollout import Batch, OwnBatch, Rollout, map_tensors
from sb3_pgx.ops.returns import gae


class RolloutView(RolloutBuffer):
    """
    SB3's ``RolloutBuffer`` whose arrays are those of a rollout: views on the CPU, copies on CUDA.

    Names, shapes and types are SB3's, except that ``rewards`` never contain a bootstrapped value. ``valid``
    (``[T, N]``) marks the rows that count; ``get`` yields only these.
    """

    valid: np.ndarray
    _rollout: Rollout

    def show(self, rollout: Rollout) -> None:
        """Present ``rollout`` as a full buffer."""
        self._rollout = rollout
        self.buffer_size, self.n_envs = rollout.shape
        self.observations = map_tensors(to_numpy, rollout.observations)
        self.actions = to_numpy(rollout.actions)
        self.rewards = to_numpy(rollout.rewards)
        self.episode_starts = to_numpy(rollout.episode_starts.float())
        self.values = to_numpy(rollout.values)
        self.log_probs = to_numpy(rollout.log_prob)
        self.advantages = to_numpy(rollout.advantages)
        self.returns = to_numpy(rollout.returns)
        self.valid = to_numpy(rollout.valid)
        self.pos, self.full, self.generator_ready = self.buffer_size, True, False

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """
        Generalised advantage estimates of ``rewards`` as they are now, for a callback that has changed them. Truncated
        episodes keep their bootstrap, which is not in the rewards; what SB3 needs the arguments for is known.
        """
        rollout = self._rollout
        rewards = th.as_tensor(self.rewards, device=rollout.values.device)
        rollout.advantages.copy_(
            gae(rewards, rollout.values, rollout.next_values, rollout.ends, self.gamma, self.gae_lambda, rollout.valid)
        )
        rollout.returns.copy_(rollout.advantages + rollout.values)
        self.advantages, self.returns = to_numpy(rollout.advantages), to_numpy(rollout.returns)

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """As SB3's, over the valid rows in one random order."""
        assert self.full, "the rollout is not complete"
        if not self.generator_ready:
            self.observations = map_tensors(self.swap_and_flatten, self.observations)
            for name in ("actions", "values", "log_probs", "advantages", "returns"):
                setattr(self, name, self.swap_and_flatten(getattr(self, name)))
            self.generator_ready = True
        rows = np.flatnonzero(self.valid.T)
        order = rows[np.random.permutation(len(rows))]
        for start in range(0, len(order), batch_size or max(len(order), 1)):
            yield self._get_samples(order[start : start + (batch_size or len(order))])


class DictRolloutView(RolloutView, DictRolloutBuffer):
    """:class:`RolloutView` for dictionary observations."""


def is_users_own(buffer_class: type[RolloutBuffer] | None) -> bool:
    """SB3 writes its own two classes into every saved file: they mean that nobody chose one."""
    return buffer_class not in (None, RolloutBuffer, DictRolloutBuffer)


def feed(buffer: RolloutBuffer, rollout: Rollout, gamma: float) -> None:
    """
    Fill a buffer through SB3's public interface, step by step, as SB3's own collection does: with γ V of the final
    observation added to the reward of a truncated row.

    :param buffer: any class with SB3's ``reset``, ``add`` and ``compute_returns_and_advantage``
    :param rollout: evaluated
    :param gamma: discount factor
    """
    bootstrap = gamma * rollout.next_values * rollout.truncated
    rewards = to_numpy(rollout.rewards + bootstrap)
    starts = to_numpy(rollout.episode_starts)
    ends = to_numpy(rollout.ends)
    actions = to_numpy(rollout.actions)
    buffer.reset()
    for t in range(rollout.shape[0]):
        observation = map_tensors(lambda x, t=t: to_numpy(x[t]), rollout.observations)
        buffer.add(observation, actions[t], rewards[t], starts[t], rollout.values[t], rollout.log_prob[t])
    buffer.compute_returns_and_advantage(last_values=rollout.last_values, dones=ends[-1])


def batches(buffer: RolloutBuffer, batch_size: int | None) -> Generator[Batch, None, None]:
    """What a user's own buffer class yields, as batches."""
    for samples in buffer.get(batch_size):
        yield OwnBatch(
            observations=samples.observations,
            actions=samples.actions.reshape(len(samples.old_values), -1),
            values=samples.old_values,
            log_prob=samples.old_log_prob,
            advantages=samples.advantages,
            returns=samples.returns,
        )


def to_numpy(values: th.Tensor) -> np.ndarray:
    """A view on the CPU, a copy on CUDA."""
    return values.numpy(force=True)
