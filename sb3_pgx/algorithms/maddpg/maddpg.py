"""MADDPG: off-policy learning of one policy per agent, with central critics."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from sb3_pgx.algorithms.maddpg.policies import AgentPolicy, MADDPGPolicy
from sb3_pgx.algorithms.maddpg.replay import JointReplayBuffer
from sb3_pgx.algorithms.sb3_base import SetUpLater
from sb3_pgx.core.arguments import check_env_argument
from sb3_pgx.core.checks import as_flag, check_finite_not_negative, check_positive
from sb3_pgx.core.errors import one_line
from sb3_pgx.core.joint_actions import JointActions
from sb3_pgx.core.replay_sampling import bootstrapped
from sb3_pgx.engine.joint_step import Step
from sb3_pgx.engine.joint_steps import StepFunction
from sb3_pgx.environments.joint_env import JointEnv
from sb3_pgx.environments.parallel_env import has_agents
from sb3_pgx.stages.off_policy import OffPolicy


class Coefficients(NamedTuple):
    """
    Coefficients of one gradient step.

    :param max_grad_norm: norm to which the gradient of each network is clipped; ``None``: it is not clipped
    :param agents: names of the agents, in the order of the memory's rewards
    """

    gamma: float
    tau: float
    temperature: float
    logit_coef: float
    max_grad_norm: float | None
    agents: tuple[str, ...]


def maddpg_step(step: Step, batch: Any, c: Coefficients) -> Mapping[str, Tensor]:
    """
    One gradient step of all agents (Lowe et al., 2017, algorithm 1), i = 1 … A, on the same sample of the memory.

        a' = (μ'_1(o'_1), …, μ'_A(o'_A))
        y_i = r_i + γ (1 − terminated_i) Q'_i(o', a')
        J(Q_i) = (Q_i(o, a_batch) − y_i)²
        J(μ_i) = −Q_i(o, a) with a_i = μ_i(o_i) and a_j = a_batch,j for the other agents

    o and a are those of all agents. Q_i in J(μ_i) is the one after the step. Actions of a Discrete agent are one-hot samples
    of its policy, whose gradient is that of Gumbel-softmax; its J(μ_i) also has the mean square of the logits, times a
    coefficient, as in the authors' code. With one agent and Box actions, this is DDPG.

    :param step: the step, of the optimizers of each agent's ``critic`` and ``actor``
    :param batch: a sample of the joint memory
    :param c: coefficients
    :return: the losses, averaged over batch and agents
    """
    with th.no_grad():
        next_actions = step.call(_target_actions, batch.next_observations)
    critic_losses, actor_losses = [], []
    for i, agent in enumerate(c.agents):
        critic, actor = _networks(agent)
        of_agent = batch._replace(rewards=batch.rewards[:, i : i + 1], dones=batch.dones[:, i : i + 1])
        with th.no_grad():
            next_values = step.call(_least_target_value, agent, batch.next_observations, next_actions)
            targets = bootstrapped(of_agent, c.gamma, next_values)
        values = step.call(_values, agent, batch.observations, batch.actions)
        critic_losses.append(th.stack([F.mse_loss(value, targets) for value in values]).sum())
        step.minimize(critic_losses[-1], critic, c.max_grad_norm)
        actor_losses.append(step.call(_actor_loss, agent, batch.observations, batch.actions, c.temperature, c.logit_coef))
        step.minimize(actor_losses[-1], actor, c.max_grad_norm)
        for network in (critic, actor):
            step.track(network, f"{network}_target", c.tau)
    return {"actor_loss": th.stack(actor_losses).mean(), "critic_loss": th.stack(critic_losses).mean()}


def _networks(agent: str) -> tuple[str, str]:
    """Return the names of an agent's critic and actor, as modules of the policy and as optimizers."""
    return f"agents.{agent}.critic", f"agents.{agent}.actor"


def _of(policy: MADDPGPolicy, agent: str) -> AgentPolicy:
    return cast(AgentPolicy, policy.agents[agent])


def _target_actions(policy: MADDPGPolicy, observations: Any) -> Tensor:
    return policy.target_actions(observations)


def _values(policy: MADDPGPolicy, agent: str, observations: Any, actions: Tensor) -> tuple[Tensor, ...]:
    own = _of(policy, agent)
    return own.values(own.critic, observations, actions)


def _least_target_value(policy: MADDPGPolicy, agent: str, observations: Any, actions: Tensor) -> Tensor:
    own = _of(policy, agent)
    return th.cat(own.values(own.critic_target, observations, actions), dim=1).min(dim=1, keepdim=True).values


def _actor_loss(
    policy: MADDPGPolicy, agent: str, observations: Any, actions: Tensor, temperature: Any, logit_coef: Any
) -> Tensor:
    own = _of(policy, agent)
    outputs = own.outputs(own.actor, observations)
    loss = -own.value_of_own_actions(observations, actions, own.sampled(outputs, temperature)).mean()
    return loss + logit_coef * outputs.square().mean() if own.chooses else loss


class MADDPG(OffPolicy, SetUpLater):
    """
    Multi-agent deep deterministic policy gradient (Lowe et al., 2017): each agent has a policy, which sees the agent's own
    observation, and a critic, which sees the observations and actions of all agents. They learn from a joint replay memory. At
    execution an agent needs nothing but its own observation.

    The environment has PettingZoo's parallel API. Each agent has its own spaces. Its actions are Box (a deterministic policy)
    or Discrete (a stochastic one, by straight-through Gumbel-softmax). With one agent, Box actions and
    ``max_grad_norm=None``, this is :class:`~sb3_pgx.DDPG`, with the same random numbers and updates. All agents must stay
    until the episode's end.

    The defaults are the paper's. They learn from a large batch every 100 steps, so they need hundreds of thousands of steps.

    ``predict`` takes a dictionary of observations by agent and returns one of actions; files are SB3's. Discrete policies
    explore by sampling. Box policies explore only if ``action_noise`` is given.

    :param policy: ``"MlpPolicy"``, or a class derived from :class:`~sb3_pgx.algorithms.maddpg.policies.MADDPGPolicy`
    :param env: an environment with PettingZoo's parallel API, a :class:`~sb3_pgx.environments.JointEnv` of it, or a ``VecEnv``
        of such
    :param learning_rate: step size of all optimizers (Adam). Typical: 1e-4 to 1e-2. Larger values learn faster until the
        critics diverge. A number, a function of the remaining progress (1 to 0) or a string such as ``"lin_3e-4"``
    :param buffer_size: transitions in the replay memory, over all environments. Typical: 1e5 to 1e6. Larger values forget less
        and learn more from old policies of the other agents
    :param learning_starts: environment steps before the first gradient step, with uniformly random actions. Typical: 1,000 to
        25,600 (the authors' code: 1,024 episodes of 25 steps). Larger values give the critics more varied transitions
    :param batch_size: transitions per gradient step. Typical: 64 to 1,024. Larger values give less noisy steps that take
        longer
    :param tau: τ of the target networks, θ' ← (1 − τ) θ' + τ θ per step, in [0, 1]. Typical: 0.005 to 0.02. Larger values
        track the networks faster and stabilise less; 1 copies them
    :param gamma: γ, discount factor per step, in [0, 1]. Typical: 0.9 to 0.99; rewards count over about 1/(1 − γ) steps.
        Larger values look further ahead and make the critics harder to learn
    :param train_freq: environment steps between two calls of ``train``, per environment, or a tuple such as ``(1, "episode")``
        (one environment only). Typical: 25 to 100. Larger values collect more with the same policies
    :param gradient_steps: gradient steps per call of ``train``; −1: as many as environment steps since the last call. Typical:
        1. Larger values learn more from each transition, until the critics overfit
    :param action_noise: noise added to the joint action while exploring, in units of actions scaled to [−1, 1], such as SB3's
        ``NormalActionNoise`` with one number per component of ``model.action_space``. For a Discrete agent it is added to the
        one-hot sample, before the largest number is chosen. ``None``: no noise
    :param tensorboard_log: folder for TensorBoard logs; ``None`` writes none
    :param policy_kwargs: arguments of the policy's constructor, such as ``dict(net_arch=[64, 64], n_critics=2)``
    :param verbose: 0 prints nothing, 1 prints messages and the log, 2 adds debug messages
    :param seed: seed of weights, actions, samples of the memory and environments; ``None``: not seeded
    :param device: ``"cpu"``, ``"cuda"`` or ``"auto"`` (CUDA if available)
    :param _init_setup_model: build the networks at once; SB3 passes ``False`` while loading
    :param central_critics: whether each critic sees all agents. ``False``: each sees its own agent alone, which is independent
        DDPG, to compare with
    :param temperature: of Gumbel-softmax, positive; Discrete agents alone. Typical: 0.5 to 2. Larger values give gradients
        with less variance and more bias (Jang et al., 2017)
    :param logit_coef: coefficient of the logits' mean square in an actor's loss; Discrete agents alone. Typical: 1e-3 (the
        authors' code) to 1e-2, or 0. Larger values keep policies more random
    :param max_grad_norm: norm to which the gradient of each actor and each critic is clipped, positive. Typical: 0.5 (the
        authors' code, which clips each layer's weights and biases apart) to 10, or ``None``, which clips nothing. Smaller
        values protect better from outliers and slow learning down
    :param stats_window_size: number of recent episodes that ``rollout/ep_rew_mean`` averages over. Typical: 100. Larger values
        give smoother curves that lag more; training does not depend on it
    :param compile: compile acting and the gradient step: ``True``, ``False``, or ``"auto"``, which compiles if the run is long
        enough to repay it (:data:`sb3_pgx.engine.compiler.COMPILE_AFTER`)
    :raises ValueError: an argument is invalid, the environment does not have the parallel API, or an agent's actions are
        neither Box nor Discrete
    """

    policy_aliases = {"MlpPolicy": MADDPGPolicy}  # noqa: RUF012
    action_space: JointActions
    policy: MADDPGPolicy

    def __init__(
        self,
        policy: str | type[MADDPGPolicy],
        env: Any,
        learning_rate: float | str | Schedule = 1e-2,
        buffer_size: int = 1_000_000,
        learning_starts: int = 1024,
        batch_size: int = 1024,
        tau: float = 0.01,
        gamma: float = 0.95,
        train_freq: int | tuple[int, str] = 100,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        central_critics: bool = True,
        temperature: float = 1.0,
        logit_coef: float = 1e-3,
        max_grad_norm: float | None = 0.5,
        stats_window_size: int = 100,
        compile: bool | str = "auto",
    ):
        if isinstance(policy_kwargs, dict) and "central_critics" in policy_kwargs:
            raise ValueError("policy_kwargs has central_critics, which is an argument of MADDPG itself: give it there")
        self.central_critics, self.temperature, self.logit_coef = central_critics, temperature, logit_coef
        self.max_grad_norm = max_grad_norm
        named = self.policy_aliases.get(policy, policy) if isinstance(policy, str) else policy
        super().__init__(
            named,  # SB3 takes dictionaries of observations for those of one agent, and refuses the name
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
            replay_buffer_class=JointReplayBuffer,
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

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        check_env_argument(env)
        wrapped = OffPolicyAlgorithm._wrap_env(JointEnv(env) if has_agents(env) else env, verbose, monitor_wrapper)
        if not isinstance(wrapped.action_space, JointActions):
            raise ValueError(
                f"MADDPG learns in environments of several agents, but the action space is {one_line(wrapped.action_space)}: "
                "give it an environment with PettingZoo's parallel API, or a VecEnv of sb3_pgx.environments.JointEnv"
            )
        return wrapped

    def check_arguments(self) -> None:
        super().check_arguments()
        self.central_critics = as_flag("central_critics", self.central_critics)
        self.policy_kwargs["central_critics"] = self.central_critics
        check_positive(temperature=self.temperature)
        check_finite_not_negative(logit_coef=self.logit_coef)
        if self.max_grad_norm is not None:
            check_positive(max_grad_norm=self.max_grad_norm)
        assert isinstance(self.observation_space, spaces.Dict)
        for agent, space in self.observation_space.spaces.items():
            if isinstance(space, spaces.Dict | spaces.Tuple) or is_image_space(space):
                raise ValueError(
                    f"{agent} observes {one_line(space)}, but MADDPG's networks take vectors: flatten the observations, for "
                    "example with gymnasium.spaces.flatten"
                )

    def _check_environments(self) -> None:
        super()._check_environments()
        normalize, agents = self._vec_normalize_env, len(self.action_space.of_agents)
        if normalize is not None and normalize.norm_reward and agents > 1:
            raise ValueError(
                f"VecNormalize would divide the rewards of {agents} agents by the standard deviation of their sum, which may "
                "be 0 where agents compete: use VecNormalize(env, norm_reward=False)"
            )

    def optimizers(self) -> Mapping[str, Optimizer]:
        networks = (network for agent in self.policy.agents for network in _networks(agent))
        return {network: cast(Optimizer, self.policy.get_submodule(network).optimizer) for network in networks}

    def next_step(self, index: int) -> tuple[StepFunction, Coefficients]:
        numbers = (self.gamma, self.tau, float(self.temperature), float(self.logit_coef))
        return maddpg_step, Coefficients(*numbers, self.max_grad_norm, tuple(self.policy.agents))

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", *(f"policy.{network}.optimizer" for network in self.optimizers())], []

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        actions, scaled = super()._sample_action(learning_starts, action_noise, n_envs)
        return self.action_space.one_hot(actions), self.action_space.one_hot(scaled)

    def predict(  # type: ignore[override]
        self,
        observation: Mapping[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[dict[str, Any] | list[dict[str, Any]], tuple[np.ndarray, ...] | None]:
        """
        Return the agents' actions.

        :param observation: observations by agent, of one environment or of several: ``[*obs]`` or ``[N, *obs]`` each
        :param state: ignored, and returned as it is: the policies have no memory
        :param episode_start: ignored
        :param deterministic: whether Discrete agents take their most probable action instead of a sample. Box agents are
            deterministic
        :return: actions by agent, as the environment's ``step`` takes them; for several environments, a list of them. And
            ``state``
        :raises ValueError: an agent's observation is missing
        """
        missing = [agent for agent in self.action_space.of_agents if agent not in observation]
        if missing:
            raise ValueError(f"predict needs the observations of all agents, but those of {' and '.join(missing)} are missing")
        given = {agent: np.asarray(observation[agent]) for agent in self.action_space.of_agents}
        rows, state = self.policy.predict(given, state, episode_start, deterministic)
        joint = self.action_space
        return (joint.by_agent(rows) if rows.ndim == 1 else [joint.by_agent(row) for row in rows]), state

    def _scaled_actions(self) -> np.ndarray:
        compiled = super()._scaled_actions()
        if compiled is not None:
            return compiled
        with th.no_grad():
            actions = self.policy._predict(self.policy.obs_to_tensor(cast(Any, self._last_obs))[0])
        return actions.cpu().numpy()

    def _acts_compiled(self) -> bool:
        return self.compiled
