"""Steps the environments and checks what they return: numbers must be finite, values arrays, and worker processes alive."""

import copy
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_pgx.core.checks import arrays_are_finite, by_name, environment_name
from sb3_pgx.core.recorder import final_observation
from sb3_pgx.core.undo import Refusal
from sb3_pgx.environments.carrying import carrying_adapter
from sb3_pgx.environments.valid_rows import counting_valid_rows


class GuardedEnvironments:
    """
    Steps and resets the environments during one rollout, and checks that everything they return is finite. If not, it restores
    the statistics of ``VecNormalize`` from the start of the rollout, which would otherwise stay NaN. Create it before the
    environments are stepped or reset.

    :param env: training environments
    :param normalize: their ``VecNormalize`` wrapper, if there is one
    :param n_updates: number of updates so far, for error messages
    :param failed: called when stepping or resetting raises, whatever it is: the environments must be reset then
    """

    def __init__(self, env: VecEnv, normalize: VecNormalize | None, n_updates: int, failed: Callable[[], None]):
        self.env, self.normalize, self.n_updates, self._failed = env, normalize, n_updates, failed
        self._carrying = carrying_adapter(env)
        self.statistics = copy.deepcopy(statistics_of(normalize)) if normalize is not None else {}

    def put_back(self) -> None:
        """Restore the statistics of ``VecNormalize`` from the start of the rollout."""
        if self.normalize is not None:
            vars(self.normalize).update(self.statistics)

    def reset(self) -> Any:
        """
        Reset the environments.

        :return: observations, ``[N, *obs]``
        :raises Refusal: an observation is not finite
        :raises TypeError: the observations are not numbers
        """
        with self._failures():
            observations = self.env.reset()
        return self.checked_start(observations)

    def checked_start(self, observations: Any) -> Any:
        """Return what a reset has returned as arrays; raises as :meth:`reset` does."""
        with self._failures():
            observations = as_arrays(observations)
            self.check(observations)
            return observations

    def step(self, actions: np.ndarray, step: int) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """
        Step the environments.

        :param actions: as the environments take them, ``[N, *action]``
        :param step: index of the step in this rollout, for the error
        :return: observations, rewards, ends and infos
        :raises Refusal: an observation or a reward is not finite
        :raises TypeError: they are not numbers
        """
        try:
            observations, rewards, dones, infos = self._step(actions)
            observations, rewards = as_arrays(observations), as_arrays(rewards)
            self.check(observations, rewards, step)
            return observations, rewards, np.array(as_arrays(dones), dtype=bool), infos  # a copy, of what may be numbers
        except BaseException:
            with self._failures():  # only now: a context around each step would cost 2 % of a collection step
                raise

    def check_final_observations(self, dones: np.ndarray, infos: list[dict[str, Any]], step: int) -> None:
        """
        Check the final observations of a step, which a replay memory stores.

        :param dones: whether the episode ended, ``[N]``
        :param infos: SB3's info dictionaries, one per environment
        :param step: index of the step in this rollout, for the error
        :raises Refusal: one is not finite, or that of a truncated episode is missing
        """
        try:
            for index in dones.nonzero()[0].tolist():
                if "terminal_observation" in infos[index] or infos[index].get("TimeLimit.truncated", False):
                    final_observation(infos[index], self.env, index, step)
        except Refusal:
            self.put_back()
            self._failed()
            raise

    def _step(self, actions: np.ndarray) -> VecEnvStepReturn:
        if self._carrying is None or self.normalize is None:
            return self.env.step(actions)
        with counting_valid_rows(self.normalize, self._carrying):
            return self.env.step(actions)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            with naming_dead_workers(self.env):
                yield
        except BaseException:
            self._failed()
            raise

    def check(self, observations: Any, rewards: np.ndarray | None = None, step: int | None = None) -> None:
        """
        Check the result of a step or a reset.

        :param observations: observations as the environments returned them, ``[N, ...]``
        :param rewards: rewards as the environments returned them, ``[N]``; ``None`` after a reset
        :param step: index of the step in this rollout; ``None`` after a reset
        :raises ValueError: a reward or an observation is NaN or infinite
        """
        if self.normalize is None and (rewards is None or arrays_are_finite(rewards)) and arrays_are_finite(observations):
            return
        seen = {} if rewards is None else {"reward": rewards}
        seen |= by_name(observations)
        # Normalisation spreads a bad number to all environments, or clips it, so check the raw numbers first.
        raw = {} if self.normalize is None else by_name(getattr(self.normalize, "old_obs", {}))
        if self.normalize is not None and rewards is not None:
            raw = {"reward": self.normalize.old_reward, **raw}
        for returned in (raw, seen):
            if not all(arrays_are_finite(values) for values in returned.values()):
                self.put_back()
                self._raise(returned, step)
        overflowed = self._overflowed()
        if overflowed is not None:
            self.put_back()
            self._refuse_statistics(*overflowed, raw, step)

    def _overflowed(self) -> tuple[str, np.ndarray] | None:
        """Return name and value of the first running variance that is not finite; ``None`` if all are finite."""
        variances = {} if self.normalize is None else variances_of(self.normalize)
        return next(((what, variance) for what, variance in variances.items() if not arrays_are_finite(variance)), None)

    def _refuse_statistics(self, what: str, variance: np.ndarray, raw: dict[str, np.ndarray], step: int | None) -> None:
        """
        Raise the error for a finite number so large that ``VecNormalize``'s variance overflows. The statistics have been put
        back: if they overflow still, they did so before the rollout.
        """
        kind, unchanged = what.split()[0], f"are unchanged since update {self.n_updates}"
        if self._overflowed() is not None:
            raise Refusal(
                f"VecNormalize's variance of the {kind} was not finite before this rollout. It and the policy {unchanged}; "
                "make a new VecNormalize, or load an earlier one."
            )
        large = raw[what][..., ~np.isfinite(variance)].reshape(self.env.num_envs, -1)  # [N, ...] -> [N, K]
        index, place = np.unravel_index(np.abs(large).argmax(), large.shape)
        raise Refusal(
            f"{environment_name(self.env, int(index))} returned {what} {large[index, place]:g} {moment_of(step)}, so large "
            f"that VecNormalize's variance is not finite. Policy and VecNormalize {unchanged}; check the environment's "
            f"{kind}, or wrap it in a wrapper that clips it."
        )

    def _raise(self, returned: dict[str, np.ndarray], step: int | None) -> None:
        for what, values in returned.items():
            for index, value in enumerate(values):
                bad = np.asarray(value)[~np.isfinite(value)].ravel()
                if bad.size:
                    raise Refusal(
                        f"{environment_name(self.env, index)} returned {what} {bad[0]} {moment_of(step)}. The policy is "
                        f"unchanged since update {self.n_updates}; check the environment's {what.split()[0]}, or wrap it in a "
                        "wrapper that clips it."
                    )


