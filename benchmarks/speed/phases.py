"""Measure the time per phase of a run, with a stopwatch on methods of the model, the environments and the callback."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_pgx.diagnostics.stopwatch import Stopwatch
from sb3_pgx.stages.algorithm import PolicyGradientAlgorithm

PHASES = ("collect", "evaluate", "update", "environment", "callback", "other")
# SB3 evaluates while it acts, so it has no such phase.
OURS = {"collect_rollouts": "collect", "evaluate_and_estimate": "evaluate", "update": "update"}
THEIRS = {"collect_rollouts": "collect", "train": "update"}
CALLBACK = ("on_training_start", "on_rollout_start", "on_step", "on_rollout_end", "on_update_end", "on_training_end")


@contextmanager
def timed_phases(
    model: BaseAlgorithm, callback: BaseCallback | None = None, clock: Callable[[], int] = time.perf_counter_ns
) -> Iterator[Stopwatch]:
    """
    Time the phases of a model, of its environments and of a callback. It replaces methods of these instances and restores them
    when the context ends.

    :param model: a model of this package, or one with SB3's ``collect_rollouts`` and ``train``
    :param callback: the callback of the run
    :param clock: function that returns nanoseconds
    """
    methods = OURS if isinstance(model, PolicyGradientAlgorithm) else THEIRS
    targets: list[tuple[Any, str, str]] = [(model, method, phase) for method, phase in methods.items()]
    targets.append((model.get_env(), "step", "environment"))
    targets += [(callback, method, "callback") for method in CALLBACK if hasattr(callback, method)]
    stopwatch = Stopwatch("other", PHASES, clock)
    for owner, method, phase in targets:
        setattr(owner, method, stopwatch.timed(getattr(owner, method), phase))
    try:
        yield stopwatch
    finally:
        for owner, method, _ in targets:
            delattr(owner, method)
