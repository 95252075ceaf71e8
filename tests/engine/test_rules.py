"""What torch's optimizers do, from the rules: parameters and state are those that torch's own steps lead to."""

import math

import pytest
import torch as th
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from support.small_environments import DEVICE

from sb3_pgx.engine.compiler import Remembered
from sb3_pgx.engine.optimizers import rule_of
from sb3_pgx.engine.parameters import FlatParameters, ParametersInPlace, SteppedByOptimizer
from sb3_pgx.engine.step import GatedParameters, OnDevice, gradient_step
from sb3_pgx.engine.step_log import Progress, StepLog

OPTIMIZERS = {
    "Adam": (th.optim.Adam, dict(eps=1e-5)),
    "Adam with weight decay": (th.optim.Adam, dict(betas=(0.8, 0.95), weight_decay=0.1)),
    "Adam with decoupled weight decay": (th.optim.Adam, dict(weight_decay=0.1, decoupled_weight_decay=True)),
    "AdamW": (th.optim.AdamW, dict(weight_decay=0.1)),
    "RMSprop": (th.optim.RMSprop, dict(alpha=0.9, eps=1e-5)),
    "RMSprop with weight decay": (th.optim.RMSprop, dict(weight_decay=0.1)),
    "RMSpropTFLike": (RMSpropTFLike, dict(alpha=0.9, eps=1e-5)),
    "RMSpropTFLike with weight decay": (RMSpropTFLike, dict(weight_decay=0.1)),
    "SGD": (th.optim.SGD, {}),
    "SGD with weight decay": (th.optim.SGD, dict(weight_decay=0.1)),
    "SGD with momentum": (th.optim.SGD, dict(momentum=0.9)),
    "SGD with momentum and dampening": (th.optim.SGD, dict(momentum=0.9, dampening=0.3, weight_decay=0.1)),
}
RATES = [0.1, 0.05, 0.2, 0.01, 0.3]
TOLERANCE = {th.float32: dict(rtol=1e-5, atol=1e-6), th.float64: dict(rtol=1e-12, atol=1e-12)}


class Training:
    """Parameters, an optimizer, and gradients that are the same in every training, the third a small one."""

    def __init__(self, kind, options, dtype=th.float64):
        numbers = th.Generator().manual_seed(0)
        shapes = [(3, 2), (4,), ()]
        draw = lambda *shape: th.randn(shape, generator=numbers, dtype=dtype).to(DEVICE)  # noqa: E731
        self.parameters = [th.nn.Parameter(draw(*shape)) for shape in shapes]
        self.gradients = [[draw(*shape) * (1e-4 if k == 2 else 1.0) for shape in shapes] for k in range(len(RATES))]
        self.optimizer = kind(self.parameters, lr=1.0, **options)
        self.taken = 0

    def torchs(self, n):
        """The next n steps, by torch's optimizer."""
        for _ in range(n):
            (group,) = self.optimizer.param_groups
            group["lr"] = RATES[self.taken]
            for p, gradient in zip(self.parameters, self.gradients[self.taken], strict=True):
                p.grad = gradient.clone()
            self.optimizer.step()
            self.taken += 1
        return self

    def ours(self, n):
        """The next n steps, by the rule."""
        flat = FlatParameters(self.parameters, self.optimizer, rule_of(self.optimizer))
        for k in range(1, n + 1):
            (group,) = self.optimizer.param_groups
            group["lr"] = RATES[self.taken]
            flat.take(flat.arranged(self.gradients[self.taken]), 1.0, k, 1.0)
            self.taken += 1
        flat.store(n)
        return self

    def in_place(self, n):
        """The next n steps, each an update of its own, where the parameters are."""
        for _ in range(n):
            held = ParametersInPlace(self.parameters, self.optimizer, rule_of(self.optimizer))
            self.step_in_place(held)
            held.store(1)
        return self

    def step_in_place(self, held):
        (group,) = self.optimizer.param_groups
        group["lr"] = RATES[self.taken]
        (row,) = held.step_scalars(0, 1, Remembered())
        theta, *moments = zip(*[iter([*held.pieces, *held.moments])] * len(self.parameters), strict=True)
        report = StepLog(Progress(), 1, 3, DEVICE, Remembered())
        parameters, loss = GatedParameters(held.rule, theta, moments, row.unbind()), row.new_tensor(0.0)
        place, unlimited = OnDevice(report.flags, report.outcome), (math.inf, math.inf)
        with th.no_grad():
            gradient_step(place, parameters, [loss], self.gradients[self.taken], unlimited)
        self.taken += 1


def assert_same_state(ours, theirs, **tolerance):
    """Two optimizers' ``state_dict``: groups, keys, types and values."""
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for key, expected in theirs["state"].items():
        state = ours["state"][key]
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            assert type(state[name]) is type(value), name
            if isinstance(value, th.Tensor):
                th.testing.assert_close(state[name], value, **({} if name == "step" else tolerance))
            else:
                assert state[name] == value, name


