"""The infos of environments that step as arrays: SB3's dictionaries are made only when something reads them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np


class ArrayInfos(Sequence[dict[str, Any]]):
    """
    One dictionary per environment, as SB3's environments return them, made at the first access.

    ``ended`` holds what episodes that ended add to their dictionaries, by environment.

    :param arrays: infos as gymnasium's vector environments return them: arrays over environments, with masks ``_<name>``
    :param n_envs: N, number of environments
    """

    def __init__(self, arrays: Mapping[str, Any], n_envs: int):
        self.arrays, self.n_envs = arrays, n_envs
        self.ended: dict[int, dict[str, Any]] = {}
        self._made: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return self.n_envs

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.n_envs))]
        place = range(self.n_envs)[index]
        if place not in self._made:
            last = self.arrays.get("final_info") if place in self.ended else None  # of the step, and not of the reset after it
            info = info_of(self.arrays if last is None else last, place)
            self._made[place] = {**info, **self.ended.get(place, {"TimeLimit.truncated": False})}
        return self._made[place]

    def __setitem__(self, index: int, info: dict[str, Any]) -> None:
        self._made[range(self.n_envs)[index]] = info

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.__getitem__, range(self.n_envs))


class JoinedInfos(Sequence[dict[str, Any]]):
    """
    The infos of several groups of environments, one group after another.

    :param parts: of the groups, all of one size
    """

    def __init__(self, parts: Sequence[ArrayInfos]):
        self._parts, self._n_each = parts, len(parts[0])

    @property
    def ended(self) -> list[int]:
        """The environments whose episode ended."""
        return [n * self._n_each + place for n, part in enumerate(self._parts) for place in part.ended]

    def __len__(self) -> int:
        return self._n_each * len(self._parts)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        part, place = divmod(range(len(self))[index], self._n_each)
        return self._parts[part][place]

    def __setitem__(self, index: int, info: dict[str, Any]) -> None:
        part, place = divmod(range(len(self))[index], self._n_each)
        self._parts[part][place] = info

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (info for part in self._parts for info in part)


def info_of(arrays: Mapping[str, Any], index: int) -> dict[str, Any]:
    """
    Return the dictionary of one environment.

    :param arrays: infos as gymnasium's vector environments return them; ``final_obs`` and ``final_info``, which belong to the
        last step of an episode, are left out
    :param index: the environment
    """
    names = [name for name in arrays if not name.startswith("_") and name not in ("final_obs", "final_info")]
    return {name: _value(arrays[name], index) for name in names if _has(name, arrays, index)}


def _has(name: str, arrays: Mapping[str, Any], index: int) -> bool:
    return name in arrays and bool(arrays.get(f"_{name}", _ALL)[index])


def _value(values: Any, index: int) -> Any:
    if isinstance(values, Mapping):
        return info_of(values, index)
    value = values[index]
    return value.item() if isinstance(value, np.generic) else value


class _All:
    """A mask that is true everywhere."""

    def __getitem__(self, index: int) -> bool:
        return True


_ALL = _All()
