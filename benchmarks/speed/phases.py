"""Time per phase of a run: a stopwatch for nested phases, and the methods of a model that belong to each phase."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_pgx.stages.algorithm import PolicyGradientAlgorithm

PHASES = ("collect", "evaluate", "update", "environment", "callback", "other")
# SB3 evaluates while it acts, so that it has no phase of that name.
OURS = {"collect_rollouts": "collect", "evaluate_and_estimate": "evaluate", "update": "update"}
THEIRS = {"collect_rollouts": "collect", "train": "update"}
CALLBACK = ("on_training_start", "on_rollout_start", "on_step", "on_rollout_end", "on_update_end", "on_training_end")


class Stopwatch:
    """
    Times of nested phases, each without the phases inside it, so that they add up to the whole; the rest is ``"other"``. The
    clock is read once at the beginning and once at the end of a phase.

    :param clock: nanoseconds since some moment
    """

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns):
        self.calls: Counter[str] = Counter()
        self._nanoseconds: Counter[str] = Counter()
        self._clock = clock
        self._phases = ["other"]
        self._since = clock()

    def timed(self, function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        """Return the function with its calls timed as a phase."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self._charge()
            self._phases.append(phase)
            self.calls[phase] += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._charge()
                self._phases.pop()

        return call

    def seconds(self) -> dict[str, float]:
        """Return the seconds of every phase until now, including phases that did not occur."""
        self._charge()
        return {phase: self._nanoseconds[phase] / 1e9 for phase in PHASES}

    def _charge(self) -> None:
        now = self._clock()
        self._nanoseconds[self._phases[-1]] += now - self._since
        self._since = now


@contextmanager
def watch(
    model: BaseAlgorithm, callback: BaseCallback | None = None, clock: Callable[[], int] = time.perf_counter_ns
) -> Iterator[Stopwatch]:
    """
    Time the phases of a model, of its environments and of a callback. It replaces methods of these instances and restores them
    when the context ends.

    :param model: a model of this package, or one with SB3's ``collect_rollouts`` and ``train``
    :param callback: the callback that it is trained with
    :param clock: nanoseconds since some moment
    """
    methods = OURS if isinstance(model, PolicyGradientAlgorithm) else THEIRS
    targets: list[tuple[Any, str, str]] = [(model, method, phase) for method, phase in methods.items()]
    targets.append((model.get_env(), "step", "environment"))
    targets += [(callback, method, "callback") for method in CALLBACK if hasattr(callback, method)]
    stopwatch = Stopwatch(clock)
    for owner, method, phase in targets:
        setattr(owner, method, stopwatch.timed(getattr(owner, method), phase))
    try:
        yield stopwatch
    finally:
        for owner, method, _ in targets:
            delattr(owner, method)
