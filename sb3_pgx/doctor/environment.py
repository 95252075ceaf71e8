"""
What can be seen in a record of an environment: pure functions of arrays, so that they serve a dry run with random actions and
the rollouts of a training alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pgx.doctor.findings import Finding, Severity
from sb3_pgx.doctor.record import DryRun, Part, in_digits

# Jones (2021) wants what networks read and learn within about ±10; returns of ten times that are worth a note.
LARGE_OBSERVATION, LARGE_RETURN = 10.0, 100.0
GAMMA = 0.99


@dataclass(frozen=True)
class Check:
    """A rule: ``look`` gives what was seen where it is broken, and ``None`` where it holds."""

    name: str
    severity: Severity
    look: Callable[[DryRun], str | None]
    remedy: str
    source: str


def check_record(record: DryRun) -> list[Finding]:
    """
    :param record: of a dry run, or of a training's rollouts
    :return: what :data:`CHECKS` found, in their order
    """
    seen = [(check, check.look(record)) for check in CHECKS]
    return [Finding(c.name, c.severity, what, c.remedy, c.source) for c, what in seen if what is not None]


def _error(record: DryRun) -> str | None:
    return record.error


def _observation_not_finite(record: DryRun) -> str | None:
    for part in record.parts():
        if np.issubdtype(part.values.dtype, np.inexact) and (bad := ~np.isfinite(part.flat)).any():
            return part.first(bad)[0]
    return None


def _reward_not_finite(record: DryRun) -> str | None:
    bad = np.argwhere(~np.isfinite(record.rewards))
    if not len(bad):
        return None
    return f"the reward is {record.rewards[tuple(bad[0])]} at step {bad[0][0]} ({len(bad)} of {record.rewards.size} rewards)"


def _observation_outside_space(record: DryRun) -> str | None:
    for part in record.parts():
        if (bounds := part.bounds()) is None:
            continue
        low, high = bounds
        # False for NaN, which has a rule of its own.
        outside = (part.flat < low - rounding(part, low)) | (part.flat > high + rounding(part, high))
        if outside.any():
            sentence, i = part.first(outside)
            low, high = (np.broadcast_to(bound, outside.shape[1:])[i] for bound in bounds)
            return f"{sentence}, and its space goes from {in_digits(low)} to {in_digits(high)}"
    return None


def rounding(part: Part, bound: Any) -> Any:
    """How far rounding may take a number beyond a bound: some units of the last digit that the space's type has."""
    if not np.issubdtype(part.space.dtype, np.floating):
        return 0
    return 4 * np.finfo(part.space.dtype).eps * np.maximum(np.abs(np.where(np.isfinite(bound), bound, 0)), 1)


def _observation_dtype(record: DryRun) -> str | None:
    for part in record.parts():
        declared = part.space.dtype
        if declared is not None and not np.can_cast(part.values.dtype, declared, "safe"):
            return f"the {part.name} has dtype {part.values.dtype}, and its space says {declared}"
    return None


def _constant_observation(record: DryRun) -> str | None:
    if record.rewards.size < 2:
        return None
    for before, after in record.pairs():
        first = before.flat[0]
        constant = (before.flat == first).all(axis=0) & (after.flat == first).all(axis=0)
        if constant.all() or (constant.any() and not before.is_image):  # a picture's border may well stay as it is
            which = constant.nonzero()[0]
            some = ", ".join(map(str, which[:5])) + (", …" if len(which) > 5 else "")
            what = "" if constant.all() else f" in {len(which)} of {len(constant)} dimensions ({some})"
            return f"the {before.name} never changes{what} in {len(record.rewards)} steps"
    return None


def _large_observation(record: DryRun) -> str | None:
    for part in record.parts():
        if part.is_image or not isinstance(part.space, spaces.Box):
            continue
        size = np.abs(np.where(np.isfinite(part.flat), part.flat, 0)).max(axis=0, initial=0)
        if size.max(initial=0) > LARGE_OBSERVATION:
            return f"|{part.entry(int(size.argmax()))}| reaches {size.max():.4g}"
    return None


def _constant_reward(record: DryRun) -> str | None:
    rewards, lengths = record.rewards, record.episode_lengths()
    if rewards.size < 2 or not (rewards == rewards.flat[0]).all():
        return None
    if len(np.unique(lengths)) > 1 and rewards.flat[0] != 0:
        return None  # the length of an episode is its return
    return f"the reward is {rewards.flat[0]:g} at each of {rewards.size} steps, and no episode's return differs from another's"


