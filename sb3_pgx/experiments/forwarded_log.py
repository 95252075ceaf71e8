"""A log that forwards what a model logs to functions."""

from collections.abc import Callable, Mapping
from typing import Any

from stable_baselines3.common.logger import KVWriter, SeqWriter


class ForwardedLog(KVWriter, SeqWriter):
    """
    An output format of SB3's logger.

    :param on_sentence: function that gets each sentence
    :param on_numbers: function that gets the metrics of each update, by key
    """

    def __init__(
        self, on_sentence: Callable[[str], None], on_numbers: Callable[[Mapping[str, Any]], None] = lambda metrics: None
    ):
        self._on_sentence, self._on_numbers = on_sentence, on_numbers

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Forward the metrics."""
        self._on_numbers(key_values)

    def write_sequence(self, sequence: list[str]) -> None:
        """Forward a sentence."""
        self._on_sentence(" ".join(map(str, sequence)))

    def close(self) -> None:
        """There is nothing to close."""
