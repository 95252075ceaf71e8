"""D4PG: DDPG whose critic learns the distribution of the return."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor

from sb3_pgx.algorithms.td3 import DeterministicOffPolicy, move_actor
from sb3_pgx.core.categorical_critic import (
    CategoricalCnnPolicy,
    CategoricalCritic,
    CategoricalMixin,
    CategoricalMultiInputPolicy,
    CategoricalPolicy,
)
from sb3_pgx.core.checks import check_counts, check_finite_not_negative, is_number
from sb3_pgx.core.examination import OFF_POLICY_EXAMINATION, Examination
from sb3_pgx.core.prioritized_replay import PrioritizedReplayBuffer, PrioritizedSamples
from sb3_pgx.core.replay_sampling import bootstrapped
from sb3_pgx.core.schedules import evaluate_coefficient
from sb3_pgx.core.search_space import OFF_POLICY, Categorical, Whole
from sb3_pgx.engine.joint_step import Call, Step
from sb3_pgx.engine.joint_steps import Outcome, StepFunction
from sb3_pgx.ops.distributional import project


class Coefficients(NamedTuple):
    """
    Coefficients of one gradient step.

    :param beta: exponent of the importance weights; without effect if transitions are drawn uniformly
    """

    gamma: float
    tau: float
    beta: float


class Target(NamedTuple):
    """
    What a critic is fitted to, without gradients.

    :param atoms: z, ``[K]``
    :param values: r + γ^n z, ``[B, K]``
    :param probs: probabilities of these values, ``[B, K]``
    """

    atoms: Tensor
    values: Tensor
    probs: Tensor

    @property
    def projected(self) -> Tensor:
        """The distribution Y over the atoms, ``[B, K]``."""
        return project(self.values, self.probs, self.atoms)


def d4pg_step(step: Step, batch: Any, c: Coefficients) -> Mapping[str, Tensor]:
    """
    One gradient step of D4PG (Barth-Maron et al., 2018, algorithm 1): critic, actor, target networks.

        Y = Φ(r + γ^n (1 − terminated) z, p'(s', μ'(s')))
        J(p) = −w Σ_k Y_k log p_k(s, a_batch),   w = (R P)^−β
        J(μ) = −Σ_k z_k p_k(s, μ(s))

    p are the critic's probabilities of the atoms z, p' those of the target network, and Φ is
    :func:`~sb3_pgx.ops.distributional.project`. P is the probability with which a transition was drawn from R of them.
    p in J(μ) is the one after the step.

    :param step: the step, of the optimizers ``critic`` and ``actor``
    :param batch: a sample of the replay memory
    :param c: coefficients
    :return: the means of the losses over the batch; of a prioritised memory also ``errors``, the |mean of Y − Q(s, a)| of each
        transition
    """
    target = distributional_target(step.call, batch, c.gamma)
    projected = target.projected
    log_probs = step.call(_log_probs, batch.observations, batch.actions)
    losses = -(projected * log_probs).sum(dim=1)
    outcome: dict[str, Tensor] = {}
    if isinstance(batch, PrioritizedSamples):
        outcome["errors"] = ((projected - log_probs.detach().exp()) @ target.atoms).abs()
        losses = losses * batch.probabilities.squeeze(1) ** -c.beta
    critic_loss = losses.mean()
    step.minimize(critic_loss, "critic")
    return {"actor_loss": move_actor(step, batch, c.tau), "critic_loss": critic_loss, **outcome}


def distributional_target(call: Call, batch: Any, gamma: Any) -> Target:
    """
    Return the distribution of :func:`d4pg_step` before its projection.

    :param call: calls a function of the policy
    :param batch: a sample of the replay memory
    :param gamma: γ, used where the batch has no discounts of its own
    """
    with th.no_grad():
        atoms, probs = call(_distribution_of_target, batch.next_observations)
        return Target(atoms, bootstrapped(batch, gamma, atoms), probs)


def _log_probs(policy: TD3Policy, observations: Any, actions: Tensor) -> Tensor:
    return _categorical(policy.critic).logits(observations, actions).log_softmax(dim=1)


def _distribution_of_target(policy: TD3Policy, observations: Any) -> tuple[Tensor, Tensor]:
    """Return z, ``[K]``, and p'(s, μ'(s)), ``[B, K]``."""
    critic = _categorical(policy.critic_target)
    logits = critic.logits(observations, policy.actor_target(observations))
    return critic.atoms(logits), logits.softmax(dim=1)


def _categorical(critic: Any) -> CategoricalCritic:
    return critic


class D4PG(DeterministicOffPolicy, sb3.TD3):
    """
    Distributed distributional deep deterministic policy gradient (Barth-Maron et al., 2018): a deterministic policy and a
    critic that learns the distribution of the return over fixed atoms, from n-step returns in a replay memory.

    The constructor is that of SB3's ``DDPG`` with further arguments. One function takes the gradient step of critic, actor and
    target networks; it runs eagerly or as one compiled graph. The paper's many actors are the environments of a ``VecEnv``.

    Choose ``v_min`` and ``v_max`` for the environment: returns outside of them cannot be told apart. The policy explores only
    if ``action_noise`` is given; the paper has a standard deviation of 0.3.

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
    :param n_atoms: number of atoms, at least 2. Typical: 51 to 101. Larger values tell nearer returns apart, and the step
        takes longer (Bellemare et al., 2017, section 5.1)
    :param v_min: smallest atom, a little below the smallest discounted return. Typical: the smallest reward times 1/(1 − γ).
        Smaller values leave fewer atoms for the returns that occur
    :param v_max: largest atom, a little above the largest discounted return. Typical: the largest reward times 1/(1 − γ).
        Larger values leave fewer atoms for the returns that occur
    :param prioritized_replay_alpha: α ≥ 0, exponent of the errors in the probabilities with which transitions are drawn
        (:class:`~sb3_pgx.core.prioritized_replay.PrioritizedReplayBuffer`). Typical: 0, which draws uniformly, or 0.4 to 0.7.
        Larger values replay surprising transitions more often (Schaul et al., 2016, section 3.3)
    :param prioritized_replay_beta: exponent β of the importance weights (R P)^−β. Typical: 1 as in the paper, or
        ``"lin_0.4_1"``. Larger values correct more of the bias that the priorities cause; 1 corrects all of it. A number, a
        function of the remaining progress (1 to 0) or a string (Schaul et al., 2016, section 3.4)
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

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": CategoricalPolicy,
        "CnnPolicy": CategoricalCnnPolicy,
        "MultiInputPolicy": CategoricalMultiInputPolicy,
    }
    search_space = (*OFF_POLICY, Whole("n_steps", 1, 10), Categorical("prioritized_replay_alpha", (0.0, 0.6)))
    examination = Examination(
        4096,
        0.003,
        dict(
            OFF_POLICY_EXAMINATION,
            action_noise=NormalActionNoise(np.zeros(1), np.full(1, 0.5)),
            n_steps=1,
            v_min=-3.0,
            v_max=3.0,
        ),
    )

    def __init__(
        self,
        policy: str | type[TD3Policy],
        env: GymEnv | str,
        learning_rate: float | str | Schedule = 1e-4,
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
        n_steps: int = 5,
        n_atoms: int = 51,
        v_min: float = -150.0,
        v_max: float = 150.0,
        prioritized_replay_alpha: float = 0.0,
        prioritized_replay_beta: float | str | Schedule = 1.0,
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
        of_critic = {"n_atoms", "v_min", "v_max"}
        if isinstance(policy_kwargs, dict) and (named := sorted(of_critic & policy_kwargs.keys())):
            raise ValueError(f"policy_kwargs has {' and '.join(named)}, arguments of D4PG itself: give them there")
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
            policy_delay=1,
            target_policy_noise=0.0,
            target_noise_clip=0.0,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            compile=compile,
        )
        self.n_atoms, self.v_min, self.v_max = n_atoms, v_min, v_max
        self.prioritized_replay_alpha = prioritized_replay_alpha
        self.prioritized_replay_beta = prioritized_replay_beta
        if _init_setup_model:
            self._setup_model()

    def check_arguments(self) -> None:
        super().check_arguments()
        check_counts(2, n_atoms=self.n_atoms)
        if not (is_number(self.v_min) and is_number(self.v_max) and -np.inf < self.v_min < self.v_max < np.inf):
            raise ValueError(
                f"v_min={self.v_min!r} and v_max={self.v_max!r} must be finite numbers, and v_min the smaller one: choose "
                "them a little beyond the smallest and the largest discounted return"
            )
        check_finite_not_negative(prioritized_replay_alpha=self.prioritized_replay_alpha)
        evaluate_coefficient(self.prioritized_replay_beta, 1.0, "prioritized_replay_beta")
        if not issubclass(self.policy_class, CategoricalMixin):
            raise ValueError(
                f"policy={self.policy_class.__name__} has no categorical critic: give a name, or a class derived from "
                f"{CategoricalPolicy.__module__}.{CategoricalPolicy.__name__}"
            )
        if "n_critics" in self.policy_kwargs:
            raise ValueError("policy_kwargs has n_critics, but D4PG has one critic: remove it, or use TD3")
        self._check_memory()

    def _check_memory(self) -> None:
        given, alpha = self.replay_buffer_class, self.prioritized_replay_alpha
        if alpha > 0 and given not in (None, PrioritizedReplayBuffer):
            raise ValueError(
                f"prioritized_replay_alpha={alpha} needs a replay memory that draws by priority, but replay_buffer_class is "
                f"{given!r}: leave one of them out"
            )
        by_n_steps = self.n_steps > 1 and given is None
        if (alpha > 0 or by_n_steps) and (isinstance(self.observation_space, spaces.Dict) or self.optimize_memory_usage):
            raise ValueError(
                f"n_steps={self.n_steps}, prioritized_replay_alpha={alpha}: the memories for n-step returns and priorities "
                "take neither dictionaries nor optimize_memory_usage: set n_steps=1 and prioritized_replay_alpha=0"
            )

    def choose_memory(self) -> None:
        if self.prioritized_replay_alpha > 0:
            self.replay_buffer_class = PrioritizedReplayBuffer
            how = dict(alpha=self.prioritized_replay_alpha, n_steps=self.n_steps, gamma=self.gamma)
            self.replay_buffer_kwargs = {**self.replay_buffer_kwargs, **how}

    def _setup_model(self) -> None:
        self.policy_kwargs.update(n_atoms=self.n_atoms, v_min=self.v_min, v_max=self.v_max)
        super()._setup_model()

    def next_step(self, index: int) -> tuple[StepFunction, Any]:
        beta = evaluate_coefficient(self.prioritized_replay_beta, self._current_progress_remaining, "prioritized_replay_beta")
        return d4pg_step, Coefficients(self.gamma, self.tau, beta)

    def after_step(self, index: int, batch: Any, outcome: Outcome) -> None:
        super().after_step(index, batch, outcome)
        if isinstance(self.replay_buffer, PrioritizedReplayBuffer):
            self.replay_buffer.update_priorities(batch.rows, outcome["errors"])
