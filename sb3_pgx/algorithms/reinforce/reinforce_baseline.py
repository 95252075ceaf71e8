"""REINFORCE with a learned value function as its baseline."""

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import update_learning_rate
from torch import Tensor

from sb3_pgx.algorithms.reinforce.episodic import EpisodicAlgorithm
from sb3_pgx.core.checks import as_flag, check_counts
from sb3_pgx.core.policies import split_parameters
from sb3_pgx.core.rollout import Rollout
from sb3_pgx.engine import Objective, gradient_step
from sb3_pgx.ops.metrics import explained_variance
from sb3_pgx.ops.returns import masked, monte_carlo, standardize
from sb3_pgx.stages.algorithm import ceil_div
from sb3_pgx.stages.critic import CRITIC_OBJECTIVE, fit_critic
from sb3_pgx.stages.report import Metrics


class REINFORCEBaseline(EpisodicAlgorithm):
    """
    REINFORCE with Ψ_t = G_t − V(s_t) (Williams, 1992; Sutton & Barto, §13.4).

    V is fitted to the same returns **after** the policy's gradient has used it: fitted before, it would explain away the
    noise that it is to be compared with, and bias the gradient (Schulman et al., 2016, §6.1). Where actor and critic share
    layers, the critic's step would move the policy: there both take one combined step, with the value error weighted by
    ``vf_coef``. With separate layers (the default of ``MlpPolicy``), the critic has its own learning rate and passes.

    Whole episodes, resets and masked rows are as in :class:`~sb3_pgx.REINFORCE`, and so are the arguments that are not listed
    here.

    :param policy: ``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy`` or a class
    :param env: environment, or its id
    :param learning_rate: of the actor; of all layers where they are shared
    :param n_episodes: whole episodes from each environment, an update
    :param gamma: discount factor, in [0, 1]
    :param bootstrap_truncated: add γ^k V(final observation) to the return of an episode that was truncated; otherwise it
        ends there, with the return of a finite horizon
    :param normalize_advantage: standardise Ψ over the batch. Like normalising returns, it changes the direction of the
        expected gradient and not only its length
    :param discount_state_weighting: w_t = γ^t, the exact gradient of the discounted objective
    :param critic_learning_rate: a number, a schedule or a string; without effect where layers are shared
    :param n_critic_updates: passes over the data for the critic, an update; without effect where layers are shared
    :param critic_batch_size: rows of a critic's minibatch
    :param vf_coef: weight of the value error in the combined step, where layers are shared; without effect otherwise
    :param ent_coef: reward for a nat of entropy at every step
    :param max_grad_norm: norm to which the actor's and the critic's gradients are clipped; ``None``: not at all
    :raises ValueError: an argument makes no sense
    """

    objective: ClassVar[Objective | None] = CRITIC_OBJECTIVE

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
        compile: bool | str = "auto",
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
                f"{self.policy_class.__name__} has no critic that can be trained, and REINFORCEBaseline fits one: use "
                "REINFORCE, or a policy with a critic."
            )

    def planned_gradient_steps(self, timesteps: int) -> int:
        return self.n_critic_updates * ceil_div(timesteps, self.critic_batch_size)

    def estimate(self, rollout: Rollout) -> None:
        completion = rollout.next_values if self.bootstrap_truncated else th.zeros_like(rollout.next_values)
        rollout.returns = monte_carlo(rollout.rewards, completion, rollout.ends, self.gamma, rollout.valid)
        advantages = masked(rollout.returns - rollout.values, rollout.valid)
        rollout.advantages = standardize(advantages, rollout.valid) if self.normalize_advantage else advantages

    def update(self, rollout: Rollout) -> Metrics:
        actor, critic = split_parameters(self.policy)
        shared = bool(actor.keys() & critic.keys())
        critic_learning_rate = self.coefficient("critic_learning_rate")  # before anything moves: it may be refused
        metrics = self.accumulate_gradient(rollout, self.coefficient("vf_coef") if shared else None)
        loss = metrics["loss"]
        assert isinstance(loss, Tensor)
        stepped = {**actor, **critic} if shared else actor
        metrics |= gradient_step(self.policy.optimizer, stepped, self.max_grad_norm, loss, self._n_updates)
        metrics.update(self.spread())
        if not shared:
            metrics.update(self._fit_critic(rollout, critic_learning_rate))
        counted = rollout.valid
        metrics["explained_variance"] = explained_variance(rollout.values[counted], rollout.returns[counted])
        self._n_updates += 1
        return metrics

    def _fit_critic(self, rollout: Rollout, learning_rate: float) -> Metrics:
        """Regress V on the returns; the optimizer leaves the actor as it is."""
        update_learning_rate(self.policy.optimizer, learning_rate)
        measured = fit_critic(self, rollout, self.critic_batch_size, self.n_critic_updates)
        return {**measured, "critic_learning_rate": learning_rate}
