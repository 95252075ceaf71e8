"""How a vector environment resets environments whose episode has ended."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np

from sb3_pgx.environments.envpool import EnvPoolVectorEnv
from sb3_pgx.environments.returned import Returned

SAME_STEP, NEXT_STEP, DISABLED = "SAME_STEP", "NEXT_STEP", "DISABLED"
TRIALS = 20  # steps after which an observation should have changed


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
    Return whether single environments are reset with ``reset(options={"reset_mask": …})``, which must leave the others alone.

    In the mode ``NEXT_STEP`` this must also call off the reset of the next step. Nothing shows that from outside, so only
    environments that are known to do so are reset: gymnasium's own, without wrappers, and ALE's. In the mode ``DISABLED``,
    environments that are not known are tried, and must be reset afterwards.

    :param env: the vector environment
    :param mode: autoreset mode of the vector environment
    :raises ValueError: the mode is ``DISABLED``, and single environments cannot be reset
    """
    if _is_known(env):
        return True
    if mode == DISABLED and not _leaves_others_alone(env):
        raise ValueError(
            f"{type(env.unwrapped).__name__} does not reset environments itself (AutoresetMode.DISABLED), and when it is "
            'asked to reset one of them (options={"reset_mask": …}), it does not leave the others alone; use another mode'
        )
    return mode == DISABLED


def _is_known(env: gym.vector.VectorEnv) -> bool:
    # A wrapper may keep its own statistics: gymnasium's NormalizeReward resets the returns of all environments.
    if isinstance(env, gym.vector.AsyncVectorEnv):
        return env.shared_memory  # gymnasium 1.4's workers without shared memory forget to call the next step's reset off
    is_ales = type(env).__module__.startswith("ale_py.")
    return isinstance(env, gym.vector.SyncVectorEnv | EnvPoolVectorEnv) or is_ales


def _leaves_others_alone(env: gym.vector.VectorEnv) -> bool:
    """
    Return whether observations that differ from those of a reset outlast the reset of another environment.

    :raises ValueError: the environment does not return what gymnasium's interface promises
    """
    others = np.arange(env.num_envs) > 0
    actions = copy.deepcopy(env.action_space)
    actions.seed(0)
    returned = Returned(env)
    start = _parts(returned.of_reset(env.reset())[0])
    for _ in range(TRIALS):
        observations, _, terminated, truncated, _ = returned.of_step(env.step(actions.sample()))
        stepped = _parts(observations)
        if not others.any() or not _same(start, stepped, others) or (terminated | truncated).any():
            break
    try:
        after = _parts(env.reset(options={"reset_mask": ~others})[0])
    except Exception:  # it may refuse the option in any way
        return False
    return not (others.any() and _same(start, stepped, others)) and _same(stepped, after, others)


def _same(one: list[np.ndarray], other: list[np.ndarray], rows: np.ndarray) -> bool:
    return all(a.shape == b.shape and np.array_equal(a[rows], b[rows]) for a, b in zip(one, other, strict=True))


def _parts(observations: Any) -> list[np.ndarray]:
    parts = observations.values() if isinstance(observations, dict) else [observations]
    return [np.array(part) for part in parts]
