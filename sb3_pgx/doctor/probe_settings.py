"""The settings with which each algorithm learns the probes in a few seconds: short rollouts and large steps."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sb3_pgx.doctor.update_checks import CLIP, TRUST_REGION, TRUST_REGION_WITHOUT_SEARCH, Bound

N_ENVS = 16


@dataclass(frozen=True)
class ProbeSettings:
    """
    Settings of one algorithm.

    :param timesteps: environment steps on each probe, over all environments
    :param learning_rate: learning rate at the start, which decreases linearly to 0
    :param hyperparameters: arguments of the constructor
    :param bound: limit on a single update, if the algorithm promises one
    """

    timesteps: int
    learning_rate: float
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    bound: Bound | None = None


_NATURAL = dict(n_steps=8, batch_size=128, n_critic_updates=5, cg_max_steps=5)

# By the name of the class, so that SB3's class, this package's and their subclasses share a line. Chosen so that ten seeds
# pass `sb3-pgx doctor algo <name> --seed <seed>`.
SETTINGS: dict[str, ProbeSettings] = {
    "A2C": ProbeSettings(3072, 0.03, dict(n_steps=4, use_rms_prop=False)),
    "ACER": ProbeSettings(
        2560,
        0.02,
        dict(n_steps=8, buffer_size=4096, replay_start=128, ent_coef=0.0, use_rms_prop=False),
    ),
    # Steps of a fixed KL divergence never get shorter, so the policy would leave a solution that it has found.
    "NPG": ProbeSettings(2048, 0.02, dict(**_NATURAL, step_rule="fixed", step_size=0.3), TRUST_REGION_WITHOUT_SEARCH),
    "PPO": ProbeSettings(2048, 0.02, dict(n_steps=8, batch_size=128, n_epochs=4), CLIP),
    "PPOPenalty": ProbeSettings(2048, 0.02, dict(n_steps=8, batch_size=128, n_epochs=4, target_kl=0.03)),
    "REINFORCE": ProbeSettings(3072, 0.05, dict(n_episodes=4, baseline="loo")),
    "REINFORCEBaseline": ProbeSettings(2560, 0.05, dict(n_episodes=4, critic_learning_rate=0.02, n_critic_updates=3)),
    "TRPO": ProbeSettings(2048, 0.02, dict(**_NATURAL, target_kl=0.05), TRUST_REGION),
}


def settings_for(cls: type) -> ProbeSettings:
    """Return the settings of a class or of its nearest known base class; otherwise the class's own defaults and a long run."""
    return next((SETTINGS[base.__name__] for base in cls.__mro__ if base.__name__ in SETTINGS), ProbeSettings(20_000, 1e-3))


def linear_to_zero(start: float) -> Callable[[float], float]:
    """Return a schedule for SB3 and this package that decreases linearly from ``start`` to 0."""
    return lambda progress: start * progress
