"""The gated step: when it stops, what it clips and measures, and that device and host take the same steps."""

import copy
import math
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from support.acer_models import flat
from support.small_environments import DEVICE

from sb3_pgx.core.controllers import KLAdaptiveLearningRate, adapted_scale
from sb3_pgx.core.rollout import Batch
from sb3_pgx.engine import Follower, GradientSteps, Objective, Plan, Update, open_update
from sb3_pgx.engine.compiler import Remembered
from sb3_pgx.engine.follower import follow
from sb3_pgx.engine.layers import Modules
from sb3_pgx.engine.optimizers import SGD, Adam
from sb3_pgx.engine.step import GatedParameters, OnDevice, gradient_step
from sb3_pgx.engine.step_log import DIVERGED, OPEN, STOPPED, Progress, StepLog

INF, NAN = math.inf, math.nan


def step(report, theta, moments, gradient, loss=1.0, kl=0.0, limits=(INF, INF), rule=SGD, lr=1.0):
    """One gated step with the loss and the distance as its metrics."""
    row = {SGD: (lr, 0.0), Adam: (lr, 1.0, 0.1, 0.99, 0.01, 1e-8, 0.0, lr)}[rule]
    measured = [theta.new_tensor(loss), theta.new_tensor(kl)]
    parameters = GatedParameters(rule, [theta], [[moment] for moment in moments], theta.new_tensor(row).unbind())
    gradient_step(OnDevice(report.flags, report.outcome), parameters, measured, [gradient], limits, distance=1)
    report.advance()


def beginning(rule=SGD):
    """A report on four metrics (loss, distance, the gradient's norm and its clipping), parameters, and moments."""
    report = StepLog(Progress(), 9, 4, th.device("cpu"), Remembered())
    return report, th.tensor([1.0, -2.0]), [th.tensor([0.1, 0.2]) for _ in rule.moments]


# ------------------------------------------------------------------------------------------------------- the gate


@pytest.mark.parametrize(
    "bad, gate",
    [
        (dict(kl=0.5000001), STOPPED),
        (dict(kl=INF), STOPPED),
        (dict(loss=NAN), DIVERGED),
        (dict(loss=INF), DIVERGED),
        (dict(loss=-INF), DIVERGED),
        (dict(gradient=th.tensor([NAN, 0.0])), DIVERGED),
        (dict(gradient=th.tensor([0.0, INF])), DIVERGED),
        (dict(gradient=th.tensor([1e30, 1e30])), DIVERGED),  # its norm overflows
        (dict(kl=INF, loss=NAN), STOPPED),  # an update that ends early has not failed
    ],
)
@pytest.mark.parametrize("rule", [SGD, Adam])
def test_the_gate_closes_before_the_step_and_nothing_changes_from_then_on(rule, bad, gate):
    report, theta, moments = beginning(rule)
    good = th.tensor([0.3, -0.4])
    step(report, theta, moments, good, rule=rule, limits=(INF, 0.5))
    before = [x.clone() for x in (theta, *moments)]
    step(report, theta, moments, **{"gradient": good, "rule": rule, "limits": (INF, 0.5), **bad})
    closed = report.progress
    assert (closed.gate, closed.taken, len(closed.outcomes)) == (gate, 1, 2), "what closed the gate has been seen"
    for later in (
        dict(gradient=good),
        dict(gradient=good * NAN, loss=NAN),
        dict(gradient=good, kl=INF),
        dict(gradient=good * 9),
    ):
        step(report, theta, moments, rule=rule, limits=(INF, 0.5), **later)
        np.testing.assert_equal(report.progress, closed)
    for x, y in zip((theta, *moments), before, strict=True):
        assert th.equal(x, y)


@pytest.mark.parametrize("kl, limit", [(0.5, 0.5), (1e9, INF), (-1.0, 0.5)])
def test_the_gate_stays_open_up_to_the_limit(kl, limit):
    report, theta, moments = beginning()
    step(report, theta, moments, th.tensor([0.3, -0.4]), kl=kl, limits=(INF, limit))
    assert report.progress[:2] == (OPEN, 1)
    th.testing.assert_close(theta, th.tensor([0.7, -1.6]))


