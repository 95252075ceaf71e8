"""PPO with a penalty on the KL divergence, whose weight adapts, in place of the clip."""

from typing import Any, ClassVar, NamedTuple

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from sb3_pgx.algorithms.ppo import MIN_CLIP_RANGE, PPO, scaled_advantages, value_error
from sb3_pgx.core.checks import check_finite_not_negative, check_positive, check_positive_or_none
from sb3_pgx.core.controllers import adapted_kl_coef
from sb3_pgx.core.distributions import Family, family_of
from sb3_pgx.core.rollout import Batch, Rollout
from sb3_pgx.engine import Evaluation, Objective
from sb3_pgx.ops.metrics import approximate_kl, clip_fraction
from sb3_pgx.ops.objectives import clipped_surrogate, kl_hinge, weighted
from sb3_pgx.stages.evaluate import evaluate_rows
from sb3_pgx.stages.report import Metrics


class Coefficients(NamedTuple):
    """Their values during one update."""

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
    """The loss of a minibatch under ``"loss"``, and its parts; ``kl`` is exact."""
    assert now.distribution is not None and batch.distribution is not None
    log_ratio = now.log_prob - batch.log_prob
    ratio = log_ratio.exp()
    advantages = scaled_advantages(batch, c)
    surrogate = ratio * advantages if c.clip_range is None else clipped_surrogate(ratio, advantages, c.clip_range)
    policy_loss = -surrogate.mean()
    kl = c.family.kl(batch.distribution, now.distribution).mean()
    penalty = c.kl_coef * kl + weighted(c.hinge_coef, kl_hinge(kl, c.target_kl))
    value_loss = value_error(now, batch, c)
    entropy_loss = -now.entropy.mean()
    measured = {
        "loss": policy_loss + penalty + weighted(c.ent_coef, entropy_loss) + weighted(c.vf_coef, value_loss),
        "policy_gradient_loss": policy_loss,
        "kl_penalty": penalty,
        "value_loss": value_loss,
        "entropy_loss": entropy_loss,
        "approx_kl": approximate_kl(log_ratio.detach()),
        "minibatch_kl": kl.detach(),
    }
    return measured if c.clip_range is None else {**measured, "clip_fraction": clip_fraction(ratio, c.clip_range)}


class PPOPenalty(PPO):
    """
    Proximal policy optimisation with an adaptive KL penalty (Schulman et al., 2017, §4).

    Each minibatch step ascends the mean of r A − β KL(π_old‖π) with r = π(a|s) / π_old(a|s). The divergence is exact, from
    the distributions' parameters, in the direction old‖new and summed over action dimensions. After all epochs it is
    measured over the whole batch, and β is halved or doubled for the next iteration where it missed the target.

    Distributed PPO (Heess et al., 2017) adds ``hinge_coef`` and ``early_stop_kl``; a number for ``clip_range`` adds the clip,
    as RLlib does. Further arguments are those of :class:`~sb3_pgx.algorithms.ppo.PPO`.

    :param kl_coef: β at the start; the attribute holds the current one, which is saved with the model
    :param target_kl: the mean KL(π_old‖π) an iteration is **to reach**; unlike PPO's ``target_kl``, it stops nothing
    :param kl_tolerance: β stays where the divergence is within this factor of the target
    :param kl_factor: by which β is divided or multiplied
    :param hinge_coef: weight of max(0, KL − 2 target)², for each minibatch; 0: none
    :param early_stop_kl: end the update before the step of a minibatch whose divergence exceeds this many times the target;
        ``None``: never
    :param clip_range: ε of the clip, a number, a schedule or a string; ``None``: no clip
    :raises ValueError: an argument makes no sense
    """

    clips: ClassVar[bool] = False
    objective: ClassVar[Objective | None] = Objective(penalized_objective, distance="minibatch_kl", reads_distribution=True)

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
        max_grad_norm: float = 0.5,
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
        compile: bool | str = "auto",
    ):
        super().__init__(
            policy,
            env,
            learning_rate,
            n_steps,
            batch_size,
            n_epochs,
            gamma,
            gae_lambda,
            clip_range,  # type: ignore[arg-type]
            clip_range_vf,
            normalize_advantage,
            ent_coef,
            vf_coef,
            max_grad_norm,
            use_sde,
            sde_sample_freq,
            rollout_buffer_class,
            rollout_buffer_kwargs,
            target_kl,
            stats_window_size,
            tensorboard_log,
            policy_kwargs,
            verbose,
            seed,
            device,
            _init_setup_model=False,
            compile=compile,
        )
        self.kl_coef = kl_coef
        self.kl_tolerance = kl_tolerance
        self.kl_factor = kl_factor
        self.hinge_coef = hinge_coef
        self.early_stop_kl = early_stop_kl
        if _init_setup_model:
            self._setup_model()

    def check_arguments(self) -> None:
        super().check_arguments()
        if self.target_kl is None:
            raise ValueError("target_kl=None: PPOPenalty adapts its penalty to a target; PPO is the algorithm without one")
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
        return f"{type(self).__name__} needs the action distributions of the rollout"

    def coefficients(self) -> Coefficients:  # type: ignore[override]
        return Coefficients(
            kl_coef=self.kl_coef,
            target_kl=self.target_kl,  # type: ignore[arg-type]
            hinge_coef=self.hinge_coef,
            clip_range=None if self.clip_range is None else max(self.coefficient("clip_range"), MIN_CLIP_RANGE),
            clip_range_vf=None if self.clip_range_vf is None else self.coefficient("clip_range_vf"),
            normalize_advantage=self.normalize_advantage,
            ent_coef=self.coefficient("ent_coef"),
            vf_coef=self.coefficient("vf_coef"),
            family=family_of(self.policy.action_dist),
        )

    def max_distance(self) -> float | None:
        assert self.target_kl is not None
        return None if self.early_stop_kl is None else self.early_stop_kl * self.target_kl

    def update(self, rollout: Rollout) -> Metrics:
        used = self.kl_coef
        metrics = super().update(rollout)
        moved = self._moved(rollout)
        assert self.target_kl is not None
        self.kl_coef = adapted_kl_coef(used, float(moved["kl"]), self.target_kl, self.kl_tolerance, self.kl_factor)
        return {**metrics, **moved, "kl_coef": used}

    def _moved(self, rollout: Rollout) -> Metrics:
        """How far the update has moved the policy, over the whole batch."""
        assert rollout.distribution is not None
        self.policy.set_training_mode(False)  # as it acted
        with th.no_grad():
            _, log_prob, distribution = evaluate_rows(self.policy, rollout, with_distribution=True)
        assert distribution is not None
        valid = rollout.valid
        kl = family_of(self.policy.action_dist).kl(rollout.distribution[valid], distribution[valid])
        ratio = (log_prob - rollout.log_prob)[valid].exp()
        return {
            "kl": kl.mean(),
            "kl_max": kl.max(),
            "ratio_mean": ratio.mean(),
            "ratio_std": ratio.std(correction=0),
            "ratio_min": ratio.min(),
            "ratio_max": ratio.max(),
        }
