"""TRPO: the natural gradient's step, shortened until it improves the surrogate within a bound on the KL divergence."""

from typing import Any

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from sb3_pgx.algorithms.npg import NPG
from sb3_pgx.core.checks import check_counts, is_number
from sb3_pgx.ops.natural_gradient import LineSearch, Solution, kl_step_length
from sb3_pgx.stages.report import Metrics
from sb3_pgx.stages.trust_region import Surroundings


class TRPO(NPG):
    """
    Trust-region policy optimisation (Schulman et al., 2015).

    Maximises the mean of A π(a|s) / π_old(a|s) subject to mean KL(π_old‖π) ≤ δ, δ being ``target_kl``: a step
    √(2δ / sᵀ(F + λI)s) s along s = (F + λI)⁻¹g, shortened until it improves the surrogate and keeps the bound. Where no step
    does, the policy stays exactly as it is, and the critic still learns.

    Arguments are those of sb3-contrib's ``TRPO``, and their order. **The meaning of** ``target_kl`` **is the papers'**: the
    divergence is KL(π_old‖π), summed over the dimensions of an action. sb3-contrib bounds KL(π‖π_old) averaged over the
    dimensions of a Box or MultiBinary action, so that for d dimensions its steps are reproduced by ``target_kl`` and
    ``cg_damping`` d times as large as there; for Discrete and MultiDiscrete actions by the same numbers.

    Arguments that are not listed here are those of :class:`~sb3_pgx.algorithms.npg.NPG`.

    :param target_kl: δ, a number, a schedule or a string such as ``"lin_0.06"``
    :param cg_damping: λ
    :param line_search_shrinking_factor: by which a step is shortened that is not accepted
    :param line_search_max_iter: the most lengths that are tried
    :param critic: ``"sgd"`` as in sb3-contrib, or ``"trust_region"`` as in the paper on generalised advantage estimation
    :raises ValueError: an argument makes no sense, or the action distribution has no KL divergence in closed form
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | str | Schedule = 1e-3,
        n_steps: int = 2048,
        batch_size: int = 128,
        gamma: float = 0.99,
        cg_max_steps: int = 15,
        cg_damping: float = 0.1,
        line_search_shrinking_factor: float = 0.8,
        line_search_max_iter: int = 10,
        n_critic_updates: int = 10,
        gae_lambda: float = 0.95,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = True,
        target_kl: float | str | Schedule = 0.01,
        sub_sampling_factor: int = 1,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        compile: bool | str = "auto",
        cg_tolerance: float = 1e-6,
        critic: str = "sgd",
        critic_epsilon: float = 0.01,
    ):
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            gamma=gamma,
            cg_max_steps=cg_max_steps,
            cg_damping=cg_damping,
            n_critic_updates=n_critic_updates,
            gae_lambda=gae_lambda,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            normalize_advantage=normalize_advantage,
            target_kl=target_kl,
            sub_sampling_factor=sub_sampling_factor,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
            compile=compile,
            cg_tolerance=cg_tolerance,
            critic=critic,
            critic_epsilon=critic_epsilon,
        )
        self.line_search_shrinking_factor = line_search_shrinking_factor
        self.line_search_max_iter = line_search_max_iter
        if _init_setup_model:
            self._setup_model()

    def check_numbers(self) -> None:
        super().check_numbers()
        check_counts(line_search_max_iter=self.line_search_max_iter)
        if not (is_number(self.line_search_shrinking_factor) and 0 < self.line_search_shrinking_factor < 1):
            raise ValueError(f"line_search_shrinking_factor={self.line_search_shrinking_factor!r} must be between 0 and 1")

    def step_length(self, solution: Solution) -> float:
        return kl_step_length(solution.curvature, self.coefficient("target_kl"))

    def search(self, here: Surroundings, step: Tensor) -> LineSearch:
        limit = self.coefficient("target_kl")
        return here.search(step, self.line_search_shrinking_factor, self.line_search_max_iter, limit)

    def searched(self, search: LineSearch) -> Metrics:
        return {"is_line_search_success": float(search.accepted), "line_search_steps": float(search.tried)}
