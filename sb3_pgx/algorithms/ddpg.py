"""DDPG: off-policy learning of a deterministic policy with one critic."""

from typing import Any

import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.td3.policies import TD3Policy

from sb3_pgx.algorithms.td3 import DeterministicOffPolicy


class DDPG(DeterministicOffPolicy, sb3.DDPG):
    """
    Deep deterministic policy gradient (Lillicrap et al., 2016): a deterministic policy and one critic, learned from a replay
    memory.

    Arguments, random numbers, log keys, files and updates are those of SB3's ``DDPG``: with the same seed both compute the
    same numbers, as far as floating-point order allows. ``learning_rate`` also takes a string. One function takes the
    gradient step of critic, actor and target networks; it runs eagerly or as one compiled graph. ``TD3`` is this algorithm
    with two critics, noise on the target policy and rarer steps of the actor, and usually learns more reliably.

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
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            compile=compile,
        )
        if _init_setup_model:
            self._setup_model()
