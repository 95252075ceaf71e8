"""PPO with an adaptive penalty on the KL divergence in place of the clip."""

from typing import Any, ClassVar, Literal, NamedTuple

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from sb3_pgx.algorithms.proximal import MIN_CLIP_RANGE, ProximalAlgorithm, scaled_advantages, value_error
from sb3_pgx.core.checks import check_finite_not_negative, check_positive, check_positive_or_none
from sb3_pgx.core.controllers import adapted_kl_coef
from sb3_pgx.core.distributions import Family, family_of
from sb3_pgx.core.evaluation import Evaluation
from sb3_pgx.core.examination import Examination
from sb3_pgx.core.rollout import Batch, Rollout
from sb3_pgx.core.search_space import EPOCHS, Dimension, Real
from sb3_pgx.engine import Objective
from sb3_pgx.ops.metrics import approximate_kl, clip_fraction
from sb3_pgx.ops.objectives import clipped_surrogate, kl_hinge, sum_of, weighted
from sb3_pgx.stages.evaluate import evaluate_rows
from sb3_pgx.stages.report import Metrics


class Coefficients(NamedTuple):
    """Coefficients during one update."""

    kl_coef: float
    target_kl: float
    hinge_coef: float
    clip_range: float | None
    clip_range_vf: float | None
    normalize_advantage: bool
    ent_coef: float
    vf_coef: float
    family: Family


def penalized_objective(now: Evaluation, batch: Batch, c: Coefficients) -> dict[str, Tensor]:
    """Return the loss of a minibatch as ``"loss"``, and its parts. The KL divergence is exact, not estimated."""
    assert now.distribution is not None and batch.distribution is not None
    log_ratio = now.log_prob - batch.log_prob
    ratio = log_ratio.exp()
    advantages = scaled_advantages(batch, c.normalize_advantage)
    surrogate = ratio * advantages if c.clip_range is None else clipped_surrogate(ratio, advantages, c.clip_range)
    policy_loss = -surrogate.mean()
    kl = c.family.kl(batch.distribution, now.distribution).mean()
    penalty = sum_of(c.kl_coef * kl, weighted(c.hinge_coef, kl_hinge(kl, c.target_kl)))
    value_loss = value_error(now, batch, c.clip_range_vf)
    entropy_loss = -now.entropy.mean()
    measured = {
        "loss": sum_of(policy_loss + penalty, weighted(c.ent_coef, entropy_loss), weighted(c.vf_coef, value_loss)),
        "policy_gradient_loss": policy_loss,
        "kl_penalty": penalty,
        "value_loss": value_loss,
        "entropy_loss": entropy_loss,
        "approx_kl": approximate_kl(log_ratio.detach()),
        "minibatch_kl": kl.detach(),
    }
    return measured if c.clip_range is None else {**measured, "clip_fraction": clip_fraction(ratio, c.clip_range)}


