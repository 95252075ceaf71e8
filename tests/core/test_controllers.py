"""The learning rate that follows the KL: against a replay, in plain numbers, of the divergences that each minibatch gave."""

import copy
import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from support.observers import Spy
from support.small_environments import DEVICE, AnySpace, Scripted, vectorised

from sb3_pgx import PPO, PPOPenalty
from sb3_pgx.core.controllers import KLAdaptiveLearningRate, adapted_scale

BOX = spaces.Box(-1, 1, (3,), np.float32)
DISTANCE = {PPO: "approx_kl", PPOPenalty: "minibatch_kl"}
ALGORITHMS = pytest.mark.parametrize("model_class", [PPO, PPOPenalty])


def make(model_class, controller, **kwargs):
    env = vectorised(*(AnySpace(BOX, BOX) for _ in range(2)))
    settings = dict(n_steps=16, batch_size=8, n_epochs=3, seed=0, device=DEVICE, compile=False)
    return model_class("MlpPolicy", env, learning_rate=controller, **{**settings, **kwargs})


class OwnSGD(th.optim.SGD):
    """One that no rule is known for."""


class Rates(BaseCallback):
    """The rate at the end of each update."""

    def __init__(self):
        super().__init__()
        self.values, self.logged = [], []

    def _on_step(self):
        return True

    def on_update_end(self, metrics):
        self.values.append(self.model.learning_rate.value)
        self.logged.append(self.model.logger.name_to_value["train/learning_rate"])


def replay(value, distances, target_kl, factor=1.5, low=1e-5, high=1e-2):
    """The rate of each step, from the words of the class's documentation."""
    rates = []
    for kl in distances:
        if kl > 2 * target_kl:
            value = max(low, value / factor)
        elif 1e-7 < kl < target_kl / 2:
            value = min(high, value * factor)
        rates.append(value)
    return rates


# ------------------------------------------------------------------------------------------------------- one change


@pytest.mark.parametrize(
    "kl, expected",
    [(0.0, 1.0), (1e-8, 1.0), (1e-3, 2.0), (0.2499, 2.0), (0.25, 1.0), (0.5, 1.0), (1.0, 1.0), (1.001, 0.5), (math.inf, 0.5)],
)
def test_the_rate_falls_beyond_twice_the_target_and_rises_below_half_of_it(kl, expected):
    """Both edges stay, and so does a policy that has not moved at all: its divergence is rounding."""
    one, kl = th.ones((), dtype=th.float64), th.tensor(kl, dtype=th.float64)
    assert adapted_scale(one, kl, 0.5, 2.0, 0.01, 100.0).item() == expected


def test_a_divergence_that_is_not_a_number_changes_nothing():
    one, nan = th.ones((), dtype=th.float64), th.tensor(math.nan, dtype=th.float64)
    assert adapted_scale(one, nan, 0.5, 2.0, 0.01, 100.0).item() == 1.0


