"""Evaluation with action masks and reset steps: SB3's own ``evaluate_policy`` hands on a policy's state, but neither."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common import callbacks, evaluation
from stable_baselines3.common.type_aliases import GymEnv, PolicyPredictor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_pgx.core.files import replacing
from sb3_pgx.environments.action_masks import ActionMasks, find_action_masks, is_part
from sb3_pgx.environments.carrying import carrying_adapter
from sb3_pgx.environments.vector_env import as_vec_env, is_vector_env


class EvaluatedModel:
    """
    A model whose ``predict`` gets what SB3's ``evaluate_policy`` does not know of: the masks of the environments, and the
    starts of episodes after steps that only reset an environment. Everything else that is public is the model's own.

    :param model: with SB3's ``predict``, and its argument ``action_masks`` if there are masks
    :param env: environments
    :param masks: of the environments; ``None``: they have none, or the model does without them
    """

    def __init__(self, model: Any, env: VecEnv, masks: ActionMasks | None):
        self._model, self._masks, self._step = model, masks, 0
        self._carrying = carrying_adapter(env)
        self._carried: np.ndarray | None = None  # environments of which the last step was no experience

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # a copy asks for some of them before it has a model
            raise AttributeError(f"{type(self).__name__} has no {name}")
        return getattr(self._model, name)

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        """Predict valid actions. Arguments are those of the model's ``predict``."""
        resetting = None if self._carrying is None else self._carrying.resetting
        if self._carried is not None and kwargs.get("episode_start") is not None:
            kwargs["episode_start"] = kwargs["episode_start"] | self._carried
        self._carried = resetting
        if self._masks is not None:
            kwargs["action_masks"] = self._masks(observation, self._step, resetting, "this evaluation")
        self._step += 1
        return self._model.predict(observation, *args, **kwargs)


def acting_in(model: Any, env: VecEnv, use_masking: bool = True) -> Any:
    """
    Return the model, or one that knows of steps that only reset an environment, and acts by the masks that the environments'
    method ``action_masks()`` gives. ``predict`` finds masks among the observations by itself, unless some steps only reset an
    environment, which then may have no valid action.

    :param model: model to evaluate
    :param env: environments to evaluate it in
    :param use_masking: whether to use masks
    """
    carries = carrying_adapter(env) is not None
    learned_masked = use_masking and getattr(model, "use_masking", True)
    takes_masks = learned_masked and "action_masks" in inspect.signature(model.predict).parameters
    masks = None
    if takes_masks and (carries or not is_part(env.observation_space)):
        masks = find_action_masks(env, env.observation_space, env.action_space)
    return EvaluatedModel(model, env, masks) if carries or masks is not None else model


class EndlessEvaluation(ValueError):
    """An evaluation waits for the end of an episode that never ends."""


class EndlessEpisodes:
    """
    Ends an evaluation that would wait for ever. It is a callback of SB3's ``evaluate_policy``, called after each step.

    :param max_steps: steps of one environment without an end of its episode that are taken to be endless
    :param max_hidden: ends of episodes in a row that SB3's ``Monitor`` may miss. It misses real ends if a wrapper outside of
        it ends episodes; it also misses a lost life of an Atari game, which is no end.
    """

    def __init__(self, max_steps: int = 100_000, max_hidden: int = 1_000):
        self.max_steps, self.max_hidden = max_steps, max_hidden
        self._steps: Counter[int] = Counter()  # by environment, since the last end of an episode that counted
        self._hidden: Counter[int] = Counter()

    def __call__(self, local: dict[str, Any], _: dict[str, Any] | None = None) -> None:
        """
        Count a step.

        :param local: local variables of SB3's function
        :raises EndlessEvaluation: the evaluation would not end
        """
        index, done = local["i"], local["done"]
        self._steps[index] += 1
        if done and ("episode" in local["info"] or not local["is_monitor_wrapped"]):
            self._steps[index] = self._hidden[index] = 0
        elif done:
            self._hidden[index] += 1
        if self._hidden[index] >= self.max_hidden:
            raise EndlessEvaluation(
                f"this evaluation would never end: environment {index} has ended {self.max_hidden} episodes that SB3's "
                "Monitor has not seen, because a wrapper outside of the Monitor ends them; put the Monitor outside of that "
                "wrapper"
            )
        if self._steps[index] >= self.max_steps:
            raise EndlessEvaluation(
                f"this evaluation would never end: environment {index} has not ended its episode after {self.max_steps} "
                "steps; wrap it in gymnasium.wrappers.TimeLimit, or register it with max_episode_steps"
            )


