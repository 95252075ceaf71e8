"""Checks of what an environment returned, as functions of arrays: they work for a dry run and for rollouts of a run alike."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pgx.doctor.dry_run import DryRun, ObservationPart, format_number

# Jones (2021) recommends inputs and targets of networks within about ±10. Returns of ten times that are worth a note.
LARGE_OBSERVATION, LARGE_RETURN = 10.0, 100.0
GAMMA = 0.99
REPEATED = 0.5  # share of different observations below which they are taken to repeat themselves


class Severity(str, Enum):
    """How serious a finding is: ``FAULT`` breaks training, ``WARNING`` probably harms it, ``NOTE`` is worth knowing."""

    FAULT = "fault"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """
    One problem of an environment.

    :param name: fixed name of the problem, for filters and tests
    :param severity: how serious it is
    :param observed: what was observed, with values
    :param remedy: what to do about it; empty if ``observed`` says so already
    :param source: who says that it matters
    """

    name: str
    severity: Severity
    observed: str
    remedy: str
    source: str

    @property
    def is_problem(self) -> bool:
        """Whether the finding is more serious than a note."""
        return self.severity is not Severity.NOTE


@dataclass(frozen=True)
class Check:
    """
    A check of a dry run.

    :param name: name of the finding
    :param severity: severity of the finding
    :param find: function that returns what was observed, or ``None`` if there is no problem
    :param remedy: what to do about it
    :param source: who says that it matters
    """

    name: str
    severity: Severity
    find: Callable[[DryRun], str | None]
    remedy: str
    source: str


def check_dry_run(dry_run: DryRun) -> list[Finding]:
    """
    Apply all :data:`CHECKS`.

    :param dry_run: what an environment returned, in a dry run or in the rollouts of a run
    :return: the findings, in the order of the checks
    """
    results = [(check, check.find(dry_run)) for check in CHECKS]
    return [Finding(c.name, c.severity, observed, c.remedy, c.source) for c, observed in results if observed is not None]


def _error(dry_run: DryRun) -> str | None:
    return dry_run.error


def _observation_not_finite(dry_run: DryRun) -> str | None:
    for part in dry_run.parts():
        if np.issubdtype(part.values.dtype, np.inexact) and (bad := ~np.isfinite(part.flat)).any():
            return part.describe_first(bad)[0]
    return None


def _reward_not_finite(dry_run: DryRun) -> str | None:
    bad = np.argwhere(~np.isfinite(dry_run.rewards))
    if not len(bad):
        return None
    return f"the reward is {dry_run.rewards[tuple(bad[0])]} at step {bad[0][0]} ({len(bad)} of {dry_run.rewards.size} rewards)"


def _observation_outside_space(dry_run: DryRun) -> str | None:
    for part in dry_run.parts():
        if (bounds := part.bounds()) is None:
            continue
        low, high = bounds
        # False for NaN, which has its own check.
        outside = (part.flat < low - _rounding(part.space, low)) | (part.flat > high + _rounding(part.space, high))
        if outside.any():
            clause, i = part.describe_first(outside)
            low, high = (np.broadcast_to(bound, outside.shape[1:])[i] for bound in bounds)
            return f"{clause}, but its space goes from {format_number(low)} to {format_number(high)}"
    return None


def _rounding(space: spaces.Space, bound: Any) -> Any:
    """Return how far rounding may move a number beyond a bound: a few units of the last digit of the space's dtype."""
    if not np.issubdtype(space.dtype, np.floating):
        return 0
    return 4 * np.finfo(space.dtype).eps * np.maximum(np.abs(np.where(np.isfinite(bound), bound, 0)), 1)