class PPOPenalty(ProximalAlgorithm):
    """
    Proximal policy optimisation with an adaptive KL penalty in place of the clip (Schulman et al., 2017, §4).

    Each minibatch step ascends the mean of r A − β KL(π_old‖π) with r = π(a|s) / π_old(a|s). The divergence is computed
    exactly from the distributions' parameters and summed over action dimensions. After all epochs it is measured over the
    whole batch; if it missed the target, β is halved or doubled for the next update.

    Distributed PPO (Heess et al., 2017) adds ``hinge_coef`` and ``early_stop_kl``. A number for ``clip_range`` adds the clip,
    as RLlib does.

    :param policy: ``"MlpPolicy"`` (vectors), ``"CnnPolicy"`` (images), ``"MultiInputPolicy"`` (dictionaries), or a policy
        class
    :param env: an environment, a ``VecEnv`` or the id of a registered environment
    :param learning_rate: step size of the optimizer (Adam). Typical: 1e-5 to 1e-3. Larger values learn faster until updates
        become unstable. A number, a function of the remaining progress (1 to 0) or a string such as ``"lin_3e-4"``
    :param n_steps: steps per environment and rollout; the batch of an update has n_steps · n_envs rows. Typical: 32 to 4096.
        Larger values give better gradients and fewer updates per environment step
    :param batch_size: rows of a minibatch, at most the whole rollout. Typical: 32 to 4096. Larger values give less noisy and
        fewer gradient steps
    :param n_epochs: passes over the rollout per update. Typical: 3 to 20. Larger values learn more from each sample, until the
        policy has moved too far from the one that acted
    :param gamma: γ, discount factor per step, in [0, 1]. Typical: 0.98 to 0.999; rewards count over about 1/(1 − γ) steps.
        Larger values look further ahead, with more variance
    :param gae_lambda: λ of generalised advantage estimation, in [0, 1]. Typical: 0.9 to 0.98. 0 gives one-step advantages, 1
        Monte-Carlo returns minus V(s). Larger values bring less bias from the critic and more variance (Schulman et al., 2016,
        eq. 16)
    :param clip_range_vf: largest distance of a value from the one before the update, in units of the return; beyond it the
        value gets no gradient. Typical: ``None``, which disables value clipping, or 0.1 to 0.5 with normalised rewards. Larger
        values let the critic learn faster. A number, a schedule or a string
    :param normalize_advantage: standardise the advantages over each minibatch to mean 0 and standard deviation 1, so that the
        step does not depend on the scale of the rewards
    :param ent_coef: weight of the entropy (in nats) in the loss. Typical: 0 to 0.01. Larger values keep the policy more
        random. A number, a schedule or a string (Schulman et al., 2017, eq. 9)
    :param vf_coef: weight of the mean squared value error in the loss. Typical: 0.25 to 1. Larger values train the critic
        harder; matters most if actor and critic share layers. A number, a schedule or a string (Schulman et al., 2017, eq. 9)
    :param max_grad_norm: largest L2 norm of the gradient, which is scaled down to it. Typical: 0.5 to 1. Smaller values damp
        outliers; under Adam and RMSprop, a limit that is always active changes little. ``None`` disables clipping
    :param use_sde: use generalised state-dependent exploration (Raffin et al., 2022): smooth exploration noise, Box actions
        only
    :param sde_sample_freq: steps between two draws of the noise of ``use_sde``. Typical: 4 to 64, or −1, once per rollout.
        Larger values explore more smoothly
    :param rollout_buffer_class: for compatibility with SB3; only ``None`` and SB3's own classes, since others cannot
        hold action distributions
    :param rollout_buffer_kwargs: further arguments of ``rollout_buffer_class``
    :param kl_coef: β, weight of the KL penalty, at the start of training. Typical: 0.2 to 3; it adapts quickly, so the start
        matters little. Larger values move the policy less per update. The attribute holds the current β and is saved with the
        model (Schulman et al., 2017, eq. 8)
    :param target_kl: mean KL(π_old‖π), in nats, that each update **should reach**; unlike PPO's ``target_kl``, it stops
        nothing. Typical: 0.003 to 0.03. Larger values allow larger policy changes per update (Schulman et al., 2017, §4)
    :param kl_tolerance: factor > 1; β stays while the divergence is between target_kl / kl_tolerance and target_kl ·
        kl_tolerance. Typical: 1.3 to 2. Larger values adapt β less often
    :param kl_factor: factor > 1 by which β is multiplied or divided. Typical: 1.5 to 2. Larger values adapt faster and may
        oscillate
    :param hinge_coef: weight of max(0, KL − 2 · target_kl)² per minibatch, a barrier against large changes. Typical: 0, which
        disables it, or 50 to 1000. Larger values make the barrier steeper (Heess et al., 2017)
    :param early_stop_kl: an update ends before the first minibatch step with a divergence above early_stop_kl · target_kl.
        Typical: ``None``, which never stops, or 4. Larger values stop later (Heess et al., 2017)
    :param clip_range: ε of an additional clip: ratios beyond 1 ± ε get no gradient. Typical: ``None``, which disables it, or
        0.1 to 0.3. Larger values clip less. A number, a schedule or a string
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
    :param sequence_length: for recurrent policies: make minibatches of pieces of so many consecutive steps, in random order.
        The gradient goes back to the start of a piece at most. Typical: ``None``, or 8 to 64, which divide ``batch_size``.
        ``None``: a minibatch has consecutive steps, as in sb3-contrib. Smaller values mix more and remember less
    :raises ValueError: an argument is invalid, or the action distribution has no KL divergence in closed form
    """

    objective: Objective | None = Objective(penalized_objective, distance="minibatch_kl", reads_distribution=True)

    search_space: ClassVar[tuple[Dimension, ...]] = (
        *EPOCHS,
        Real("kl_coef", 0.1, 10.0),
        Real("target_kl", 1e-3, 0.1),
    )
    examination: ClassVar[Examination] = Examination(2048, 0.02, dict(n_steps=8, batch_size=128, n_epochs=4, target_kl=0.03))

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
        clip_range_vf: float | str | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float | str | Schedule = 0.0,
        vf_coef: float | str | Schedule = 0.5,
        max_grad_norm: float | None = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        kl_coef: float = 1.0,
        target_kl: float = 0.01,
        kl_tolerance: float = 1.5,
        kl_factor: float = 2.0,
        hinge_coef: float = 0.0,
        early_stop_kl: float | None = None,
        clip_range: float | str | Schedule | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        compile: bool | Literal["auto"] = "auto",
        sequence_length: int | None = None,
    ):
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            clip_range_vf=clip_range_vf,
            normalize_advantage=normalize_advantage,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            target_kl=target_kl,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            compile=compile,
            sequence_length=sequence_length,
        )
        self.kl_coef = kl_coef
        self.kl_tolerance = kl_tolerance
        self.kl_factor = kl_factor
        self.hinge_coef = hinge_coef
        self.early_stop_kl = early_stop_kl
        if _init_setup_model:
            self._setup_model()

    def check_arguments(self) -> None:
        """
        Check the arguments.

        :raises ValueError: an argument is invalid
        """
        super().check_arguments()
        if self.target_kl is None:
            raise ValueError("target_kl=None: PPOPenalty adapts its penalty to a target: give a positive number, or use PPO")
        check_positive(
            kl_coef=self.kl_coef, target_kl=self.target_kl, kl_tolerance=self.kl_tolerance, kl_factor=self.kl_factor
        )
        for name in ("kl_tolerance", "kl_factor"):
            if not getattr(self, name) > 1:
                raise ValueError(f"{name}={getattr(self, name)} must be greater than 1")
        check_finite_not_negative(hinge_coef=self.hinge_coef)
        check_positive_or_none("never ends an update early", early_stop_kl=self.early_stop_kl)

    @property
    def refuses_buffers(self) -> str | None:
        """Return why the algorithm cannot learn from a user's own buffer class."""
        return f"{type(self).__name__} needs the action distributions of the rollout"

    def coefficients(self) -> Coefficients:
        """Return the coefficients of the next update."""
        clip_range = self.optional_coefficient("clip_range")
        return Coefficients(
            kl_coef=self.kl_coef,
            target_kl=self.target_kl,  # type: ignore[arg-type]
            hinge_coef=self.hinge_coef,
            clip_range=None if clip_range is None else max(clip_range, MIN_CLIP_RANGE),
            clip_range_vf=self.optional_coefficient("clip_range_vf"),
            normalize_advantage=self.normalize_advantage,
            ent_coef=self.coefficient("ent_coef"),
            vf_coef=self.coefficient("vf_coef"),
            family=family_of(self.policy.action_dist),
        )

    def max_distance(self) -> float | None:
        """Return the KL(π_old‖π) of a minibatch beyond which an update ends; ``None``: no limit."""
        assert self.target_kl is not None
        return None if self.early_stop_kl is None else self.early_stop_kl * self.target_kl

    def after_steps(self, rollout: Rollout) -> Metrics:
        """
        Measure the KL divergence and adapt β for the next update.

        :param rollout: rollout with advantages, returns and action distributions
        :return: what to log, without the prefix ``train/``
        """
        used = self.kl_coef
        distance = self.policy_change(rollout)
        assert self.target_kl is not None
        self.kl_coef = adapted_kl_coef(used, float(distance["kl"]), self.target_kl, self.kl_tolerance, self.kl_factor)
        return {**distance, "kl_coef": used}

    def policy_change(self, rollout: Rollout) -> Metrics:
        """Return KL(old‖new) and the ratio π_new / π_old over all valid rows, where old is the policy that acted."""
        assert rollout.distribution is not None
        self.policy.set_training_mode(False)  # as during acting
        with th.no_grad():
            _, log_prob, distribution = evaluate_rows(self.policy, rollout, with_distribution=True)
        assert distribution is not None
        valid = rollout.valid
        kl = self.team.of_all(family_of(self.policy.action_dist).kl(rollout.distribution[valid], distribution[valid]))
        ratio = self.team.of_all((log_prob - rollout.log_prob)[valid].exp())
        return {
            "kl": kl.mean(),
            "kl_max": kl.max(),
            "ratio_mean": ratio.mean(),
            "ratio_std": ratio.std(correction=0),
            "ratio_min": ratio.min(),
            "ratio_max": ratio.max(),
        }