def test_the_report_has_the_metrics_of_minibatches_seen_and_the_norms_of_steps_taken():
    report, theta, moments = beginning()
    for loss, kl, size in ((1.0, 0.1, 1.0), (2.5, 0.2, 2.0), (4.0, 0.9, 7.0), (100.0, 0.0, 100.0)):  # the third one stops
        step(report, theta, moments, size * th.tensor([0.6, 0.8]), loss=loss, kl=kl, limits=(1.5, 0.5))
    news = report.progress
    np.testing.assert_allclose(news.outcomes, [[1.0, 0.1, 1.0, 0.0], [2.5, 0.2, 2.0, 1.0], [4.0, 0.9, 0.0, 0.0]], rtol=1e-6)
    assert (news.gate, news.taken, news.scale) == (STOPPED, 2, 1.0)


@pytest.mark.parametrize("max_grad_norm", [0.1, 5.0, 10.0, INF])
def test_the_gradient_is_clipped_as_torch_clips_it(max_grad_norm):
    report, theta, moments = beginning()
    before, gradient = theta.clone(), th.tensor([3.0, -4.0])
    p = th.nn.Parameter(theta.clone())
    p.grad = gradient.clone()
    norm = th.nn.utils.clip_grad_norm_([p], max_grad_norm)
    step(report, theta, moments, gradient, limits=(max_grad_norm, INF))
    th.testing.assert_close(before - theta, p.grad)
    assert report.progress.outcomes[0][2] == norm.item() == 5.0  # before clipping
    assert gradient.tolist() == [3.0, -4.0]


# ------------------------------------------------------------------------------------------------------- device and host


class Coefficients(NamedTuple):
    vf_coef: float


def objective(now, batch, c):
    ratio = (now.log_prob - batch.log_prob).exp()
    policy_loss, value_loss = -(ratio * batch.advantages).mean(), ((now.values - batch.returns) ** 2).mean()
    kl = (ratio - 1 - ratio.log()).mean().detach()
    return {"loss": policy_loss + c.vf_coef * value_loss, "value_loss": value_loss, "kl": kl}


class WithoutWaiting(Update):
    """Steps as on CUDA, where the host does not wait for them."""

    host_waits = False


def problem():
    """A policy and twelve minibatches of what it has done."""
    th.manual_seed(0)
    np.random.seed(0)
    box = spaces.Box(-1, 1, (2,), np.float32)
    policy = ActorCriticPolicy(box, box, lambda _: 1e-2, net_arch=[4]).to(DEVICE)
    observations, noise = th.randn(60, 2, device=DEVICE), th.randn(60, 2, device=DEVICE)
    with th.no_grad():
        actions = policy.get_distribution(observations).mode() + noise
        values, log_prob, _ = policy.evaluate_actions(observations, actions)
    rest = (th.randn(60, device=DEVICE), 3 * th.randn(60, device=DEVICE))
    return policy, list(Batch(observations, actions, values.flatten(), log_prob, *rest).split(5))


def by_hand(policy, batches, plan, controller):
    """Epochs of torch's own steps, with torch's own clipping, as SB3 writes them."""
    losses, norms, taken, why = [], [], 0, OPEN
    lr = controller.value if controller else 1e-2
    for batch in batches:
        values, log_prob, _ = policy.evaluate_actions(batch.observations, batch.actions)
        now = SimpleNamespace(values=values.flatten(), log_prob=log_prob)
        measured = objective(now, batch, plan.coefficients)
        losses.append([measured[name].item() for name in ("loss", "value_loss", "kl")])
        kl = losses[-1][2]
        if plan.max_distance is not None and kl > plan.max_distance:
            why = STOPPED
            break
        if not math.isfinite(losses[-1][0]):
            why = DIVERGED
            break
        if controller:  # rsl_rl/algorithms/ppo.py
            if kl > controller.target_kl * 2.0:
                lr = max(controller.low, lr / controller.factor)
            elif controller.target_kl / 2.0 > kl > 1e-7:
                lr = min(controller.high, lr * controller.factor)
        policy.optimizer.param_groups[0]["lr"] = lr
        policy.optimizer.zero_grad()
        measured["loss"].backward()
        norms.append(th.nn.utils.clip_grad_norm_(policy.parameters(), plan.max_grad_norm or INF).item())
        policy.optimizer.step()
        taken += 1
    return losses, norms, taken, why, lr


