"""A2C: one gradient step per rollout for actor, critic and entropy together, with n-step or GAE advantages."""

from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor
from torch.nn import functional as F

from sb3_pgx.algorithms.rmsprop import RMSpropAlgorithm, with_rms_prop
from sb3_pgx.core.checks import as_flag, check_counts
from sb3_pgx.core.evaluation import Evaluation
from sb3_pgx.core.examination import Examination
from sb3_pgx.core.rollout import Batch, Rollout
from sb3_pgx.core.rollout_buffer import RolloutView
from sb3_pgx.core.search_space import (
    ENTROPY,
    GAE_LAMBDA,
    GAMMA,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    Categorical,
    Dimension,
    Real,
    Whole,
)
from sb3_pgx.engine import Objective, Update
from sb3_pgx.ops.metrics import explained_variance
from sb3_pgx.ops.objectives import standardized, sum_of, weighted
from sb3_pgx.ops.returns import episode_ages
from sb3_pgx.stages.algorithm import ceil_div
from sb3_pgx.stages.report import Metrics


class Coefficients(NamedTuple):
    """Coefficients during one update."""

    normalize_advantage: bool
    ent_coef: float
    vf_coef: float


def actor_critic_objective(now: Evaluation, batch: Batch, c: Coefficients) -> dict[str, Tensor]:
    """Return the loss of a batch as ``"loss"``, and its parts."""
    advantages = standardized(batch.advantages) if c.normalize_advantage else batch.advantages
    policy_loss = -(advantages * now.log_prob).mean()
    value_loss = F.mse_loss(batch.returns, now.values)
    entropy_loss = -now.entropy.mean()
    loss = sum_of(policy_loss, weighted(c.ent_coef, entropy_loss), weighted(c.vf_coef, value_loss))
    return {
        "loss": loss,
        "entropy_loss": entropy_loss,
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "explained_variance": explained_variance(batch.values, batch.returns),
    }


