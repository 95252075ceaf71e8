"""With what each algorithm is examined: small networks, short rollouts, and steps that are large enough for a few seconds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sb3_pgx.doctor.mechanics import CLIP, TRUST_REGION, TRUST_REGION_WITHOUT_SEARCH, Bound

N_ENVS = 16


@dataclass(frozen=True)
class Settings:
    """
    ``timesteps`` of each probe's training, over all environments; ``learning_rate`` at the start, which falls linearly to 0;
    ``hyperparameters`` for the constructor; ``bound`` on one update, where the algorithm promises one.
    """

    timesteps: int
    learning_rate: float
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    bound: Bound | None = None


_NATURAL = dict(n_steps=8, batch_size=128, n_critic_updates=5, cg_max_steps=5)

# By the class's name, so that SB3's classes and ours, and what is derived from them, share a line. Measured over ten seeds
# with `sb3-pgx doctor algo <name> --seed <seed>`.
SETTINGS: dict[str, Settings] = {
    "A2C": Settings(3072, 0.03, dict(n_steps=4, use_rms_prop=False)),
    "ACER": Settings(
        2560,
        0.02,
        dict(n_steps=8, buffer_size=4096, replay_start=128, ent_coef=0.0, use_rms_prop=False),
    ),
    # A step of fixed KL divergence never gets shorter, and so leaves a problem again that it has solved.
    "NPG": Settings(2048, 0.02, dict(**_NATURAL, step_rule="fixed", step_size=0.3), TRUST_REGION_WITHOUT_SEARCH),
    "PPO": Settings(2048, 0.02, dict(n_steps=8, batch_size=128, n_epochs=4), CLIP),
    "PPOPenalty": Settings(2048, 0.02, dict(n_steps=8, batch_size=128, n_epochs=4, target_kl=0.03)),
    "REINFORCE": Settings(3072, 0.05, dict(n_episodes=4, baseline="loo")),
    "REINFORCEBaseline": Settings(2560, 0.05, dict(n_episodes=4, critic_learning_rate=0.02, n_critic_updates=3)),
    "TRPO": Settings(2048, 0.02, dict(**_NATURAL, target_kl=0.05), TRUST_REGION),
}


def settings_for(cls: type) -> Settings:
    """Those of the class, or of the nearest one that it is derived from; else its own defaults, and a long training."""
    return next((SETTINGS[base.__name__] for base in cls.__mro__ if base.__name__ in SETTINGS), Settings(20_000, 1e-3))


def falling(start: float) -> Callable[[float], float]:
    """A schedule that SB3 and this package both take: from ``start`` linearly to 0."""
    return lambda progress: start * progress