def moment_of(step: int | None) -> str:
    """Return in words when an environment returned something."""
    return "when it was reset" if step is None else f"at step {step} of this rollout"


@contextmanager
def naming_dead_workers(env: VecEnv) -> Iterator[None]:
    """Within this context, name the environment whose process has ended. The error of a broken pipe does not."""
    try:
        yield
    except (EOFError, ConnectionError) as error:
        # The frames of the error hold the message that was not sent, as a view of an io.BytesIO. If both are garbage of
        # one cycle and the file is freed first, Python 3.13 reports an error, and 3.12 may crash.
        traceback.clear_frames(error.__traceback__)
        for index, process in enumerate(getattr(env.unwrapped, "processes", ())):
            process.join(timeout=1)
            if not process.is_alive():
                raise type(error)(
                    f"environment {index} is gone: its process {describe_end(process.exitcode)}. An exception of the "
                    "environment is printed by that process, and raised here if the environments run in a DummyVecEnv instead."
                ) from error
        raise


def describe_end(exit_code: int) -> str:
    """Return in words how a process has ended, as the rest of a sentence about it."""
    return f"was ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"has ended with exit code {exit_code}"


def statistics_of(normalize: VecNormalize) -> dict[str, Any]:
    """Return the statistics that ``VecNormalize`` learns, by attribute."""
    return {name: getattr(normalize, name) for name in ("obs_rms", "ret_rms", "returns") if hasattr(normalize, name)}


def variances_of(normalize: VecNormalize) -> dict[str, np.ndarray]:
    """Return the running variances by which ``VecNormalize`` divides, under the names of :func:`by_name`."""
    observations: Any = by_name(normalize.obs_rms) if normalize.norm_obs else {}
    used = observations | ({"reward": normalize.ret_rms} if normalize.norm_reward else {})
    return {what: statistics.var for what, statistics in used.items()}


def as_arrays(values: Any) -> Any:
    """
    Convert what an environment returned, such as a list or a tensor, to an array or a dictionary of arrays.

    :param values: observations or rewards
    :raises TypeError: the values are not numbers
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        return values
    if isinstance(values, dict):
        return {key: as_arrays(part) for key, part in values.items()}
    try:
        array = values.numpy(force=True) if isinstance(values, th.Tensor) else np.asarray(values)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"the environment returned {values!r}, but observations and rewards must be arrays of numbers")
    return array
