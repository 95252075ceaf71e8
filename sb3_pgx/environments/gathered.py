"""Environments that are spread over the processes of a run, as one ``VecEnv`` in the first of them."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_pgx.environments.array_infos import ArrayInfos, JoinedInfos
from sb3_pgx.environments.carrying import Carrying, carrying_adapter
from sb3_pgx.parallel.channel import Channel
from sb3_pgx.parallel.failure import Failure
from sb3_pgx.parallel.processes import Processes

ORDINARY = {"TimeLimit.truncated": False}  # the info of a step in which nothing happened


class GatheredVecEnv(VecEnv, Carrying):
    """
    N environments of which every process of the run has N / size, as one ``VecEnv`` of all of them.

    The first process acts: its calls of the methods below are executed by all processes, each on its own environments, and
    what they return is joined. The others execute (:meth:`serve`) while the first one trains. Outside of ``learn``, all
    processes run the same script: each must make the same calls, and all get what the first one gets.

    :param own: the environments of this process
    :param processes: of the run
    """

    # Attributes that belong to the process, and not to the state of a run.
    connections: tuple[str, ...] = ("own", "team", "rows", "_out", "_in", "_error", "_actions")

    def __init__(self, own: VecEnv, processes: Processes):
        self.own, self.team = own, processes
        self.rows = processes.rows(own.num_envs * processes.size)
        adapter = carrying_adapter(own)
        self.carries, self.kind = adapter is not None, "" if adapter is None else adapter.kind
        peers = range(1, processes.size) if processes.is_first else [0]
        self._out = {peer: Channel(processes, peer) for peer in peers}
        self._in = {peer: Channel(processes, peer) for peer in peers}
        self._error: Exception | None = None  # of own environments, raised when the others have answered
        super().__init__(own.num_envs * processes.size, own.observation_space, own.action_space)
        self.follow_reset()
        self.metadata = own.metadata
        base = own.unwrapped
        self._seeds = [*chain.from_iterable(processes.exchange(base._seeds))]
        self._options = [*chain.from_iterable(processes.exchange(base._options))]

    # ------------------------------------------------------------------------------------------------ the first process

    def reset(self) -> VecEnvObs:
        seeds, options = self._seeds, self._options
        self._reset_seeds()
        self._reset_options()
        parts, infos = self._called("reset", [], seeds, options)
        self.reset_infos = [*chain.from_iterable(infos)]
        self.follow_reset()
        return self._unflattened(parts)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        actions = self._actions
        plain = isinstance(actions, np.ndarray)
        parts, infos = self._called("step", [actions] if plain else [], *([] if plain else [list(actions)]))
        *observations, rewards, dones = parts
        self.follow_step(dones)
        return self._unflattened(observations), rewards, dones, self._joined_infos(infos)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        return self._of_rows("env_method", indices, method_name, *args, **kwargs)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        if attr_name == "render_mode":  # the same in all of them
            return [self.own.render_mode] * len(list(self._indices(indices)))
        return self._of_rows("get_attr", indices, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        self._of_rows("set_attr", indices, attr_name, value)

    def has_attr(self, attr_name: str) -> bool:
        return self.own.has_attr(attr_name)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        return [all(self.own.env_is_wrapped(wrapper_class))] * len(list(self._indices(indices)))

    def get_images(self) -> Sequence[np.ndarray | None]:
        return [*chain.from_iterable(self._called("get_images", [])[1])]

    def close(self) -> None:
        self._called("close", [])

    def of_others(self, function: Callable[..., Any], arguments: Sequence[Any] | None = None) -> list[Any]:
        """
        Call a function in all processes but the first, each on its own environments. Return the results by rank, from 1 on.

        :param function: of the environments and one of the arguments; it is pickled
        :param arguments: one per process, from rank 1 on; ``None``: there are none
        """
        each = [(), *([()] * (self.team.size - 1) if arguments is None else ((argument,) for argument in arguments))]
        return self._called("of_others", [], function, each=each)[1][1:]

    def _of_rows(self, method: str, indices: VecEnvIndices, *args: Any, **kwargs: Any) -> list[Any]:
        """Call a method of the environments of given rows, in whichever processes they are."""
        chosen = list(self._indices(indices))
        results = dict(chain.from_iterable(self._called("of_rows", [], method, chosen, args, kwargs)[1]))
        return [results[i] for i in chosen]

    def _called(
        self, command: str, arrays: list[np.ndarray], *arguments: Any, each: Sequence[tuple[Any, ...]] | None = None
    ) -> tuple[list[np.ndarray], list[Any]]:
        """
        Let all processes execute a command, each on its rows.

        :param arrays: of all rows, ``[N, ...]``
        :param arguments: for all processes
        :param each: further arguments of each process, by rank
        :return: the arrays that the processes return, joined, ``[N, ...]``; and what else each of them returns
        """
        learns_from = self.team.learns_from
        if learns_from is not None and learns_from is not self:
            raise RuntimeError(
                "a callback, which only the first process calls, uses environments that are spread over all processes: make "
                "them without parallel=…, such as those of EvalCallback"
            )
        if not self.team.is_first:
            return self._followed(command)
        n = self.own.num_envs
        for peer, channel in self._out.items():
            further = () if each is None else each[peer]
            more = None if command == "step" and not arguments else (command, (*arguments, *further))
            channel.send([x[peer * n : (peer + 1) * n] for x in arrays], more)
        answers = [self._executed(command, [x[self.rows.start : self.rows.stop] for x in arrays], arguments)]
        answers += [channel.receive() for channel in self._in.values()]
        failure = next((more for _, more in answers if isinstance(more, Failure)), None)
        joined = [np.concatenate(x) for x in zip(*(parts for parts, _ in answers), strict=True)] if failure is None else []
        result: Any = failure or [more for _, more in answers]
        if learns_from is None:  # the other processes call this, too; otherwise they are in `serve`
            for channel in self._out.values():
                channel.send(joined, (result,))
        if failure is not None:
            raise self._error if self._error is not None else failure.error()
        return joined, result

    # ------------------------------------------------------------------------------------------------ the other processes

    def serve(self) -> Any:
        """Execute what the first process asks for, until it calls :meth:`dismiss`. Return what that says."""
        while True:
            command, arguments = self._execute_next()
            if command == "dismiss":
                return arguments[0]

    def dismiss(self, message: Any) -> None:
        """
        End :meth:`serve` in all other processes.

        :param message: for them
        """
        for channel in self._out.values():
            channel.send([], ("dismiss", (message,)))

    def _execute_next(self) -> tuple[str, Sequence[Any]]:
        arrays, more = self._in[0].receive()
        command, arguments = ("step", ()) if more is None else more
        if command != "dismiss":
            parts, more = self._executed(command, [np.array(x) for x in arrays], arguments)
            self._out[0].send(parts, more)
        return command, arguments

    def _followed(self, expected: str) -> tuple[list[np.ndarray], list[Any]]:
        """Execute what the first process asks for next, and return what it gets."""
        command, _ = self._execute_next()
        if command != expected:
            raise RuntimeError(
                f"process {self.team.rank} calls {expected} of the environments while process 0 calls {command}: outside of "
                "learn, every process must make the same calls of environments that are spread over them"
            )
        joined, (result,) = self._in[0].receive()
        if isinstance(result, Failure):
            raise result.error()
        return [np.array(x) for x in joined], result

    # ------------------------------------------------------------------------------------------------ every process

    def _executed(self, command: str, arrays: list[np.ndarray], arguments: Sequence[Any]) -> tuple[list[np.ndarray], Any]:
        """Execute a command on own rows. Return arrays, ``[n, ...]``, and what else there is; or no arrays and a failure."""
        self._error = None
        try:
            execute: Callable[..., tuple[list[np.ndarray], Any]] = getattr(self, f"_own_{command}")
            return execute(*arrays, *arguments)
        except Exception as error:
            self._error = error
            return [], Failure(error, self.team.rank)

    def _own_reset(self, seeds: Sequence[Any], options: Sequence[Any]) -> tuple[list[np.ndarray], Any]:
        base = self.own.unwrapped
        base._seeds = [seeds[i] for i in self.rows]
        base._options = [options[i] for i in self.rows]
        observations = self.own.reset()
        return self._flattened(observations), self.own.reset_infos

    def _own_step(self, actions: Any) -> tuple[list[np.ndarray], Any]:
        mine = actions if isinstance(actions, np.ndarray) else actions[self.rows.start : self.rows.stop]
        observations, rewards, dones, infos = self.own.step(mine)
        return [*self._flattened(observations), np.asarray(rewards), np.asarray(dones)], to_send(infos)

    def _own_of_rows(self, method: str, chosen: Sequence[int], args: Any, kwargs: Any) -> tuple[list[np.ndarray], Any]:
        mine = [i for i in chosen if i in self.rows]
        if not mine:
            return [], []
        every = mine == list(self.rows)
        places = None if every else [i - self.rows.start for i in mine]
        result = getattr(self.own, method)(*args, indices=places, **kwargs)
        return [], [*zip(mine, [None] * len(mine) if result is None else result, strict=True)]

    def _own_of_others(self, function: Callable[..., Any], *arguments: Any) -> tuple[list[np.ndarray], Any]:
        return [], None if self.team.is_first else function(self.own, *arguments)

    def _own_get_images(self) -> tuple[list[np.ndarray], Any]:
        return [], list(self.own.get_images())

    def _own_close(self) -> tuple[list[np.ndarray], Any]:
        self.own.close()
        return [], None

    def _flattened(self, observations: Any) -> list[np.ndarray]:
        if isinstance(observations, dict):
            return [np.asarray(observations[key]) for key in self.observation_space.spaces]  # type: ignore[attr-defined]
        return [np.asarray(observations)]

    def _unflattened(self, parts: Sequence[np.ndarray]) -> Any:
        spaces = getattr(self.observation_space, "spaces", None)
        return dict(zip(spaces, parts, strict=True)) if isinstance(spaces, dict) else parts[0]

    def _joined_infos(self, parts: Sequence[Any]) -> Any:
        if any(isinstance(part, ArrayInfos) for part in parts):
            return JoinedInfos([ArrayInfos({}, self.own.num_envs) if part is None else part for part in parts])
        return [*chain.from_iterable([{**ORDINARY} for _ in self.rows] if part is None else part for part in parts)]

    def _indices(self, indices: VecEnvIndices) -> Iterable[int]:
        if indices is None:
            return range(self.num_envs)
        return [indices] if isinstance(indices, int) else indices


def to_send(infos: Any) -> Any:
    """Return infos for another process; ``None`` if they say nothing, which needs no message."""
    if isinstance(infos, ArrayInfos):
        return infos if infos.arrays or infos.ended else None
    return None if all(info == ORDINARY for info in infos) else list(infos)
