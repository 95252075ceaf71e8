"""Examine an environment: SB3's ``check_env``, and this package's checks on a dry run with random actions."""

import warnings
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common import env_checker

from sb3_pgx.core.arguments import check_action_space
from sb3_pgx.core.errors import one_line
from sb3_pgx.core.mixed_spaces import is_mixed
from sb3_pgx.doctor.dry_run import DryRun, record_dry_run, unreadable_parts
from sb3_pgx.doctor.environment_checks import Finding, Severity, check_dry_run, without_rounding
from sb3_pgx.settings.configs import RunConfig
from sb3_pgx.settings.environments import check_environment

SB3_SOURCE = "SB3, check_env"
LONGEST = 300  # characters of a message of SB3's, which may list every entry of an observation
# The beginning of what SB3 says about every Dict or Tuple action space.
SB3_HAS_NO_SUCH_ACTIONS = "The action space is not based off a numpy array"


@dataclass(frozen=True)
class EnvironmentExamination:
    """
    The findings about an environment.

    :param env_id: Gymnasium's name of the environment
    :param dry_run: what the environment returned
    :param findings: findings of SB3's checker, then those of this package's checks
    """

    env_id: str
    dry_run: DryRun
    findings: tuple[Finding, ...]


def examine_environment(env_id: str, steps: int = 2000, seed: int = 0) -> EnvironmentExamination:
    """
    Run SB3's ``check_env``, play random actions, and check what the environment returned.

    :param env_id: Gymnasium's name of the environment
    :param steps: number of random actions, at least 2; fewer are played if the observations would fill the memory
    :param seed: seed of the environment and of the actions
    :return: the dry run and the findings; an exception raised by the environment is a finding
    :raises ValueError: there is no environment of this name, or ``steps`` is less than 2
    :raises ImportError: the environment needs a package that is not installed
    """
    if steps < 2:
        raise ValueError(f"steps is {steps}; a dry run needs at least 2")
    check_environment(env_id, RunConfig(source="doctor"))
    with gym.make(env_id, disable_env_checker=True) as env:  # Gymnasium's checker would repeat SB3's findings
        findings = check_with_sb3(env)
    with gym.make(env_id, disable_env_checker=True) as env:
        dry_run = record_dry_run(env, steps, seed)
        unreadable = unreadable_parts(env.observation_space)
    findings += [
        Finding(
            "unreadable_observation",
            Severity.FAULT,
            f"observation[{key!r}] is of a {type(space).__name__} space, which no policy reads",
            "leave it out with gymnasium.wrappers.FilterObservation, or turn it into numbers with a wrapper",
            "SB3, custom environments",
        )
        for key, space in unreadable.items()
    ]
    return EnvironmentExamination(env_id, dry_run, (*findings, *check_dry_run(dry_run)))


def check_with_sb3(env: gym.Env) -> list[Finding]:
    """
    Run SB3's ``check_env`` and return its messages as findings.

    A failed assertion or an exception of the environment is a fault, a recommendation is a note, and any other warning is a
    warning.

    :param env: the environment
    """
    wrapped = _AsInTraining(env)
    if hasattr(env.unwrapped, "compute_reward"):
        wrapped.compute_reward = env.unwrapped.compute_reward  # type: ignore[attr-defined]  # the checker looks for it there
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        error: Exception | None = None
        try:
            env_checker.check_env(wrapped)
        except Exception as raised:  # the environment may do anything
            error = raised
    findings = []
    for sentence in dict.fromkeys(one_line(w.message) for w in caught if w.filename == env_checker.__file__):
        if sentence.startswith(SB3_HAS_NO_SUCH_ACTIONS) and _is_acted_in(env.action_space):
            continue
        severity = Severity.NOTE if sentence.startswith("We recommend") else Severity.WARNING
        findings.append(Finding("sb3_check_env", severity, sentence, "", SB3_SOURCE))
    if error is not None:
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        findings.append(
            Finding(
                "sb3_check_env", Severity.FAULT, shorten(kind + one_line(error), LONGEST, placeholder=" …"), "", SB3_SOURCE
            )
        )
    return findings


class _AsInTraining(gym.Wrapper):
    """
    Hides from SB3's checker what training accepts: rewards that are numbers of NumPy, and observations that rounding has moved
    beyond their bounds. Parts of observations that no policy reads are left out: they have a finding of their own.
    """

    def __init__(self, env: gym.Env):
        space = env.observation_space
        self.left_out = [*unreadable_parts(space)]
        if isinstance(space, spaces.Dict) and len(space) > len(self.left_out):
            env = gym.wrappers.FilterObservation(env, [key for key in space if key not in self.left_out])
        super().__init__(env)

    def reset(self, **kwargs: Any) -> Any:
        observation, info = self.env.reset(**kwargs)
        return without_rounding(observation, self.observation_space), info

    def step(self, action: Any) -> Any:
        observation, reward, *others = self.env.step(action)
        is_number = isinstance(reward, np.generic | np.ndarray) and np.shape(reward) == () and reward.dtype.kind in "fiub"
        return without_rounding(observation, self.observation_space), float(reward) if is_number else reward, *others


def _is_acted_in(space: gym.Space) -> bool:
    """Return whether this package's policies act in a ``Dict`` or ``Tuple`` space, in which SB3's do not."""
    try:
        check_action_space(space)
    except ValueError:
        return False
    return is_mixed(space)
