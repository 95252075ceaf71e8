"""Runs that are interrupted and resumed from their newest checkpoint, to be compared with runs that are not."""

import random

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from support.models import assert_same, assert_same_optimizer, parameters
from support.small_environments import DEVICE

from sb3_pgx.checkpoints import CheckpointCallback


class Interruption(Exception):
    """Raised by :class:`Interrupt`."""


class Interrupt(BaseCallback):
    """
    Raises an exception at a call of ``on_step``.

    :param is_due: function of the number of calls; a checkpoint does not hold it
    """

    def __init__(self, is_due):
        super().__init__()
        self.is_due = is_due

    def _on_step(self):
        if self.is_due(self.n_calls):
            raise Interruption
        return True


def never(calls):
    return False


def uninterrupted_and_resumed(make, make_env, steps, folder, at, save_freq=1, callbacks=lambda folder: [], learn=None):
    """
    Train two models: one in one go, the other one until a step, and from its newest checkpoint on with new environments.

    :param make: function of the environments that returns the model
    :param make_env: function without arguments
    :param steps: for ``learn``
    :param folder: for the checkpoints
    :param at: calls of ``on_step`` before the interruption
    :param save_freq: of the checkpoints
    :param callbacks: function of a folder that returns more callbacks
    :param learn: more arguments of ``learn``
    :return: the two models
    """
    learn = learn or {}

    def training(model, run, *more):
        given = [CheckpointCallback(save_freq, str(folder / run), keep=2), *callbacks(folder / run), *more]
        return model.learn(steps, callback=given, **learn)

    whole = training(make(make_env()), "whole", Interrupt(never))
    model = make(make_env())
    try:
        training(model, "parts", Interrupt(lambda calls: calls == at))
        raise AssertionError("the run ended before the interruption")
    except Interruption:
        pass
    for seed in (random.seed, np.random.seed, th.manual_seed):
        seed(12345)
    resumed = type(model).resume(folder / "parts", make_env(), device=DEVICE)
    assert 0 < resumed.num_timesteps <= model.num_timesteps
    return whole, training(resumed, "parts", Interrupt(never))


def _optimizers(model):
    of_networks = (vars(module).get("optimizer") for module in model.policy.modules())
    return [o for o in (*of_networks, getattr(model, "ent_coef_optimizer", None)) if o is not None]


def assert_same_run(one, other):
    """Assert that two models ended in the same state, bit for bit."""
    assert_same(parameters(one), parameters(other))
    for left, right in zip(*map(_optimizers, (one, other)), strict=True):
        assert_same_optimizer(left.state_dict(), right.state_dict())
    simple = (int, float, str, bool)
    # A learning rate given as a string is saved as the schedule that it stands for.
    differ = ("start_time", "learning_rate", "_scheduled_learning_rate")
    numbers = [{k: v for k, v in vars(m).items() if isinstance(v, simple) and k not in differ} for m in (one, other)]
    assert numbers[0] == numbers[1]
    episodes = [[(e["r"], e["l"]) for e in m.ep_info_buffer] for m in (one, other)]
    assert episodes[0] == episodes[1]
    np.testing.assert_equal(one._last_obs, other._last_obs)
    np.testing.assert_equal(one._last_episode_starts, other._last_episode_starts)
    if one.get_vec_normalize_env() is not None:
        statistics = [m.get_vec_normalize_env() for m in (one, other)]
        np.testing.assert_equal(*(vars(s.ret_rms) for s in statistics))
        np.testing.assert_equal(*(s.returns for s in statistics))
