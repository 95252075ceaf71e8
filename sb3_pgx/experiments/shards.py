"""Shares of a list of runs, for batch systems that start the same command many times with a number each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """
    One of several shares of a list. The shares are disjoint, together they are the list, and their lengths differ by at most
    one. They depend only on the list, not on which runs are finished.

    :param number: which share, from 1 to ``count``
    :param count: number of shares
    :raises ValueError: there is no such share
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1 or not 1 <= self.number <= self.count:
            raise ValueError(f"shard {self}: shards are numbered from 1 to their count, such as 1/10, 2/10, …, 10/10")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """
        Return the items of this share, in order. Neighbours go to different shares, so that each has runs of all algorithms
        and environments.
        """
        return items[self.number - 1 :: self.count]


WHOLE = Shard(1, 1)


def read_shard(text: str) -> Shard:
    """
    Read ``3/10`` as the third of ten shares.

    :raises ValueError: it is something else
    """
    number, slash, count = text.partition("/")
    if not (slash and _is_whole(number) and _is_whole(count)):
        raise ValueError(f"shard {text}: write NUMBER/COUNT, such as 3/10 for the third of ten")
    return Shard(int(number), int(count))


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit()
