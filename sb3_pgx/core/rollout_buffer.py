"""SB3's rollout buffer as a live view of a :class:`~sb3_pgx.core.rollout.Rollout`, which callbacks may write to."""

from collections.abc import Callable, Generator, Iterable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_obs_shape

from sb3_pgx.core.buffer_arrays import (
    COLUMNS,
    LEARNED,
    as_rows,
    as_types_of,
    doubled,
    learned_rows,
    paired_arrays,
    rollout_of,
    shown_rewards,
    to_numpy,
)
from sb3_pgx.core.deferred_values import StepEvaluation
from sb3_pgx.core.mixed_spaces import stored_space
from sb3_pgx.core.recorder import Recorder
from sb3_pgx.core.rollout import CollectedRollout, EvaluatedRollout, Rollout, map_tensors
from sb3_pgx.core.spaces import check_choices, kept_action_type, kept_type

_NAMES = frozenset(COLUMNS)
# Columns that are computed row by row during collection, if a callback reads them.
ROW_WISE = ("values", "log_probs")
_ESTIMATES = frozenset(("advantages", "returns"))


class Column:
    """
    An array of a :class:`RolloutView`, created at its first access. From then on a caller may have written into it.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, buffer: Any, owner: type | None = None) -> Any:
        if buffer is None:
            return self
        arrays = vars(buffer)
        if self.name not in arrays:
            arrays[self.name] = buffer.present(self.name)
        return arrays[self.name]

    def __set__(self, buffer: Any, array: Any) -> None:
        if self.name in buffer.unlearned:
            raise ValueError(not_learned(self.name))
        vars(buffer)[self.name] = array


class RolloutView(RolloutBuffer):
    """
    A live view of a rollout with the interface of SB3's ``RolloutBuffer``.

    Row t appears after ``on_step`` of step t. The update learns from the content of the arrays when it starts, including
    changes by callbacks: in place, by assignment, through ``add``, or through ``compute_returns_and_advantage``.

    Names, shapes and meaning are those of SB3; the rewards of truncated steps contain γ V(final observation). Two types
    differ: observations have the type on which the policy acted (``VecNormalize`` turns whole numbers into floats), and
    actions of a Box are floats. ``valid`` (``[T, N]``) marks the rows that count; ``get`` yields only these.

    Arrays that are never accessed are neither copied nor computed. A rollout of whole episodes may outgrow its arrays during
    collection, so read them from the buffer again at each step.
    """

    observations = Column()
    actions = Column()
    rewards = Column()
    episode_starts = Column()
    values = Column()
    log_probs = Column()
    advantages = Column()
    returns = Column()

    refuses_rows: str | None = None  # why the algorithm cannot learn from rows that a caller adds
    unlearned: tuple[str, ...] = ()  # arrays that the algorithm does not learn from
    _recorder: Recorder | None = None  # while a rollout is collected
    _policy: ActorCriticPolicy  # the policy that acts
    _rollout: EvaluatedRollout | None = None  # after collection; estimated unless `advantages` are computed later
    _estimate: Callable[[EvaluatedRollout], Rollout] | None = None  # the algorithm's own estimate, if it is not SB3's
    _last_dones: Any = None

    def __init__(
        self, buffer_size: int, observation_space: spaces.Space, action_space: spaces.Space, *args: Any, **kwargs: Any
    ):
        super().__init__(buffer_size, observation_space, stored_space(action_space), *args, **kwargs)
        self.action_space = action_space

    def __getstate__(self) -> dict[str, Any]:
        """Return all arrays, without references to the model."""
        for name in COLUMNS:
            getattr(self, name)
        return {**vars(self), "_recorder": None, "_policy": None, "_estimate": None}

    def reset(self) -> None:
        """Forget all rows."""
        for name in COLUMNS:
            vars(self).pop(name, None)
        self.pos, self.full, self.generator_ready = 0, False, False
        self._recorder = self._rollout = self._last_dones = None
        self._originals: dict[str, Any] = {}  # copies of presented arrays, to see what has been written into them
        self._added_masks: np.ndarray | None = None  # [T, N, M], of rows that a caller has added

    # ------------------------------------------------------------------------------------------------ for collection

    def follow(self, recorder: Recorder, policy: ActorCriticPolicy, gamma: float) -> None:
        """
        Forget all rows, and show the rows of a new rollout during its collection.

        :param recorder: recorder of the rollout
        :param policy: policy that acts
        :param gamma: discount factor of bootstrapped rewards
        """
        self.reset()
        self.buffer_size, self._recorder, self._policy, self._gamma = recorder.capacity, recorder, policy, gamma

    def follow_policy(self, policy: ActorCriticPolicy) -> None:
        """
        Use another policy from now on to compute values and log-probabilities.

        :param policy: policy that acts from now on
        """
        self._policy = policy

    def recorded(self) -> None:
        """Add the recorder's newest row to the arrays that a caller has accessed."""
        assert self._recorder is not None
        row, self.pos, self.buffer_size = self.pos, self.pos + 1, self._recorder.capacity
        if vars(self).keys().isdisjoint(_NAMES):  # nobody has accessed an array, which is so at nearly every step
            return
        for name in self._held():
            for arrays in (vars(self), self._originals):
                if name in arrays:
                    arrays[name] = map_tensors(lambda x: x if row < len(x) else doubled(x), arrays[name])
            array = vars(self)[name]
            if name == "observations":  # a later observation may need a wider type
                array = vars(self)[name] = as_types_of(self._recorder.observations, array)
            self._write(name, array, slice(row, row + 1))
            for into, written in paired_arrays(self._originals.get(name), array) if name in self._originals else ():
                into[row] = written[row]

    def collected(self, rollout: CollectedRollout) -> bool:
        """
        Copy the changes that callbacks have made to the arrays into a collected rollout.

        :param rollout: collected rollout, not yet evaluated
        :return: whether an array was accessed, so that returns must be computed from the arrays
        """
        held, n_steps = self._held(), rollout.shape[0]
        self.buffer_size, self.pos, self.full = n_steps, n_steps, True
        if not held:
            return False
        for arrays in (vars(self), self._originals):
            for name in held & arrays.keys():
                arrays[name] = map_tensors(lambda x: x[:n_steps], arrays[name])
        self._check_unlearned()
        if not held.isdisjoint(ROW_WISE):
            values, log_probs = (th.as_tensor(getattr(self, name), device=rollout.rewards.device) for name in ROW_WISE)
            rollout.known_rows = {t: (values[t], log_probs[t]) for t in range(n_steps)}
        self._read(rollout, held - {*ROW_WISE} - _ESTIMATES)
        return True

    def show(
        self, rollout: EvaluatedRollout, gamma: float, estimate: Callable[[EvaluatedRollout], Rollout] | None = None
    ) -> None:
        """
        Present a rollout as a full buffer.

        :param rollout: evaluated rollout; without estimates if :meth:`compute_returns_and_advantage` follows
        :param gamma: discount factor of bootstrapped rewards
        :param estimate: function that computes returns and advantages, if the algorithm's are not those of SB3's buffer
        """
        self._recorder, self._rollout, self._gamma, self._estimate = None, rollout, gamma, estimate
        self.buffer_size, self.n_envs = rollout.shape
        for name in _ESTIMATES:
            vars(self).pop(name, None)
        self.pos, self.full, self.generator_ready = self.buffer_size, True, False

    # ------------------------------------------------------------------------------------------------ for the update

    def rollout(self, device: th.device) -> Rollout:
        """
        Return the rollout that the update learns from, with all changes made to the arrays.

        :param device: device of the result
        :raises ValueError: rows are missing, an array has the wrong shape, or a caller has written into an array that the
            algorithm does not learn from
        """
        if not self.full:
            raise ValueError(
                f"the rollout buffer holds {self.pos} of {self.buffer_size} steps: call learn(), or fill it with add() and "
                "compute_returns_and_advantage() before train()."
            )
        if self._rollout is None:
            self._rollout = rollout_of(self, self._last_dones, device)
            self._originals["rewards"] = np.array(self.rewards, np.float32)
        elif isinstance(self._rollout, Rollout):
            self._check_unlearned()
            self._read(self._rollout, self._held())
        else:
            self._check_unlearned()
            self._read(self._rollout, self._held() - _ESTIMATES)
            advantages, returns = (self._rows_of(name, self._rollout.values) for name in ("advantages", "returns"))
            self._rollout = self._rollout.estimated(advantages, returns)
        assert isinstance(self._rollout, Rollout)
        return self._rollout

    @property
    def observations_in_hand(self) -> bool:
        """Whether a caller may have changed observations or actions."""
        return not self._held().isdisjoint(("observations", "actions"))

    @property
    def valid(self) -> np.ndarray:
        """Whether each row counts, ``[T, N]``."""
        if self._rollout is None:
            return np.ones((self.buffer_size, self.n_envs), bool)
        return to_numpy(self._rollout.valid)

    @property
    def action_masks(self) -> np.ndarray | None:
        """Which actions were valid, ``[T, N, M]``, as an array that cannot be written to; ``None``: all of them."""
        if self._rollout is not None:
            masks = None if self._rollout.action_masks is None else to_numpy(self._rollout.action_masks)
        else:
            masks = self._added_masks if self._recorder is None else self._recorder.action_masks
        if masks is not None:
            masks = masks.view()
            masks.flags.writeable = False
        return masks

    # ------------------------------------------------------------------------------------------------ SB3's interface

    def add(
        self,
        obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: th.Tensor,
        log_prob: th.Tensor,
        action_masks: np.ndarray | None = None,
    ) -> None:
        """
        Add a row, as to SB3's buffer or to sb3-contrib's maskable one. Its reward is used unchanged.

        :param obs: observations, ``[N, *obs]``
        :param action: actions as the policy sampled them, ``[N, ...]``
        :param reward: rewards, ``[N]``
        :param episode_start: whether an episode starts in this row, ``[N]``
        :param value: V(s), ``[N]`` or ``[N, 1]``
        :param log_prob: log π(a|s), ``[N]``
        :param action_masks: which actions were valid, ``[N, M]``; ``None``: all of them
        :raises ValueError: the algorithm needs more data per row than these arguments
        """
        if self.refuses_rows is not None:
            raise ValueError(f"rollout_buffer.add: {self.refuses_rows}")
        if self.pos == 0:
            self.observations = self._rows_for(obs)
            self.actions = self._empty("actions")
        if action_masks is not None:
            masks = np.reshape(np.asarray(action_masks, bool), (self.n_envs, -1))
            if self._added_masks is None:
                self._added_masks = np.ones((self.buffer_size, *masks.shape), bool)
            self._added_masks[self.pos] = masks
        super().add(obs, action, reward, episode_start, value, log_prob)

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """
        Compute returns and advantages from the content of the arrays: SB3's generalised advantage estimates, or the
        algorithm's own estimate if it has one.

        :param last_values: V of the observations after the last row, ``[N]`` or ``[N, 1]``
        :param dones: whether an episode ended in the last row, ``[N]``
        """
        if self._estimate is None or self._rollout is None:
            self._last_dones = np.array(dones)
            super().compute_returns_and_advantage(last_values, dones)
            return
        self._read(self._rollout, self._held() - _ESTIMATES)
        estimated = self._estimate(self._rollout)
        if isinstance(self._rollout, Rollout):  # which may be the model's `last_rollout`
            self._rollout.advantages, self._rollout.returns = estimated.advantages, estimated.returns
        else:
            self._rollout = estimated
        for name in _ESTIMATES:
            vars(self).pop(name, None)

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """Yield minibatches of the valid rows in random order, as SB3's buffer does."""
        assert self.full, "the rollout is not complete"
        if not self.generator_ready:
            for name in LEARNED:
                vars(self)[name] = map_tensors(self.swap_and_flatten, getattr(self, name))
                if name in self._originals:
                    self._originals[name] = map_tensors(self.swap_and_flatten, self._originals[name])
            self.generator_ready = True
        rows = np.flatnonzero(self.valid.T)
        order = rows[np.random.permutation(len(rows))]
        for start in range(0, len(order), batch_size or max(len(order), 1)):
            yield self._get_samples(order[start : start + (batch_size or len(order))])

    def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> Any:
        samples, masks = super()._get_samples(batch_inds, env), self.action_masks
        if masks is None:
            return samples
        from sb3_contrib.common.maskable import buffers as maskable

        is_dict = isinstance(self.observation_space, spaces.Dict)
        kind: Any = maskable.MaskableDictRolloutBufferSamples if is_dict else maskable.MaskableRolloutBufferSamples
        rows = self.swap_and_flatten(masks.astype(np.float32))[batch_inds]
        return kind(*samples, self.to_torch(rows))

    # ------------------------------------------------------------------------------------------------ presenting

    def present(self, name: str) -> Any:
        """Create an array for its first access."""
        if self._rollout is not None:
            array = self._of_rollout(name, self._rollout)
        elif self._recorder is not None:
            array = self._of_recorder(name, self._recorder)
        else:
            array = self._empty(name)
        if name == "rewards" or name in self.unlearned:
            self._originals[name] = map_tensors(np.copy, array)
        return array

    def _of_rollout(self, name: str, rollout: EvaluatedRollout) -> Any:
        if name == "rewards":
            return to_numpy(shown_rewards(rollout, self._gamma))
        if name == "episode_starts":
            return to_numpy(rollout.episode_starts.float())
        if name in _ESTIMATES and not isinstance(rollout, Rollout):
            return self._empty(name)
        return map_tensors(to_numpy, getattr(rollout, LEARNED[name]))

    def _of_recorder(self, name: str, recorder: Recorder) -> Any:
        kept = getattr(recorder, name, None) if name in ("observations", "actions") else None
        array = self._empty(name) if kept is None else map_tensors(np.zeros_like, kept)
        if self.pos > 0:
            self._write(name, array, slice(self.pos))
        return array

    def _empty(self, name: str) -> Any:
        """Return zeros, with which SB3's buffer starts."""
        leading = (self.buffer_size, self.n_envs)
        if name == "actions":
            return np.zeros((*leading, self.action_dim), kept_action_type(self.action_space))
        if name == "observations":
            space = self.observation_space
            parts = space.spaces if isinstance(space, spaces.Dict) else space
            return map_tensors(lambda part: np.zeros((*leading, *get_obs_shape(part)), part.dtype), parts)
        return np.zeros(leading, np.float32)

    def _rows_for(self, obs: Any) -> Any:
        """Return zeros for a rollout of observations such as ``obs``, in types that hold them."""
        arrays = self._empty("observations")
        if not isinstance(arrays, dict):
            return arrays.astype(kept_type(np.asarray(obs), self.observation_space))
        parts = self.observation_space.spaces  # type: ignore[attr-defined]
        return {key: array.astype(kept_type(np.asarray(obs[key]), parts[key])) for key, array in arrays.items()}

    def _write(self, name: str, array: Any, rows: slice) -> None:
        """Write rows of the recorder into an array that a caller has accessed."""
        recorder = self._recorder
        assert recorder is not None
        if name in ("observations", "actions"):
            for into, kept in paired_arrays(array, getattr(recorder, name)):
                into[rows] = kept[rows]
        elif name == "episode_starts":
            array[rows] = recorder.episode_starts[rows]
        elif name == "rewards":
            array[rows] = recorder.rewards[rows]
            for t in range(rows.stop)[rows]:
                for index, value in recorder.final_values_in(t, self._policy):
                    array[t, index] += self._gamma * value
        elif name in ROW_WISE:
            for t in range(rows.stop)[rows]:
                if t not in recorder.known_rows:
                    observations = map_tensors(lambda x, t=t: x[t], recorder.observations)
                    values, log_prob = StepEvaluation(
                        self._policy, observations, recorder.actions[t], recorder.masks_in(t)
                    ).computed()
                    recorder.known_rows[t] = values.flatten(), log_prob.flatten()
                array[t] = to_numpy(recorder.known_rows[t][ROW_WISE.index(name)])

    # ------------------------------------------------------------------------------------------------ reading back

    def _held(self) -> set[str]:
        """Return the arrays that a caller may have written into."""
        return vars(self).keys() & _NAMES

    def _read(self, rollout: CollectedRollout, names: Iterable[str]) -> None:
        """Read some of the arrays into the rollout."""
        for name in names:
            array = vars(self)[name]
            if name == "rewards":
                known = rollout.rewards
                written = (array, self._originals[name])
                now, before = (as_rows(name, x, known, rollout.shape, known.device) for x in written)
                if not th.equal(now, before):  # the rollout's own rewards contain no bootstrapped value
                    rollout.rewards = rollout.rewards + (now - before)
                    self._originals[name] = np.array(array, np.float32)
            elif name == "episode_starts":
                known = rollout.episode_starts
                rollout.episode_starts = as_rows(name, array, known, rollout.shape, known.device)
            else:
                setattr(rollout, LEARNED[name], self._rows_of(name, getattr(rollout, LEARNED[name])))

    def _rows_of(self, name: str, like: Any) -> Any:
        """Return an array that is learned from as tensors ``[T, N, ...]`` of the shape and type of others."""
        shape = self.buffer_size, self.n_envs
        device = (next(iter(like.values())) if isinstance(like, dict) else like).device
        rows = learned_rows(name, getattr(self, name), like, shape, device, self.generator_ready)
        if name == "actions":
            check_choices(rows, self.action_space)
        return rows

    def _check_unlearned(self) -> None:
        """
        Check that the arrays that the algorithm does not learn from are unchanged.

        :raises ValueError: a caller has written into one of them
        """
        for name in self._held().intersection(self.unlearned):
            if not all(map(np.array_equal, *zip(*paired_arrays(vars(self)[name], self._originals[name]), strict=True))):
                raise ValueError(not_learned(name))


class DictRolloutView(RolloutView, DictRolloutBuffer):
    """:class:`RolloutView` for dictionary observations."""


def not_learned(name: str) -> str:
    """Return the error message for a change that would have no effect."""
    return (
        f"rollout_buffer.{name} was written to, and this algorithm does not learn from it: change rewards and observations in "
        "a wrapper of the environment, or in on_step."
    )
