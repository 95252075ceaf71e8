"""PPO: several passes over a rollout on the clipped surrogate."""

from typing import Any, ClassVar, NamedTuple

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor
from torch.nn import functional as F

from sb3_pgx.core.checks import as_flag, check_counts, check_positive_or_none, is_number, warn_of_uneven_batches
from sb3_pgx.core.rollout import Batch, Rollout
from sb3_pgx.core.schedules import as_schedule
from sb3_pgx.engine import Evaluation, Objective
from sb3_pgx.ops.metrics import approximate_kl, clip_fraction
from sb3_pgx.ops.objectives import clipped_surrogate, standardized, weighted
from sb3_pgx.stages.algorithm import PolicyGradientAlgorithm, ceil_div
from sb3_pgx.stages.report import Metrics

# An epoch ends early when the policy has moved this many times target_kl; SB3's factor.
KL_MARGIN = 1.5
# The last bits of a log-probability or a value depend on the batch in which it is computed, so those of a policy that has not
# moved differ a little from the rollout's. With a clip range of 0, where a schedule may end, rounding would decide which rows
# of an update's first step are clipped. Hence two floors: for the ratio, the spacing of float32 at 1;
MIN_CLIP_RANGE = 2.0**-23
# for the values, this part of the largest one.
MIN_CLIP_RANGE_VF = 1e-6


class Coefficients(NamedTuple):
    """Their values during one update."""

    clip_range: float
    clip_range_vf: float | None
    normalize_advantage: bool
    ent_coef: float
    vf_coef: float


def clipped_objective(now: Evaluation, batch: Batch, c: Coefficients) -> dict[str, Tensor]:
    """The loss of a minibatch under ``"loss"``, and its parts."""
    log_ratio = now.log_prob - batch.log_prob
    ratio = log_ratio.exp()
    policy_loss = -clipped_surrogate(ratio, scaled_advantages(batch, c), c.clip_range).mean()
    value_loss = value_error(now, batch, c)
    entropy_loss = -now.entropy.mean()
    return {
        "loss": policy_loss + weighted(c.ent_coef, entropy_loss) + weighted(c.vf_coef, value_loss),
        "policy_gradient_loss": policy_loss,
        "value_loss": value_loss,
        "entropy_loss": entropy_loss,
        "approx_kl": approximate_kl(log_ratio.detach()),
        "clip_fraction": clip_fraction(ratio, c.clip_range),
    }


def scaled_advantages(batch: Batch, c: Any) -> Tensor:
    """The advantages, standardised over the minibatch if asked for; one row alone has no deviation."""
    if not c.normalize_advantage or len(batch) == 1:
        return batch.advantages
    return standardized(batch.advantages)


def value_error(now: Evaluation, batch: Batch, c: Any) -> Tensor:
    """Mean squared error of the values, which are kept within ``clip_range_vf`` of those before the update."""
    values = now.values
    if c.clip_range_vf is not None:
        values = batch.values + (values - batch.values).clamp(-c.clip_range_vf, c.clip_range_vf)
    return F.mse_loss(batch.returns, values)


