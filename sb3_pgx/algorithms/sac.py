"""SAC: off-policy learning of a policy that maximises reward and entropy."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from sb3_pgx.core.checks import as_flag, check_counts, is_number
from sb3_pgx.core.examination import OFF_POLICY_EXAMINATION, Examination
from sb3_pgx.core.replay_sampling import bootstrapped
from sb3_pgx.core.search_space import OFF_POLICY, OFF_POLICY_NETWORKS, Categorical
from sb3_pgx.engine.joint_step import Call, Step
from sb3_pgx.engine.joint_steps import Outcome, StepFunction
from sb3_pgx.stages.off_policy import OffPolicy


class Coefficients(NamedTuple):
    """
    Coefficients of one gradient step.

    :param tau: 0 if the target networks stay as they are
    :param target_entropy: ``None``: the temperature is fixed
    """

    gamma: float
    tau: float
    target_entropy: float | None
    use_sde: bool


def sac_step(step: Step, batch: Any, c: Coefficients) -> Mapping[str, Tensor]:
    """
    One gradient step of soft actor-critic (Haarnoja et al., 2018b, algorithm 1), in SB3's order: temperature, critics, actor,
    target networks.

        a ~ π(·|s), a' ~ π(·|s')
        J(α) = −log α · (log π(a|s) + H̄)
        y = r + γ (1 − terminated) (min_i Q'_i(s', a') − α log π(a'|s'))
        J(Q) = ½ Σ_i (Q_i(s, a_batch) − y)²
        J(π) = α log π(a|s) − min_i Q_i(s, a)

    α in y and J(π) is the one before the step, and Q in J(π) those after it.

    :param step: the step, of the optimizers ``ent_coef`` (if the temperature is learned), ``critic`` and ``actor``
    :param batch: a sample of the replay memory
    :param c: coefficients
    :return: α, and the means of the losses over the batch
    """
    actions, log_prob = step.call(_sampled, batch.observations, c.use_sde)
    metrics: dict[str, Tensor] = {}
    if c.target_entropy is None:
        ent_coef = step.values["ent_coef_tensor"].detach()
    else:
        log_ent_coef = step.values["log_ent_coef"]
        ent_coef = log_ent_coef.detach().exp()
        metrics["ent_coef_loss"] = -(log_ent_coef * (log_prob + c.target_entropy).detach()).mean()
        step.minimize(metrics["ent_coef_loss"], "ent_coef")
    targets = soft_targets(step.call, batch, c.gamma, ent_coef)
    values = step.call(_values, batch.observations, batch.actions)
    critic_loss = 0.5 * th.stack([F.mse_loss(value, targets) for value in values]).sum()
    step.minimize(critic_loss, "critic")
    least = th.cat(step.call(_values, batch.observations, actions), dim=1).min(dim=1, keepdim=True).values
    actor_loss = (ent_coef * log_prob - least).mean()
    step.minimize(actor_loss, "actor")
    step.track("critic", "critic_target", c.tau)
    return {"ent_coef": ent_coef.reshape(()), "actor_loss": actor_loss, "critic_loss": critic_loss, **metrics}


def soft_targets(call: Call, batch: Any, gamma: Any, ent_coef: Tensor) -> Tensor:
    """
    Return y of :func:`sac_step`, the critics' targets, ``[B, 1]``, without gradients.

    :param call: calls a function of the policy
    :param batch: a sample of the replay memory
    :param gamma: γ, used where the batch has no discounts of its own
    :param ent_coef: α
    """
    with th.no_grad():
        actions, log_prob = call(_sampled, batch.next_observations)
        next_values = call(_least_target_value, batch.next_observations, actions) - ent_coef * log_prob
        return bootstrapped(batch, gamma, next_values)


def _sampled(policy: SACPolicy, observations: Any, new_noise: bool = False) -> tuple[Tensor, Tensor]:
    """Return sampled actions, ``[B, D]``, and log π of them, ``[B, 1]``."""
    if new_noise:
        policy.actor.reset_noise()
    actions, log_prob = policy.actor.action_log_prob(observations)
    return actions, log_prob.reshape(-1, 1)


def _values(policy: SACPolicy, observations: Any, actions: Tensor) -> tuple[Tensor, ...]:
    return policy.critic(observations, actions)


def _least_target_value(policy: SACPolicy, observations: Any, actions: Tensor) -> Tensor:
    return th.cat(policy.critic_target(observations, actions), dim=1).min(dim=1, keepdim=True).values


class SAC(OffPolicy, sb3.SAC):
    """
    Soft actor-critic with a learned temperature (Haarnoja et al., 2018b): a squashed Gaussian policy that maximises reward and
    entropy, learned from a replay memory.

    Arguments, random numbers, log keys, files and updates are those of SB3's ``SAC``: with the same seed both compute the same
    numbers, as far as floating-point order allows. ``learning_rate`` also takes a string. One function takes the gradient step
    of critics, actor, temperature and target networks; it runs eagerly or as one compiled graph.

    :param policy: ``"MlpPolicy"`` (vectors), ``"CnnPolicy"`` (images), ``"MultiInputPolicy"`` (dictionaries), or a policy
        class
    :param env: an environment with Box actions, a ``VecEnv`` of them, or the id of a registered environment
    :param learning_rate: step size of all optimizers (Adam). Typical: 1e-4 to 1e-3. Larger values learn faster until the
        critics diverge. A number, a function of the remaining progress (1 to 0) or a string such as ``"lin_3e-4"``
    :param buffer_size: transitions in the replay memory, over all environments. Typical: 1e5 to 1e6. Larger values forget less
        and learn more from old policies; each transition takes the memory of two observations
    :param learning_starts: environment steps before the first gradient step, with uniformly random actions. Typical: 100 to
        10,000. Larger values give the critics more varied transitions to begin with
    :param batch_size: transitions per gradient step. Typical: 64 to 512. Larger values give less noisy steps that take longer
    :param tau: τ of the target networks, θ' ← (1 − τ) θ' + τ θ per step, in [0, 1]. Typical: 0.005 to 0.02. Larger values
        track the networks faster and stabilise less; 1 copies them
    :param gamma: γ, discount factor per step, in [0, 1]. Typical: 0.95 to 0.999; rewards count over about 1/(1 − γ) steps.
        Larger values look further ahead and make the critics harder to learn
    :param train_freq: environment steps between two calls of ``train``, per environment, or a tuple such as ``(1, "episode")``
        (one environment only). Typical: 1 to 64. Larger values collect more with the same policy
    :param gradient_steps: gradient steps per call of ``train``; −1: as many as environment steps since the last call. Typical:
        1, or equal to ``train_freq``. Larger values learn more from each transition, until the critics overfit
    :param action_noise: noise added to the actions while exploring, in units of actions scaled to [−1, 1], such as SB3's
        ``NormalActionNoise``; ``None``: no noise
    :param replay_buffer_class: class of the replay memory, such as SB3's ``HerReplayBuffer``; ``None``: SB3's class for the
        observations and ``n_steps``
    :param replay_buffer_kwargs: further arguments of the replay memory's constructor
    :param optimize_memory_usage: store each observation once. It needs
        ``replay_buffer_kwargs=dict(handle_timeout_termination=False)``, so truncated episodes count as terminated
    :param n_steps: steps of the critics' returns, r_t + … + γ^n Q(s_{t+n}, ·). Typical: 1 to 5. Larger values pass rewards on
        faster, with more variance and a bias, because the actions are those of old policies
    :param ent_coef: temperature α, weight of the entropy in nats: a number >= 0, ``"auto"``, which learns it from 1, or such
        as ``"auto_0.1"``, which learns it from 0.1. Typical: ``"auto"``, or 0.01 to 0.2. Larger values keep the policy more
        random (Haarnoja et al., 2018b, section 5)
    :param target_update_interval: gradient steps between two moves of the target networks; each call of ``train`` counts from
        0. Typical: 1. Larger values track more slowly
    :param target_entropy: entropy H̄ of the policy, in nats, to which a learned temperature leads; ``"auto"``: −(number of
        action components). Typical: −2 to −0.25 times this number. Larger values keep the policy more random
    :param use_sde: use generalised state-dependent exploration (Raffin et al., 2022): smooth exploration noise
    :param sde_sample_freq: steps between two draws of the noise of ``use_sde``. Typical: 4 to 64, or −1, once per
        ``train_freq``. Larger values explore more smoothly
    :param use_sde_at_warmup: with ``use_sde``, let the policy act before ``learning_starts``, instead of uniformly random
        actions
    :param stats_window_size: number of recent episodes that ``rollout/ep_rew_mean`` averages over. Typical: 100. Larger values
        give smoother curves that lag more; training does not depend on it
    :param tensorboard_log: folder for TensorBoard logs; ``None`` writes none
    :param policy_kwargs: arguments of the policy's constructor, such as ``dict(net_arch=[256, 256], n_critics=2)``
    :param verbose: 0 prints nothing, 1 prints messages and the log, 2 adds debug messages
    :param seed: seed of weights, actions, samples of the memory and environments; ``None``: not seeded
    :param device: ``"cpu"``, ``"cuda"`` or ``"auto"`` (CUDA if available)
    :param _init_setup_model: build the networks at once; SB3 passes ``False`` while loading
    :param compile: compile acting and the gradient step: ``True``, ``False``, or ``"auto"``, which compiles if the run is long
        enough to repay it (:data:`sb3_pgx.engine.compiler.COMPILE_AFTER`)
    :raises ValueError: an argument is invalid
    :raises AssertionError: the environment's actions are no Box
    """

    search_space = (*OFF_POLICY, Categorical("ent_coef", ("auto", 0.2, 0.1, 0.05, 0.01)))
    networks = OFF_POLICY_NETWORKS["medium"]
    examination = Examination(4096, 0.01, dict(OFF_POLICY_EXAMINATION, ent_coef=0.02))

    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str,
        learning_rate: float | str | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        ent_coef: str | float = "auto",
        target_update_interval: int = 1,
        target_entropy: str | float = "auto",
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        use_sde_at_warmup: bool = False,
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
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            action_noise=action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            ent_coef=ent_coef,
            target_update_interval=target_update_interval,
            target_entropy=target_entropy,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            use_sde_at_warmup=use_sde_at_warmup,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            compile=compile,
        )
        if _init_setup_model:
            self._setup_model()

    def check_arguments(self) -> None:
        super().check_arguments()
        check_counts(target_update_interval=self.target_update_interval)
        self.use_sde_at_warmup = as_flag("use_sde_at_warmup", self.use_sde_at_warmup)
        start: Any = self.ent_coef
        if isinstance(start, str) and start.startswith("auto"):
            start = start.partition("_")[2] or 1.0
            if not _is_positive(start):
                raise ValueError(
                    f'ent_coef={self.ent_coef!r}: the temperature after "auto_" must be positive, as in "auto_0.1"'
                )
        elif not _is_positive(start) and start != 0:
            raise ValueError(f'ent_coef={self.ent_coef!r} must be a number >= 0, "auto", or such as "auto_0.1"')
        if self.target_entropy != "auto" and not is_number(self.target_entropy):
            raise ValueError(f'target_entropy={self.target_entropy!r} must be a number (in nats), or "auto"')

    def optimizers(self) -> Mapping[str, Optimizer]:
        learned = {} if self.ent_coef_optimizer is None else {"ent_coef": self.ent_coef_optimizer}
        return {**learned, "critic": self.critic.optimizer, "actor": self.actor.optimizer}

    def other_values(self) -> Mapping[str, Tensor]:
        if self.log_ent_coef is None:
            return {"ent_coef_tensor": self.ent_coef_tensor}
        return {"log_ent_coef": self.log_ent_coef}

    def next_step(self, index: int) -> tuple[StepFunction, Coefficients]:
        tau = self.tau if self._moves_targets(index) else 0.0
        entropy = None if self.ent_coef_optimizer is None else float(self.target_entropy)
        return sac_step, Coefficients(self.gamma, tau, entropy, self.use_sde)

    def after_step(self, index: int, batch: Any, outcome: Outcome) -> None:
        if self._moves_targets(index):
            polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)

    def _moves_targets(self, index: int) -> bool:
        return index % self.target_update_interval == 0


def _is_positive(value: Any) -> bool:
    try:
        return 0 < float(value) < np.inf
    except (TypeError, ValueError):
        return False
