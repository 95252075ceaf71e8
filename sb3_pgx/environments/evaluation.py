"""SB3's evaluation with action masks: SB3's own ``evaluate_policy`` hands on a policy's state, but no masks."""

import inspect
from typing import Any

from stable_baselines3.common import callbacks, evaluation
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_pgx.environments.action_masks import ActionMasks, find_action_masks, is_part


class MaskedModel:
    """
    A model whose ``predict`` gets the masks of the environments that it acts in; all else is the model's own.

    :param model: with SB3's ``predict``, and its argument ``action_masks``
    :param masks: of the environments
    """

    def __init__(self, model: Any, masks: ActionMasks):
        self._model, self._masks, self._step = model, masks, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        """Predict valid actions. Arguments are those of the model's ``predict``."""
        masks = self._masks(observation, self._step)
        self._step += 1
        return self._model.predict(observation, *args, action_masks=masks, **kwargs)


def with_masks_of(model: Any, env: VecEnv) -> Any:
    """
    Return the model, or one that acts by the masks that the environments' method ``action_masks()`` gives. Masks among the
    observations need nothing: ``predict`` finds them.

    :param model: model to evaluate
    :param env: environments to evaluate it in
    """
    learned_masked = getattr(model, "use_masking", True)
    takes_masks = "action_masks" in inspect.signature(model.predict).parameters
    if not (learned_masked and takes_masks) or is_part(env.observation_space):
        return model
    masks = find_action_masks(env, env.observation_space, env.action_space)
    return model if masks is None else MaskedModel(model, masks)


def evaluate_policy(model: Any, env: GymEnv, n_eval_episodes: int = 10, **kwargs: Any) -> Any:
    """
    SB3's ``evaluate_policy``, with the environments' action masks.

    :param model: model with SB3's ``predict``; the state of a recurrent policy is handed on from step to step
    :param env: an environment, or a ``VecEnv``
    :param n_eval_episodes: number of episodes
    :param kwargs: further arguments of SB3's function, such as ``deterministic`` and ``return_episode_rewards``
    :return: mean and standard deviation of the returns, or lists of returns and lengths
    """
    envs = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
    return evaluation.evaluate_policy(with_masks_of(model, envs), envs, n_eval_episodes, **kwargs)


class EvalCallback(callbacks.EvalCallback):
    """SB3's ``EvalCallback``, with the environments' action masks. Arguments are SB3's."""

    only_reads = True  # its own callbacks are asked

    def _on_step(self) -> bool:
        model = self.model
        self.model = with_masks_of(model, self.eval_env)
        try:
            return super()._on_step()
        finally:
            self.model = model
