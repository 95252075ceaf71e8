"""Where action masks come from: a method of the environments, or a part of their observations."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecFrameStack, is_vecenv_wrapped
from torch import Tensor

from sb3_pgx.core.action_masks import first_options, mask_parts, mask_size, without_option
from sb3_pgx.core.checks import environment_name
from sb3_pgx.core.errors import one_line
from sb3_pgx.core.undo import Refusal

METHOD, KEY = "action_masks", "action_mask"


class ActionMasks:
    """
    The masks of vectorised environments.

    :param env: the environments
    :param space: action space of one environment
    :param read: function of the observations that returns the masks as the environments give them
    :param source: what gives them, for errors
    """

    def __init__(self, env: VecEnv, space: spaces.Space, read: Callable[[Any], Any], source: str):
        self.env, self.space, self.source, self._read = env, space, source, read
        self._starts = first_options(space)
        self.in_observations = source != f"{METHOD}()"

    def __call__(
        self, observations: Any, step: int, ignored: np.ndarray | None = None, during: str = "this rollout"
    ) -> np.ndarray:
        """
        Return which actions are valid now, boolean ``[N, M]``.

        :param observations: that the environments returned last
        :param step: index of the step, for the error
        :param ignored: environments that ignore the next action, ``[N]``; ``None``: there are none
        :param during: what the steps are counted in, for the error
        :raises ValueError: masks have another shape, or are not truth values
        :raises Refusal: an environment has no valid action
        """
        masks = checked_masks(self._read(observations), self.space, self.source, self.env.num_envs)
        if ignored is not None:
            masks = masks | ignored[:, None]
        empty = without_option(masks, self._starts)
        if empty is not None:
            index = int(empty.argmax())
            raise Refusal(
                f"{environment_name(self.env, index)} leaves no valid action at step {step} of {during}: {self.source} "
                f"gives {masks[index].astype(int).tolist()}. End the episode before this state, or make an action valid."
            )
        return masks

    def of_final(self, info: dict[str, Any], index: int) -> np.ndarray:
        """
        Return which actions were valid in the final state of a truncated episode, boolean ``[M]``.

        :param info: of the environment's step that ended the episode
        :param index: of the environment, for the error
        :raises ValueError: it is not known, since the environment has been reset, and its method gives the mask of the new
            state; or it is malformed, or empty
        """
        if self.in_observations:
            final = {KEY: np.asarray(info["terminal_observation"][KEY])[None]}
            return self._with_option(checked_masks(self._read(final), self.space, self.source, 1)[0], index)
        if METHOD not in info:
            raise Refusal(
                f"{environment_name(self.env, index)} was truncated, and the masks of its final state, on which V(s) of "
                f'this algorithm depends, are lost: put them into the info of that step, info["{METHOD}"], or give all masks '
                f"as a part {KEY!r} of the observations"
            )
        return self._with_option(checked_masks(info[METHOD], self.space, f'info["{METHOD}"]', 1)[0], index)

    def _with_option(self, mask: np.ndarray, index: int) -> np.ndarray:
        if without_option(mask[None], self._starts) is not None:
            raise Refusal(
                f"{environment_name(self.env, index)} was truncated in a state without a valid action: its mask is "
                f"{mask.astype(int).tolist()}. End the episode by termination there, or make an action valid."
            )
        return mask


def find_action_masks(env: VecEnv, observation_space: spaces.Space, action_space: spaces.Space) -> ActionMasks | None:
    """
    Return where the masks of environments come from, or ``None`` if they have none: from a part ``"action_mask"`` of the
    observations, otherwise from a method ``action_masks()`` of every environment, as for sb3-contrib's ``MaskablePPO``.

    :param env: the environments
    :param observation_space: of one environment
    :param action_space: of one environment
    :raises ValueError: actions of this space cannot be masked
    """
    if is_part(observation_space):
        source = f"the part {KEY!r} of the observations"
        check_maskable(action_space, source)
        return ActionMasks(env, action_space, Part(action_space, is_vecenv_wrapped(env, VecFrameStack)), source)
    if not _has_method(env):
        return None
    check_maskable(action_space, f"{METHOD}()")
    return ActionMasks(env, action_space, Method(env), f"{METHOD}()")


class Part:
    """
    Reads masks from the observations.

    :param space: action space
    :param stacked: whether observations are stacked: the newest one counts
    """

    def __init__(self, space: spaces.Space, stacked: bool):
        self._size, self._stacked = mask_size(space), stacked

    def __call__(self, observations: Any) -> np.ndarray:
        """Return the masks among observations ``[N, ...]``, or all of their entries if they are too many or too few."""
        masks = np.asarray(observations[KEY])
        flat = masks.reshape(len(masks), -1)
        return flat[:, -self._size :] if self._stacked and flat.shape[1] % self._size == 0 else flat


class Method:
    """
    Asks all environments for their masks.

    :param env: environments with a method ``action_masks()``
    """

    def __init__(self, env: VecEnv):
        self._env, inner = env, env.unwrapped
        self._methods: list[Callable[[], Any]] = []  # SB3 looks each method up at every step
        if type(inner) is DummyVecEnv and all(type(w).env_method is VecEnvWrapper.env_method for w in _wrappers(env)):
            self._methods = [one.get_wrapper_attr(METHOD) for one in inner.envs]

    def __call__(self, observations: Any) -> list[Any]:
        """Return the masks, one per environment."""
        return [method() for method in self._methods] if self._methods else list(self._env.env_method(METHOD))


def _has_method(env: VecEnv) -> bool:
    """
    Return whether the environments have a method for masks.

    :raises ValueError: they have an attribute of its name that is no method
    """
    try:
        if not env.has_attr(METHOD):
            return False
        # SB3's own has_attr asks for the values, and a user's VecEnv may answer None to every name.
        by_value = type(env.unwrapped).has_attr is VecEnv.has_attr
        values = env.get_attr(METHOD) if by_value else []
    except NotImplementedError:  # of a VecEnv that cannot reach into its environments
        return False
    if any(value is None for value in values):
        return False
    if not all(map(callable, values)):
        raise ValueError(f"{METHOD} of the environments is {one_line(values[0])}, but must be a method that returns a mask")
    return True


def check_maskable(space: spaces.Space, source: str) -> None:
    """:raises ValueError: actions of this space cannot be masked"""
    if not mask_parts(space):
        raise ValueError(
            f"{source} masks actions, but those of {one_line(space)} cannot be masked, only choices (Discrete, MultiDiscrete, "
            "MultiBinary): pass learn(use_masking=False), or rename it"
        )


def is_part(space: spaces.Space) -> bool:
    """Return whether a part of the observations holds action masks."""
    return isinstance(space, spaces.Dict) and KEY in space.spaces


def checked_masks(masks: Any, space: spaces.Space, source: str, n: int) -> np.ndarray:
    """
    Return masks as truth values, ``[n, M]``.

    :param masks: anything with n · M truth values
    :param space: action space
    :param source: what gives them, for errors
    :param n: number of rows
    :raises ValueError: they have another shape, or are not truth values
    """
    size = mask_size(space)
    try:
        flat = np.array(masks).reshape(n, size)  # a copy: an environment may overwrite what it returned
    except ValueError:
        shapes = [np.shape(mask) for mask in masks] if isinstance(masks, list) else [np.shape(masks)]
        raise ValueError(
            f"{source} gives masks of shape {' and '.join(map(str, sorted(set(shapes))))}, but the actions {one_line(space)} "
            f"need {size} entries: one per option of each choice, two (off and on) per switch"
        ) from None
    if flat.dtype == bool:
        return flat
    if not np.isin(flat, (0, 1)).all():
        raise ValueError(
            f"{source} gives {flat[~np.isin(flat, (0, 1))][0]} in a mask, but its entries are 0 (invalid) and 1 (valid); if "
            f"VecNormalize has changed it, leave it out: norm_obs_keys=[…]"
        )
    return flat.astype(bool)


def predicted_masks(
    masks: Any, observation: Any, n: int, observation_space: spaces.Space, action_space: spaces.Space
) -> np.ndarray | None:
    """
    Return the masks with which to predict, ``[n, M]``; ``None`` if all actions are valid.

    :param masks: as given to ``predict``, one for all or one for each observation; ``None``: those among the observations, if
        there are any
    :param observation: of one environment, or of several
    :param n: number of observations
    :param observation_space: of one environment
    :param action_space: of one environment
    :raises ValueError: the masks are malformed, or leave no valid action
    """
    source, size = "predict(action_masks=…)", mask_size(action_space)
    if masks is None:
        if not (is_part(observation_space) and mask_parts(action_space) and isinstance(observation, dict)):
            return None
        source = f"the part {KEY!r} of the observation"
        masks = Part(action_space, stacked=True)({KEY: np.asarray(observation[KEY]).reshape(n, -1)})
    elif isinstance(masks, Tensor):
        masks = masks.numpy(force=True)
    check_maskable(action_space, source)
    flat = np.broadcast_to(checked_masks(masks, action_space, source, 1 if np.size(masks) == size else n), (n, size))
    empty = without_option(flat, first_options(action_space))
    if empty is not None:
        raise ValueError(f"{source} leaves no valid action: {flat[empty][0].astype(int).tolist()}")
    return flat


def _wrappers(env: VecEnv) -> Iterator[VecEnvWrapper]:
    while isinstance(env, VecEnvWrapper):
        yield env
        env = env.venv
