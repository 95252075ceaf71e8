"""The actions of several agents as one row of numbers, as a replay memory and a central critic take them."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pgx.core.errors import one_line
from sb3_pgx.core.spaces import within


class JointActions(spaces.Box):
    """
    One action of each agent, as a row of numbers side by side, in the agents' order.

    A Box action is its numbers. A Discrete action is one number per choice, in [−1, 1]: the choice is that of the largest
    number. Policies write 1 for the choice and 0 elsewhere (one-hot).

    :param of_agents: action space by agent
    :raises ValueError: an agent has other actions
    """

    def __init__(self, of_agents: Mapping[str, spaces.Space]):
        for agent, space in of_agents.items():
            if not isinstance(space, spaces.Box | spaces.Discrete):
                raise ValueError(
                    f"{agent} acts in {one_line(space)}, but joint actions are made of Box and Discrete actions: give each "
                    "agent one of them"
                )
        self.of_agents = dict(of_agents)
        rows = {agent: as_row(space) for agent, space in self.of_agents.items()}
        ends = np.cumsum([0, *(row.shape[0] for row in rows.values())]).tolist()
        self.columns = {agent: slice(*ends) for agent, ends in zip(rows, pairwise(ends), strict=True)}
        dtype: Any = np.result_type(*(row.dtype for row in rows.values()))
        low, high = (np.concatenate([getattr(row, name) for row in rows.values()]) for name in ("low", "high"))
        super().__init__(low.astype(dtype), high.astype(dtype), dtype=dtype)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, JointActions) and self.of_agents == other.of_agents

    def __repr__(self) -> str:
        return f"JointActions({self.of_agents})"

    def one_hot(self, rows: np.ndarray) -> np.ndarray:
        """
        Return rows with 1 at the choice of each Discrete agent and 0 at its other numbers.

        :param rows: ``[N, D]``
        """
        result = rows.copy()
        for agent, columns in self.columns.items():
            if isinstance(self.of_agents[agent], spaces.Discrete):
                result[:, columns] = np.eye(columns.stop - columns.start)[rows[:, columns].argmax(axis=1)]
        return result

    def by_agent(self, row: np.ndarray) -> dict[str, Any]:
        """
        Return the actions as the agents' environment takes them.

        :param row: ``[D]``
        """
        return {agent: _member(row[self.columns[agent]], space) for agent, space in self.of_agents.items()}


def as_row(space: spaces.Space) -> spaces.Box:
    """
    Return the space of an agent's action as a row of numbers.

    :param space: Box or Discrete
    """
    if isinstance(space, spaces.Discrete):
        return spaces.Box(-1, 1, (int(space.n),), np.float32)
    assert isinstance(space, spaces.Box)
    return spaces.Box(space.low.ravel(), space.high.ravel(), dtype=space.dtype)


def _member(row: np.ndarray, space: spaces.Space) -> Any:
    return within(row.argmax() if isinstance(space, spaces.Discrete) else row.reshape(space.shape), space)