class A2C(RMSpropAlgorithm):
    """
    Advantage actor-critic, the synchronous form of A3C (Mnih et al., 2016).

    Arguments, random numbers and updates are those of SB3's ``A2C``: with the same seed both compute the same numbers, as far
    as floating-point order allows. SB3 loads our saved models, and we load SB3's. SB3 needs this package for that only if the
    model holds one of its policies (which ``policy_kwargs`` may ask for) or schedules, and it takes no schedule for
    ``ent_coef`` and ``vf_coef``.

    :param policy: ``"MlpPolicy"`` (vectors), ``"CnnPolicy"`` (images), ``"MultiInputPolicy"`` (dictionaries), or a policy
        class
    :param env: an environment, a ``VecEnv`` or the id of a registered environment
    :param learning_rate: step size of the optimizer. Typical: 1e-4 to 1e-3. Larger values learn faster until updates become
        unstable. A number, a function of the remaining progress (1 to 0) or a string such as ``"lin_7e-4"``
    :param n_steps: steps per environment and rollout; the batch of an update has n_steps · n_envs rows. Typical: 5 to 32.
        Larger values give better gradients and fewer updates per environment step
    :param gamma: γ, discount factor per step, in [0, 1]. Typical: 0.98 to 0.999; rewards count over about 1/(1 − γ) steps.
        Larger values look further ahead, with more variance
    :param gae_lambda: λ of generalised advantage estimation, in [0, 1]. Typical: 0.9 to 1. 0 gives the one-step actor-critic,
        1 n-step returns minus V(s). Larger values bring less bias from the critic and more variance (Schulman et al., 2016,
        eq. 16)
    :param ent_coef: weight of the entropy (in nats) in the loss. Typical: 0 to 0.01. Larger values keep the policy more
        random. A number, a schedule or a string (Mnih et al., 2016, §4)
    :param vf_coef: weight of the mean squared value error in the loss. Typical: 0.25 to 1. Larger values train the critic
        harder; matters most if actor and critic share layers. A number, a schedule or a string
    :param max_grad_norm: largest L2 norm of the gradient, which is scaled down to it. Typical: 0.5 to 1. Smaller values damp
        outliers; under Adam and RMSprop, a limit that is always active changes little. ``None`` disables clipping
    :param rms_prop_eps: ε that RMSprop adds to the root mean square of the gradient. Typical: 1e-8 to 1e-3. Larger values
        shorten the steps of parameters with small gradients
    :param use_rms_prop: use RMSprop, as the paper does (Mnih et al., 2016, §4), instead of Adam
    :param use_sde: use generalised state-dependent exploration (Raffin et al., 2022): smooth exploration noise, Box actions
        only
    :param sde_sample_freq: steps between two draws of the noise of ``use_sde``. Typical: 4 to 64, or −1, once per rollout.
        Larger values explore more smoothly
    :param rollout_buffer_class: your own class with the interface of SB3's ``RolloutBuffer``, filled after collection;
        ``None``: SB3's interface to the rollout
    :param rollout_buffer_kwargs: further arguments of ``rollout_buffer_class``
    :param normalize_advantage: standardise the advantages over the batch to mean 0 and standard deviation 1, so that the step
        does not depend on the scale of the rewards
    :param stats_window_size: number of recent episodes that ``rollout/ep_rew_mean`` averages over. Typical: 100. Larger values
        give smoother curves that lag more; training does not depend on it
    :param tensorboard_log: folder for TensorBoard logs; ``None`` writes none
    :param policy_kwargs: arguments of the policy's constructor, such as ``dict(net_arch=[64, 64])``
    :param verbose: 0 prints nothing, 1 prints messages and the log, 2 adds debug messages
    :param seed: seed of weights, actions, minibatches and environments; ``None``: not seeded
    :param device: ``"cpu"``, ``"cuda"`` or ``"auto"`` (CUDA if available)
    :param _init_setup_model: build the networks at once; SB3 passes ``False`` while loading
    :param compile: compile acting and the gradient step: ``True``, ``False``, or ``"auto"``, which compiles if the run is long
        enough to repay it (:data:`sb3_pgx.engine.compiler.COMPILE_AFTER`)
    :param discount_state_weighting: weight the policy's gradient at step t of an episode with γ^t, which makes it the exact
        gradient of the discounted objective. With ``n_steps=1``, ``gae_lambda=0`` and one environment, A2C is then the
        one-step actor-critic of Sutton & Barto (2018, §13.5). Not together with ``normalize_advantage``
    :raises ValueError: an argument is invalid
    """

    _ages: list[int] | None = None  # steps since the start of each current episode, at the observations to act on
    _first_ages: list[int] | None = None  # the same in the first row of the rollout
    objective: Objective | None = Objective(actor_critic_objective)

    search_space: ClassVar[tuple[Dimension, ...]] = (
        LEARNING_RATE,
        Whole("n_steps", 4, 128, log=True),
        GAMMA,
        GAE_LAMBDA,
        ENTROPY,
        MAX_GRAD_NORM,
        Real("vf_coef", 0.1, 1.0),
        Categorical("normalize_advantage", (False, True)),
        Categorical("use_rms_prop", (True, False)),
    )
    examination: ClassVar[Examination] = Examination(3072, 0.03, dict(n_steps=4, use_rms_prop=False))

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
        max_grad_norm: float | None = 0.5,
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
        compile: bool | Literal["auto"] = "auto",
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
        """
        Check the arguments.

        :raises ValueError: an argument is invalid
        """
        super().check_arguments()
        check_counts(n_steps=self.n_steps)
        self.normalize_advantage = as_flag("normalize_advantage", self.normalize_advantage)
        self.discount_state_weighting = as_flag("discount_state_weighting", self.discount_state_weighting)
        if self.discount_state_weighting and self.normalize_advantage:
            raise ValueError(
                "discount_state_weighting=True cannot be combined with normalize_advantage=True, which would undo the weights"
            )
        if self.normalize_advantage and self.env is not None and self.n_steps * self.n_envs < 2:
            raise ValueError("normalize_advantage=True needs more than one row: raise n_steps, or use more environments")
        self.coefficient("ent_coef")
        self.coefficient("vf_coef")

    @property
    def takes_one_step(self) -> bool:
        """Whether an update takes a single gradient step. A user's own buffer may yield several batches."""
        return type(self).update is A2C.update and isinstance(self.rollout_buffer, RolloutView)

    def planned_gradient_steps(self, timesteps: int) -> int:
        """Return the number of gradient steps in a run: one per rollout."""
        return ceil_div(timesteps, self.n_steps * self.n_envs * self.team.size)

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        """Collect a rollout, and keep the age of each episode at its start. Arguments are those of the base class."""
        if self.discount_state_weighting:
            known = self._ages if self._ages is not None and len(self._ages) == self.n_envs else [0] * self.n_envs
            starts = self._last_episode_starts
            assert starts is not None
            self._ages = self._first_ages = [0 if start else age for start, age in zip(starts, known, strict=True)]
        return super().collect_rollouts(*args, **kwargs)

    def after_step(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """Count the age of each episode."""
        if self.discount_state_weighting and self._ages is not None:
            self._ages = [0 if done else age + 1 for done, age in zip(dones, self._ages, strict=True)]

    def reweight(self, rollout: Rollout) -> None:
        """Multiply the advantages by γ^t if ``discount_state_weighting`` is true, where t is the age of the episode."""
        if self.discount_state_weighting:
            before = None if self._first_ages is None else [age - 1 for age in self._first_ages]
            ages = episode_ages(rollout.episode_starts, before).to(rollout.advantages.dtype)
            rollout.advantages = rollout.advantages * self.gamma**ages

    @property
    def reweights(self) -> bool:
        """Whether the advantages are weighted."""
        return self.discount_state_weighting

    @property
    def refuses_rows(self) -> str | None:
        """Why the algorithm cannot learn from rows that a caller adds to the buffer; ``None`` if it can."""
        return (
            "discount_state_weighting=True weights each row by the age of its episode"
            if self.discount_state_weighting
            else None
        )

    refuses_buffers = refuses_rows

    def steps_of(self, rollout: Rollout) -> AbstractContextManager[Update]:
        """
        The gradient step of an update.

        :param rollout: rollout with advantages and returns
        """
        c = Coefficients(self.normalize_advantage, self.coefficient("ent_coef"), self.coefficient("vf_coef"))
        return self.gradient_steps(c, self.n_steps * self.n_envs)

    def update(self, rollout: Rollout) -> Metrics:
        """
        Take one gradient step on the whole rollout.

        :param rollout: rollout with advantages and returns
        :return: metrics to log, without the prefix ``train/``
        """
        with self.steps_of(rollout) as steps:
            steps.epoch(self.minibatches(rollout, batch_size=None))  # one batch, unless a user's own buffer yields more
        self._n_updates += 1
        metrics = {**steps.means(), **steps.last}  # including the gradient's norm
        if self.team.size > 1:  # of the rows of all processes, which is not the mean over processes
            metrics["explained_variance"] = self.explained_variance()
        return {**{name: value for name, value in metrics.items() if name != "loss"}, **self.spread()}
