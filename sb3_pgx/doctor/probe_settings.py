"""The settings with which each algorithm learns the probes in a few seconds: short rollouts and large steps."""

from collections.abc import Callable

from sb3_pgx.core.examination import Examination
from sb3_pgx.doctor.update_checks import (
    CLIP,
    KRONECKER_TRUST_REGION,
    TRUST_REGION,
    TRUST_REGION_WITHOUT_SEARCH,
    Bound,
)
from sb3_pgx.registry import EVERY_ALGORITHM

N_ENVS = 16

BOUNDS: dict[str, Bound] = {
    "clip": CLIP,
    "trust region": TRUST_REGION,
    "Kronecker-factored trust region": KRONECKER_TRUST_REGION,
    "trust region without search": TRUST_REGION_WITHOUT_SEARCH,
}


def settings_for(cls: type) -> Examination:
    """
    Return the settings that a class, or the nearest class it is derived from, declares as ``examination``.

    SB3's classes share the settings of our classes of the same name. All others get the defaults, which are a long run.
    """
    ours = {ours.__name__: ours for ours in EVERY_ALGORITHM.values()}
    for base in cls.__mro__:
        declared = vars(base).get("examination") or getattr(ours.get(base.__name__), "examination", None)
        if declared is not None:
            return declared
    return Examination()


def linear_to_zero(start: float) -> Callable[[float], float]:
    """Return a schedule for SB3 and this package that decreases linearly from ``start`` to 0."""
    return lambda progress: start * progress