@pytest.fixture(params=OPTIMIZERS)
def optimizer(request):
    return OPTIMIZERS[request.param]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "turns",
    [
        ("ours",),
        ("torchs", "ours"),
        ("ours", "torchs"),
        ("torchs", "ours", "torchs", "ours", "ours"),
        ("in_place",),
        ("torchs", "in_place"),
        ("in_place", "ours", "in_place", "torchs", "in_place"),
    ],
)
def test_a_rule_and_torchs_optimizer_take_the_same_steps_and_each_goes_on_where_the_other_was(optimizer, turns, dtype):
    expected = Training(*optimizer, dtype).torchs(5)
    training = Training(*optimizer, dtype)
    for turn in turns:
        getattr(training, turn)({1: 5, 2: 2, 5: 1}[len(turns)])
    training.torchs(5 - training.taken)
    for p, q in zip(training.parameters, expected.parameters, strict=True):
        th.testing.assert_close(p, q, **TOLERANCE[dtype])
    assert_same_state(training.optimizer.state_dict(), expected.optimizer.state_dict(), **TOLERANCE[dtype])


@pytest.mark.parametrize("kind", [th.optim.Adam, th.optim.AdamW])
def test_a_version_of_torch_without_the_fused_operation_takes_the_same_steps(kind, monkeypatch):
    expected, training = (Training(kind, dict(weight_decay=0.1)) for _ in range(2))
    expected.ours(5)
    rule = rule_of(training.optimizer)
    assert rule.fused is not None
    monkeypatch.setattr(rule, "fused", None)
    training.ours(5)
    for p, q in zip(training.parameters, expected.parameters, strict=True):
        th.testing.assert_close(p, q, **TOLERANCE[th.float64])
    assert_same_state(training.optimizer.state_dict(), expected.optimizer.state_dict(), **TOLERANCE[th.float64])


def test_the_scalars_of_steps_to_come_are_those_of_the_steps_when_they_are_taken(optimizer):
    """A compiled step gets them as tensors, prepared an epoch ahead."""
    expected, training = Training(*optimizer), Training(*optimizer)
    expected.taken = 0
    for t in (expected, training):
        t.optimizer.param_groups[0]["lr"] = 0.1
    flat = FlatParameters(training.parameters, training.optimizer, rule_of(training.optimizer))
    rows = [*flat.step_scalars(0, 2, Remembered()), *flat.step_scalars(2, 3, Remembered())]
    theta, moments = flat.theta, flat.moments
    for row, gradients in zip(rows, training.gradients, strict=True):
        gradient = th.cat([g.flatten() for g in gradients])
        theta, moments = flat.rule.step(theta, gradient, moments, row.unbind())
        for p, g in zip(expected.parameters, gradients, strict=True):
            p.grad = g.clone()
        expected.optimizer.step()
    th.testing.assert_close(theta, th.nn.utils.parameters_to_vector(expected.parameters), **TOLERANCE[th.float64])


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_a_scaled_step_is_torchs_step_at_a_scaled_learning_rate(optimizer, scale):
    expected, training = Training(*optimizer).torchs(1), Training(*optimizer).torchs(1)
    flat = FlatParameters(training.parameters, training.optimizer, rule_of(training.optimizer))
    for way in (flat, SteppedByOptimizer(training.parameters, training.optimizer)):
        before = [p.detach().clone() for p in training.parameters]
        way.take(way.arranged([g.clone() for g in training.gradients[1]]), 1.0, 1, scale)
        way.store(1)
        assert training.optimizer.param_groups[0]["lr"] == RATES[0]
        expected.optimizer.param_groups[0]["lr"] = scale * RATES[0]
        for p, g in zip(expected.parameters, training.gradients[1], strict=True):
            p.grad = g.clone()
        expected.optimizer.step()
        for p, q, old in zip(training.parameters, expected.parameters, before, strict=True):
            assert not th.equal(p, old)
            th.testing.assert_close(p, q, **TOLERANCE[th.float64])


@pytest.mark.parametrize(
    "name, changes",
    [
        ("Adam", dict(eps=0.1, betas=(0.5, 0.7))),
        ("AdamW", dict(weight_decay=0.5)),
        ("RMSprop", dict(alpha=0.5)),
        ("SGD", dict(weight_decay=0.5)),
        ("SGD with momentum", dict(momentum=0.1, dampening=0.5)),
    ],
)
def test_options_that_have_been_changed_are_those_of_the_next_step(name, changes):
    expected, training = Training(*OPTIMIZERS[name]).torchs(2), Training(*OPTIMIZERS[name]).ours(2)
    for t in (expected, training):
        t.optimizer.param_groups[0].update(changes)
    expected.torchs(3)
    training.ours(3)
    for p, q in zip(training.parameters, expected.parameters, strict=True):
        th.testing.assert_close(p, q, **TOLERANCE[th.float64])