def test_the_rate_stays_between_its_bounds():
    controller = KLAdaptiveLearningRate(1e-3, target_kl=0.5, factor=10.0, low=5e-4, high=2e-3)
    target_kl, factor, low, high = controller.numbers
    one = th.ones((), dtype=th.float64)
    for kl, bound in ((9.0, 5e-4), (0.1, 2e-3)):
        controller.value = 1e-3
        scale = adapted_scale(one, th.tensor(kl, dtype=th.float64), target_kl, factor, low, high)
        controller.scaled(scale.item())
        assert controller.value == pytest.approx(bound, rel=1e-12)
        assert controller.low <= controller.value <= controller.high


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(value=0.0), "value=0.0 must be positive"),
        (dict(value=-1e-3), "value=-0.001 must be positive"),
        (dict(value=math.nan), "value=nan must be positive"),
        (dict(value=1.0), "value=1.0 must lie between low=1e-05 and high=0.01"),
        (dict(value=1e-6), "value=1e-06 must lie between"),
        (dict(target_kl=0.0), "target_kl=0.0 must be positive"),
        (dict(target_kl=math.nan), "target_kl=nan must be positive"),
        (dict(factor=1.0), "factor=1.0 must be greater than 1"),
        (dict(factor=0.5), "factor=0.5 must be greater than 1"),
        (dict(factor=math.nan), "factor=nan must be positive and finite"),
        (dict(factor=math.inf), "factor=inf must be positive and finite"),
        (dict(target_kl=math.inf), "target_kl=inf must be positive and finite"),
        (dict(low=0.0), "low=0.0 must be positive"),
        (dict(low=1e-2, high=1e-3), "must lie between"),
        (dict(high=math.nan), "high=nan must be positive and finite"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        KLAdaptiveLearningRate(**arguments)


# ------------------------------------------------------------------------------------------------------- a training


@ALGORITHMS
@pytest.mark.parametrize("compiled", [False, True])
def test_the_rate_after_a_training_is_the_replay_of_the_minibatches_divergences(model_class, compiled, graphs):
    model = make(model_class, KLAdaptiveLearningRate(3e-3, target_kl=0.01), compile=False)
    assert model.objective.distance == DISTANCE[model_class]
    spy, rates = Spy(model), Rates()
    model.learn(96, callback=rates)
    expected = replay(3e-3, spy.distances, target_kl=0.01)
    assert len(expected) == 3 * 3 * 4 and len(set(expected)) > 3, "the rate has hardly changed: the test says nothing"
    np.testing.assert_allclose(rates.values, expected[11::12], rtol=1e-9)
    np.testing.assert_allclose(rates.logged, [3e-3, *rates.values[:-1]], rtol=1e-12)
    if compiled:
        other, others = make(model_class, KLAdaptiveLearningRate(3e-3, target_kl=0.01), compile=True), Rates()
        other.learn(96, callback=others)
        assert graphs, "nothing was compiled"
        np.testing.assert_allclose(others.values, rates.values, rtol=1e-6)
        for p, q in zip(model.policy.parameters(), other.policy.parameters(), strict=True):
            th.testing.assert_close(p, q, rtol=0, atol=1e-5)


@ALGORITHMS
@pytest.mark.parametrize("optimizer", [th.optim.SGD, OwnSGD])
def test_each_step_is_taken_with_the_rate_that_its_own_minibatch_has_led_to(model_class, optimizer):
    """θ − rate · ∇loss for plain gradient descent, by a rule and by an optimizer that has none."""
    policy_kwargs = dict(optimizer_class=optimizer, optimizer_kwargs={}, net_arch=[4])
    target = 2**-7  # so that both edges are exact
    controller = KLAdaptiveLearningRate(1e-2, target_kl=target, high=0.02, low=6e-3)
    model = make(model_class, controller, policy_kwargs=policy_kwargs, max_grad_norm=None)
    spy = Spy(model, [kl * target for kl in (0.0, 0.1, 0.3, 5.0, 5.0, 5.0, 1.0, 0.01, 2.1, 2.0, 0.5, 0.49)])
    model.learn(32)
    expected = replay(1e-2, spy.distances, target, high=0.02, low=6e-3)
    assert max(expected) == 0.02 and min(expected) == 6e-3
    thetas = [minibatch.theta for minibatch in spy.minibatches]
    thetas.append(th.nn.utils.parameters_to_vector(model.policy.parameters()).detach())
    for before, after, minibatch, rate in zip(thetas[:-1], thetas[1:], spy.minibatches, expected, strict=True):
        th.testing.assert_close((before - after).double(), rate * minibatch.gradient.double(), rtol=1e-3, atol=1e-6)
    assert model.learning_rate.value == pytest.approx(expected[-1], rel=1e-9)


def test_a_minibatch_that_ends_the_update_does_not_change_the_rate():
    model = make(PPO, KLAdaptiveLearningRate(1e-3, target_kl=0.01), target_kl=0.02)
    spy = Spy(model, [0.0, 0.001, 0.025, 0.1])
    model.learn(32)
    assert len(spy.distances) == 4
    assert model.learning_rate.value == pytest.approx(1e-3)  # once up, once down


@ALGORITHMS
def test_each_model_has_its_own_copy(model_class):
    controller = KLAdaptiveLearningRate(3e-3)
    first, second = make(model_class, controller), make(model_class, controller)
    first.learn(96)
    third = copy.deepcopy(first)
    value = first.learning_rate.value
    assert value != 3e-3 and controller.value == second.learning_rate.value == 3e-3 and third.learning_rate.value == value
    Spy(third, [1.0] * 36)
    third.learn(32)
    assert third.learning_rate.value == pytest.approx(max(value / 1.5**12, 1e-5)) and first.learning_rate.value == value


@ALGORITHMS
def test_the_rate_is_saved_and_training_goes_on_as_if_never_interrupted(model_class, tmp_path):
    def continued(model):
        env = vectorised(Scripted([3]), Scripted([4]))
        model.set_env(env)
        model.set_random_seed(5)
        model.learn(64, reset_num_timesteps=False)
        return th.nn.utils.parameters_to_vector(model.policy.parameters()), model.learning_rate.value

    env = vectorised(Scripted([3]), Scripted([4]))
    kwargs = dict(n_steps=16, batch_size=8, n_epochs=3, seed=0, device=DEVICE, compile=False)
    model = model_class("MlpPolicy", env, learning_rate=KLAdaptiveLearningRate(3e-3), **kwargs).learn(64)
    model.save(tmp_path / "model.zip")
    value = model.learning_rate.value
    assert value != 3e-3
    loaded = model_class.load(tmp_path / "model.zip", env=env, device=DEVICE)
    assert loaded.learning_rate.value == value and loaded.learning_rate.target_kl == 0.01
    assert loaded.policy.optimizer.param_groups[0]["lr"] == model.policy.optimizer.param_groups[0]["lr"]
    (theta, rate), (loaded_theta, loaded_rate) = continued(model), continued(loaded)
    assert th.equal(theta, loaded_theta) and rate == loaded_rate
