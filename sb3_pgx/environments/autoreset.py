"""How a vector environment resets environments whose episode has ended."""

from typing import Any

import gymnasium as gym
import numpy as np

from sb3_pgx.environments.envpool import EnvPoolVectorEnv

SAME_STEP, NEXT_STEP, DISABLED = "SAME_STEP", "NEXT_STEP", "DISABLED"


def autoreset_mode(env: gym.vector.VectorEnv) -> str:
    """
    Return the mode in which a vector environment resets.

    :param env: the vector environment
    :return: ``"SAME_STEP"``: in the step that ends the episode; ``"NEXT_STEP"``: in the step after, whose action is ignored;
        ``"DISABLED"``: not at all
    :raises ValueError: it names none of these
    """
    mode = env.metadata.get("autoreset_mode")
    name = getattr(mode, "name", mode)
    if name not in (SAME_STEP, NEXT_STEP, DISABLED):
        raise ValueError(
            f"{type(env.unwrapped).__name__} does not say how it resets: metadata['autoreset_mode'] is {mode!r}, and must be "
            "a member of gymnasium.vector.AutoresetMode (gymnasium 1.1 or newer)"
        )
    return name


def resets_rows_alone(env: gym.vector.VectorEnv, mode: str) -> bool:
    """
    Find out whether single environments can be reset (``reset(options={"reset_mask": …})``) without touching the others.
    gymnasium's own can. Others are tried: some ignore the mask and reset everything. All must be reset afterwards.

    :param env: the vector environment
    :param mode: its mode
    :raises ValueError: the mode is ``DISABLED``, and single environments cannot be reset
    """
    if isinstance(env.unwrapped, gym.vector.SyncVectorEnv | gym.vector.AsyncVectorEnv | EnvPoolVectorEnv):
        return True
    alone = _resets_rows_alone(env)
    if mode == DISABLED and not alone:
        raise ValueError(
            f"{type(env.unwrapped).__name__} does not reset environments itself (AutoresetMode.DISABLED), and when it is "
            'asked to reset one of them (options={"reset_mask": …}), it does not leave the others alone; use another mode'
        )
    return alone


def _resets_rows_alone(env: gym.vector.VectorEnv) -> bool:
    """Return whether a step's observations, which differ from those of a reset, outlast the reset of another environment."""
    if env.num_envs == 1:
        return True
    mask = np.arange(env.num_envs) == 0
    start, _ = env.reset()
    start = _parts(start)
    env.action_space.seed(0)
    try:
        stepped = _parts(env.step(env.action_space.sample())[0])
        after = _parts(env.reset(options={"reset_mask": mask})[0])
    except Exception:  # it may refuse the option in any way
        return False
    return not _same(start, stepped, ~mask) and _same(stepped, after, ~mask)


def _same(one: list[np.ndarray], other: list[np.ndarray], rows: np.ndarray) -> bool:
    return all(a.shape == b.shape and np.array_equal(a[rows], b[rows]) for a, b in zip(one, other, strict=True))


def _parts(observations: Any) -> list[np.ndarray]:
    parts = observations.values() if isinstance(observations, dict) else [observations]
    return [np.array(part) for part in parts]