def test_what_is_stored_shares_no_memory_with_anything(optimizer):
    training = Training(*optimizer)
    for _ in range(2):
        training.ours(2)
        state = training.optimizer.state_dict()["state"].values()
        tensors = [*training.parameters, *(x for values in state for x in values.values() if isinstance(x, th.Tensor))]
        assert len({x.untyped_storage().data_ptr() for x in tensors}) == len(tensors)
        assert all(x.untyped_storage().nbytes() == x.numel() * x.element_size() for x in tensors), "a view of something larger"


@pytest.mark.parametrize("held", [FlatParameters, ParametersInPlace])
def test_storing_without_a_step_leaves_the_optimizer_without_a_state(optimizer, held):
    training = Training(*optimizer)
    held(training.parameters, training.optimizer, rule_of(training.optimizer)).store(0)
    assert training.optimizer.state_dict()["state"] == {}


@pytest.mark.parametrize("before", [0, 1])
def test_an_update_that_has_begun_in_place_goes_on_with_flat_vectors(optimizer, before):
    expected, training = Training(*optimizer).torchs(before + 2), Training(*optimizer).torchs(before)
    held = ParametersInPlace(training.parameters, training.optimizer, rule_of(training.optimizer))
    training.step_in_place(held)
    flat = held.eager(1)
    training.optimizer.param_groups[0]["lr"] = RATES[training.taken]
    flat.take(flat.arranged(training.gradients[training.taken]), 1.0, 2, 1.0)
    flat.store(2)
    for p, q in zip(training.parameters, expected.parameters, strict=True):
        th.testing.assert_close(p, q, **TOLERANCE[th.float64])
    assert_same_state(training.optimizer.state_dict(), expected.optimizer.state_dict(), **TOLERANCE[th.float64])


# ------------------------------------------------------------------------------------------------------- no rule


class OwnAdam(th.optim.Adam):
    """A user's class."""


def hooked(register, **options):
    def make(parameters, lr):
        optimizer = th.optim.Adam(parameters, lr=lr)
        getattr(optimizer, register)(lambda *args: None)
        return optimizer

    return make, options


def replaced_step(parameters, lr):
    optimizer = th.optim.Adam(parameters, lr=lr)
    th.optim.lr_scheduler.ConstantLR(optimizer)  # counts the steps by replacing the method
    return optimizer


def two_groups(parameters, lr):
    return th.optim.Adam([dict(params=parameters[:1], lr=0.1), dict(params=parameters[1:])], lr=lr)


@pytest.mark.parametrize(
    "kind, options, reason",
    [
        (th.optim.Adam, dict(amsgrad=True), "no rule for Adam with amsgrad"),
        (th.optim.AdamW, dict(amsgrad=True), "no rule for AdamW with amsgrad"),
        (th.optim.Adam, dict(maximize=True), "no rule for Adam with maximize"),
        (th.optim.SGD, dict(maximize=True), "no rule for SGD with maximize"),
        (th.optim.SGD, dict(momentum=0.9, nesterov=True), "no rule for SGD with nesterov"),
        (th.optim.RMSprop, dict(centered=True), "no rule for RMSprop with centered"),
        (th.optim.RMSprop, dict(momentum=0.9), "no rule for RMSprop with momentum"),
        (RMSpropTFLike, dict(centered=True), "no rule for RMSpropTFLike with centered"),
        (RMSpropTFLike, dict(momentum=0.9), "no rule for RMSpropTFLike with momentum"),
        (th.optim.Adamax, {}, "no rule for the optimizer Adamax"),
        (OwnAdam, {}, "no rule for the optimizer OwnAdam"),
        (two_groups, {}, "the optimizer has 2 groups of parameters"),
        (*hooked("register_step_pre_hook"), "step has been replaced or has hooks"),
        (*hooked("register_step_post_hook"), "step has been replaced or has hooks"),
        (replaced_step, {}, "step has been replaced or has hooks"),
    ],
)
def test_an_optimizer_without_a_rule_is_told_why_and_takes_its_own_steps(kind, options, reason):
    expected, training = Training(kind, options), Training(kind, options)
    assert reason in rule_of(training.optimizer)
    way = SteppedByOptimizer(training.parameters, training.optimizer)
    for k in range(3):
        way.take(way.arranged(training.gradients[k]), 1.0, k + 1, 1.0)
        for p, g in zip(expected.parameters, expected.gradients[k], strict=True):
            p.grad = g.clone()
        expected.optimizer.step()
    way.store(3)
    for p, q in zip(training.parameters, expected.parameters, strict=True):
        assert th.equal(p, q) and p.grad is None
    assert_same_state(training.optimizer.state_dict(), expected.optimizer.state_dict(), rtol=0, atol=0)
