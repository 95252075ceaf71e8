"""A2C: one step on n-step or GAE advantages, actor, critic and entropy together."""

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor
from torch.nn import functional as F

from sb3_pgx.algorithms.rmsprop import ShortRollouts, with_rms_prop
from sb3_pgx.core.checks import as_flag, check_counts
from sb3_pgx.core.rollout import Batch, Rollout
from sb3_pgx.core.rollout_buffer import RolloutView
from sb3_pgx.engine import Evaluation, Objective
from sb3_pgx.ops.metrics import explained_variance
from sb3_pgx.ops.objectives import standardized, weighted
from sb3_pgx.ops.returns import episode_ages
from sb3_pgx.stages.algorithm import ceil_div
from sb3_pgx.stages.report import Metrics


class Coefficients(NamedTuple):
    """Their values during one update."""

    normalize_advantage: bool
    ent_coef: float
    vf_coef: float


def actor_critic_objective(now: Evaluation, batch: Batch, c: Coefficients) -> dict[str, Tensor]:
    """The loss of a batch under ``"loss"``, and its parts."""
    advantages = standardized(batch.advantages) if c.normalize_advantage else batch.advantages
    policy_loss = -(advantages * now.log_prob).mean()
    value_loss = F.mse_loss(batch.returns, now.values)
    entropy_loss = -now.entropy.mean()
    loss = policy_loss + weighted(c.ent_coef, entropy_loss) + weighted(c.vf_coef, value_loss)
    return {
        "loss": loss,
        "entropy_loss": entropy_loss,
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "explained_variance": explained_variance(batch.values, batch.returns),
    }


class A2C(ShortRollouts):
    """
    Advantage actor-critic, the synchronous form of A3C (Mnih et al., 2016).

    Arguments, random numbers and updates are those of SB3's ``A2C``: the same seed gives the same training while
    floating-point order allows. Saved files hold nothing of this package, unless ``policy_kwargs`` ask for one of our
    policies; SB3 loads them (and takes no schedule for ``ent_coef`` and ``vf_coef``), and ours loads SB3's.

    :param policy: ``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy`` or a class
    :param env: environment, or its id
    :param learning_rate: a number, a function of the remaining progress, or a string such as ``"lin_7e-4"``
    :param n_steps: steps of each environment, an update
    :param gamma: discount factor, in [0, 1]
    :param gae_lambda: λ of the advantages; 1: n-step returns, 0: one-step actor-critic
    :param ent_coef: weight of the entropy, a number, a schedule or a string
    :param vf_coef: weight of the mean squared value error, likewise
    :param max_grad_norm: norm to which the gradient is clipped
    :param rms_prop_eps: ε of RMSprop
    :param use_rms_prop: RMSprop, as in the paper, instead of Adam
    :param use_sde: generalised state-dependent exploration
    :param sde_sample_freq: new exploration noise every so many steps; −1: at the start of a rollout
    :param rollout_buffer_class: a class of your own with the interface of SB3's; it is filled after collection
    :param rollout_buffer_kwargs: for that class
    :param normalize_advantage: standardise the advantages over the batch
    :param stats_window_size: episodes over which ``rollout/ep_rew_mean`` is averaged
    :param tensorboard_log: folder for TensorBoard
    :param policy_kwargs: for the policy
    :param verbose: 0 nothing, 1 messages, 2 debug
    :param seed: for everything random
    :param device: ``"auto"``, ``"cpu"``, ``"cuda"``
    :param _init_setup_model: build the networks now
    :param compile: compile acting and the gradient step: ``True``, ``False``, or where the training is long enough,
        ``"auto"`` (:data:`sb3_pgx.engine.compiler.COMPILE_AFTER`)
    :param discount_state_weighting: weight the policy's gradient with γ^t, t the steps since the start of the episode. With
        ``n_steps=1``, ``gae_lambda=0`` and one environment that is the one-step actor-critic of Sutton & Barto (§13.5)
    :raises ValueError: an argument makes no sense
    """

    _ages: list[int] | None = None  # of the episodes under way, at the observations to act on
    _first_ages: list[int] | None = None  # in the first row of the rollout
    objective: ClassVar[Objective | None] = Objective(actor_critic_objective)

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | str | Schedule = 7e-4,
        n_steps: int = 5,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: float | str | Schedule = 0.0,
        vf_coef: float | str | Schedule = 0.5,
        max_grad_norm: float = 0.5,
        rms_prop_eps: float = 1e-5,
        use_rms_prop: bool = True,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        compile: bool | str = "auto",
        discount_state_weighting: bool = False,
    ):
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=with_rms_prop(policy_kwargs, use_rms_prop, rms_prop_eps),
            verbose=verbose,
            seed=seed,
            device=device,
            compile=compile,
        )
        self.normalize_advantage = normalize_advantage
        self.discount_state_weighting = discount_state_weighting
        if _init_setup_model:
            self._setup_model()

    def check_arguments(self) -> None:
        super().check_arguments()
        check_counts(n_steps=self.n_steps)
        self.normalize_advantage = as_flag("normalize_advantage", self.normalize_advantage)
        self.discount_state_weighting = as_flag("discount_state_weighting", self.discount_state_weighting)
        if self.discount_state_weighting and self.normalize_advantage:
            raise ValueError(
                "discount_state_weighting=True cannot be combined with normalize_advantage=True: the weights would be lost"
            )
        if self.normalize_advantage and self.env is not None and self.n_steps * self.n_envs < 2:
            raise ValueError("normalize_advantage=True needs more than one row: raise n_steps, or use more environments")
        self.coefficient("ent_coef")
        self.coefficient("vf_coef")

    @property
    def takes_one_step(self) -> bool:  # type: ignore[override]
        return type(self).update is A2C.update and isinstance(self.rollout_buffer, RolloutView)

    def planned_gradient_steps(self, timesteps: int) -> int:
        return ceil_div(timesteps, self.n_steps * self.n_envs)

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        if self.discount_state_weighting:
            known = self._ages if self._ages is not None and len(self._ages) == self.n_envs else [0] * self.n_envs
            starts = self._last_episode_starts
            assert starts is not None
            self._ages = self._first_ages = [0 if start else age for start, age in zip(starts, known, strict=True)]
        return super().collect_rollouts(*args, **kwargs)

    def after_step(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        if self.discount_state_weighting and self._ages is not None:
            self._ages = [0 if done else age + 1 for done, age in zip(dones, self._ages, strict=True)]

    def weigh(self, rollout: Rollout) -> None:
        if self.discount_state_weighting:
            before = None if self._first_ages is None else [age - 1 for age in self._first_ages]
            ages = episode_ages(rollout.episode_starts, before).to(rollout.advantages.dtype)
            rollout.advantages = rollout.advantages * self.gamma**ages

    @property
    def weighs(self) -> bool:
        return self.discount_state_weighting

    @property
    def refuses_rows(self) -> str | None:
        return (
            "discount_state_weighting=True weighs each row by the age of its episode"
            if self.discount_state_weighting
            else None
        )

    refuses_buffers = refuses_rows

    def update(self, rollout: Rollout) -> Metrics:
        c = Coefficients(self.normalize_advantage, self.coefficient("ent_coef"), self.coefficient("vf_coef"))
        with self.gradient_steps(c, self.n_steps * self.n_envs) as steps:
            steps.epoch(self.minibatches(rollout, batch_size=None))  # one, unless a user's own buffer gives more
        self._n_updates += 1
        metrics = {**steps.means(), **steps.last}  # with the gradient's norm
        return {**{name: value for name, value in metrics.items() if name != "loss"}, **self.spread()}
