"""The settings with which ``sb3-pgx doctor algo`` examines an algorithm, declared by the algorithm itself."""

from dataclasses import dataclass, field
from typing import Any, Literal

# Further arguments with which the off-policy algorithms learn the probes.
OFF_POLICY_EXAMINATION: dict[str, Any] = dict(
    learning_starts=256, batch_size=64, buffer_size=20_000, tau=0.05, gradient_steps=2, policy_kwargs=dict(net_arch=[32, 32])
)


@dataclass(frozen=True)
class Examination:
    """
    Settings for one short run per probe: small rollouts, and steps large enough to solve a probe within a few seconds.

    :param timesteps: length of each run in environment steps, over all environments
    :param learning_rate: learning rate at the start of a run; it falls linearly to 0
    :param hyperparameters: further arguments of the constructor
    :param bound: what limits a single update (a key of :data:`sb3_pgx.doctor.probe_settings.BOUNDS`), or ``None`` if
        the algorithm promises no limit
    """

    timesteps: int = 20_000
    learning_rate: float = 1e-3
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    bound: Literal["clip", "trust region", "Kronecker-factored trust region", "trust region without search"] | None = None
