"""A refused rollout or update changes nothing, and the next training is that of a model which never saw it."""

import copy
import math
import re

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from selection import RELATIVES, each_value, mostly_slow
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize
from support.acer_models import Normalising
from support.capabilities import MIXED_ALGORITHMS, QUICK, SMALL_LSTM, WITHOUT_MEMORY
from support.models import make
from support.small_environments import total, vectorised

from sb3_pgx.core.action_masks import mask_size
from sb3_pgx.core.controllers import KLAdaptiveLearningRate
from sb3_pgx.registry import ALGORITHMS

LENGTH = 5  # of the first environment's episodes; the other's are shorter
NOT_COMPARED = ("compile", "compiled", "_total_timesteps", "_num_timesteps_at_start", "start_time")


class Patient(gym.Env):
    """Random observations and rewards; once ``ill`` is set to (what, value, step), it returns the value in that step."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def __init__(self, action_space, index):
        self.action_space, self.index = copy.deepcopy(action_space), index
        self.restart()

    def restart(self):
        self.random, self.ill, self.age = np.random.default_rng(self.index), None, 0

    def reset(self, **kwargs):
        self.age = 0
        return self.random.normal(size=3).astype(np.float32), {}

    def step(self, action):
        self.age += 1
        observation = self.random.normal(size=3).astype(np.float32)
        reward, end = total(action) + float(observation[0]), self.age == LENGTH - self.index
        what, value, left = self.ill or (None, 0.0, 0)
        if self.ill:
            self.ill = (what, value, left - 1)
        if left == 1 and what == "reward":
            reward = value
        if (left == 1 and what == "observation") or (end and what == "final observation"):
            observation[:] = value
        truncated = end and self.index == 0
        info = {"episode": {"r": reward, "l": LENGTH, "t": 0.0}} if end else {}
        return observation, reward, end and not truncated, truncated, info


class Guarded(Patient):
    """Allows all actions but one, another one in each step."""

    def action_masks(self):
        return np.arange(mask_size(self.action_space)) != self.age % 2

    def step(self, action):
        first = action["choice"] if isinstance(action, dict) else action
        assert self.action_masks()[first]
        *returned, info = super().step(action)
        return *returned, {**info, "action_masks": self.action_masks()}


def patients(action_space, normalize, kind=Patient):
    env = vectorised(*(kind(action_space, index) for index in range(2)))
    return VecNormalize(env) if normalize else env


def restarted(model):
    """Healthy environments as at the very first, to be reset before they are stepped, and all generators as well."""
    model.env.env_method("restart")
    model.set_env(model.env)
    np.random.seed(0)
    th.manual_seed(0)
    return model


def everything(model):
    """All that a refusal must leave as it was, in numbers and arrays."""
    normalize, memory = model.get_vec_normalize_env(), getattr(model, "replay_buffer", None)
    state = {
        "policy": model.policy.state_dict(),
        "optimizer": model.policy.optimizer.state_dict(),
        "counters": {k: v for k, v in vars(model).items() if isinstance(v, int | float) and k not in NOT_COMPARED},
        "rate": getattr(model.learning_rate, "value", None),
        "episodes": [dict(info) for info in model.ep_info_buffer or ()],
        "normalize": normalize and [vars(normalize.obs_rms), vars(normalize.ret_rms), normalize.returns],
    }
    if hasattr(model, "curvature"):
        state["curvature"] = model.curvature.state_dict()
    if memory is not None:
        state |= {"average": model.average_policy.state_dict(), "random": model.replay_generator.bit_generator.state}
        state["memory"] = {k: v for k, v in vars(memory).items() if not k.endswith("_space")}
    return copy.deepcopy(state)


def assert_alike(left, right, path="", tolerance=0.0):
    assert type(left) is type(right), path
    if isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left:
            assert_alike(left[key], right[key], f"{path}.{key}", tolerance)
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), path
        for i, pair in enumerate(zip(left, right, strict=True)):
            assert_alike(*pair, f"{path}[{i}]", tolerance)
    elif isinstance(left, th.Tensor | np.ndarray | float):
        np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance, err_msg=path)
    else:
        assert left == right, path


class Start(BaseCallback):
    """Keeps what the model is when the environments have been reset."""

    def _on_training_start(self):
        self.state = everything(self.model)

    def _on_step(self):
        return True


def assert_refused(model, match=None):
    """In the first rollout."""
    start = Start()
    with pytest.raises(ValueError, match=match):
        model.learn(24, callback=start, reset_num_timesteps=False)
    assert_alike(everything(model), start.state)


def illnesses(name, normalize, at_once, overflows=True):
    """
    What, which value, and in which step of the rollout.

    :param at_once: in the last step alone
    :param overflows: whether huge observations make numbers that are not finite, which an LSTM's gates and masks may prevent
    """
    last = QUICK[name].get("n_steps", LENGTH)
    for step in (last,) if at_once else (1, 4, last):
        seen = (
            [] if step == LENGTH else [-math.inf, *([1e20 if normalize else 3e38] if overflows else [])]
        )  # a final observation may not matter
        rewards = [math.nan] if normalize else [math.nan, 1e30]
        yield from (("reward", value, step) for value in rewards)
        yield from (("observation", value, step) for value in seen)
    if not normalize:  # which clips it
        yield ("final observation", math.nan, 0)
        if name != "reinforce" and overflows:  # which has no use for one
            yield ("final observation", 3e38, 0)


def spoil_optimizer(model, names=("exp_avg", "square_avg", "momentum_buffer"), value=math.nan):
    """A number that is not finite in a moment of the optimizer; gives what undoes it."""
    moments = [state for p in model.policy.parameters() if (state := model.policy.optimizer.state.get(p))]
    (moment,) = [x for key, x in moments[0].items() if key in names]
    before = moment.clone()
    moment.view(-1)[0] = value
    return lambda: moment.copy_(before)


DISCRETE, BOX = spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)
VARIANTS = [
    ("acer", BOX, {}),
    ("ppo", BOX, dict(learning_rate=KLAdaptiveLearningRate(3e-4))),
    ("npg", BOX, dict(critic="trust_region")),
    ("trpo", DISCRETE, dict(critic="trust_region")),
    ("reinforce", BOX, dict(baseline="optimal_per_parameter")),
]
CASES = [(name, DISCRETE, {}) for name in ALGORITHMS] + VARIANTS
MIXED = spaces.Dict({"choice": spaces.Discrete(4), "number": spaces.Box(-1, 1, (1,), np.float32)})
LSTM, GRU = (dict(policy=policy, policy_kwargs=SMALL_LSTM) for policy in ("MlpLstmPolicy", "MlpGruPolicy"))
# With memory, masks and mixed actions.
NEW = [
    *((name, BOX, kwargs, Patient) for name in ALGORITHMS if name not in WITHOUT_MEMORY for kwargs in (LSTM, GRU)),
    *((name, DISCRETE, {}, Guarded) for name in ALGORITHMS),
    *((name, MIXED, {}, Guarded) for name in MIXED_ALGORITHMS),
    *((name, MIXED, GRU, Guarded) for name in ALGORITHMS if name not in WITHOUT_MEMORY),
]
QUICK_NEW = [("ppo", BOX, LSTM, Patient), ("npg", MIXED, GRU, Guarded), ("reinforce_baseline", MIXED, {}, Guarded)]


def some(cases, of, *kind):
    """The others are slow ones."""
    return [pytest.param(*case, *kind, marks=() if case[0] in of else pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    "name, action_space, kwargs, compile, normalize",
    [
        *some(CASES, ALGORITHMS.keys() - RELATIVES, False, False),
        *some(CASES[: len(ALGORITHMS)], ("npg", "ppo"), True, False),
        *some(VARIANTS, (), True, False),
        *some(CASES[: len(ALGORITHMS)], ("acer", "ppo", "reinforce"), False, True),
        *some(VARIANTS, (), False, True),
        *some(CASES, (), True, True),
    ],
)
def test_whatever_is_refused_leaves_no_trace(name, action_space, kwargs, compile, normalize, graphs):
    assert_refusals_leave_no_trace(name, action_space, kwargs, compile, normalize)
    assert bool(graphs) == compile


@pytest.mark.parametrize("name, action_space, kwargs, kind", mostly_slow(NEW, lambda *case: case in QUICK_NEW))
def test_it_leaves_no_trace_in_memory_and_masks_either(name, action_space, kwargs, kind):
    assert_refusals_leave_no_trace(name, action_space, kwargs, False, False, kind)


def assert_refusals_leave_no_trace(name, action_space, kwargs, compile, normalize, kind=Patient):
    def new(compile):
        small = dict(net_arch=[8], activation_fn=th.nn.ReLU)  # which passes huge numbers on
        policy_kwargs = {**small, **kwargs.get("policy_kwargs", {})}
        env = patients(action_space, normalize, kind)
        return restarted(make(name, env, compile=compile, **{**kwargs, "policy_kwargs": policy_kwargs}))

    def refuse(match=None):
        assert_refused(model, match)
        restarted(untouched).env.reset()  # which VecNormalize has seen of the other one, too

    model, untouched = new(compile), new(False)
    model.env.unwrapped.envs[0].ill = ("reward", math.nan if normalize else 1e30, 4)
    refuse()  # before there are any moments
    for each in (model, untouched):
        restarted(each).learn(36, reset_num_timesteps=False)
    for what, value, step in illnesses(name, normalize, at_once=compile, overflows=kind is Patient and "policy" not in kwargs):
        restarted(model).env.unwrapped.envs[0].ill = (what, value, step)
        refuse()
    if model.policy.optimizer.state:  # those of two trust regions need none
        heal = spoil_optimizer(restarted(model))
        moments = "exp_avg|square_avg|momentum_buffer"
        refuse(rf"the optimizer's ({moments}) of \S+ is not finite in update \d+.*optimizer\.state\.clear\(\)")
        heal()
    for each in (model, untouched):
        restarted(each).learn(24, reset_num_timesteps=False)
    assert_alike(everything(model), everything(untouched), tolerance=1e-4 if compile else 0.0)


# ------------------------------------------------------------------------------------------------------- in an update


class Fault(RuntimeError):
    """Of a user's own code."""


