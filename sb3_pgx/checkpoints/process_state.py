"""The state of all objects of one process, and how states are put together from parts of others."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from sb3_pgx.checkpoints.episodes import Episode
from sb3_pgx.checkpoints.mujoco_state import MujocoState
from sb3_pgx.checkpoints.object_graph import Graph, regrouped
from sb3_pgx.checkpoints.random_state import RandomState

Renamed = Callable[[str], str | None]  # from a path to the new one; None: what is there is left out


class ProcessState(NamedTuple):
    """
    State of all objects that can be reached in one process; everything is by the path of the object. ``restarting`` names
    environments whose episodes cannot be continued, with the reason. ``shares`` are the states of the other processes of the
    run, by rank from 1 on, under the path of the environments that are gathered from them. ``random`` is ``None`` if the
    process's generators do not continue.
    """

    graph: Graph
    simulations: dict[str, MujocoState]
    episodes: dict[str, Episode]
    workers: dict[str, list["ProcessState"]]
    restarting: dict[str, str]
    random: RandomState | None
    shares: dict[str, list["ProcessState"]]


def joined(
    parts: Sequence[tuple[ProcessState, Renamed]], random: RandomState | None, values_of: int | None = None
) -> ProcessState:
    """
    Return one state from parts of several.

    :param parts: states, each with a function of a path that returns the new one, or ``None`` to leave the object out. The
        environments of worker processes are numbered like those of this one, ``….envs[3]``
    :param random: of the result
    :param values_of: see :func:`~sb3_pgx.checkpoints.object_graph.regrouped`
    """
    workers: dict[str, list[ProcessState]] = {}
    for state, renamed in parts:
        for path, answers in state.workers.items():
            for i, answer in enumerate(answers):
                if (new := renamed(f"{path}.envs[{i}]")) is not None:
                    workers.setdefault(new.rpartition(".envs[")[0], []).append(answer)
    return ProcessState(
        regrouped([(state.graph, renamed) for state, renamed in parts], values_of),
        _renamed((state.simulations, renamed) for state, renamed in parts),
        _renamed((state.episodes, renamed) for state, renamed in parts),
        workers,
        {path: reason for state, _ in parts for path, reason in state.restarting.items()},
        random,
        {},
    )


def _renamed(parts: Iterable[tuple[dict[str, Any], Renamed]]) -> dict[str, Any]:
    moved = ((renamed(path), value) for values, renamed in parts for path, value in values.items())
    return {path: value for path, value in moved if path is not None}
