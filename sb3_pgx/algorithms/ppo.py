"""PPO: several passes over a rollout on the clipped surrogate objective."""

from typing import Any, ClassVar, Literal, NamedTuple

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from sb3_pgx.algorithms.proximal import MIN_CLIP_RANGE, ProximalAlgorithm, scaled_advantages, value_error
from sb3_pgx.core.evaluation import Evaluation
from sb3_pgx.core.examination import Examination
from sb3_pgx.core.rollout import Batch
from sb3_pgx.core.search_space import EPOCHS, Dimension, Scheduled
from sb3_pgx.engine import Objective
from sb3_pgx.ops.metrics import approximate_kl, clip_fraction
from sb3_pgx.ops.objectives import clipped_surrogate, sum_of, weighted

# An update ends early when the estimated KL divergence exceeds target_kl by this factor, as in SB3.
KL_MARGIN = 1.5


class Coefficients(NamedTuple):
    """Coefficients during one update."""

    clip_range: float
    clip_range_vf: float | None
    normalize_advantage: bool
    ent_coef: float
    vf_coef: float


def clipped_objective(now: Evaluation, batch: Batch, c: Coefficients) -> dict[str, Tensor]:
    """Return the loss of a minibatch as ``"loss"``, and its parts."""
    log_ratio = now.log_prob - batch.log_prob
    ratio = log_ratio.exp()
    policy_loss = -clipped_surrogate(ratio, scaled_advantages(batch, c.normalize_advantage), c.clip_range).mean()
    value_loss = value_error(now, batch, c.clip_range_vf)
    entropy_loss = -now.entropy.mean()
    return {
        "loss": sum_of(policy_loss, weighted(c.ent_coef, entropy_loss), weighted(c.vf_coef, value_loss)),
        "policy_gradient_loss": policy_loss,
        "value_loss": value_loss,
        "entropy_loss": entropy_loss,
        "approx_kl": approximate_kl(log_ratio.detach()),
        "clip_fraction": clip_fraction(ratio, c.clip_range),
    }


class PPO(ProximalAlgorithm):
    """
    Proximal policy optimisation, clipped (Schulman et al., 2017).

    Arguments, random numbers and updates are those of SB3's ``PPO``: with the same seed both compute the same numbers, as far
    as floating-point order allows. SB3 loads our saved models, and we load SB3's. SB3 needs this package for that only if the
    model holds one of its policies (which ``policy_kwargs`` may ask for) or schedules, and it takes no schedule for
    ``ent_coef`` and ``vf_coef``.

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
    :param clip_range: ε of the clipped surrogate: ratios beyond 1 ± ε get no gradient. Typical: 0.1 to 0.3. Larger values
        allow larger policy changes per update and fail more suddenly. A number, a schedule or a string (``"lin_0.2"``)
        (Schulman et al., 2017, eq. 7)
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
    :param rollout_buffer_class: your own class with the interface of SB3's ``RolloutBuffer``, filled after collection;
        ``None``: SB3's interface to the rollout
    :param rollout_buffer_kwargs: further arguments of ``rollout_buffer_class``
    :param target_kl: limit on the policy's change: an update ends before the first minibatch step with an estimated
        KL(π_old‖π) above 1.5 · target_kl, in nats. Typical: ``None``, which never stops, or 0.01 to 0.05. Larger values stop
        later
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
    :raises ValueError: an argument is invalid
    """

    objective: Objective | None = Objective(clipped_objective, distance="approx_kl")

    search_space: ClassVar[tuple[Dimension, ...]] = (*EPOCHS, Scheduled("clip_range", 0.05, 0.4))
    examination: ClassVar[Examination] = Examination(2048, 0.02, dict(n_steps=8, batch_size=128, n_epochs=4), bound="clip")

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
        max_grad_norm: float | None = 0.5,
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
        if _init_setup_model:
            self._setup_model()

    def check_arguments(self) -> None:
        """
        Check the arguments.

        :raises ValueError: an argument is invalid
        """
        super().check_arguments()
        self.coefficient("clip_range")  # it must not be None

    def coefficients(self) -> Coefficients:
        """Return the coefficients of the next update."""
        return Coefficients(
            clip_range=max(self.coefficient("clip_range"), MIN_CLIP_RANGE),
            clip_range_vf=self.optional_coefficient("clip_range_vf"),
            normalize_advantage=self.normalize_advantage,
            ent_coef=self.coefficient("ent_coef"),
            vf_coef=self.coefficient("vf_coef"),
        )

    def max_distance(self) -> float | None:
        """Return the estimated KL(π_old‖π) beyond which an update ends; ``None``: no limit."""
        return None if self.target_kl is None else KL_MARGIN * self.target_kl
