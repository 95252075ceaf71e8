"""Environments of several agents with PettingZoo's parallel API, and checks of what they return."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gymnasium import spaces

from sb3_pgx.core.errors import one_line

TO_PARALLEL = (
    "make its parallel version, such as simple_spread_v3.parallel_env(), or wrap it in pettingzoo.utils.aec_to_parallel"
)


class Stepped(NamedTuple):
    """What a step returns for the agents that acted, by agent."""

    observations: Mapping[Any, Any]
    rewards: Mapping[Any, float]
    terminated: Mapping[Any, bool]
    truncated: Mapping[Any, bool]
    infos: Mapping[Any, dict[str, Any]]

    def ended(self, agent: Any) -> bool:
        """Return whether the agent's episode has ended."""
        return bool(self.terminated[agent] or self.truncated[agent])


def has_agents(env: Any) -> bool:
    """Return whether an environment has several agents by PettingZoo's interfaces, the parallel one or the other."""
    return hasattr(env, "possible_agents") and not hasattr(env, "num_envs")


class ParallelEnv:
    """
    An environment of PettingZoo's parallel API. PettingZoo itself is not needed: any object with these methods will do.

    :param env: has ``possible_agents``, ``observation_space(agent)``, ``action_space(agent)``, ``reset`` and ``step``
    :raises ValueError: it has PettingZoo's other interface, in which agents act in turn, or no agents
    """

    def __init__(self, env: Any):
        self.env, self.name = env, _name(env)
        if hasattr(env, "agent_iter"):
            raise ValueError(
                f"{self.name} has PettingZoo's AEC interface, in which agents act in turn, but agents must act in parallel: "
                f"{TO_PARALLEL}"
            )
        missing = [m for m in ("observation_space", "action_space", "reset", "step") if not callable(getattr(env, m, None))]
        if missing:
            raise ValueError(
                f"{self.name} has possible_agents, but no method {' and '.join(missing)}, so it does not have PettingZoo's "
                "parallel API: write it as a pettingzoo.ParallelEnv"
            )
        self.agents: list[Any] = list(env.possible_agents)
        if not self.agents:
            raise ValueError(f"{self.name} has no possible_agents: there is nothing to learn")
        self.observation_spaces: dict[Any, spaces.Space] = {agent: env.observation_space(agent) for agent in self.agents}
        self.action_spaces: dict[Any, spaces.Space] = {agent: env.action_space(agent) for agent in self.agents}

    def reset(
        self, seed: int | None, options: dict[str, Any] | None
    ) -> tuple[Mapping[Any, Any], Mapping[Any, dict[str, Any]]]:
        """
        Start an episode.

        :param seed: seed; ``None``: the environment goes on with its random numbers
        :param options: options of the environment; ``None``: none
        :return: observations and infos by agent
        :raises ValueError: an agent is missing, or something else is returned
        """
        returned = self.env.reset(seed=seed) if options is None else self.env.reset(seed=seed, options=options)
        if not (isinstance(returned, tuple) and len(returned) == 2):
            raise self._other_interface("reset", "observations and infos")
        observations, infos = returned
        self._check_all(self.agents, observations, "reset returned no observation of")
        return observations, _of_each(infos, self.agents)

    def step(self, actions: Mapping[Any, Any]) -> Stepped:
        """
        Take one step.

        :param actions: actions of the agents that are still there, by agent
        :raises ValueError: an agent is missing, or something else is returned
        """
        returned = self.env.step(actions)
        if not (isinstance(returned, tuple) and len(returned) == 5):
            raise self._other_interface("step", "observations, rewards, terminations, truncations and infos")
        for what, part in zip(("observation", "reward", "termination", "truncation"), returned, strict=False):
            self._check_all(actions, part, f"step returned no {what} of")
        return Stepped(*returned[:4], _of_each(returned[4], actions))

    def _check_all(self, agents: Iterable[Any], part: Any, problem: str) -> None:
        missing = [agent for agent in agents if agent not in part]
        if missing:
            raise ValueError(
                f"{self.name}: {problem} {' and '.join(map(str, missing))}. All possible_agents must be there from a reset "
                "on, each until it is terminated or truncated"
            )

    def _other_interface(self, method: str, expected: str) -> ValueError:
        return ValueError(
            f"{self.name}.{method} does not return a tuple of {expected}: adapt it to PettingZoo's parallel API of today"
        )


def check_same_spaces(envs: Iterable[ParallelEnv]) -> tuple[spaces.Space, spaces.Space]:
    """
    Return the observation and the action space of all agents.

    :param envs: environments of agents that share the parameters of one policy
    :raises ValueError: their spaces differ
    """
    of_all = {(env.name, a): (env.observation_spaces[a], env.action_spaces[a]) for env in envs for a in env.agents}
    (first, known), *others = of_all.items()
    for other, given in others:
        for what, left, right in zip(("observations", "actions"), known, given, strict=True):
            if left != right:
                raise ValueError(
                    f"agents that share the parameters of one policy need the same spaces, but the {what} of {first[1]} are "
                    f"{one_line(left)}, and those of {other[1]} are {one_line(right)}: pad them to the same space, or use "
                    "MADDPG, in which each agent has its own networks"
                )
    return known


def _of_each(infos: Any, agents: Iterable[Any]) -> dict[Any, dict[str, Any]]:
    """Return one dictionary per agent. Some environments leave agents out of their infos."""
    return {agent: dict(infos.get(agent) or {}) if isinstance(infos, Mapping) else {} for agent in agents}


def _name(env: Any) -> str:
    metadata = getattr(env, "metadata", None) or {}
    return str(metadata.get("name") or type(env).__name__)