class FailsAt(th.nn.Module):
    """A layer that raises in its backward pass, the fifth time."""

    def __init__(self):
        super().__init__()
        self.passes = 0

    def forward(self, x):
        if x.requires_grad:
            x.register_hook(self.fail)
        return x

    def fail(self, gradient):
        self.passes += 1
        if self.passes == 5:
            raise Fault("the user's")


@pytest.mark.parametrize("name", ["a2c", "acer", "ppo", "reinforce_baseline"])
def test_a_users_exception_in_an_update_comes_through_and_undoes_it(name):
    """In the first step of an update of A2C, and after some of the others."""
    kwargs = dict(learning_rate=KLAdaptiveLearningRate(3e-4)) if name == "ppo" else {}
    model = restarted(make(name, patients(DISCRETE, True), compile=False, policy_kwargs=dict(net_arch=[8]), **kwargs))
    before, train = [], model.train

    def watched():
        before[:] = [everything(model)]
        train()

    model.learn(24)
    model.policy.mlp_extractor.value_net.append(FailsAt())
    if name == "acer":
        model.average_policy = copy.deepcopy(model.policy).requires_grad_(False)
        model.policy.mlp_extractor.policy_net.append(model.policy.mlp_extractor.value_net[-1])
    model.train = watched
    with pytest.raises(Fault, match=r"^the user's"):
        model.learn(240, reset_num_timesteps=False)
    for part in ("policy", "optimizer", "rate", "average", "random"):
        assert_alike(everything(model).get(part), before[0].get(part), part)
    assert model.num_timesteps == before[0]["counters"]["num_timesteps"] - len(model.last_rollout.rewards) * model.n_envs
    model.learn(24, reset_num_timesteps=False)


