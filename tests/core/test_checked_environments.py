"""What is no environment is refused; what one returns in another form, or not at all."""

import math
import os
import signal
import traceback

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from selection import each_value
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from support.capabilities import BOX
from support.models import assert_same, make, parameters
from support.refusals import refusal
from support.small_environments import DEVICE, AnySpace

from sb3_pgx import A2C, PPO
from sb3_pgx.registry import ALGORITHMS


@pytest.mark.parametrize(
    "env, message",
    [
        (lambda: gym.make("CartPole-v1"), "env is of type function"),
        (AnySpace, "env is the class AnySpace"),
        ([], "env is of type list"),
        (3, "env is of type int"),
        (None, "env=None: "),
    ],
)
def test_what_is_no_environment_is_refused(env, message, tmp_path):
    assert message in refusal(lambda: PPO("MlpPolicy", env, device=DEVICE))
    if env is not None:
        assert message in refusal(lambda: make("a2c").set_env(env))
        make("a2c").save(tmp_path / "model")
        assert message in refusal(lambda: A2C.load(tmp_path / "model", env=env))


def test_a_model_without_an_environment_says_how_to_give_it_one(name, tmp_path):
    make(name).save(tmp_path / "model")
    model = ALGORITHMS[name].load(tmp_path / "model", device=DEVICE)
    text = refusal(lambda: model.learn(24))
    assert f"{ALGORITHMS[name].__name__}.load(path, env=env), or call model.set_env(env)" in text


class Returns(DummyVecEnv):
    """Returns what it has in another form."""

    form = staticmethod(lambda array: array)

    def reset(self):
        return self._formed(super().reset())

    def step_wait(self):
        observations, rewards, dones, infos = super().step_wait()
        return self._formed(observations), self.form(rewards), self.form(dones), infos

    def _formed(self, observations):
        return (
            {k: self.form(v) for k, v in observations.items()} if isinstance(observations, dict) else self.form(observations)
        )


OBSERVED = [("ppo", spaces.Dict({"a": BOX, "b": spaces.Discrete(3)})), ("ppo", spaces.Discrete(4))]
OBSERVED += [(name, BOX) for name in ALGORITHMS]


@pytest.mark.parametrize("observed, form", each_value(OBSERVED, [np.ndarray.tolist, th.as_tensor, tuple]))
def test_lists_and_tensors_from_an_environment_train_as_arrays(observed, form):
    name, observation_space = observed
    policy = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    results = []
    for kind in (lambda x: x, form):
        env = Returns([lambda: AnySpace(observation_space, BOX)] * 2)
        env.form = kind
        small = dict(net_arch=[8])
        results.append(parameters(make(name, env, policy, policy_kwargs=small).learn(24)))
    assert_same(*results)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_number_in_a_list_is_found(bad):
    env = Returns([lambda: AnySpace(BOX, BOX)] * 2)
    env.form = lambda array: [bad, *array[1:].tolist()] if array.dtype == np.float32 and array.ndim == 1 else array
    with pytest.raises(ValueError, match=f"environment 0 returned reward {bad} at step 0"):
        make("ppo", env).learn(24)


@pytest.mark.parametrize("reward", [None, "one", [1.0, [2.0]]])
def test_rewards_that_are_no_numbers_are_refused(reward):
    env = Returns([lambda: AnySpace(BOX, BOX)] * 2)
    env.form = lambda array: [reward, reward] if array.dtype == np.float32 and array.ndim == 1 else array
    assert "observations and rewards must be arrays of numbers" in refusal(lambda: make("ppo", env).learn(24))


class Dies(AnySpace):
    """Ends its process in its third step."""

    how = staticmethod(lambda: os.kill(os.getpid(), signal.SIGKILL))

    def step(self, action):
        if self.steps == 2:
            self.how()
        return super().step(action)


@pytest.mark.parametrize(
    "how, end",
    [(lambda: os.kill(os.getpid(), signal.SIGKILL), "was ended by SIGKILL"), (lambda: os._exit(3), "with exit code 3")],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_worker_that_died_is_named(how, end, wrapped):
    def dies():
        env = Dies(BOX, BOX)
        env.how = how
        return env

    env = SubprocVecEnv([dies, lambda: AnySpace(BOX, BOX)], start_method="fork")
    model = make("ppo", VecNormalize(env) if wrapped else env)
    with pytest.raises((EOFError, ConnectionError), match=rf"environment 0 is gone: its process .*{end}.*DummyVecEnv"):
        model.learn(24)
    with pytest.raises((EOFError, ConnectionError), match=r"environment 0 is gone") as raised:
        model.learn(24)
    # A view of a file that is garbage at the same time as the file is an error that Python 3.13 reports.
    assert not [view for frame in frames_of(raised.value) for view in frame.f_locals.values() if isinstance(view, memoryview)]
    for process in env.processes:
        process.kill()


def frames_of(error):
    """The frames of an error and of its causes."""
    while error is not None:
        yield from (frame for frame, _ in traceback.walk_tb(error.__traceback__))
        error = error.__cause__
