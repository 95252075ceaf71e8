"""TRPO: a step along the natural gradient, shortened until it improves the surrogate within a bound on the KL divergence."""

from typing import Any, ClassVar, Literal

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from sb3_pgx.algorithms.npg import NPG, CriticUpdate
from sb3_pgx.core.checks import check_counts, is_number
from sb3_pgx.core.examination import Examination
from sb3_pgx.ops.natural_gradient import LineSearch, Solution, kl_step_length
from sb3_pgx.stages.report import Metrics
from sb3_pgx.stages.trust_region import TrustRegionStep


class TRPO(NPG):
    """
    Trust-region policy optimisation (Schulman et al., 2015).

    Each update maximises the mean of A π(a|s) / π_old(a|s) subject to mean KL(π_old‖π) ≤ δ. The full step is √(2δ / sᵀ(F +
    λI)s) s along s = (F + λI)⁻¹g, where g is the gradient and F the Fisher matrix of the action distribution. A line search
    shortens it until it improves the objective within the bound. If no length does, the policy stays exactly as it is, and the
    critic still learns.

    Arguments and their order are those of sb3-contrib's ``TRPO``, but ``target_kl`` **follows the papers**: KL(π_old‖π),
    summed over action dimensions. sb3-contrib bounds KL(π‖π_old), averaged over the d dimensions of a Box or MultiBinary
    action. To reproduce its steps, multiply its ``target_kl`` and ``cg_damping`` by d; for Discrete and MultiDiscrete actions,
    keep them.

    :param policy: ``"MlpPolicy"`` (vectors), ``"CnnPolicy"`` (images), ``"MultiInputPolicy"`` (dictionaries), or a policy
        class
    :param env: an environment, a ``VecEnv`` or the id of a registered environment
    :param learning_rate: step size of the critic's optimizer, for ``critic="sgd"``. Typical: 3e-4 to 3e-3. Larger values learn
        faster until updates become unstable. A number, a function of the remaining progress (1 to 0) or a string such as
        ``"lin_1e-3"``
    :param n_steps: steps per environment and rollout; the batch of an update has n_steps · n_envs rows. Typical: 512 to 5000.
        Larger values give better gradients and fewer updates per environment step
    :param batch_size: rows of a minibatch of the critic, for ``critic="sgd"``. Typical: 64 to 512. Larger values take fewer,
        less noisy steps
    :param gamma: γ, discount factor per step, in [0, 1]. Typical: 0.98 to 0.999; rewards count over about 1/(1 − γ) steps.
        Larger values look further ahead, with more variance
    :param cg_max_steps: largest number of conjugate gradient iterations; each costs one product with F. Typical: 10 to 25.
        Larger values solve for the step more exactly (Schulman et al., 2015, app. C)
    :param cg_damping: λ in (F + λI)⁻¹g. Typical: 1e-3 to 0.1. Larger values move closer to the plain gradient, with shorter,
        safer steps
    :param line_search_shrinking_factor: factor in (0, 1) by which a rejected step is shortened. Typical: 0.5 to 0.8. Larger
        values try finer lengths and need more tries (Schulman et al., 2015, app. C)
    :param line_search_max_iter: largest number of lengths tried. Typical: 10 to 15. Larger values try shorter steps before
        giving up
    :param n_critic_updates: passes over the rollout per update, for ``critic="sgd"``. Typical: 5 to 20. Larger values fit V
        better and may overfit it
    :param gae_lambda: λ of generalised advantage estimation, in [0, 1]. Typical: 0.9 to 0.98. 0 gives one-step advantages, 1
        Monte-Carlo returns minus V(s). Larger values bring less bias from the critic and more variance (Schulman et al., 2016,
        eq. 16)
    :param use_sde: use generalised state-dependent exploration (Raffin et al., 2022): smooth exploration noise, Box actions
        only
    :param sde_sample_freq: steps between two draws of the noise of ``use_sde``. Typical: 4 to 64, or −1, once per rollout.
        Larger values explore more smoothly
    :param rollout_buffer_class: your own class with the interface of SB3's ``RolloutBuffer``, filled after collection;
        ``None``: SB3's interface to the rollout
    :param rollout_buffer_kwargs: further arguments of ``rollout_buffer_class``
    :param normalize_advantage: standardise the advantages over the batch to mean 0 and standard deviation 1, so that the step
        does not depend on the scale of the rewards
    :param target_kl: δ, bound on mean KL(π_old‖π) over the states, in nats, summed over action dimensions. Typical: 0.001 to
        0.05. Larger values take longer steps. A number, a schedule or a string such as ``"lin_0.06"`` (Schulman et al., 2015,
        eq. 14)
    :param sub_sampling_factor: k: products with F use a random 1/k of the states, drawn per update; everything else uses the
        whole batch. Typical: 1 to 10. Larger values are faster, with a noisier step (Schulman et al., 2015, app. C)
    :param stats_window_size: number of recent episodes that ``rollout/ep_rew_mean`` averages over. Typical: 100. Larger values
        give smoother curves that lag more; training does not depend on it
    :param tensorboard_log: folder for TensorBoard logs; ``None`` writes none
    :param policy_kwargs: arguments of the policy's constructor, such as ``dict(net_arch=[64, 64])``
    :param verbose: 0 prints nothing, 1 prints messages and the log, 2 adds debug messages
    :param seed: seed of weights, actions, minibatches and environments; ``None``: not seeded
    :param device: ``"cpu"``, ``"cuda"`` or ``"auto"`` (CUDA if available)
    :param _init_setup_model: build the networks at once; SB3 passes ``False`` while loading
    :param compile: compile acting, products with F and the critic's steps: ``True``, ``False``, or ``"auto"``, which compiles
        if the run is long enough to repay it (:data:`sb3_pgx.engine.compiler.COMPILE_AFTER`)
    :param cg_tolerance: relative residual ‖g − (F + λI)s‖ / ‖g‖ at which conjugate gradients stop, in [0, 1). Typical: 1e-10
        to 1e-3. Larger values stop earlier, with a less exact step
    :param critic: how V is fitted to the returns: ``"sgd"`` in minibatches with the policy's optimizer, as sb3-contrib does,
        or ``"trust_region"`` with one Gauss-Newton step by conjugate gradients subject to mean (V − V_old)² / (2σ²) ≤
        ``critic_epsilon``, σ² = mean (V_old − returns)² (Schulman et al., 2016, eq. 29)
    :param critic_epsilon: ε of ``critic="trust_region"``, kept to one part in a thousand; relative, so that it does not depend
        on the scale of the rewards. Typical: 0.01 to 0.1. Larger values let V change more per update
    :raises ValueError: an argument is invalid, or the action distribution has no KL divergence in closed form
    """

    examination: ClassVar[Examination] = Examination(
        2048, 0.02, dict(n_steps=8, batch_size=128, n_critic_updates=5, cg_max_steps=5, target_kl=0.05), bound="trust region"
    )

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
        compile: bool | Literal["auto"] = "auto",
        cg_tolerance: float = 1e-6,
        critic: CriticUpdate = "sgd",
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
        """
        Check the numbers, which a callback may change at any time.

        :raises ValueError: an argument is invalid
        """
        super().check_numbers()
        check_counts(line_search_max_iter=self.line_search_max_iter)
        if not (is_number(self.line_search_shrinking_factor) and 0 < self.line_search_shrinking_factor < 1):
            raise ValueError(f"line_search_shrinking_factor={self.line_search_shrinking_factor!r} must be between 0 and 1")

    def step_length(self, solution: Solution) -> float:
        """
        Return the factor √(2δ / sᵀ(F + λI)s) of the full step.

        :param solution: s = (F + λI)⁻¹g and its curvature
        """
        return kl_step_length(solution.curvature, self.coefficient("target_kl"))

    def search(self, here: TrustRegionStep, step: Tensor) -> LineSearch:
        """
        Take the longest of the shortened steps that improves the surrogate within the bound. If none does, the policy stays
        exactly as it was.

        :param here: objective and divergence around the current parameters
        :param step: the full step, ``[P]``
        :return: which part of the step was taken, and what it achieved
        """
        limit = self.coefficient("target_kl")
        return here.search(step, self.line_search_shrinking_factor, self.line_search_max_iter, limit)

    def searched(self, search: LineSearch) -> Metrics:
        """Return what to log about the line search."""
        return {"is_line_search_success": float(search.accepted), "line_search_steps": float(search.tried)}