@pytest.mark.parametrize("name", ["a2c", "ppo"])
def test_buffers_are_put_back(name):
    policy_kwargs = dict(net_arch=[8], features_extractor_class=Normalising)
    model = restarted(make(name, patients(DISCRETE, False), compile=False, policy_kwargs=policy_kwargs)).learn(24)
    assert model.policy.features_extractor.norm.num_batches_tracked > 0
    restarted(model).env.envs[0].ill = ("reward", 1e30, 4)
    assert_refused(model, "the step was not taken")


ONE_BATCH = dict(batch_size=12, n_epochs=1)
STEPS = [("a2c", {}), ("ppo", {}), ("ppo", ONE_BATCH), ("reinforce", {}), ("reinforce_baseline", {})]


@pytest.mark.parametrize("step, compile", each_value(STEPS, [False, True]))
def test_a_step_to_parameters_that_are_not_finite_is_refused(step, compile, graphs):
    """Loss and gradient are finite; what the optimizer makes of them is not."""
    name, kwargs = step
    decay = dict(optimizer_class=th.optim.SGD, optimizer_kwargs=dict(weight_decay=1e38))
    model = make(name, patients(DISCRETE, False), compile=compile, policy_kwargs=dict(net_arch=[8], **decay), **kwargs)
    model.learning_rate = 1e5
    assert_refused(restarted(model), r"in update 1; the step was not taken, and the model is as it was before this rollout")


@pytest.mark.parametrize("step, compile", each_value([*STEPS, ("acer", {}), ("npg", {})], [False, True]))
def test_an_infinite_moment_is_refused_although_it_only_stops_a_parameter(step, compile, graphs):
    name, kwargs = step
    model = restarted(make(name, patients(DISCRETE, False), compile=compile, policy_kwargs=dict(net_arch=[8]), **kwargs))
    spoil_optimizer(restarted(model.learn(24)), ("exp_avg_sq", "square_avg"), math.inf)
    assert_refused(
        model, r"the optimizer's (exp_avg_sq|square_avg) of \S+ is not finite in update \d+; the step was not taken"
    )


