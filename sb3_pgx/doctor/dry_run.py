"""Plays an environment with random actions, records what it does, and gathers what SB3's checker and our rules find."""

import warnings
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common import env_checker

from sb3_pgx.doctor.environment import check_record
from sb3_pgx.doctor.findings import Finding, Severity
from sb3_pgx.doctor.record import DryRun
from sb3_pgx.settings.configs import RunConfig
from sb3_pgx.settings.environments import check_environment

MAX_BYTES = 2**26  # of observations that are kept; with large images, a dry run is shorter
ARRAYS = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)
SOURCE = "SB3, check_env"


@dataclass(frozen=True)
class EnvironmentExamination:
    """What was found of an environment, and the dry run that it was found in."""

    env_id: str
    record: DryRun
    findings: tuple[Finding, ...]


def examine_environment(env_id: str, steps: int = 2000, seed: int = 0) -> EnvironmentExamination:
    """
    SB3's ``check_env``, and our rules on a dry run with random actions.

    :param env_id: Gymnasium's name of the environment
    :param steps: of the dry run; fewer where observations are so large that they would fill the memory
    :param seed: of the environment and of the actions
    :return: the record and the findings; an exception that the environment raises is one of them
    :raises ValueError: no environment of that name, or fewer than two steps
    :raises ImportError: the environment needs a package that is not installed
    """
    if steps < 2:
        raise ValueError(f"steps is {steps}; a dry run needs at least 2")
    check_environment(env_id, RunConfig(source="doctor"))
    with gym.make(env_id, disable_env_checker=True) as env:  # Gymnasium's own checker would tell SB3's findings again
        findings = check_with_sb3(env)
    with gym.make(env_id, disable_env_checker=True) as env:
        record = record_dry_run(env, steps, seed)
    return EnvironmentExamination(env_id, record, (*findings, *check_record(record)))


def check_with_sb3(env: gym.Env) -> list[Finding]:
    """
    What SB3's ``check_env`` says: a failed assertion, or an exception of the environment, is a fault; what it recommends is
    a note, and any other warning a warning.
    """
    if hasattr(env.unwrapped, "compute_reward") and not hasattr(env, "compute_reward"):
        env.compute_reward = env.unwrapped.compute_reward  # type: ignore[attr-defined]  # which the checker asks a wrapper for
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        error: Exception | None = None
        try:
            env_checker.check_env(env)
        except Exception as raised:  # the environment is not known to be sound
            error = raised
    findings = []
    for sentence in dict.fromkeys(_sentence(w.message) for w in caught if w.filename == env_checker.__file__):
        severity = Severity.NOTE if sentence.startswith("We recommend") else Severity.WARNING
        findings.append(Finding("sb3_check_env", severity, sentence, "", SOURCE))
    if error is not None:
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        findings.append(Finding("sb3_check_env", Severity.FAULT, kind + _sentence(error), "", SOURCE))
    return findings


def record_dry_run(env: gym.Env, steps: int, seed: int) -> DryRun:
    """
    Plays with random actions; an exception of the environment ends the record, and is kept in it.

    :param env: one environment
    :param steps: at most
    :param seed: of the environment and of the actions
    """
    kept = _kept_spaces(env.observation_space)
    rows: dict[str, list[Any]] = defaultdict(list)
    error, resets = None, None
    try:
        resets = _reset(env, kept, seed), _reset(env, kept, seed)
        env.action_space.seed(seed)
        observation, size = resets[1], sum(x.nbytes for x in resets[1].values())
        for _ in range(max(2, min(steps, MAX_BYTES // max(1, size)))):
            given, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            following = _arrays(given, kept)
            row = (observation, following, float(reward), bool(terminated), bool(truncated))
            for name, value in zip(("before", "after", "rewards", "terminated", "truncated"), row, strict=True):
                rows[name].append(value)
            observation = _reset(env, kept) if terminated or truncated else following
    except Exception as raised:  # the environment is not known to be sound
        error = f"step {len(rows['rewards'])} of the dry run ended with {type(raised).__name__}: {_sentence(raised)}"

    def stacked(name: str, dtype: Any) -> np.ndarray:
        return np.array(rows[name], dtype)[:, None]  # [T] -> [T, 1]

    def observations(name: str) -> dict[str, np.ndarray]:
        if not rows[name]:
            return {key: np.zeros((0, 1, *(space.shape or ())), space.dtype) for key, space in kept.items()}
        return {key: np.stack([x[key] for x in rows[name]])[:, None] for key in kept}  # [T, *obs] -> [T, 1, *obs]

    return DryRun(
        observation_spaces=kept,
        observations=observations("before"),
        next_observations=observations("after"),
        rewards=stacked("rewards", float),
        terminated=stacked("terminated", bool),
        truncated=stacked("truncated", bool),
        resets=resets,
        error=error,
    )


def _kept_spaces(space: spaces.Space) -> dict[str, spaces.Space]:
    """The parts of an observation that are arrays."""
    parts: dict[str, spaces.Space]
    if isinstance(space, spaces.Dict):
        parts = dict(space.spaces)
    elif isinstance(space, spaces.Tuple):
        parts = {str(i): part for i, part in enumerate(space.spaces)}
    else:
        parts = {"": space}
    return {key: part for key, part in parts.items() if isinstance(part, ARRAYS)}


def _reset(env: gym.Env, kept: dict[str, spaces.Space], seed: int | None = None) -> dict[str, np.ndarray]:
    return _arrays(env.reset(seed=seed)[0], kept)


def _arrays(observation: Any, kept: dict[str, spaces.Space]) -> dict[str, np.ndarray]:
    """The parts that are kept, each a copy: an environment may write the next observation into the same array."""
    arrays = {}
    for key, space in kept.items():
        part = observation if key == "" else observation[int(key) if isinstance(observation, tuple) else key]
        arrays[key] = np.array(part)
        if arrays[key].shape != space.shape:
            raise ValueError(f"the observation {key} has shape {arrays[key].shape}, and its space says {space.shape}")
    return arrays


def _sentence(message: Any) -> str:
    return " ".join(str(message).split())