def _large_return(record: DryRun) -> str | None:
    largest = np.abs(record.returns(GAMMA)).max(initial=0)
    return f"discounted returns (γ = {GAMMA}) reach {largest:.4g} in size" if largest > LARGE_RETURN else None


def _time_limit_as_termination(record: DryRun) -> str | None:
    lengths = record.episode_lengths()
    if len(lengths) < 2 or record.truncated.any() or len(np.unique(lengths)) > 1 or lengths[0] == 1:
        return None
    if any(_tells_the_end(after, record.ends.ravel()) for _, after in record.pairs()):
        return None  # the end is a matter of the state, or of a time that is known
    return (
        f"all {len(lengths)} episodes end after {lengths[0]} steps, and none of them is flagged as truncated, nor does the "
        "observation tell the end"
    )


def _tells_the_end(after: Part, ends: np.ndarray) -> bool:
    """Whether an entry of the observation is beyond, or different from, all others where an episode ends."""
    final, others = after.flat[ends], after.flat[~ends]
    if not len(others):
        return False
    beyond = (final.min(axis=0) > others.max(axis=0)) | (final.max(axis=0) < others.min(axis=0))
    if beyond.any() or np.issubdtype(final.dtype, np.inexact):
        return bool(beyond.any())
    return any(not np.isin(x, y).any() for x, y in zip(final.T, others.T, strict=True))


def _no_episode_ends(record: DryRun) -> str | None:
    if record.ends.any() or record.error is not None:
        return None
    return f"no episode ended in {len(record.ends)} steps"


def _seed_ignored(record: DryRun) -> str | None:
    if record.resets is None:
        return None
    first, second = record.resets
    for key, x in first.items():
        if not np.array_equal(x, second[key], equal_nan=x.dtype.kind == "f"):
            return f"two resets with the same seed give different observations{f' in {key!r}' if key else ''}"
    return None


CHECKS: tuple[Check, ...] = (
    Check(
        "environment_raises",
        Severity.FAULT,
        _error,
        "mend the environment: training would end there",
        "Gymnasium, Env.step",
    ),
    Check(
        "observation_not_finite",
        Severity.FAULT,
        _observation_not_finite,
        "find the division or logarithm that makes it; one such number makes all weights NaN",
        "SB3, VecCheckNan",
    ),
    Check(
        "reward_not_finite",
        Severity.FAULT,
        _reward_not_finite,
        "mend the reward function, or clip what it returns",
        "SB3, VecCheckNan",
    ),
    Check(
        "observation_outside_space",
        Severity.FAULT,
        _observation_outside_space,
        "correct the bounds of the observation space, or the observation",
        "Gymnasium, Env.observation_space",
    ),
    Check(
        "observation_dtype",
        Severity.WARNING,
        _observation_dtype,
        "return observations with the dtype of the space: they are cast to it, and lose what it cannot hold",
        "Gymnasium, Env.observation_space",
    ),
    Check(
        "constant_observation",
        Severity.WARNING,
        _constant_observation,
        "leave out what never changes, or check that it is filled in: the policy cannot learn from it",
        "Jones, 2021",
    ),
    Check(
        "large_observation",
        Severity.WARNING,
        _large_observation,
        "wrap the environment in SB3's VecNormalize (and save its statistics with the model), or scale the observation",
        "SB3, Tips and Tricks",
    ),
    Check(
        "constant_reward",
        Severity.WARNING,
        _constant_reward,
        "random actions find no reward to learn from: reward progress, or run longer with --steps if it is rare",
        "Jones, 2021",
    ),
    Check(
        "large_return",
        Severity.NOTE,
        _large_return,
        "values are learned well where returns lie within about ±10: scale the reward, or VecNormalize(norm_reward=True)",
        "Jones, 2021",
    ),
    Check(
        "time_limit_as_termination",
        Severity.WARNING,
        _time_limit_as_termination,
        "if this is a time limit, return truncated=True and terminated=False (gymnasium.wrappers.TimeLimit does), so that "
        "the value of going on is counted; if the task itself ends there, let the observation tell the time",
        "Pardo et al., 2018",
    ),
    Check(
        "no_episode_ends",
        Severity.NOTE,
        _no_episode_ends,
        "run longer with --steps, or wrap it in gymnasium.wrappers.TimeLimit: algorithms of whole episodes wait for an end",
        "Gymnasium, wrappers.TimeLimit",
    ),
    Check(
        "seed_ignored",
        Severity.WARNING,
        _seed_ignored,
        "call super().reset(seed=seed), and draw all that is random from self.np_random",
        "Gymnasium, Env.reset",
    ),
)