class PPO(PolicyGradientAlgorithm):
    """
    Proximal policy optimisation, clipped (Schulman et al., 2017).

    Arguments, random numbers and updates are those of SB3's ``PPO``: the same seed gives the same training while
    floating-point order allows. Saved files hold nothing of this package, unless ``policy_kwargs`` ask for one of our
    policies; SB3 loads them (and takes no schedule for ``ent_coef`` and ``vf_coef``), and ours loads SB3's.

    :param policy: ``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy`` or a class
    :param env: environment, or its id
    :param learning_rate: a number, a function of the remaining progress, or a string such as ``"lin_3e-4"``
    :param n_steps: steps of each environment, a rollout
    :param batch_size: rows of a minibatch; the whole rollout at most
    :param n_epochs: passes over the rollout; more: fewer samples needed, until the policy has moved too far from them
    :param gamma: discount factor, in [0, 1]
    :param gae_lambda: λ of the advantages, in [0, 1]; lower: less variance, more bias from the critic
    :param clip_range: ε, how far the ratio may usefully move from 1, a number, a schedule or a string
    :param clip_range_vf: how far a value may move from the one before the update, likewise; ``None``: as far as it likes.
        It depends on the scale of the rewards
    :param normalize_advantage: standardise the advantages over each minibatch
    :param ent_coef: weight of the entropy, a number, a schedule or a string
    :param vf_coef: weight of the mean squared value error, likewise
    :param max_grad_norm: norm to which the gradient is clipped
    :param use_sde: generalised state-dependent exploration
    :param sde_sample_freq: new exploration noise every so many steps; −1: at the start of a rollout
    :param rollout_buffer_class: a class of your own with the interface of SB3's; it is filled after collection
    :param rollout_buffer_kwargs: for that class
    :param target_kl: end the update before the step of a minibatch whose estimate of KL(π_old‖π) exceeds 1.5 times this;
        ``None``: never
    :param stats_window_size: episodes over which ``rollout/ep_rew_mean`` is averaged
    :param tensorboard_log: folder for TensorBoard
    :param policy_kwargs: for the policy
    :param verbose: 0 nothing, 1 messages, 2 debug
    :param seed: for everything random
    :param device: ``"auto"``, ``"cpu"``, ``"cuda"``
    :param _init_setup_model: build the networks now
    :param compile: compile acting and the gradient step: ``True``, ``False``, or where the training is long enough,
        ``"auto"`` (:data:`sb3_pgx.engine.compiler.COMPILE_AFTER`)
    :raises ValueError: an argument makes no sense
    """

    clips: ClassVar[bool] = True  # whether there is always a clip
    objective: ClassVar[Objective | None] = Objective(clipped_objective, distance="approx_kl")

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | str | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | str | Schedule = 0.2,
        clip_range_vf: float | str | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float | str | Schedule = 0.0,
        vf_coef: float | str | Schedule = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = None,
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
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            compile=compile,
        )
        self.batch_size = batch_size
        self.n_epochs = n_epochs
        self.clip_range = clip_range
        self.clip_range_vf = clip_range_vf
        self.normalize_advantage = normalize_advantage
        self.target_kl = target_kl
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        # As in SB3's PPO, these attributes are schedules from here on.
        if self.clip_range is not None:
            self.clip_range = as_schedule(self.clip_range, "clip_range")
        if self.clip_range_vf is not None:
            self.clip_range_vf = as_schedule(self.clip_range_vf, "clip_range_vf")

    def check_arguments(self) -> None:
        super().check_arguments()
        check_counts(n_steps=self.n_steps, batch_size=self.batch_size, n_epochs=self.n_epochs)
        for name in ("ent_coef", "vf_coef"):
            self.coefficient(name)
        if self.clip_range is not None or self.clips:
            self.coefficient("clip_range")
        if self.clip_range_vf is not None:
            # SB3's exception, which scripts may catch; so is the next one.
            positive = not is_number(self.clip_range_vf) or not self.clip_range_vf <= 0  # type: ignore[operator]
            assert positive, f"clip_range_vf={self.clip_range_vf} must be positive; None lets the values move freely"
            self.coefficient("clip_range_vf")
        check_positive_or_none("never ends an update early", target_kl=self.target_kl)
        self.normalize_advantage = as_flag("normalize_advantage", self.normalize_advantage)
        if self.env is not None:
            self._check_batches(self.n_steps * self.n_envs)

    def _check_batches(self, rows: int) -> None:
        if self.normalize_advantage:
            assert self.batch_size > 1 and rows > 1, (
                f"normalize_advantage=True needs more than one row: batch_size={self.batch_size}, n_steps * n_envs={rows}"
            )
        warn_of_uneven_batches(self.batch_size, self.n_steps, self.n_envs)

    def coefficients(self) -> Coefficients:
        """Their values for the update that follows."""
        return Coefficients(
            clip_range=max(self.coefficient("clip_range"), MIN_CLIP_RANGE),
            clip_range_vf=None if self.clip_range_vf is None else self.coefficient("clip_range_vf"),
            normalize_advantage=self.normalize_advantage,
            ent_coef=self.coefficient("ent_coef"),
            vf_coef=self.coefficient("vf_coef"),
        )

    def planned_gradient_steps(self, timesteps: int) -> int:
        rows = self.n_steps * self.n_envs
        return ceil_div(timesteps, rows) * self.n_epochs * ceil_div(rows, self.batch_size)

    def max_distance(self) -> float | None:
        """Of the policy from the one that acted, beyond which an update ends."""
        return None if self.target_kl is None else KL_MARGIN * self.target_kl

    def update(self, rollout: Rollout) -> Metrics:
        c = self.coefficients()
        if c.clip_range_vf is not None:
            smallest = MIN_CLIP_RANGE_VF * rollout.values.abs().max().item()
            c = c._replace(clip_range_vf=max(c.clip_range_vf, smallest))
        with self.gradient_steps(c, min(self.batch_size, rollout.n_valid), self.max_distance()) as steps:
            for epoch in range(self.n_epochs):
                steps.epoch(self.minibatches(rollout, self.batch_size))
                self._n_updates += 1
                if steps.stopped:
                    if self.verbose >= 1:
                        print(f"Early stopping at step {epoch} due to reaching max kl: {steps.distance:.2f}")
                    break
        return {
            **steps.means(),
            "loss": steps.last["loss"],  # SB3's two exceptions from the mean over all minibatches
            "approx_kl": steps.last_epoch["approx_kl"],
            "explained_variance": self.explained_variance(),
            **({} if c.clip_range is None else {"clip_range": self.coefficient("clip_range")}),
            **({} if c.clip_range_vf is None else {"clip_range_vf": self.coefficient("clip_range_vf")}),
            **self.spread(),
        }