def without_rounding(observation: Any, space: spaces.Space) -> Any:
    """
    Return an observation whose numbers do not lie beyond a bound if only rounding has moved them there.

    :param observation: observation of an environment, which may be no member of the space
    :param space: space of the observation
    """
    if isinstance(space, spaces.Dict) and isinstance(observation, dict):
        return {key: without_rounding(x, space[key]) if key in space.spaces else x for key, x in observation.items()}
    is_array = isinstance(observation, np.ndarray) and observation.shape == space.shape
    if not (isinstance(space, spaces.Box) and is_array and np.issubdtype(space.dtype, np.floating)):
        return observation
    clipped = np.clip(observation, space.low, space.high)
    close = np.abs(observation - clipped) <= np.maximum(_rounding(space, space.low), _rounding(space, space.high))
    return np.where(close, clipped, observation).astype(observation.dtype)


def _observation_dtype(dry_run: DryRun) -> str | None:
    for part in dry_run.parts():
        declared = part.space.dtype
        if declared is not None and not np.can_cast(part.values.dtype, declared, "safe"):
            return f"the {part.name} has dtype {part.values.dtype}, but its space has {declared}"
    return None


def _constant_observation(dry_run: DryRun) -> str | None:
    if dry_run.rewards.size < 2:
        return None
    for before, after in dry_run.pairs():
        first = before.flat[0]
        constant = (before.flat == first).all(axis=0) & (after.flat == first).all(axis=0)
        if constant.all() or (constant.any() and not before.is_image):  # the border of an image may be constant
            which = constant.nonzero()[0]
            some = ", ".join(map(str, which[:5])) + (", …" if len(which) > 5 else "")
            what = "" if constant.all() else f" in {len(which)} of {len(constant)} dimensions ({some})"
            return f"the {before.name} never changes{what} in {len(dry_run.rewards)} steps"
    return None


def _large_observation(dry_run: DryRun) -> str | None:
    for part in dry_run.parts():
        if part.is_image or not isinstance(part.space, spaces.Box):
            continue
        size = np.abs(np.where(np.isfinite(part.flat), part.flat, 0)).max(axis=0, initial=0)
        if size.max(initial=0) > LARGE_OBSERVATION:
            return f"|{part.entry_name(int(size.argmax()))}| reaches {size.max():.4g}"
    return None


def _constant_reward(dry_run: DryRun) -> str | None:
    rewards, lengths = dry_run.rewards, dry_run.episode_lengths()
    if rewards.size < 2 or not (rewards == rewards.flat[0]).all():
        return None
    if len(np.unique(lengths)) > 1 and rewards.flat[0] != 0:
        return None  # the return depends on the length of the episode
    return f"the reward is {rewards.flat[0]:g} at each of {rewards.size} steps, and all episodes have the same return"


def _large_return(dry_run: DryRun) -> str | None:
    largest = np.abs(dry_run.returns(GAMMA)).max(initial=0)
    return f"the absolute value of discounted returns (γ = {GAMMA}) reaches {largest:.4g}" if largest > LARGE_RETURN else None


def _time_limit_as_termination(dry_run: DryRun) -> str | None:
    lengths = dry_run.episode_lengths()
    if len(lengths) < 2 or dry_run.truncated.any() or len(np.unique(lengths)) > 1 or lengths[0] == 1:
        return None
    if any(_shows_the_end(after, dry_run.ends.ravel()) for _, after in dry_run.pairs()):
        return None  # the end depends on the state, or the observation holds the time
    return (
        f"all {len(lengths)} episodes end after {lengths[0]} steps, none of them is truncated, and the final "
        "observations look like the others"
    )


def _shows_the_end(after: ObservationPart, ends: np.ndarray) -> bool:
    """
    Return whether final observations differ from all others: some entry lies outside the range or set of its values, or whole
    observations repeat themselves, and none of the others is a final one.
    """
    final, others = after.flat[ends], after.flat[~ends]
    if not len(others):
        return False
    seen, ending = ({row.tobytes() for row in rows} for rows in (others, final))
    if len(seen) <= REPEATED * len(others) and len(ending) < len(final) and seen.isdisjoint(ending):
        return True  # there are few different observations, and those at the end occur nowhere else
    beyond = (final.min(axis=0) > others.max(axis=0)) | (final.max(axis=0) < others.min(axis=0))
    if beyond.any() or np.issubdtype(final.dtype, np.inexact):
        return bool(beyond.any())
    return any(not np.isin(x, y).any() for x, y in zip(final.T, others.T, strict=True))


