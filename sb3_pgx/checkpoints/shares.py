"""Environments that are spread over the processes of a run: their state for another number of processes."""

import re
from collections.abc import Mapping
from typing import Any

from sb3_pgx.checkpoints.object_graph import name_of_class, nodes_of
from sb3_pgx.checkpoints.process_state import ProcessState, Renamed, joined
from sb3_pgx.environments.gathered import GatheredVecEnv
from sb3_pgx.environments.spread import ShareOfEnvironments
from sb3_pgx.parallel.processes import Processes

SHARE = "env"  # path of its environments in the state of each process but the first
_SB3S = "stable_baselines3.common.vec_env"
# Vector environments that have no state but that of their single environments, so that it can be divided.
_DIVISIBLE = (f"{_SB3S}.dummy_vec_env.DummyVecEnv", f"{_SB3S}.subproc_vec_env.SubprocVecEnv")


def processes_of(env: Any) -> Processes | None:
    """
    Return the processes over which environments are spread; ``None`` if all are in this one.

    :param env: training environments
    """
    spread = (node for node in nodes_of({"env": env}).values() if isinstance(node, GatheredVecEnv | ShareOfEnvironments))
    return next((node.team for node in spread), None)


def place_of(env: Any) -> str | None:
    """
    Return the path of the environments that are gathered from all processes; ``None`` if there are none.

    :param env: training environments
    """
    return next((path for path, node in nodes_of({"env": env}).items() if isinstance(node, GatheredVecEnv)), None)


def saved_place(state: ProcessState) -> str | None:
    """Return :func:`place_of` for the training environments of a state."""
    return next((path for path in state.shares if _is_at(path, "env")), None)


def size_of(state: ProcessState) -> int:
    """Return from how many processes the training environments of a state are gathered; 1 if they are not."""
    return 1 + len(state.shares.get(saved_place(state) or "", []))


def gathered_size(env: Any) -> int:
    """Return from how many processes environments are gathered; 1 if they are not."""
    place = place_of(env)
    return 1 if place is None else nodes_of({"env": env})[place].team.size


# ---------------------------------------------------------------------------------------- the paths in a run in one process


def saved_classes(state: ProcessState, n_envs: int) -> dict[str, str]:
    """
    Return the class of each training environment and wrapper, by the path that it would have in a run in one process.

    :param state: of the first process
    :param n_envs: number of environments of all processes
    """
    place, share = saved_place(state), n_envs // size_of(state)
    classes = {path: name for path, name in state.graph.classes.items() if _is_at(path, "env")}
    if place is not None:
        classes = _in_one_process(classes, place, 0)
        for rank, other in enumerate(state.shares[place], 1):
            classes |= _at(place, other.graph.classes, SHARE, rank * share)
    return classes


def given_classes(env: Any) -> dict[str, str]:
    """
    Return the class of each environment and wrapper of this process, by the path that it would have in a run in one process.

    :param env: training environments
    """
    nodes, place = nodes_of({"env": env}), place_of(env)
    classes = {path: name_of_class(node) for path, node in nodes.items()}
    return classes if place is None else _in_one_process(classes, place, nodes[place].rows.start)


def _in_one_process(classes: Mapping[str, str], place: str, first: int) -> dict[str, str]:
    wrappers = {path: name for path, name in classes.items() if not _is_at(path, place)}
    return wrappers | _at(place, classes, f"{place}.own", first)


def _at(place: str, classes: Mapping[str, str], own: str, first: int) -> dict[str, str]:
    """Return the classes of the environments ``own`` of a process, the first of which has a number, below ``place``."""
    found = {}
    for path, name in classes.items():
        if _is_at(path, own):
            numbered = re.match(_numbered(own), path)
            found[f"{place}.envs[{first + int(numbered[1])}]{numbered[2]}" if numbered else place + path[len(own) :]] = name
    return found


def of_rows(classes: Mapping[str, str], env: Any) -> dict[str, str]:
    """
    Return the entries of the environments that this process has, and of all wrappers.

    :param classes: result of :func:`saved_classes`
    :param env: training environments
    """
    place = place_of(env)
    if place is None:
        return {**classes}
    rows = nodes_of({"env": env})[place].rows
    numbers = {path: re.match(_numbered(place), path) for path in classes}
    return {path: name for path, name in classes.items() if (found := numbers[path]) is None or int(found[1]) in rows}


def is_divisible(classes: Mapping[str, str], place: str) -> bool:
    """
    Return whether the state of environments can be divided among another number of processes.

    :param classes: result of :func:`saved_classes`
    :param place: path of the environments that are gathered
    """
    return classes.get(place) in _DIVISIBLE


# --------------------------------------------------------------------------------------------- another number of processes


def fitted(state: ProcessState, env: Any) -> ProcessState:
    """
    Return the state for the processes that there are now. Those that there were, too, keep their random numbers.

    :param state: of the first process
    :param env: training environments, whose state can be divided if the number of processes differs
    """
    place, before, now = place_of(env) or saved_place(state), size_of(state), gathered_size(env)
    if place is None:
        return state
    node = nodes_of({"env": env})[place]
    if now != before:
        state = _divided(state, place, before, now, node.num_envs)
    if now > 1 and not node.team.is_first:  # the first process gives the others the state of their environments
        others = state.shares
        state = joined([(state, _around(place, lambda path: None))], None, 0)._replace(shares=others)
    return state


def _divided(state: ProcessState, place: str, before: int, now: int, n_envs: int) -> ProcessState:
    sources = [(state, f"{place}.own" if before > 1 else place), *((x, SHARE) for x in state.shares.get(place, []))]
    targets = [f"{place}.own" if now > 1 else place, *[SHARE] * (now - 1)]
    rows = n_envs // now
    states = []
    for rank, to in enumerate(targets):
        parts = []
        for i, (source, path) in enumerate(sources):
            moved = _moved(path, to, i * (n_envs // before) - rank * rows, rows)
            renamed = _around(place, moved) if i == rank == 0 else moved
            parts += [(source, renamed)] if any(map(renamed, source.graph.classes)) or source.workers else []
        states.append(joined(parts, sources[rank][0].random if rank < before else None, None if rank else 0))
    first, *others = states
    return first._replace(shares={place: others} if others else {})


def _moved(path: str, to: str, shift: int, n: int) -> Renamed:
    """Return a function that adds ``shift`` to the numbers of environments, and leaves out those that are not in [0, n)."""

    def renamed(old: str) -> str | None:
        numbered = re.match(_numbered(path), old)
        number = int(numbered[1]) + shift if numbered else -1
        return f"{to}.envs[{number}]{numbered[2]}" if numbered and 0 <= number < n else None

    return renamed


def _around(place: str, within: Renamed) -> Renamed:
    """Return a function that renames what is below a path, and keeps all other names."""
    return lambda path: within(path) if _is_at(path, place) and path != place else path


def _numbered(path: str) -> str:
    return rf"{re.escape(path)}\.envs\[(\d+)\](.*)"


def _is_at(path: str, place: str) -> bool:
    """Return whether an object is that at ``place``, or a part of it."""
    return path == place or path.startswith(f"{place}.")
