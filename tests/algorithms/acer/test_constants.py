"""Of what ACER descends on: which parts are constants, and where the ratio enters, and its root."""

from dataclasses import replace

import numpy as np
import pytest
import torch as th
from support.acer_segments import (
    EXACT,
    M,
    T,
    coefficients,
    evaluated,
    leaves,
    parameters_of,
    partial,
    returns,
    segments,
    shifted,
    small_model,
)
from torch.distributions import Normal

from sb3_pgx.algorithms.acer.objective import BoxEvaluation, Coefficients
from sb3_pgx.algorithms.acer.segments import Segments

pytestmark = pytest.mark.usefixtures("on_the_tests_device")


def test_no_gradient_flows_through_returns_values_ratios_and_advantages_of_a_discrete_policy():
    """Q enters by the loss of the actions that were taken; V of what follows, and Q of other actions, not at all."""
    model = small_model("Discrete")
    batch = segments(model, shifted(model.policy, 10))
    now = leaves(evaluated(model, batch))
    of = partial(model, batch, now, coefficients(q_coef=0.5))
    rows, actions = len(batch), batch.actions.flatten()
    index, p = th.arange(rows), now.log_probs.detach().exp()
    ratio = p[index, actions] / batch.behaviour.softmax(dim=1)[index, actions]
    q = now.action_values.detach()
    targets = returns(model, batch, (p * q).sum(dim=1), now.last_values, q[index, actions], ratio.clamp(max=1.0))
    expected = th.zeros_like(q)
    expected[index, actions] = -0.5 * (targets - q[index, actions]) / rows
    th.testing.assert_close(of["action_values"], expected, **EXACT)
    assert of["last_values"] is None and of["entropy"] is None
    without_critic = partial(model, batch, now, coefficients())["action_values"]
    assert without_critic is None or not without_critic.any()


def test_no_gradient_flows_through_returns_values_ratios_and_advantages_of_a_box_policy():
    model = small_model("Box")
    batch = segments(model, shifted(model.policy, 10, 0.3))
    now = leaves(evaluated(model, batch))
    of = partial(model, batch, now, coefficients(q_coef=0.5))
    rows = len(batch)
    current, behaviour = (Normal(*x.detach().chunk(2, dim=1)) for x in (now.parameters, batch.behaviour))
    ratio = (current.log_prob(now.actions[0]) - behaviour.log_prob(now.actions[0])).sum(dim=1).exp().detach()
    q = now.action_values.detach()
    surprise = returns(model, batch, now.values, now.last_values, q, ratio.sqrt().clamp(max=1.0)) - q
    assert (ratio < 0.9).any() and (ratio > 1.1).any()
    th.testing.assert_close(of["action_values"], -0.5 * surprise / rows, **EXACT)
    th.testing.assert_close(of["values"], -0.5 * ratio.clamp(max=1.0) * surprise / rows, **EXACT)
    assert of["resampled_values"] is None, "Q of the action that was drawn is a number"
    assert of["last_values"] is None and of["entropy"] is None
    assert not evaluated(model, batch).actions.requires_grad, "and so is that action"


def by_hand(rho, d=2, **given):
    """
    Two steps in one state, by numbers: r = (1, 2), V = 3 and 4, 5 after them, Q(s, a) = 6 and 8, and ρ of the second action;
    the policy's mean is 0 in all ``d`` dimensions, its σ 1, and the one that acted has the same σ.
    """
    zero, one = th.zeros(2, d, dtype=th.float64), th.ones(2, d, dtype=th.float64)
    actions = zero.clone()
    # Each dimension brings its share: log ρ_i = ½ [(a − m)² − a²] with a = 0, or a = m where ρ < 1.
    share = np.log(rho) / d
    mean = zero.clone()
    mean[1] = np.sqrt(2 * abs(share))
    actions[1] = mean[1] if share < 0 else 0.0
    parameters = th.cat([zero, one], dim=1)
    now = BoxEvaluation(
        parameters=parameters,
        entropy=zero[:, 0],
        values=th.tensor([3.0, 4.0], dtype=th.float64),
        action_values=th.tensor([6.0, 8.0], dtype=th.float64),
        resampled_values=th.tensor([3.0, 4.0], dtype=th.float64),  # no advantage
        actions=th.stack([actions, zero]),
        last_values=th.tensor([5.0], dtype=th.float64),
        final_values=zero[:, :1],
        average=parameters,
    )
    rewards, no = th.tensor([[1.0], [2.0]], dtype=th.float64), th.zeros(2, 1, dtype=th.bool)
    batch = Segments(th.zeros(3, 1), actions, th.cat([mean, one], 1), rewards, no, no, None)
    model = small_model("Box")
    return partial(model, batch, leaves(now), Coefficients(**{**coefficients()._asdict(), "gamma": 1.0, **given}))


@pytest.mark.parametrize("rho", [0.25, 4.0])
def test_the_root_of_the_ratio_enters_the_returns_of_q_alone(rho):
    """
    Q^ret = (1 + 4 + min(1, ρ^½) (7 − 8), 2 + 5), whereas V's target has min(1, ρ) in it, and the weight of the policy's
    gradient min(c, ρ).
    """
    of = by_hand(rho, q_coef=1.0)
    surprises = th.tensor([5 - min(1.0, rho**0.5) - 6, 7 - 8], dtype=th.float64)
    th.testing.assert_close(of["action_values"], -surprises / 2, **EXACT)
    th.testing.assert_close(of["values"], -surprises * th.tensor([1.0, min(1.0, rho)]) / 2, **EXACT)


@pytest.mark.parametrize("rho, clip", [(0.25, 10.0), (4.0, 10.0), (4.0, 1.5)])
def test_the_policys_gradient_has_returns_whose_traces_are_1_and_the_whole_ratio(rho, clip):
    """With Q^opc = (1 + 4 + (7 − 8), 7) and σ = 1, −∂/∂μ of log N is a: that of the first row is 0, as the mean is."""
    of = by_hand(rho, q_coef=0.0, importance_clip=clip)
    a = np.sqrt(2 * np.log(4) / 2) if rho < 1 else 0.0
    expected = th.zeros(2, 4, dtype=th.float64)
    expected[1, :2] = -min(clip, rho) * (7 - 4) * a / 2
    th.testing.assert_close(of["parameters"], expected, **EXACT)


def test_the_first_rows_gradient_is_weighted_with_q_opc_whatever_the_ratio_that_follows():
    model = small_model("Box")
    batch = segments(model, shifted(model.policy, 10, 0.3))
    now = leaves(evaluated(model, batch))
    c = coefficients(importance_clip=1e9)  # no correction
    before = partial(model, batch, now, c)["parameters"]
    behaviour = batch.behaviour.clone()
    behaviour[M:] = parameters_of(shifted(model.policy, 30, 0.5), batch.observations[M : T * M])  # of all but the first steps
    after = partial(model, replace(batch, behaviour=behaviour), now, c)["parameters"]
    assert th.equal(before[:M], after[:M]) and not th.isclose(before[M:], after[M:]).all()


def test_the_trace_of_many_dimensions_is_the_root_of_a_ratio_far_below_what_a_float_holds():
    """ρ = e^−160 over 32 dimensions: its root is e^−5."""
    of = by_hand(float(np.exp(-160.0)), d=32, q_coef=1.0)
    surprise = 5 - np.exp(-5.0) - 6
    assert of["action_values"][0].item() == pytest.approx(-surprise / 2, rel=1e-9)
