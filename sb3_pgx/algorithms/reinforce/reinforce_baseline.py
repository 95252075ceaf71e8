"""REINFORCE with a learned value function as its baseline."""

from typing import Any, ClassVar, Literal

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import update_learning_rate
from torch import Tensor

from sb3_pgx.algorithms.reinforce.episodic import EpisodicAlgorithm
from sb3_pgx.core.checks import as_flag, check_counts
from sb3_pgx.core.examination import Examination
from sb3_pgx.core.policies import split_parameters
from sb3_pgx.core.rollout import EvaluatedRollout, Rollout
from sb3_pgx.core.search_space import EPISODES, Categorical, Dimension, Scheduled, Whole
from sb3_pgx.engine import Objective, accumulated_step
from sb3_pgx.ops.metrics import explained_variance
from sb3_pgx.ops.returns import masked, monte_carlo, standardize
from sb3_pgx.stages.algorithm import ceil_div
from sb3_pgx.stages.critic import CRITIC_OBJECTIVE, fit_critic
from sb3_pgx.stages.report import Metrics


class REINFORCEBaseline(EpisodicAlgorithm):
    """
    REINFORCE with a learned baseline, Ψ_t = G_t − V(s_t) (Williams, 1992; Sutton & Barto, 2018, §13.4).

    One gradient step per update, on the mean over episodes of −Σ_t w_t log π(a_t|s_t) Ψ_t with G_t = Σ_k γ^k r_{t+k}. V is
    fitted to the same returns **after** the policy's gradient has used it. Fitted before, it would explain away the noise that
    it is compared with, and bias the gradient (Schulman et al., 2016, §6.1).

    With separate layers (the default of ``MlpPolicy``), the critic has its own learning rate and passes. If actor and critic
    share layers, the critic's steps would move the policy; then both take one combined step, with the value error weighted by
    ``vf_coef``.

    Every update uses exactly ``n_episodes`` whole episodes **from each environment**, so that no episode length is favoured.
    Steps of environments that wait for the others are masked. If an environment is in the middle of an episode when a rollout
    starts, all are reset; a ``Monitor`` with ``allow_early_resets=False`` does not allow that.

    :param policy: ``"MlpPolicy"`` (vectors), ``"CnnPolicy"`` (images), ``"MultiInputPolicy"`` (dictionaries), or a policy
        class
    :param env: an environment, a ``VecEnv`` or the id of a registered environment
    :param learning_rate: step size of the actor's optimizer (Adam), or of all layers if they are shared. The loss sums over an
        episode's steps, so long episodes need a smaller one. Typical: 1e-4 to 1e-2. Larger values learn faster until updates
        become unstable. A number, a function of the remaining progress (1 to 0) or a string such as ``"lin_0.01"``
    :param n_episodes: whole episodes per environment and update. Typical: 1 to 20. Larger values give less variance and fewer
        updates
    :param gamma: γ, discount factor per step, in [0, 1]. Typical: 0.98 to 0.999; rewards count over about 1/(1 − γ) steps.
        Larger values look further ahead, with more variance
    :param bootstrap_truncated: add γ^k V(final observation) to the return of a truncated episode. ``False``: the episode
        counts as finished, with the return of a finite horizon
    :param normalize_advantage: standardise Ψ over the batch. The step size becomes steadier, but the direction of the expected
        gradient changes, too
    :param discount_state_weighting: weight the policy's gradient at step t of an episode with γ^t, which makes it the exact
        gradient of the discounted objective. The default ``False`` is common practice; for γ < 1 it is in general the gradient
        of no function (Nota & Thomas, 2020)
    :param critic_learning_rate: step size of the critic's optimizer; no effect if layers are shared. Typical: 3e-4 to 1e-2.
        Larger values fit V faster until it becomes unstable. A number, a schedule or a string
    :param n_critic_updates: passes of the critic over the data per update; no effect if layers are shared. Typical: 5 to 80.
        Larger values fit V better and may overfit it
    :param critic_batch_size: rows of a minibatch of the critic. Typical: 64 to 512. Larger values take fewer, less noisy steps
    :param vf_coef: weight of the mean squared value error in the combined step; no effect unless layers are shared. Typical:
        0.25 to 1. Larger values train the critic harder. A number, a schedule or a string
    :param ent_coef: reward per nat of entropy and step. Typical: 0 to 0.01. Larger values keep the policy more random. A
        number, a schedule or a string
    :param max_grad_norm: largest L2 norm of the actor's and of the critic's gradient, scaled down to it; ``None`` disables
        clipping. Typical: ``None``, or 0.5 to 10. Smaller values damp outliers
    :param max_episode_steps: steps after which an unfinished episode is an error, because it may never end. Typical: well
        above the environment's time limit. Larger values only delay the error
    :param use_sde: use generalised state-dependent exploration (Raffin et al., 2022): smooth exploration noise, Box actions
        only
    :param sde_sample_freq: steps between two draws of the noise of ``use_sde``. Typical: 4 to 64, or −1, once per rollout.
        Larger values explore more smoothly
    :param rollout_buffer_class: for compatibility with SB3; only ``None`` and SB3's own classes, since others cannot
        hold whole episodes
    :param rollout_buffer_kwargs: further arguments of ``rollout_buffer_class``
    :param stats_window_size: number of recent episodes that ``rollout/ep_rew_mean`` averages over. Typical: 100. Larger values
        give smoother curves that lag more; training does not depend on it
    :param tensorboard_log: folder for TensorBoard logs; ``None`` writes none
    :param policy_kwargs: arguments of the policy's constructor, such as ``dict(net_arch=[64, 64])``
    :param verbose: 0 prints nothing, 1 prints messages and the log, 2 adds debug messages
    :param seed: seed of weights, actions, minibatches and environments; ``None``: not seeded
    :param device: ``"cpu"``, ``"cuda"`` or ``"auto"`` (CUDA if available)
    :param _init_setup_model: build the networks at once; SB3 passes ``False`` while loading
    :param compile: compile acting and the critic's steps: ``True``, ``False``, or ``"auto"``, which compiles if the run is
        long enough to repay it (:data:`sb3_pgx.engine.compiler.COMPILE_AFTER`)
    :raises ValueError: an argument is invalid, or the policy has no critic
    """

    objective: Objective | None = CRITIC_OBJECTIVE

    search_space: ClassVar[tuple[Dimension, ...]] = (
        *EPISODES,
        Scheduled("critic_learning_rate", 1e-4, 1e-2),
        Whole("n_critic_updates", 1, 20),
        Categorical("normalize_advantage", (False, True)),
    )
    examination: ClassVar[Examination] = Examination(
        2560, 0.05, dict(n_episodes=4, critic_learning_rate=0.02, n_critic_updates=3)
    )

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | str | Schedule = 1e-3,
        n_episodes: int = 4,
        gamma: float = 0.99,
        bootstrap_truncated: bool = True,
        normalize_advantage: bool = False,
        discount_state_weighting: bool = False,
        critic_learning_rate: float | str | Schedule = 1e-3,
        n_critic_updates: int = 10,
        critic_batch_size: int = 256,
        vf_coef: float | str | Schedule = 0.5,
        ent_coef: float | str | Schedule = 0.0,
        max_grad_norm: float | None = None,
        max_episode_steps: int = 100_000,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        compile: bool | Literal["auto"] = "auto",
    ):
        super().__init__(
            policy,
            env,
            n_episodes=n_episodes,
            discount_state_weighting=discount_state_weighting,
            max_episode_steps=max_episode_steps,
            learning_rate=learning_rate,
            gamma=gamma,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            compile=compile,
        )
        self.bootstrap_truncated = bootstrap_truncated
        self.normalize_advantage = normalize_advantage
        self.critic_learning_rate = critic_learning_rate
        self.n_critic_updates = n_critic_updates
        self.critic_batch_size = critic_batch_size
        if _init_setup_model:
            self._setup_model()

    def check_arguments(self) -> None:
        """
        Check the arguments.

        :raises ValueError: an argument is invalid
        """
        super().check_arguments()
        check_counts(n_critic_updates=self.n_critic_updates, critic_batch_size=self.critic_batch_size)
        self.bootstrap_truncated = as_flag("bootstrap_truncated", self.bootstrap_truncated)
        self.normalize_advantage = as_flag("normalize_advantage", self.normalize_advantage)
        self.coefficient("critic_learning_rate")
        self.coefficient("vf_coef")

    def _setup_model(self) -> None:
        super()._setup_model()
        if not split_parameters(self.policy)[1]:
            raise ValueError(
                f"{self.policy_class.__name__} has no trainable critic, but REINFORCEBaseline needs one: use "
                "REINFORCE, or a policy with a critic."
            )

    def planned_gradient_steps(self, timesteps: int) -> int:
        """Return the number of the critic's gradient steps in a run."""
        return self.n_critic_updates * ceil_div(timesteps, self.critic_batch_size)

    def estimate(self, rollout: EvaluatedRollout) -> Rollout:
        """
        Return the rollout with the returns G_t, and Ψ_t = G_t − V(s_t) as the advantages.

        :param rollout: evaluated rollout of whole episodes
        """
        completion = rollout.next_values if self.bootstrap_truncated else th.zeros_like(rollout.next_values)
        returns = monte_carlo(rollout.rewards, completion, rollout.ends, self.gamma, rollout.valid)
        advantages = masked(returns - rollout.values, rollout.valid)
        return rollout.estimated(standardize(advantages, rollout.valid) if self.normalize_advantage else advantages, returns)

    def update(self, rollout: Rollout) -> Metrics:
        """
        Take one gradient step of the policy, then fit the critic; one combined step if they share layers.

        :param rollout: rollout with advantages and returns
        :return: metrics to log, without the prefix ``train/``
        """
        actor, critic = split_parameters(self.policy)
        shared = bool(actor.keys() & critic.keys())
        critic_learning_rate = self.coefficient("critic_learning_rate")  # read before anything changes: it may be invalid
        metrics = self.accumulate_gradient(rollout, self.coefficient("vf_coef") if shared else None)
        loss = metrics["loss"]
        assert isinstance(loss, Tensor)
        stepped = {**actor, **critic} if shared else actor
        metrics |= accumulated_step(self.policy.optimizer, stepped, self.max_grad_norm, loss, self._n_updates)
        metrics.update(self.spread())
        if not shared:
            metrics.update(self._fit_critic(rollout, critic_learning_rate))
        counted = rollout.valid
        metrics["explained_variance"] = explained_variance(rollout.values[counted], rollout.returns[counted])
        self._n_updates += 1
        return metrics

    def _fit_critic(self, rollout: Rollout, learning_rate: float) -> Metrics:
        """Fit V to the returns. The actor's parameters stay unchanged."""
        update_learning_rate(self.policy.optimizer, learning_rate)
        measured = fit_critic(self, rollout, self.critic_batch_size, self.n_critic_updates)
        return {**measured, "critic_learning_rate": learning_rate}
