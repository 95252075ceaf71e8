"""Train the same model eagerly and compiled, and compare the two runs."""

import copy
import warnings

import numpy as np
import pytest
import torch as th
from selection import mostly_slow
from stable_baselines3.common.logger import KVWriter, Logger, SeqWriter
from support.capabilities import BOX, QUICK
from support.small_environments import DEVICE, AnySpace, vectorised

from sb3_pgx.registry import ALGORITHMS

NAMES = ["a2c", "ppo", "ppo_penalty"]
ON_POLICY = pytest.mark.parametrize("name", mostly_slow(NAMES, ["a2c", "ppo"]))
MOSTLY_PPO = pytest.mark.parametrize("name", mostly_slow(NAMES, ["ppo"]))
SEVERAL_EPOCHS = ("ppo", "ppo_penalty")


class Sentences(KVWriter, SeqWriter):
    """A log writer that keeps what is logged."""

    def __init__(self):
        self.sentences, self.dumps = [], []

    def write_sequence(self, sequence):
        self.sentences.append(" ".join(map(str, sequence)))

    def write(self, key_values, key_excluded, step=0):
        self.dumps.append(dict(key_values))

    def close(self):
        pass


def envs(observation_space=BOX, action_space=BOX, n=2):
    """Return environments with their own copies of the spaces, since a space holds a random generator."""
    return vectorised(*(AnySpace(copy.deepcopy(observation_space), copy.deepcopy(action_space)) for _ in range(n)))


def make(name, env=None, policy="MlpPolicy", **kwargs):
    """Return a model that keeps its log as ``model.log``."""
    small = {} if policy == "CnnPolicy" else {"net_arch": [8]}
    policy_kwargs = {**small, **kwargs.pop("policy_kwargs", {})}
    arguments = {"seed": 0, "device": DEVICE, **QUICK[name], "policy_kwargs": policy_kwargs, **kwargs}
    model = ALGORITHMS[name](policy, envs() if env is None else env, **arguments)
    model.log = Sentences()
    model.set_logger(Logger(None, [model.log]))
    return model


def pair(name, cell=lambda: {}, **kwargs):
    """Return the same model twice, eager and compiled."""
    return [make(name, **cell(), compile=compile, **kwargs) for compile in (False, True)]


def drawn():
    """Return the generators' next numbers, and seed both with 0."""
    numbers = (np.random.rand(), th.rand(1).item())
    np.random.seed(0)
    th.manual_seed(0)
    return numbers


def trained(model, timesteps=24, **kwargs):
    """Train from fixed random numbers. Return the generators' next numbers, which must not depend on compiling."""
    np.random.seed(0)
    th.manual_seed(0)
    model.learn(timesteps, log_interval=1, **kwargs)
    return drawn()


def assert_same_training(eager, compiled, rtol=1e-5, atol=1e-5):
    expected, parameters = eager.policy.state_dict(), compiled.policy.state_dict()
    assert parameters.keys() == expected.keys()
    for key, value in expected.items():
        th.testing.assert_close(parameters[key], value, rtol=rtol, atol=atol, msg=lambda text, key=key: f"{key}: {text}")
    ours, theirs = (m.policy.optimizer.state_dict() for m in (compiled, eager))
    assert ours["param_groups"] == theirs["param_groups"] and ours["state"].keys() == theirs["state"].keys()
    for key, state in theirs["state"].items():
        assert ours["state"][key].keys() == state.keys()
        for moment, value in state.items():
            th.testing.assert_close(ours["state"][key][moment], value, rtol=1e-4, atol=atol)
    assert len(eager.log.dumps) == len(compiled.log.dumps)
    for theirs, ours in zip(eager.log.dumps, compiled.log.dumps, strict=True):
        assert ours.keys() - {"time/compile_seconds"} == theirs.keys()
        for key in theirs.keys() - {"time/fps", "time/time_elapsed"}:
            np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-3, atol=1e-5, err_msg=key)
    assert (compiled._n_updates, compiled.n_gradient_steps) == (eager._n_updates, eager.n_gradient_steps)


def warned(model):
    """Return the result of :func:`trained`, and its warnings about compiling."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = trained(model)
    return result, [str(w.message) for w in caught if "compile" in str(w.message)]


def optimizer(kind, **options):
    return lambda: dict(policy_kwargs=dict(optimizer_class=kind, optimizer_kwargs=options))
