"""Save the state of environments and of everything around them, and continue from it, in this process and in workers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from sb3_pgx.checkpoints.episodes import EpisodeRecorder, can_be_replayed, recorder_of
from sb3_pgx.checkpoints.mujoco_state import mujoco_state, set_mujoco_state, simulation_of
from sb3_pgx.checkpoints.object_graph import (
    ENVIRONMENTS,
    WORKER_ATTRIBUTE,
    Graph,
    hides_state,
    nodes_of,
    put,
    take,
)
from sb3_pgx.checkpoints.process_state import ProcessState
from sb3_pgx.checkpoints.random_state import random_state, set_random_state
from sb3_pgx.checkpoints.shares import SHARE
from sb3_pgx.environments.gathered import GatheredVecEnv


def process_state(roots: Mapping[str, Any], values: Any = None, references: Mapping[int, Any] | None = None) -> ProcessState:
    """
    Save the state of everything that can be reached. Nothing changes, apart from recorders that environments get whose
    episodes must be replayed: they record from the next reset on.

    :param roots: objects by name: environments, callbacks, a logger
    :param values: see :func:`~sb3_pgx.checkpoints.object_graph.take`
    :param references: see :func:`~sb3_pgx.checkpoints.object_graph.take`
    """
    random = random_state()
    nodes = nodes_of(roots)
    simulations, episodes, workers, shares = {}, {}, {}, {}
    restarting: dict[str, str] = {}
    for path, node in nodes.items():
        if isinstance(node, GatheredVecEnv):
            shares[path] = node.of_others(_state_of_share)
            restarting |= _of_others(path, [share.restarting for share in shares[path]])
        elif isinstance(node, SubprocVecEnv):
            answers = ask_workers(node, "state")
            if answers is None or any(answer.restarting for answer in answers):
                restarting[path] = _in_processes(node)
            else:
                workers[path] = answers
        elif isinstance(node, gym.Env) and (simulation := simulation_of(node)):
            simulations[path] = mujoco_state(simulation)
    graph = take(roots, values, references)
    for path in _incomplete(nodes, graph):
        recorder = _recorded(nodes[path])
        if recorder is not None and recorder.episode is not None:
            episodes[path] = recorder.episode._replace(actions=[*recorder.episode.actions])
        else:
            restarting[path] = type(nodes[path]).__name__
    return ProcessState(graph, simulations, episodes, workers, restarting, random, shares)


def _in_processes(env: SubprocVecEnv) -> str:
    return f"the environments in the processes of {type(env).__name__}"


def _incomplete(nodes: Mapping[str, Any], graph: Graph) -> list[str]:
    """Return the paths of environments whose attributes are not their whole state."""
    return [
        path
        for path, node in nodes.items()
        if isinstance(node, ENVIRONMENTS) and not isinstance(node, SubprocVecEnv) and (hides_state(node) or path in graph.lost)
    ]


def _recorded(env: Any) -> EpisodeRecorder | None:
    """Return the environment's recorder. It gets one if its episodes can be replayed."""
    is_single = isinstance(env, gym.Env) and not isinstance(env, gym.Wrapper) and not hides_state(env)
    if not is_single or not can_be_replayed(env):
        return None
    return recorder_of(env) or EpisodeRecorder(env)


def record_episodes(roots: Mapping[str, Any]) -> None:
    """
    Record the episodes of environments whose state cannot be read, from the next reset on, so that checkpoints can continue
    them.

    :param roots: objects by name
    """
    nodes = nodes_of(roots)
    for node in nodes.values():
        if isinstance(node, GatheredVecEnv):
            node.of_others(_record_share)
        elif isinstance(node, SubprocVecEnv):
            ask_workers(node, "record")
    for path in _incomplete(nodes, take(roots)):
        _recorded(nodes[path])


