"""The networks of MADDPG: each agent has an actor, which sees its own observation, and a critic."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.td3.policies import Actor, TD3Policy
from torch import Tensor, nn

from sb3_pgx.core.arguments import check_key
from sb3_pgx.core.joint_actions import JointActions, as_row
from sb3_pgx.ops.relaxed import gumbel_noise, gumbel_softmax, one_hot_choice


class ChoosingActor(Actor):
    """An actor for Discrete actions: it returns logits, ``[B, K]``. Arguments are those of SB3's ``Actor``."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.mu = nn.Sequential(*list(self.mu)[:-1])  # without the tanh


class AgentPolicy(TD3Policy):
    """
    The networks of one agent: ``actor``, ``critic`` and their targets.

    :param agent: its name
    :param observation_space: observations by agent
    :param action_space: joint actions
    :param lr_schedule: learning rate
    :param central_critics: whether the critic sees all agents, or this one alone
    :param kwargs: further arguments of SB3's ``TD3Policy``
    """

    def __init__(
        self,
        agent: str,
        observation_space: spaces.Dict,
        action_space: JointActions,
        lr_schedule: Schedule,
        central_critics: bool,
        **kwargs: Any,
    ):
        space, self.columns = action_space.of_agents[agent], action_space.columns[agent]
        self.agent, self.chooses = agent, isinstance(space, spaces.Discrete)
        own, self._central = observation_space.spaces[agent], central_critics
        self._seen = observation_space if central_critics else spaces.Dict({agent: own})
        self._judged = action_space if central_critics else as_row(space)
        super().__init__(own, as_row(space), lr_schedule, **kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        """Return a new actor; SB3's constructor calls this."""
        actor_kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return (ChoosingActor if self.chooses else Actor)(**actor_kwargs).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """Return a new critic; SB3's constructor calls this."""
        seen = dict(observation_space=self._seen, action_space=self._judged)
        extractor = CombinedExtractor(self._seen, normalized_image=not self.normalize_images)
        critic_kwargs = self._update_features_extractor({**self.critic_kwargs, **seen}, extractor)
        return ContinuousCritic(**critic_kwargs).to(self.device)

    def outputs(self, actor: Actor, observations: dict[str, Tensor]) -> Tensor:
        """
        Return what an actor says: the action of a Box, scaled to [−1, 1], or the logits of the choices, ``[B, D_i]``.

        :param actor: ``actor`` or ``actor_target``
        :param observations: by agent, ``[B, *obs]`` each
        """
        return actor(observations[self.agent])

    def sampled(self, outputs: Tensor, temperature: Any = 1.0) -> Tensor:
        """
        Return actions as rows of numbers, ``[B, D_i]``. Those of a Discrete agent are one-hot samples with the gradient of
        Gumbel-softmax.

        :param outputs: of an actor
        :param temperature: of Gumbel-softmax
        """
        return gumbel_softmax(outputs, gumbel_noise(outputs), temperature) if self.chooses else outputs

    def best(self, outputs: Tensor) -> Tensor:
        """
        Return the most probable actions as rows of numbers, ``[B, D_i]``.

        :param outputs: of an actor
        """
        return one_hot_choice(outputs) if self.chooses else outputs

    def values(self, critic: ContinuousCritic, observations: dict[str, Tensor], actions: Tensor) -> tuple[Tensor, ...]:
        """
        Return Q_i of joint actions from each of the agent's critic networks, ``[B, 1]`` each.

        :param critic: ``critic`` or ``critic_target``
        :param observations: by agent, ``[B, *obs]`` each
        :param actions: joint actions, ``[B, D]``
        """
        return critic(*self._critic_inputs(observations, actions))

    def value_of_own_actions(self, observations: dict[str, Tensor], actions: Tensor, own: Tensor) -> Tensor:
        """
        Return Q_i, of its first network, when this agent acts otherwise, ``[B, 1]``.

        :param observations: by agent, ``[B, *obs]`` each
        :param actions: joint actions, ``[B, D]``
        :param own: this agent's actions, in place of those among the joint ones, ``[B, D_i]``
        """
        joint = th.cat([actions[:, : self.columns.start], own, actions[:, self.columns.stop :]], dim=1)
        return self.critic.q1_forward(*self._critic_inputs(observations, joint))

    def _critic_inputs(self, observations: dict[str, Tensor], actions: Tensor) -> tuple[Any, Tensor]:
        if self._central:
            return observations, actions
        return {self.agent: observations[self.agent]}, actions[:, self.columns]


class MADDPGPolicy(BasePolicy):
    """
    The policies of all agents, ``agents``, by name. Its action is their joint action.

    :param observation_space: observations by agent
    :param action_space: joint actions
    :param lr_schedule: learning rate
    :param net_arch: sizes of hidden layers, or ``dict(pi=[…], qf=[…])``; default: two of 64 units. Typical: two of 64 to 400
    :param activation_fn: class of the activations
    :param normalize_images: whether images are divided by 255
    :param optimizer_class: class of the optimizers
    :param optimizer_kwargs: further arguments of the optimizers
    :param n_critics: networks of each critic, the smallest of which gives the targets. Typical: 1, or 2 as in TD3
    :param central_critics: whether each critic sees the observations and actions of all agents
    :raises ValueError: an agent's name cannot name a module
    """

    action_space: JointActions

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: JointActions,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 1,
        central_critics: bool = True,
    ):
        super().__init__(
            observation_space,
            action_space,
            FlattenExtractor,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
        )
        self._arguments: dict[str, Any] = dict(
            net_arch=[64, 64] if net_arch is None else net_arch,
            activation_fn=activation_fn,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            n_critics=n_critics,
            central_critics=central_critics,
        )
        self.agents = nn.ModuleDict()
        for agent in action_space.of_agents:
            check_key(agent, "the dictionary of agents")
            self.agents[agent] = AgentPolicy(agent, observation_space, action_space, lr_schedule, **self._arguments)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        spaces_of = dict(observation_space=self.observation_space, action_space=self.action_space)
        return {**spaces_of, **self._arguments, "lr_schedule": self._dummy_schedule}

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        each: Any = self.agents.values()
        outputs = [(agent, agent.outputs(agent.actor, observation)) for agent in each]
        return th.cat([agent.best(x) if deterministic else agent.sampled(x) for agent, x in outputs], dim=1)

    def target_actions(self, observations: dict[str, Tensor]) -> Tensor:
        """
        Return a joint action of the target policies, ``[B, D]``.

        :param observations: by agent, ``[B, *obs]`` each
        """
        each: Any = self.agents.values()
        return th.cat([agent.sampled(agent.outputs(agent.actor_target, observations)) for agent in each], dim=1)