def evaluate_policy(
    model: PolicyPredictor,
    env: GymEnv | gym.vector.VectorEnv,
    n_eval_episodes: int = 10,
    deterministic: bool = True,
    render: bool = False,
    callback: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
    reward_threshold: float | None = None,
    return_episode_rewards: bool = False,
    warn: bool = True,
    use_masking: bool = True,
) -> Any:
    """
    SB3's ``evaluate_policy``, with the environments' action masks.

    :param model: model with SB3's ``predict``; the state of a recurrent policy is handed on from step to step
    :param env: an environment, a ``VecEnv``, or a vector environment of gymnasium or EnvPool
    :param n_eval_episodes: number of episodes
    :param deterministic: whether the policy takes its most probable action
    :param render: whether to render the environment
    :param callback: called after each step, once per environment, with the local and the global variables of SB3's function
    :param reward_threshold: lowest acceptable mean return; ``None``: any
    :param return_episode_rewards: whether to return lists instead of mean and standard deviation
    :param warn: whether to warn of environments without a ``Monitor``
    :param use_masking: whether to ask the environments' method ``action_masks()``; as in sb3-contrib's function
    :return: mean and standard deviation of the returns, or lists of returns and lengths
    :raises AssertionError: the mean return is below ``reward_threshold``
    :raises ValueError: an environment has no valid action
    :raises EndlessEvaluation: an environment never ends its episode
    """
    envs = _as_vec_env(env)
    acting: PolicyPredictor = acting_in(model, envs, use_masking)
    endless = EndlessEpisodes()

    def after_step(local: dict[str, Any], variables: dict[str, Any]) -> None:
        endless(local)
        if callback is not None:
            callback(local, variables)

    return evaluation.evaluate_policy(
        acting, envs, n_eval_episodes, deterministic, render, after_step, reward_threshold, return_episode_rewards, warn
    )


def _as_vec_env(env: Any) -> VecEnv:
    if isinstance(env, VecEnv):
        return env
    return as_vec_env(env) if is_vector_env(env) else DummyVecEnv([lambda: env])


class EvalCallback(callbacks.EvalCallback):
    """
    SB3's ``EvalCallback``, with the environments' action masks. Arguments are SB3's. An evaluation that would never end is an
    :class:`EndlessEvaluation`. A full disk leaves the results of earlier evaluations as they were.
    """

    only_reads = True  # its own callbacks are asked
    _endless = EndlessEpisodes()

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq:
            return super()._on_step()  # which evaluates nothing: environments in other processes need not be asked
        model = self.model
        self._endless = EndlessEpisodes()
        self.model = acting_in(model, self.eval_env)
        try:
            with self._replacing_results():
                return super()._on_step()
        finally:
            self.model = model

    @contextmanager
    def _replacing_results(self) -> Iterator[None]:
        """Let SB3 replace ``evaluations.npz`` completely or not at all. Callbacks of this one find the path, as in SB3."""
        path = self.log_path
        readers = (c for c in (self.callback, self.callback_on_new_best) if c is not None)
        if path is None or any(getattr(c, "reads_results", True) for c in readers):
            yield
            return
        with replacing(f"{path}.npz") as self.log_path:  # type: ignore[assignment]
            try:
                yield
            finally:
                self.log_path = path

    def _log_success_callback(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        self._endless(locals_)
        super()._log_success_callback(locals_, globals_)