def _no_episode_ends(dry_run: DryRun) -> str | None:
    if dry_run.ends.any() or dry_run.error is not None:
        return None
    return f"no episode ended in {len(dry_run.ends)} steps"


def _seed_ignored(dry_run: DryRun) -> str | None:
    if dry_run.resets is None:
        return None
    first, second = dry_run.resets
    for key, x in first.items():
        if not np.array_equal(x, second[key], equal_nan=x.dtype.kind == "f"):
            return f"two resets with the same seed give different observations{f' in {key!r}' if key else ''}"
    return None


CHECKS: tuple[Check, ...] = (
    Check(
        name="environment_raises",
        severity=Severity.FAULT,
        find=_error,
        remedy="correct the environment: the error would end training",
        source="Gymnasium, Env.step",
    ),
    Check(
        name="observation_not_finite",
        severity=Severity.FAULT,
        find=_observation_not_finite,
        remedy="find the division or logarithm that causes it: one such number makes all weights NaN",
        source="SB3, VecCheckNan",
    ),
    Check(
        name="reward_not_finite",
        severity=Severity.FAULT,
        find=_reward_not_finite,
        remedy="correct the reward function, or clip its result: one such number makes all weights NaN",
        source="SB3, VecCheckNan",
    ),
    Check(
        name="observation_outside_space",
        severity=Severity.FAULT,
        find=_observation_outside_space,
        remedy="correct the bounds of the observation space, or the observation: wrappers and networks rely on the bounds",
        source="Gymnasium, Env.observation_space",
    ),
    Check(
        name="observation_dtype",
        severity=Severity.WARNING,
        find=_observation_dtype,
        remedy="return observations with the dtype of the space: they are cast to it and may lose information",
        source="Gymnasium, Env.observation_space",
    ),
    Check(
        name="constant_observation",
        severity=Severity.WARNING,
        find=_constant_observation,
        remedy="check that these entries are filled, or leave them out: the policy cannot learn from them",
        source="Jones, 2021",
    ),
    Check(
        name="large_observation",
        severity=Severity.WARNING,
        find=_large_observation,
        remedy="large inputs slow learning down: wrap the environment in SB3's VecNormalize (and save its statistics with the "
        "model), or scale the observation",
        source="SB3, Tips and Tricks",
    ),
    Check(
        name="constant_reward",
        severity=Severity.WARNING,
        find=_constant_reward,
        remedy="random actions find nothing to learn from: reward progress, or repeat with more --steps if rewards are rare",
        source="Jones, 2021",
    ),
    Check(
        name="large_return",
        severity=Severity.NOTE,
        find=_large_return,
        remedy="critics learn best if returns are within about ±10: scale the reward, or use VecNormalize(norm_reward=True)",
        source="Jones, 2021",
    ),
    Check(
        name="time_limit_as_termination",
        severity=Severity.WARNING,
        find=_time_limit_as_termination,
        remedy="if this is a time limit, return truncated=True and terminated=False, as gymnasium.wrappers.TimeLimit does: "
        "otherwise the critic learns that no reward follows. If the task itself ends there, add the time to the observation",
        source="Pardo et al., 2018",
    ),
    Check(
        name="no_episode_ends",
        severity=Severity.NOTE,
        find=_no_episode_ends,
        remedy="repeat with more --steps, or use gymnasium.wrappers.TimeLimit: some algorithms wait for the end of episodes",
        source="Gymnasium, wrappers.TimeLimit",
    ),
    Check(
        name="seed_ignored",
        severity=Severity.WARNING,
        find=_seed_ignored,
        remedy="call super().reset(seed=seed), and draw all random numbers from self.np_random, so that runs can be repeated",
        source="Gymnasium, Env.reset",
    ),
)
