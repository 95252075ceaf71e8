"""Callbacks that are known to change nothing: acting and evaluation do not look after what they may have changed."""

import pytest
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    StopTrainingOnMaxEpisodes,
)
from support.capabilities import envs

from sb3_pgx.core.deferred_values import may_change, may_read_locals
from sb3_pgx.diagnostics import DiagnosticsCallback, HealthCallback, PostMortemCallback


class Own(DiagnosticsCallback):
    """A subclass may do anything."""


class Writes(BaseCallback):
    def _on_step(self):
        return True


def evaluating(**kwargs):
    return EvalCallback(envs(n=1), **kwargs)


READING = {
    "diagnostics": DiagnosticsCallback,
    "health": HealthCallback,
    "post-mortem": PostMortemCallback,
    "checkpoint": lambda: CheckpointCallback(100, "folder"),
    "episodes": lambda: StopTrainingOnMaxEpisodes(5),
    "evaluation": evaluating,
    "list": lambda: CallbackList([DiagnosticsCallback(), CallbackList([StopTrainingOnMaxEpisodes(5)])]),
}
CHANGING = {
    "a user's": Writes,
    "a function": lambda: ConvertCallback(lambda *_: True),
    "a subclass": Own,
    "a list with one": lambda: CallbackList([DiagnosticsCallback(), Writes()]),
    "an evaluation with one": lambda: evaluating(callback_after_eval=Writes()),
}


@pytest.mark.parametrize("name", READING)
def test_what_only_reads(name):
    callback = READING[name]()
    assert may_read_locals(callback) and not may_change(callback)


@pytest.mark.parametrize("name", CHANGING)
def test_what_may_change_something(name):
    assert may_change(CHANGING[name]())


def test_the_empty_callback_does_nothing():
    assert not may_read_locals(ConvertCallback(None)) and not may_change(ConvertCallback(None))