def set_process_state(
    state: ProcessState, roots: Mapping[str, Any], references: Mapping[Any, Any] | None = None
) -> tuple[Any, dict[str, str], list[str]]:
    """
    Continue everything that can be reached from a state. The global random generators come last.

    :param state: result of :func:`process_state` in another process
    :param roots: objects that correspond to those given there
    :param references: see :func:`~sb3_pgx.checkpoints.object_graph.put`
    :return: the values given there; environments whose episodes must restart, by path; paths of objects that are not there
    """
    nodes, restarting = nodes_of(roots), {**state.restarting}
    for path, shares in state.shares.items():
        if path in nodes:
            restarting |= _of_others(path, nodes[path].of_others(_continue_share, shares))
    for path, episode in state.episodes.items():
        if path in nodes:
            recorder = _recorded(nodes[path])
            if recorder is None or not recorder.replay(episode):
                restarting[path] = type(nodes[path]).__name__
    for path, answers in state.workers.items():
        if path in nodes:
            restarted = ask_workers(nodes[path], "continue", answers)
            if restarted is None or any(restarted):
                restarting[path] = _in_processes(nodes[path])
    values, missing = put(state.graph, roots, references)
    for path, simulation in state.simulations.items():
        if path in nodes and (live := simulation_of(nodes[path])):
            set_mujoco_state(live, simulation)
    if state.random is not None:
        set_random_state(state.random)
    return values, restarting, missing


def of_environments(by_path: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of the training environments among those of a run."""
    return {path: value for path, value in by_path.items() if path.partition(".")[0] == "env"}


# ------------------------------------------------------------------------------- other processes of a run, by `of_others`


def _state_of_share(own: VecEnv) -> ProcessState:
    return process_state({SHARE: own})


def _continue_share(own: VecEnv, state: ProcessState) -> dict[str, str]:
    return set_process_state(state, {SHARE: own})[1]


def _record_share(own: VecEnv) -> None:
    record_episodes({SHARE: own})


def _of_others(path: str, restarting: list[dict[str, str]]) -> dict[str, str]:
    """Return the environments of other processes whose episodes restart."""
    return {
        f"{path}.own in process {rank}": ", ".join(sorted({*of_one.values()}))
        for rank, of_one in enumerate(restarting, 1)
        if of_one
    }


# -------------------------------------------------------------------------------------------------- worker processes


def ask_workers(env: SubprocVecEnv, question: str, arguments: list[Any] | None = None) -> list[Any] | None:
    """
    Ask the worker processes, which know commands of SB3 alone: an object that ``isinstance`` asks is run there, and attaches
    :class:`_Worker` to the environment.

    :param env: the vector environment
    :param question: name of a method of :class:`_Worker`
    :param arguments: one argument per worker
    :return: one answer per worker; ``None`` if they cannot be asked
    """
    env.env_is_wrapped(_Attach())  # type: ignore[arg-type]
    if not env.has_attr(WORKER_ATTRIBUTE):
        return None
    each = [()] * env.num_envs if arguments is None else [(argument,) for argument in arguments]
    answers = [env.env_method(WORKER_ATTRIBUTE, question, *a, indices=[i])[0] for i, a in enumerate(each)]
    return None if any(isinstance(answer, _Failure) for answer in answers) else answers


class _Failure(NamedTuple):
    reason: str


class _Worker:
    """Saves and sets the state of the environment of a worker process."""

    def __init__(self, env: gym.Env):
        self.roots = {"env": env}

    def __call__(self, question: str, *arguments: Any) -> Any:
        try:
            if question == "record":
                return record_episodes(self.roots)
            if question == "state":
                return process_state(self.roots)
            (state,) = arguments
            return set_process_state(state, self.roots)[1]
        except Exception as error:  # it would end the process
            return _Failure(f"{type(error).__name__}: {error}")


class _Attach:
    """``isinstance(env, _Attach())`` attaches a :class:`_Worker`."""

    def __instancecheck__(self, env: Any) -> bool:
        if not isinstance(vars(env).get(WORKER_ATTRIBUTE), _Worker):
            setattr(env, WORKER_ATTRIBUTE, _Worker(env))
        return True
