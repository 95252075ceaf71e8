"""Environments of several agents behind SB3's interface: each agent is one row, so all of them share one policy."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_pgx.core.checks import check_choice
from sb3_pgx.core.errors import one_line
from sb3_pgx.environments.carrying import Carrying
from sb3_pgx.environments.parallel_env import ParallelEnv, check_same_spaces
from sb3_pgx.environments.returned import row_of

OBSERVATION, CRITIC = "observation", "critic"  # parts of an observation with a central critic


class AgentsVecEnv(VecEnv, Carrying):
    """
    Copies of an environment with PettingZoo's parallel API, as SB3's ``VecEnv`` for a policy that all agents share: row
    c · A + i is agent i of copy c, of A agents each. A step of ``num_timesteps`` is the step of one agent.

    When all agents of a copy have ended, it is reset in the same step. An agent that ends before the others waits, as
    :class:`~sb3_pgx.environments.carrying.Carrying` tells: the on-policy algorithms of this package neither learn from these
    rows nor count them. ``VecEnv`` has no notion of them, so other readers see rows with reward 0. Returns and lengths of each
    agent's episode are reported as ``info["episode"]``, as SB3's ``Monitor`` does. The copies step one after the other, in
    this process.

    :param env_fns: functions that make one environment each; all agents need the same observation and action space
    :param critic: add a part ``"critic"`` to the observations, which then are dictionaries, for a central critic
        (``policy_kwargs=dict(critic_key="critic")``): ``"state"``, what the environment's method ``state()`` returns, or
        ``"observations"``, those of all agents, flattened, with zeros for agents that ended before the last step. The agent's
        own observation is the part ``"observation"``; one that is a dictionary keeps its parts. ``None``: leave the
        observations as they are
    :raises ValueError: an environment does not have the parallel API, agents have different spaces, or ``"state"`` is asked
        for and there is none
    """

    def __init__(self, env_fns: Sequence[Callable[[], Any]], critic: Literal["state", "observations"] | None = None):
        check_choice((None, "state", "observations"), critic=critic)
        made = [make() for make in env_fns]
        if not made:
            raise ValueError("env_fns is empty: give a function that makes an environment, one per copy")
        if len({*map(id, made)}) < len(made):
            raise ValueError("two of env_fns return the same environment: each must make one of its own")
        self.envs = [ParallelEnv(env) for env in made]
        self.agents = self.envs[0].agents
        for env in self.envs:
            if env.agents != self.agents:
                raise ValueError(
                    f"the copies have different agents, {self.agents} and {env.agents}: make the same environment"
                )
        observation_space, action_space = check_same_spaces(self.envs)
        self._critic, self._own_parts = critic, isinstance(observation_space, spaces.Dict)
        super().__init__(len(self.envs) * len(self.agents), self._with_critic(observation_space), action_space)
        self.metadata = getattr(made[0], "metadata", {})
        self.carries, self.kind = len(self.agents) > 1, self.envs[0].name
        self.follow_reset()
        self._rows = self._zeros(self.observation_space)
        self._returns, self._lengths = np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=int)
        self._start = time.time()
        self._actions: Any = None

    def refusal(self, reason: str, remedy: str) -> ValueError:
        return ValueError(
            f"an agent of {self.kind} may end before the others, and its rows until they end are no experience, but {reason}: "
            "use an on-policy algorithm with rollouts of SB3's kind, such as PPO or A2C, or MADDPG"
        )

    # ------------------------------------------------------------------------------------------------ observations

    def _with_critic(self, space: spaces.Space) -> spaces.Space:
        """Return the observation space with the critic's part."""
        if self._critic is None:
            return space
        parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {OBSERVATION: space}
        if CRITIC in parts:
            raise ValueError(
                f"critic={self._critic!r} adds a part {CRITIC!r}, but the agents' observations have one already: leave it out"
            )
        return spaces.Dict({**parts, CRITIC: self._critic_space(space)})

    def _critic_space(self, space: spaces.Space) -> spaces.Space:
        env = self.envs[0]
        if self._critic == "state":
            state_space = getattr(env.env, "state_space", None)
            if not (isinstance(state_space, spaces.Box) and callable(getattr(env.env, "state", None))):
                raise ValueError(
                    "critic='state' needs an environment with a method state() and its Box state_space, but the state_space "
                    f"of {env.name} is {one_line(state_space)}: use critic='observations', or write them"
                )
            return state_space
        if not space.is_np_flattenable or is_image_space(space):
            raise ValueError(
                f"critic='observations' puts flattened observations side by side, which {one_line(space)} does not allow: use "
                "critic='state', or write a wrapper that adds a part of your own"
            )
        return spaces.flatten_space(spaces.Dict({str(agent): space for agent in self.agents}))

    def _critic_part(self, env: ParallelEnv, observations: Any) -> Any:
        if self._critic == "state":
            return env.env.state()
        parts: list[Any] = [
            spaces.flatten(space, observations[agent])
            if agent in observations
            else np.zeros(spaces.flatdim(space), np.float32)
            for agent, space in env.observation_spaces.items()
        ]
        return np.concatenate(parts)

    def _zeros(self, space: spaces.Space) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: self._zeros(part) for key, part in space.spaces.items()}
        return np.zeros((self.num_envs, *(space.shape or ())), space.dtype)

    def _write(self, copy: int, observations: Any) -> None:
        """Write the observations of one copy's agents into their rows."""
        env = self.envs[copy]
        for row, agent in enumerate(self.agents, copy * len(self.agents)):
            if agent in observations:
                own = observations[agent]
                if self._critic is not None and not self._own_parts:
                    own = {OBSERVATION: own}
                _put(self._rows, row, own)
        if self._critic is not None:
            rows = slice(copy * len(self.agents), (copy + 1) * len(self.agents))
            self._rows[CRITIC][rows] = self._critic_part(env, observations)

    def _observations(self) -> Any:
        """Return a copy of all rows, since the next step writes into them."""
        return {key: part.copy() for key, part in self._rows.items()} if isinstance(self._rows, dict) else self._rows.copy()

    # ------------------------------------------------------------------------------------------------ steps

    def reset(self) -> VecEnvObs:
        for copy in range(len(self.envs)):
            row = copy * len(self.agents)
            self._reset(copy, self._seeds[row], self._options[row] or None)
        self.follow_reset()
        self._reset_seeds()
        self._reset_options()
        return self._observations()

    def _reset(self, copy: int, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        observations, infos = self.envs[copy].reset(seed, options)
        self._write(copy, observations)
        rows = slice(copy * len(self.agents), (copy + 1) * len(self.agents))
        self._returns[rows], self._lengths[rows] = 0.0, 0
        self.reset_infos[rows] = [infos[agent] for agent in self.agents]

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        rewards, dones = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, dtype=bool)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        waiting = np.zeros(self.num_envs, dtype=bool) if self.resetting is None else self.resetting.copy()
        for copy, env in enumerate(self.envs):
            rows = {a: row for row, a in enumerate(self.agents, copy * len(self.agents)) if not waiting[row]}
            stepped = env.step({agent: self._actions[row] for agent, row in rows.items()})
            self._write(copy, {agent: stepped.observations[agent] for agent in rows})
            for agent, row in rows.items():
                reward = float(stepped.rewards[agent])
                rewards[row], dones[row], infos[row] = reward, stepped.ended(agent), stepped.infos[agent]
                self._returns[row] += reward
                self._lengths[row] += 1
                if dones[row]:
                    infos[row]["TimeLimit.truncated"] = bool(stepped.truncated[agent] and not stepped.terminated[agent])
                    infos[row]["terminal_observation"] = row_of(self._rows, row)
                    infos[row]["episode"] = self._statistics(row)
                    waiting[row] = True
            of_copy = slice(copy * len(self.agents), (copy + 1) * len(self.agents))
            if waiting[of_copy].all():
                self._reset(copy)
                waiting[of_copy] = False
        self.follow_step(waiting)
        return self._observations(), rewards, dones, infos

    def _statistics(self, row: int) -> dict[str, Any]:
        elapsed = round(time.time() - self._start, 6)
        return {"r": round(float(self._returns[row]), 6), "l": int(self._lengths[row]), "t": elapsed}

    # ------------------------------------------------------------------------------------------------ the rest of VecEnv

    def close(self) -> None:
        for env in self.envs:
            env.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return one picture per copy."""
        return [env.env.render() for env in self.envs]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        default = (None,) if attr_name == "render_mode" else ()  # SB3 asks for it, and not all environments have it
        return [getattr(self.envs[copy].env, attr_name, *default) for copy in self._copies(indices)]

    def has_attr(self, attr_name: str) -> bool:
        return all(hasattr(env.env, attr_name) for env in self.envs)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        for copy in dict.fromkeys(self._copies(indices)):
            setattr(self.envs[copy].env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Call a method of each copy once, and return its result for each of the copy's rows."""
        copies = [*self._copies(indices)]
        results = {copy: getattr(self.envs[copy].env, method_name)(*args, **kwargs) for copy in dict.fromkeys(copies)}
        return [results[copy] for copy in copies]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """True for ``Monitor``, whose statistics this adapter provides; false for all others."""
        return [issubclass(wrapper_class, Monitor)] * len([*self._copies(indices)])

    def _copies(self, indices: VecEnvIndices) -> Iterable[int]:
        """Return the copies to which rows belong."""
        n = len(self.envs) * len(self.agents)
        rows = range(n) if indices is None else [indices] if isinstance(indices, int) else indices
        return (row % n // len(self.agents) for row in rows)


def _put(rows: Any, row: int, observation: Any) -> None:
    if isinstance(observation, dict):
        for key, part in observation.items():
            rows[key][row] = part
    else:
        rows[row] = observation