@pytest.mark.parametrize("name, compile", [("a2c", False), ("a2c", True), ("ppo", False)])
def test_an_optimizer_that_takes_its_own_steps_is_put_back_and_can_start_afresh(name, compile, graphs):
    options = dict(optimizer_class=th.optim.Adam, optimizer_kwargs=dict(amsgrad=True))
    model = restarted(make(name, patients(DISCRETE, False), compile=compile, policy_kwargs=dict(net_arch=[8], **options)))
    model.learn(24)
    spoil_optimizer(restarted(model))
    assert_refused(model, r"the optimizer's exp_avg of .*model\.policy\.optimizer\.state\.clear\(\)")
    model.policy.optimizer.state.clear()
    model.learn(24, reset_num_timesteps=False)
    assert all(th.isfinite(p).all() for p in model.policy.parameters())


def test_a_loop_of_ones_own_is_undone_as_well():
    model = restarted(make("npg", patients(DISCRETE, True))).learn(12)
    _, callback = model._setup_learn(100, None, False)
    before = everything(model)
    spoil_optimizer(model)
    spoiled = everything(model)
    assert model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    assert model.num_timesteps == before["counters"]["num_timesteps"] + 12
    with pytest.raises(ValueError, match="the optimizer's exp_avg"):
        model.train()
    assert_alike(everything(model), spoiled)


# ------------------------------------------------------------------------------------------------------- in a rollout


def test_a_callback_that_raises_leaves_policy_and_counters_as_they_are_then():
    class Raises(BaseCallback):
        def _on_step(self):
            if self.n_calls == 15:
                raise Fault("the callback's")
            return True

    model, parted = (restarted(make("ppo", patients(DISCRETE, False), policy_kwargs=dict(net_arch=[8]))) for _ in range(2))
    restarted(model)
    with pytest.raises(Fault, match=r"^the callback's$"):
        model.learn(100, callback=Raises())
    assert model.num_timesteps == 30
    restarted(parted).learn(24)
    assert_alike(model.policy.state_dict(), parted.policy.state_dict())


@pytest.mark.parametrize("value", [1e20, -3e25])
@pytest.mark.parametrize("space", ["box", "dict"])
def test_an_observation_that_would_poison_the_statistics_is_named_and_forgotten(value, space):
    class OfParts(Patient):
        observation_space = spaces.Dict({"a": Patient.observation_space, "b": Patient.observation_space})

        def reset(self, **kwargs):
            observation, info = super().reset(**kwargs)
            return {"a": np.zeros(3, np.float32), "b": observation}, info

        def step(self, action):
            observation, *rest = super().step(action)
            return {"a": np.zeros(3, np.float32), "b": observation}, *rest

    kind, policy, key = (Patient, "MlpPolicy", "") if space == "box" else (OfParts, "MultiInputPolicy", " b")
    env = VecNormalize(vectorised(*(kind(DISCRETE, index) for index in range(2))))
    model = restarted(make("a2c", env, policy)).learn(12)
    env.envs[1].ill = ("observation", value, 3)
    given = re.escape(str(np.float32(value)))
    named = rf"^environment 1 returned observation{key} {given} at step 2 of this rollout, so large that"
    unchanged = r"Policy and VecNormalize are unchanged since update 1;"
    with pytest.raises(ValueError, match=rf"{named} VecNormalize's variance is not finite\. {unchanged}"):
        model.learn(12, reset_num_timesteps=False)
    statistics = env.obs_rms["b"] if key else env.obs_rms
    assert np.isfinite(statistics.var).all() and (statistics.var < 10).all()
    model.learn(12, reset_num_timesteps=False)


def test_statistics_that_were_poisoned_before_are_said_to_be():
    env = VecNormalize(patients(DISCRETE, False))
    model = restarted(make("a2c", env)).learn(12)
    env.obs_rms.var[1] = np.inf
    with pytest.raises(ValueError, match=r"^VecNormalize's variance of the observation was not finite before this rollout"):
        model.learn(12, reset_num_timesteps=False)
    assert env.obs_rms.var[1] == np.inf


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_what_could_not_be_learned_from_never_enters_acers_memory(what):
    """Although nothing is learned from this rollout itself: with Box actions, the memory is what is learned from."""
    model = restarted(make("acer", patients(BOX, False), replay_start=36, policy_kwargs=dict(activation_fn=th.nn.ReLU)))
    model.env.envs[0].ill = (what, 1e25, 4)
    assert_refused(model)
    assert model.replay_buffer.size == 0
    restarted(model).learn(96, reset_num_timesteps=False)
    assert model._n_updates > 0
