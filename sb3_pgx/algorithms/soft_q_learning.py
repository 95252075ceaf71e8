"""Soft Q-learning: off-policy learning of a policy in proportion to exp(Q/α)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import configure_logger, get_parameters_by_name, polyak_update
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from sb3_pgx.algorithms.sb3_base import SetUpLater
from sb3_pgx.core.checks import check_counts, check_positive
from sb3_pgx.core.energy_based_policies import (
    DiscreteSoftQCnnPolicy,
    DiscreteSoftQMultiInputPolicy,
    DiscreteSoftQPolicy,
    SoftQCnnPolicy,
    SoftQMultiInputPolicy,
    SoftQPolicy,
)
from sb3_pgx.core.errors import one_line
from sb3_pgx.core.examination import OFF_POLICY_EXAMINATION, Examination
from sb3_pgx.core.replay_sampling import bootstrapped
from sb3_pgx.core.search_space import OFF_POLICY, OFF_POLICY_NETWORKS, Real
from sb3_pgx.core.spaces import start_of
from sb3_pgx.engine.joint_step import Call, Step
from sb3_pgx.engine.joint_steps import Outcome, StepFunction
from sb3_pgx.ops.energy_based import log_tanh_slope, sampled_soft_value, soft_value, stein_direction
from sb3_pgx.stages.off_policy import OffPolicy


class Coefficients(NamedTuple):
    """
    Coefficients of one gradient step.

    :param temperature: α
    :param tau: 0 if the target networks stay as they are
    :param n_value_samples: actions per soft value, as a tuple: a graph depends on it. Empty for Discrete actions
    :param n_particles: actions per state in the sampler's step, as a tuple, which is empty for Discrete actions
    :param kernel_scales: bandwidths of the kernel, as multiples of the median heuristic's
    """

    gamma: float
    temperature: float
    tau: float
    n_value_samples: tuple[int, ...]
    n_particles: tuple[int, ...]
    kernel_scales: tuple[float, ...]


class Target(NamedTuple):
    """
    What the critics are fitted to, without gradients.

    :param targets: y, ``[B, 1]``
    :param soft_values: V(s') in them, ``[B, 1]``
    :param values: Q'(s', ·) of the actions in V(s'): of uniformly random ones, or of all choices, ``[B, K]``
    """

    targets: Tensor
    soft_values: Tensor
    values: Tensor


def soft_q_step(step: Step, batch: Any, c: Coefficients) -> Mapping[str, Tensor]:
    """
    One gradient step of soft Q-learning (Haarnoja et al., 2017, algorithm 1): critics, sampler, target networks.

        y = r + γ (1 − terminated) V(s')
        J(Q) = ½ Σ_i (Q_i(s, a_batch) − y)²

    With Discrete actions, V(s') = α log Σ_a exp(Q'(s', a) / α), and there is no sampler. With Box actions,

        V(s') = α log mean_k exp(Q'(s', a_k) / α) + α D log 2,   a_k ~ uniform on [−1, 1]^D

    and the sampler takes the step of :func:`sampler_step`, with the critics after their step.

    :param step: the step, of the optimizers ``critic`` and, with Box actions, ``actor``
    :param batch: a sample of the replay memory
    :param c: coefficients
    :return: the means over the batch of the losses and of the soft values
    """
    targets, soft_values, _ = soft_targets(step.call, batch, c)
    values = step.call(_values, batch.observations, batch.actions)
    critic_loss = 0.5 * th.stack([F.mse_loss(value, targets) for value in values]).sum()
    step.minimize(critic_loss, "critic")
    of_sampler = sampler_step(step, batch, c) if c.n_particles else {}
    step.track("critic", "critic_target", c.tau)
    return {"critic_loss": critic_loss, "soft_value": soft_values.mean(), **of_sampler}


def sampler_step(step: Step, batch: Any, c: Coefficients) -> Mapping[str, Tensor]:
    """
    One step of amortised Stein variational gradient descent (Haarnoja et al., 2017, eq. 13 and 14): the sampler's parameters
    φ follow the direction Δ in which its actions come nearer to exp(Q/α).

        a = tanh u,   u = f_φ(s, ξ)
        φ ← φ + λ E[Δ(u) ∂f_φ/∂φ]

    Half of the actions are the particles of :func:`~sb3_pgx.ops.energy_based.stein_direction`, and the other half move. The
    target is the density of u, exp(Q(s, tanh u)/α) Π (1 − tanh² u), and the kernel compares a.

    :param step: the step, of the optimizer ``actor``
    :param batch: a sample of the replay memory; only its states count
    :param c: coefficients
    :return: the root mean square of Δ
    """
    (n,) = c.n_particles
    moving = step.call(_sample_before_tanh, batch.observations, n)
    fixed, moved = moving[:, : n // 2].detach().requires_grad_(True), moving[:, n // 2 :]
    log_density = step.call(_energy, batch.observations, fixed) / c.temperature + log_tanh_slope(fixed).sum(dim=2)
    (scores,) = th.autograd.grad(log_density.sum(), fixed)
    with th.no_grad():
        actions = fixed.tanh()
        direction = stein_direction(actions, scores, moved.tanh(), 1 - actions.square(), c.kernel_scales)
    step.minimize(-(direction * moved).sum(dim=2).mean(), "actor")
    return {"stein_direction": direction.square().mean().sqrt()}


def soft_targets(call: Call, batch: Any, c: Coefficients) -> Target:
    """
    Return what the critics are fitted to.

    :param call: calls a function of the policy
    :param batch: a sample of the replay memory
    :param c: coefficients
    """
    with th.no_grad():
        if c.n_value_samples:
            actions = uniform_actions(batch.actions, *c.n_value_samples)
            values = call(_target_values, batch.next_observations, actions)
            soft_values = sampled_soft_value(values, -actions.shape[2] * math.log(2), c.temperature)
        else:
            values = call(_target_values_of_choices, batch.next_observations)
            soft_values = soft_value(values, c.temperature)
        return Target(bootstrapped(batch, c.gamma, soft_values), soft_values, values)


def uniform_actions(like: Tensor, n: int) -> Tensor:
    """
    Return uniformly distributed actions, scaled to [−1, 1], ``[B, n, D]``.

    :param like: actions, ``[B, D]``
    :param n: actions per row
    """
    # The exponential distribution function of an exponential number is uniform; a graph can be given such numbers.
    waiting = th.empty((len(like), n, like.shape[1]), dtype=like.dtype, device=like.device).exponential_()
    return 1 - 2 * (-waiting).exp()


def _values(policy: SoftQPolicy | DiscreteSoftQPolicy, observations: Any, actions: Tensor) -> tuple[Tensor, ...]:
    return policy.critic(observations, actions)


def _sample_before_tanh(policy: SoftQPolicy, observations: Any, n: int) -> Tensor:
    return policy.actor.before_tanh(observations, n)


def _energy(policy: SoftQPolicy, observations: Any, before_tanh: Tensor) -> Tensor:
    return policy.q_values(policy.critic, observations, before_tanh.tanh())


def _target_values(policy: SoftQPolicy, observations: Any, actions: Tensor) -> Tensor:
    return policy.q_values(policy.critic_target, observations, actions)


def _target_values_of_choices(policy: DiscreteSoftQPolicy, observations: Any) -> Tensor:
    return policy.critic_target(observations)


class SoftQLearning(OffPolicy, SetUpLater):
    """
    Soft Q-learning (Haarnoja et al., 2017): a policy in proportion to exp(Q(s, a)/α), which keeps to all good ways to act
    instead of one, learned from a replay memory.

    With Box actions, the soft values are estimated by importance sampling, and a network learns to sample from the policy by
    amortised Stein variational gradient descent. With Discrete actions, soft values and samples are exact.

    One function takes the gradient step of critics, sampler and target networks; it runs eagerly or as one compiled graph.

    :param policy: ``"MlpPolicy"`` (vectors), ``"CnnPolicy"`` (images), ``"MultiInputPolicy"`` (dictionaries), or a policy
        class
    :param env: an environment with Box or Discrete actions, a ``VecEnv`` of them, or the id of a registered environment
    :param learning_rate: step size of all optimizers (Adam). Typical: 1e-4 to 1e-3. Larger values learn faster until the
        critics diverge. A number, a function of the remaining progress (1 to 0) or a string such as ``"lin_3e-4"``
    :param buffer_size: transitions in the replay memory, over all environments. Typical: 1e5 to 1e6. Larger values forget less
        and learn more from old policies; each transition takes the memory of two observations
    :param learning_starts: environment steps before the first gradient step, with uniformly random actions. Typical: 100 to
        10,000. Larger values give the critics more varied transitions to begin with
    :param batch_size: transitions per gradient step. Typical: 64 to 256. Larger values give less noisy steps that take longer
    :param tau: τ of the target networks, θ' ← (1 − τ) θ' + τ θ per move, in [0, 1]. Typical: 0.005 to 0.02, or 1 with
        ``target_update_interval=1000`` as in the paper. Larger values track the networks faster and stabilise less
    :param gamma: γ, discount factor per step, in [0, 1]. Typical: 0.95 to 0.999; rewards count over about 1/(1 − γ) steps.
        Larger values look further ahead and make the critics harder to learn
    :param train_freq: environment steps between two calls of ``train``, per environment, or a tuple such as ``(1, "episode")``
        (one environment only). Typical: 1 to 64. Larger values collect more with the same policy
    :param gradient_steps: gradient steps per call of ``train``; −1: as many as environment steps since the last call. Typical:
        1, or equal to ``train_freq``. Larger values learn more from each transition, until the critics overfit
    :param action_noise: noise added to Box actions while exploring, in units of actions scaled to [−1, 1], such as SB3's
        ``NormalActionNoise``; ``None``: no noise
    :param replay_buffer_class: class of the replay memory, such as SB3's ``HerReplayBuffer``; ``None``: SB3's class for the
        observations and ``n_steps``
    :param replay_buffer_kwargs: further arguments of the replay memory's constructor
    :param optimize_memory_usage: store each observation once. It needs
        ``replay_buffer_kwargs=dict(handle_timeout_termination=False)``, so truncated episodes count as terminated
    :param n_steps: steps of the critics' returns, r_t + … + γ^n V(s_{t+n}). Typical: 1. Larger values pass rewards on faster,
        with a bias, because the actions are those of old policies and the entropy in between is left out
    :param ent_coef: temperature α > 0, in units of rewards per nat. Typical: 0.02 to 1 times the rewards' size per step.
        Larger values keep the policy more random; the paper has 1 and multiplies the rewards by 1/α instead
    :param target_update_interval: gradient steps between two moves of the target networks. Typical: 1, or 1,000 with
        ``tau=1``. Larger values track more slowly
    :param n_particles: actions per state in the sampler's step, even: half of them repel and guide the others; Box actions
        alone. Typical: 16 to 64. Larger values give less noisy steps; their cost grows with the square
    :param n_value_samples: uniformly random actions per soft value; Box actions alone. Typical: 16 to 64. Larger values have
        less bias and variance, and are needed where α is small or actions have many components
    :param kernel_scales: bandwidths of the sampler's kernels, as multiples of the median heuristic. Typical: from 0.05 to 1.
        Smaller ones resolve narrower modes, with noisier steps; larger ones move samples between distant modes
    :param stats_window_size: number of recent episodes that ``rollout/ep_rew_mean`` averages over. Typical: 100. Larger values
        give smoother curves that lag more; training does not depend on it
    :param tensorboard_log: folder for TensorBoard logs; ``None`` writes none
    :param policy_kwargs: arguments of the policy's constructor, such as ``dict(net_arch=[256, 256], n_critics=2)``
        (:class:`~sb3_pgx.core.energy_based_policies.SoftQPolicy`)
    :param verbose: 0 prints nothing, 1 prints messages and the log, 2 adds debug messages
    :param seed: seed of weights, actions, samples of the memory and environments; ``None``: not seeded
    :param device: ``"cpu"``, ``"cuda"`` or ``"auto"`` (CUDA if available)
    :param _init_setup_model: build the networks at once; SB3 passes ``False`` while loading
    :param compile: compile acting and the gradient step: ``True``, ``False``, or ``"auto"``, which compiles if the run is long
        enough to repay it (:data:`sb3_pgx.engine.compiler.COMPILE_AFTER`)
    :raises ValueError: an argument is invalid
    :raises AssertionError: the environment's actions are neither Box nor Discrete
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": SoftQPolicy,
        "CnnPolicy": SoftQCnnPolicy,
        "MultiInputPolicy": SoftQMultiInputPolicy,
    }
    search_space = (*OFF_POLICY, Real("ent_coef", 0.01, 10.0))
    networks = OFF_POLICY_NETWORKS["medium"]
    examination = Examination(4096, 0.01, dict(OFF_POLICY_EXAMINATION, ent_coef=0.02, n_particles=8, n_value_samples=16))
    policy: SoftQPolicy | DiscreteSoftQPolicy
    _function: StepFunction | None = None  # of a gradient step, if it is not the algorithm's

    def __init__(
        self,
        policy: str | type[SoftQPolicy] | type[DiscreteSoftQPolicy],
        env: GymEnv | str,
        learning_rate: float | str | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 128,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        ent_coef: float = 1.0,
        target_update_interval: int = 1,
        n_particles: int = 32,
        n_value_samples: int = 32,
        kernel_scales: Sequence[float] = (0.0625, 0.25, 1.0),
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
        if isinstance(policy_kwargs, dict) and "temperature" in policy_kwargs:
            raise ValueError("policy_kwargs has temperature, which is SoftQLearning's ent_coef: give it there")
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
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            compile=compile,
            supported_action_spaces=(spaces.Box, spaces.Discrete),
        )
        self.ent_coef, self.target_update_interval = ent_coef, target_update_interval
        self.n_particles, self.n_value_samples, self.kernel_scales = n_particles, n_value_samples, kernel_scales
        if _init_setup_model:
            self._setup_model()

    @property
    def chooses(self) -> bool:
        """Whether actions are Discrete."""
        return isinstance(self.action_space, spaces.Discrete)

    def _explained(self, error: AssertionError) -> AssertionError:
        space = getattr(self, "action_space", None)
        if space is None or isinstance(space, spaces.Box | spaces.Discrete):
            return error
        return AssertionError(
            f"SoftQLearning needs Box or Discrete actions, but the action space is {one_line(space)}: use PPO, A2C or another "
            "on-policy algorithm"
        )

    def check_arguments(self) -> None:
        if self.chooses:
            self.policy_class = FOR_CHOICES.get(self.policy_class, self.policy_class)
        super().check_arguments()
        check_positive(ent_coef=self.ent_coef)
        check_counts(target_update_interval=self.target_update_interval, n_value_samples=self.n_value_samples)
        check_counts(2, n_particles=self.n_particles)
        if self.n_particles % 2:
            raise ValueError(f"n_particles={self.n_particles} must be even: one half guides the other")
        scales = self.kernel_scales
        if isinstance(scales, str) or not isinstance(scales, Sequence) or not scales:
            raise ValueError(f"kernel_scales={scales!r} must be a list of positive numbers, such as [0.0625, 0.25, 1.0]")
        for i, scale in enumerate(scales):
            check_positive(**{f"kernel_scales[{i}]": scale})
        kind, of = (DiscreteSoftQPolicy, "Discrete") if self.chooses else (SoftQPolicy, "Box")
        if not issubclass(self.policy_class, kind):
            raise ValueError(
                f"policy={self.policy_class.__name__} is not energy-based for {of} actions: give a name, or a class derived "
                f"from {kind.__module__}.{kind.__name__}"
            )
        self._check_policy_kwargs()
        if start_of(self.action_space) is not None:
            raise ValueError(
                f"the action space is {one_line(self.action_space)}, but SoftQLearning's choices count from 0: shift them "
                "with gymnasium.wrappers.TransformAction"
            )
        if self.chooses and self.action_noise is not None:
            raise ValueError(
                "action_noise cannot be added to Discrete actions: leave it out, and raise ent_coef to explore more"
            )

    def _check_policy_kwargs(self) -> None:
        given = {name: x for name, x in self.policy_kwargs.items() if name in OF_SAMPLER}
        if self.chooses and given:
            raise ValueError(
                f"policy_kwargs has {next(iter(given))}, which SoftQLearning has for Box actions alone: remove it"
            )
        for name in ("n_critics", "noise_dim", "n_candidates"):
            if given.get(name) is not None:
                check_counts(**{f"policy_kwargs: {name}": given[name]})

    def _setup_model(self) -> None:
        super()._setup_model()
        self.actor: Any = getattr(self.policy, "actor", None)
        self.critic: Any = self.policy.critic
        self.critic_target: Any = self.policy.critic_target
        if isinstance(self.policy, DiscreteSoftQPolicy):
            self.policy.temperature = float(self.ent_coef)
        networks = self.policy.critic, self.policy.critic_target
        self._statistics, self._target_statistics = (get_parameters_by_name(network, ["running_"]) for network in networks)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "actor", "critic", "critic_target", "_statistics", "_target_statistics"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        optimizers = ["policy.optimizer"] if self.chooses else ["policy.actor.optimizer", "policy.critic.optimizer"]
        return ["policy", *optimizers], []

    def optimizers(self) -> Mapping[str, Optimizer]:
        policy: Any = self.policy
        if self.chooses:
            return {"critic": policy.optimizer}
        return {"critic": policy.critic.optimizer, "actor": policy.actor.optimizer}

    def next_step(self, index: int) -> tuple[StepFunction, Coefficients]:
        tau = self.tau if self._moves_targets() else 0.0
        n_value_samples, n_particles = (() if self.chooses else (n,) for n in (self.n_value_samples, self.n_particles))
        scales = tuple(map(float, self.kernel_scales))
        coefficients = Coefficients(self.gamma, float(self.ent_coef), tau, n_value_samples, n_particles, scales)
        return self._function or soft_q_step, coefficients

    def after_step(self, index: int, batch: Any, outcome: Outcome) -> None:
        if self._function is None and self._moves_targets():
            polyak_update(self._statistics, self._target_statistics, 1.0)

    def _moves_targets(self) -> bool:
        return (self._n_updates + 1) % self.target_update_interval == 0

    def train_sampler(self, gradient_steps: int, batch_size: int | None = None) -> None:
        """
        Fit the sampler to the critics as they are, at states of the replay memory. The critics stay.

        This makes a policy of critics that were learned elsewhere, such as those of two tasks, composed by
        ``policy_kwargs=dict(n_critics=2, mean_of_critics=True)``.

        :param gradient_steps: number of steps, over which a schedule of the learning rate goes from its start to its end.
            Typical: 1,000 to 10,000
        :param batch_size: states per step; ``None``: as in training
        :raises ValueError: actions are Discrete, so there is no sampler, or the replay memory is empty
        """
        check_counts(gradient_steps=gradient_steps)
        if self.chooses:
            raise ValueError("Discrete actions have no sampler: the policy is exp(Q/α) itself, so there is nothing to train")
        assert self.replay_buffer is not None
        if self.replay_buffer.size() == 0:
            raise ValueError(
                "the replay memory is empty, but the sampler learns at its states: call learn or load_replay_buffer before"
            )
        if not hasattr(self, "_logger"):
            self.set_logger(configure_logger(self.verbose, self.tensorboard_log, type(self).__name__))
        size, progress = self.batch_size if batch_size is None else batch_size, self._current_progress_remaining
        self._prepare()
        self._function, self._watched = sampler_step, False
        try:
            for taken in range(gradient_steps):
                self._current_progress_remaining = 1 - taken / gradient_steps
                self.train(1, size)
        finally:
            self._function, self._watched, self._modes, self._current_progress_remaining = None, True, None, progress


OF_SAMPLER = ("n_critics", "mean_of_critics", "noise_dim", "n_candidates")  # arguments of policies for Box actions
FOR_CHOICES: dict[type[BasePolicy], type[BasePolicy]] = {
    SoftQPolicy: DiscreteSoftQPolicy,
    SoftQCnnPolicy: DiscreteSoftQCnnPolicy,
    SoftQMultiInputPolicy: DiscreteSoftQMultiInputPolicy,
}