CASES = {
    "plain": {},
    "clipped": dict(max_grad_norm=0.7),
    "stopped in the second epoch": dict(max_distance=0.02),
    "not finite in the second epoch": dict(diverges=True),
    "following the KL": dict(controller=KLAdaptiveLearningRate(1e-2, target_kl=0.004, factor=1.3, low=1e-3, high=1.2e-2)),
    "all of it": dict(
        controller=KLAdaptiveLearningRate(1e-2, target_kl=0.01, factor=1.3, low=1e-3, high=3e-2),
        max_distance=0.06,
        max_grad_norm=0.7,
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("where", [Update, WithoutWaiting])
def test_device_and_host_take_torchs_steps_and_measure_the_same(where, case):
    options = dict(CASES[case])
    controller, diverges = options.pop("controller", None), options.pop("diverges", False)
    adapt = (adapted_scale, controller.numbers) if controller else ()
    plan = Plan(Coefficients(0.5), options.get("max_grad_norm"), 5, options.get("max_distance"), *adapt)

    expected, batches = problem()
    if diverges:
        batches[8].returns = batches[8].returns * INF
    losses, norms, taken, why, lr = by_hand(expected, batches, plan, controller)
    assert (why == OPEN) == (taken == 12) and (why == OPEN or 6 < taken < 12), "the case is not what it says"

    policy, _ = problem()
    steps = GradientSteps(Objective(objective, distance="kl"))
    update = where(steps, policy, plan, False, 0)
    update.epoch(batches[:6])
    np.testing.assert_allclose(list(update.last_epoch.values())[:3], np.mean(losses[:6], axis=0), rtol=1e-4)
    if why == DIVERGED:
        with pytest.raises(ValueError, match=r"the returns are not finite in update 1"):
            update.epoch(batches[6:])
    else:
        update.epoch(batches[6:])
        means = np.mean(losses, axis=0)
        np.testing.assert_allclose([update.means()[n] for n in ("loss", "value_loss", "kl")], means, rtol=1e-4)
        np.testing.assert_allclose(update.last_epoch["kl"], np.mean(losses[6:], axis=0)[2], rtol=1e-4)
        assert update.means()["grad_norm"] == pytest.approx(np.mean(norms), rel=1e-4)
        assert update.means()["grad_clipped"] == np.mean(np.array(norms) > (plan.max_grad_norm or INF))
        assert update.last == pytest.approx(dict(zip(("loss", "value_loss", "kl"), losses[-1], strict=True)), rel=1e-4)
        assert update.distance == update.last["kl"]
        assert update.largest("kl") == pytest.approx(max(kl for _, _, kl in losses), rel=1e-4)
    update.store()
    assert (update.taken, update.gate, update.stopped) == (taken, why, why == STOPPED) and update.seen == len(losses)
    if controller:
        assert update.scale * controller.value == pytest.approx(lr)
        assert case != "following the KL" or update.scale != 1.0
    for p, q in zip(policy.parameters(), expected.parameters(), strict=True):
        th.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
        ours, theirs = (o.state[x] for o, x in ((policy.optimizer, p), (expected.optimizer, q)))
        assert ours["step"] == theirs["step"] == taken
        th.testing.assert_close(ours["exp_avg"], theirs["exp_avg"], rtol=1e-4, atol=1e-6)
        th.testing.assert_close(ours["exp_avg_sq"], theirs["exp_avg_sq"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("how", ["on the host", "on the device", "compiled"])
def test_steps_that_count_as_updates_are_counted_whatever_each_of_them_is_done_by(how, graphs):
    """The fifth minibatch is smaller, which a graph does not take; the ninth one is refused."""
    expected, batches = problem()
    batches[4], _ = batches[4].split(3)
    batches[8].returns = batches[8].returns * INF
    plan = Plan(Coefficients(0.5), None, 5, one_by_one=True)
    by_hand(expected, batches[:8], plan, None)
    policy, _ = problem()
    steps = GradientSteps(Objective(objective, distance="kl"))
    update = (WithoutWaiting if how == "on the device" else Update)(steps, policy, plan, how == "compiled", 100)
    with pytest.raises(ValueError, match="the returns are not finite in update 109; the step was not taken"):
        update.epoch(batches)
    update.store()
    assert (update.taken, update.seen) == (8, 9) and len(graphs) == 2 * (how == "compiled"), "in place, and flat from then on"
    for p, q in zip(policy.parameters(), expected.parameters(), strict=True):
        th.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
        assert policy.optimizer.state[p]["step"] == 8


def test_an_exception_in_the_middle_of_an_update_leaves_the_steps_that_were_taken():
    expected, batches = problem()
    plan = Plan(Coefficients(0.5), None, 5)
    by_hand(expected, batches[:4], plan, None)
    policy, _ = problem()
    with pytest.raises(KeyboardInterrupt):
        with open_update(GradientSteps(Objective(objective, distance="kl")), policy, plan, False, 0) as update:
            update.epoch(batches[:4])
            raise KeyboardInterrupt
    for p, q in zip(policy.parameters(), expected.parameters(), strict=True):
        th.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
        assert policy.optimizer.state[p]["step"] == 4


@pytest.mark.parametrize("where", [Update, WithoutWaiting])
def test_a_policy_that_fails_in_an_epoch_fails_in_the_update_that_it_was_to_be_part_of(where):
    policy, batches = problem()
    calls = []

    def fails(now, batch, c):
        calls.append(batch)
        if len(calls) == 4:  # the first one asks which parameters there are
            th.distributions.Normal(th.zeros(1), th.full((1,), th.nan))
        return objective(now, batch, c)

    steps = GradientSteps(Objective(fails, distance="kl"))
    update = where(steps, policy, Plan(Coefficients(0.5), None, 5, one_by_one=True), False, 100)
    with pytest.raises(ValueError, match=r"the policy failed \(Expected parameter scale.*\) in update 103"):
        update.epoch(batches)
    assert update.taken == 2


@pytest.mark.parametrize("where", [Update, WithoutWaiting])
def test_whoever_interrupts_an_epoch_finds_the_steps_that_were_taken_counted(where):
    policy, batches = problem()
    calls = []

    def interrupted(now, batch, c):
        calls.append(batch)
        if len(calls) == 6:  # the first one asks which parameters there are
            raise KeyboardInterrupt
        return objective(now, batch, c)

    update = where(GradientSteps(Objective(interrupted, distance="kl")), policy, Plan(Coefficients(0.5), None, 5), False, 0)
    with pytest.raises(KeyboardInterrupt):
        update.epoch(batches)
    assert (update.taken, update.seen) == (4, 4)


# ------------------------------------------------------------------------------------------------------- a follower


def evaluate_both(policy, batch, follower):
    return policy.evaluate_actions(batch.observations, batch.actions), follower.predict_values(batch.observations)


def objective_of_both(now, batch, c):
    (values, log_prob, _), of_follower = now
    measured = objective(SimpleNamespace(values=values.flatten(), log_prob=log_prob), batch, c)
    return {**measured, "of_follower": of_follower.mean()}


def a_third(held, led, c):
    return held + (led - held) * c.vf_coef / 1.5


@pytest.mark.parametrize("ends", ["", "stopped", "not finite"])
@pytest.mark.parametrize("how", ["on the host", "on the device", "compiled, flat", "compiled, in place"])
def test_a_follower_takes_a_step_after_each_of_the_policys_and_no_other(how, ends, graphs):
    """Parameters that do not move, and whoever changed them between two updates, included."""
    limit = 0.02 if ends == "stopped" else None
    plan = Plan(Coefficients(0.5), None, 5, limit)
    expected, batches = problem()
    if ends == "not finite":
        batches[8].returns = batches[8].returns * INF
    policy, _ = problem()
    follower, followed = (copy.deepcopy(policy).requires_grad_(False) for _ in range(2))
    for one in (expected, policy):
        one.log_std.requires_grad_(False).fill_(0.1)
        one.optimizer = th.optim.Adam(one.parameters(), lr=1e-2)
    said, taken = [], 0
    for batch in batches:
        said.append(followed.predict_values(batch.observations).mean().item())
        if by_hand(expected, [batch], plan, None)[3] != OPEN:
            break
        taken += 1
        with th.no_grad():
            for held, led in zip(followed.parameters(), expected.parameters(), strict=True):
                held += (led - held) / 3
    assert (taken == 12) == (not ends)

    modules = Modules(), Modules()
    for one, layers in zip(modules, (follower, policy), strict=True):
        one.look(layers)
    steps = GradientSteps(Objective(objective_of_both, evaluate_both, distance="kl", follows=a_third))
    steps.followers = [Follower(follower, *modules)]
    update = (WithoutWaiting if how == "on the device" else Update)(steps, policy, plan, "compiled" in how, 0)
    try:
        for epoch in [[batch] for batch in batches] if "in place" in how else [batches[:6], batches[6:]]:
            update.epoch(epoch)
    except ValueError as error:
        assert ends == "not finite" and "the returns are not finite" in str(error)
    update.store()
    assert (update.taken, update.seen) == (taken, len(said)) and len(graphs) == ("compiled" in how)
    assert update.means()["of_follower"] == pytest.approx(np.mean(said), rel=1e-4)
    for ours, theirs in ((policy, expected), (follower, followed)):
        th.testing.assert_close(flat(ours), flat(theirs), rtol=1e-4, atol=1e-6)
    assert follower.log_std[0] == pytest.approx(0.1 * (1 - (2 / 3) ** taken))


def test_what_two_layers_share_moves_once_and_whole_numbers_are_copied():
    layers = th.nn.ModuleList([th.nn.BatchNorm1d(1), th.nn.BatchNorm1d(1)])
    layers[1].weight, layers[1].running_mean = layers[0].weight, layers[0].running_mean
    held = copy.deepcopy(layers)
    for values in (layers[0].weight.data, layers[0].running_mean, layers[1].num_batches_tracked):
        values += 10
    modules = Modules(), Modules()
    for one, of_it in zip(modules, (held, layers), strict=True):
        one.look(of_it)
    follow(Follower(held, *modules).pairs(), a_third, Coefficients(0.15))
    assert (held[0].weight.item(), held[1].running_mean.item()) == pytest.approx((2.0, 1.0))
    assert held[1].num_batches_tracked == 10 and held[0].num_batches_tracked == 0


# ------------------------------------------------------------------------------------------------------- the learning rate


def test_the_rate_follows_a_script_of_divergences_as_in_rsl_rl():
    rate = KLAdaptiveLearningRate(1e-3, target_kl=0.01, factor=1.5, low=4e-4, high=3e-3)
    script = {
        0.0200001: 1e-3 / 1.5,  # above twice the target
        0.02: 1e-3 / 1.5,  # exactly twice: as it is
        0.03: 1e-3 / 1.5**2,
        0.5: 4e-4,  # the lower bound
        INF: 4e-4,
        0.01: 4e-4,  # on target
        0.005: 4e-4,  # exactly half: as it is
        0.0049999: 6e-4,
        0.0: 6e-4,  # a policy that has not moved says nothing
        1e-9: 6e-4,  # nor does rounding
        -1e-3: 6e-4,
        NAN: 6e-4,
        0.001: 9e-4,
        0.0011: 1.35e-3,
        0.0012: 2.025e-3,
        0.0013: 3e-3,  # the upper bound
        0.0014: 3e-3,
    }
    scale = th.tensor(1.0, dtype=th.float64)
    numbers = [th.tensor(x, dtype=th.float64) for x in (rate.target_kl, rate.factor, rate.low / 1e-3, rate.high / 1e-3)]
    for kl, expected in script.items():
        scale = adapted_scale(scale, th.tensor(kl, dtype=th.float64), *numbers)
        assert 1e-3 * scale.item() == pytest.approx(expected, rel=1e-12), kl
    rate.scaled(scale.item())
    assert rate.value == rate(0.3) == pytest.approx(3e-3)


def test_the_rate_an_update_ends_with_is_the_next_ones_first_and_stays_within_its_bounds():
    rate = KLAdaptiveLearningRate(1e-3, target_kl=0.01, factor=2.0, low=1e-4, high=4e-3)
    for _ in range(5):  # a step an update, with a divergence that is too small
        target_kl, factor, low, high = rate.numbers
        rate.scaled(adapted_scale(th.tensor(1.0), th.tensor(1e-3), target_kl, factor, low, high).item())
    assert rate.value == 4e-3
    for _ in range(9):
        rate.scaled(adapted_scale(th.tensor(1.0), th.tensor(1.0), *rate.numbers).item())
    assert rate.value == pytest.approx(1e-4)
