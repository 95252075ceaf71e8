"""TD3 and DDPG: off-policy learning of a deterministic policy."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from sb3_pgx.core.checks import check_counts, check_finite_not_negative
from sb3_pgx.core.examination import OFF_POLICY_EXAMINATION, Examination
from sb3_pgx.core.replay_sampling import bootstrapped
from sb3_pgx.core.search_space import OFF_POLICY, OFF_POLICY_NETWORKS, Dimension
from sb3_pgx.engine.joint_step import Call, Step
from sb3_pgx.engine.joint_steps import Outcome, StepFunction
from sb3_pgx.stages.off_policy import OffPolicy


class Coefficients(NamedTuple):
    """
    Coefficients of one gradient step.

    :param noise: standard deviation of the noise on the target policy's actions, as a tuple: a graph depends on it, because
        the noise is drawn outside of the graph
    :param moves_actor: whether this step moves the actor and the target networks
    """

    gamma: float
    tau: float
    noise: tuple[float]
    noise_clip: float
    moves_actor: bool


def deterministic_step(step: Step, batch: Any, c: Coefficients) -> Mapping[str, Tensor]:
    """
    One gradient step of TD3 (Fujimoto et al., 2018, algorithm 1): critics, and now and then actor and target networks.

        ε ~ clip(N(0, σ), −c, c)
        y = r + γ (1 − terminated) min_i Q'_i(s', clip(μ'(s') + ε, −1, 1))
        J(Q) = Σ_i (Q_i(s, a_batch) − y)²
        J(μ) = −Q_1(s, μ(s))

    Q in J(μ) is the one after the step. Without noise and with one critic, moving the actor at each step, this is DDPG
    (Lillicrap et al., 2016).

    :param step: the step, of the optimizers ``critic`` and ``actor``
    :param batch: a sample of the replay memory
    :param c: coefficients
    :return: the means of the losses over the batch
    """
    targets = smoothed_targets(step.call, batch, c)
    values = step.call(_values, batch.observations, batch.actions)
    critic_loss = th.stack([F.mse_loss(value, targets) for value in values]).sum()
    step.minimize(critic_loss, "critic")
    if not c.moves_actor:
        return {"critic_loss": critic_loss}
    return {"actor_loss": move_actor(step, batch, c.tau), "critic_loss": critic_loss}


def move_actor(step: Step, batch: Any, tau: Any) -> Tensor:
    """
    Move the actor, then the target networks, and return J(μ) = −Q_1(s, μ(s)).

    :param step: a step whose critics have moved
    :param batch: a sample of the replay memory
    :param tau: τ of the target networks
    """
    actor_loss = -step.call(_value_of_policy, batch.observations).mean()
    step.minimize(actor_loss, "actor")
    step.track("critic", "critic_target", tau)
    step.track("actor", "actor_target", tau)
    return actor_loss


def smoothed_targets(call: Call, batch: Any, c: Coefficients) -> Tensor:
    """
    Return y of :func:`deterministic_step`, the critics' targets, ``[B, 1]``, without gradients.

    :param call: calls a function of the policy
    :param batch: a sample of the replay memory
    :param c: coefficients
    """
    with th.no_grad():
        noise = th.empty_like(batch.actions).normal_(0, *c.noise).clamp(-c.noise_clip, c.noise_clip)
        return bootstrapped(batch, c.gamma, call(_least_target_value, batch.next_observations, noise))


def _values(policy: TD3Policy, observations: Any, actions: Tensor) -> tuple[Tensor, ...]:
    return policy.critic(observations, actions)


def _least_target_value(policy: TD3Policy, observations: Any, noise: Tensor) -> Tensor:
    actions = (policy.actor_target(observations) + noise).clamp(-1, 1)
    return th.cat(policy.critic_target(observations, actions), dim=1).min(dim=1, keepdim=True).values


def _value_of_policy(policy: TD3Policy, observations: Any) -> Tensor:
    return policy.critic.q1_forward(observations, policy.actor(observations))


class DeterministicOffPolicy(OffPolicy):
    """Base of TD3 and DDPG, which differ in their arguments."""

    search_space: ClassVar[tuple[Dimension, ...]] = OFF_POLICY
    networks = OFF_POLICY_NETWORKS["large"]
    examination = Examination(
        4096, 0.01, dict(OFF_POLICY_EXAMINATION, action_noise=NormalActionNoise(np.zeros(1), np.full(1, 0.5)))
    )
    policy_delay: int
    target_policy_noise: float
    target_noise_clip: float
    actor_target: Any
    critic: Any

    def check_arguments(self) -> None:
        super().check_arguments()
        check_counts(policy_delay=self.policy_delay)
        check_finite_not_negative(target_policy_noise=self.target_policy_noise, target_noise_clip=self.target_noise_clip)

    def optimizers(self) -> Mapping[str, Optimizer]:
        return {"critic": self.critic.optimizer, "actor": self.actor.optimizer}

    def next_step(self, index: int) -> tuple[StepFunction, Any]:
        noise, clip = float(self.target_policy_noise), float(self.target_noise_clip)
        return deterministic_step, Coefficients(self.gamma, self.tau, (noise,), clip, self._moves_actor())

    def after_step(self, index: int, batch: Any, outcome: Outcome) -> None:
        if self._moves_actor():
            for network in ("critic", "actor"):
                of = getattr(self, f"{network}_batch_norm_stats"), getattr(self, f"{network}_batch_norm_stats_target")
                polyak_update(*of, 1.0)

    def _moves_actor(self) -> bool:
        return (self._n_updates + 1) % self.policy_delay == 0


class TD3(DeterministicOffPolicy, sb3.TD3):
    """
    Twin delayed deep deterministic policy gradient (Fujimoto et al., 2018): a deterministic policy and the smaller one of two
    critics, learned from a replay memory.

    Arguments, random numbers, log keys, files and updates are those of SB3's ``TD3``: with the same seed both compute the same
    numbers, as far as floating-point order allows. ``learning_rate`` also takes a string. One function takes the gradient step
    of critics, actor and target networks; it runs eagerly or as compiled graphs, one with and one without the actor.

    The policy explores only if ``action_noise`` is given.

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
    :param policy_delay: gradient steps of the critics per step of actor and target networks. Typical: 1 to 4. Larger values
        let the critics settle, and the policy learn more slowly (Fujimoto et al., 2018, section 5.2)
    :param target_policy_noise: standard deviation σ of the noise on the target policy's actions, in units of actions scaled to
        [−1, 1]. Typical: 0.1 to 0.3. Larger values smooth the critics more (Fujimoto et al., 2018, section 5.3)
    :param target_noise_clip: largest absolute value of that noise. Typical: 0.3 to 0.5. Smaller values limit how far the
        target may look from the policy
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

    def __init__(
        self,
        policy: str | type[TD3Policy],
        env: GymEnv | str,
        learning_rate: float | str | Schedule = 1e-3,
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
        policy_delay: int = 2,
        target_policy_noise: float = 0.2,
        target_noise_clip: float = 0.5,
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
            policy_delay=policy_delay,
            target_policy_noise=target_policy_noise,
            target_noise_clip=target_noise_clip,
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
