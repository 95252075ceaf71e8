"""
PPO's gradient against closed forms on a softmax-linear policy in float64, its metrics against SB3's definitions, and when an
update ends.
"""

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from support.observers import Metrics, Spy
from support.small_environments import DEVICE, AnySpace, DoubleFeatures, Scripted, vectorised
from support.torch_versions import clamp_passes_gradients_at_its_bounds

from sb3_pgx import PPO
from sb3_pgx.core.rollout import Batch, CollectedRollout

pytestmark = pytest.mark.usefixtures("on_the_tests_device")

BOX = spaces.Box(-1, 1, (3,), np.float32)
EXACT = dict(rtol=1e-10, atol=1e-12)
RATIOS = [0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 2.0]


def linear_model(**kwargs):
    """π = softmax(W x + b) over three actions, V = w x + v, plain gradient descent with a rate of 1 and no clipping."""
    settings = dict(n_steps=8, batch_size=8, n_epochs=1, normalize_advantage=False, vf_coef=0.0, max_grad_norm=None)
    policy_kwargs = dict(net_arch=[], features_extractor_class=DoubleFeatures, optimizer_class=th.optim.SGD)
    env = vectorised(AnySpace(BOX, spaces.Discrete(3)))
    model = PPO(
        "MlpPolicy",
        env,
        learning_rate=1.0,
        policy_kwargs={**policy_kwargs, "optimizer_kwargs": {}},
        seed=0,
        device=DEVICE,
        compile=False,
        **{**settings, **kwargs},
    )
    model.policy.double()
    with th.no_grad():
        for p in model.policy.parameters():
            p.copy_(th.linspace(-0.6, 0.7, p.numel()).view_as(p) ** 2)
    return model


def log_softmax(model, x, theta=None):
    """log π(·|x), from the parameters alone."""
    W, b = theta or (model.policy.action_net.weight.detach(), model.policy.action_net.bias.detach())
    return (x.double() @ W.T + b).log_softmax(dim=1)


def score(model, x, actions):
    """∂ log π(a|x) / ∂ logits = e_a − π; times (x, 1): for W and b, ``[B, 12]``."""
    d = th.eye(3, dtype=th.float64)[actions] - log_softmax(model, x).exp()
    return th.cat([(d[:, :, None] * x.double()[:, None, :]).flatten(1), d], dim=1)


def actor(model):
    return th.cat([p.detach().flatten() for p in model.policy.action_net.parameters()])


def critic(model):
    return th.cat([p.detach().flatten() for p in model.policy.value_net.parameters()])


def some_rows(n=8):
    generator = th.Generator(device=DEVICE).manual_seed(0)
    x = th.rand(n, 3, generator=generator) * 2 - 1
    actions = th.randint(3, (n,), generator=generator)
    advantages = th.randn(n, generator=generator, dtype=th.float64)
    return x, actions, advantages


def batch_of(model, x, actions, advantages, ratios, values=None, returns=None):
    """Rows whose ratio to the policy now is as given."""
    n = len(x)
    chosen = log_softmax(model, x)[th.arange(n), actions]
    nothing = th.zeros(n, dtype=th.float64)
    return Batch(
        observations=x,
        actions=actions[:, None],
        values=nothing if values is None else values,
        log_prob=chosen - th.as_tensor(ratios, dtype=th.float64).log(),
        advantages=advantages,
        returns=nothing if returns is None else returns,
    )


def step(model, batch):
    """The policy's and the critic's change by one gradient step on a batch, which is minus the gradient of the loss."""
    before = actor(model), critic(model)
    with model.gradient_steps(model.coefficients(), len(batch)) as steps:
        steps.epoch([batch])
    return actor(model) - before[0], critic(model) - before[1]


# ------------------------------------------------------------------------------------------------------- the gradient


@pytest.mark.parametrize("advantage", [1.5, -0.5])
@pytest.mark.parametrize("ratio", RATIOS)
def test_a_rows_gradient_is_the_ratio_times_score_times_advantage_or_exactly_nothing_where_clipped(ratio, advantage):
    model = linear_model(clip_range=0.2)
    x, actions = th.tensor([[0.3, -0.8, 0.5]]), th.tensor([1])
    A = th.tensor([advantage], dtype=th.float64)
    expected = ratio * advantage * score(model, x, actions)[0]
    moved, _ = step(model, batch_of(model, x, actions, A, [ratio]))
    if ratio > 1.2 if advantage > 0 else ratio < 0.8:
        assert (moved == 0).all()
    else:
        th.testing.assert_close(moved, expected, **EXACT)
        assert moved.norm() > 0.01


def test_a_minibatchs_gradient_is_the_mean_over_its_rows():
    model = linear_model(clip_range=0.2)
    x, actions, A = some_rows(7)
    ratios = th.tensor(RATIOS, dtype=th.float64)
    counts = th.where(A > 0, ratios <= 1.2, ratios >= 0.8)
    assert 0 < counts.sum() < 7
    expected = ((counts * ratios * A)[:, None] * score(model, x, actions)).mean(dim=0)
    moved, _ = step(model, batch_of(model, x, actions, A, ratios))
    th.testing.assert_close(moved, expected, **EXACT)


def test_the_second_epochs_step_is_the_clipped_one_at_where_the_first_has_led():
    """Two epochs over a whole rollout, by hand: first the plain policy gradient, then r A ∇log π of the unclipped rows."""
    model = linear_model(n_epochs=2, clip_range=0.05)
    x, actions, A = some_rows()
    A = 2 * A
    no = th.zeros(8, 1, dtype=th.bool)
    rows = (x[:, None], actions[:, None, None], A[:, None])
    rollout = model.estimate(model.evaluate(CollectedRollout(*rows, no, no, ~no, no, None, x[:1])))
    rollout.advantages = A[:, None]
    model.rollout_buffer.show(rollout, model.gamma)
    model.last_rollout = rollout

    theta = actor(model)
    old = log_softmax(model, x)[th.arange(8), actions]
    first = (A[:, None] * score(model, x, actions)).mean(dim=0)
    reference = linear_model()
    th.nn.utils.vector_to_parameters(theta + first, reference.policy.action_net.parameters())
    r = (log_softmax(reference, x)[th.arange(8), actions] - old).exp()
    counts = th.where(A > 0, r <= 1.05, r >= 0.95)
    assert 0 < counts.sum() < 8
    second = ((counts * r * A)[:, None] * score(reference, x, actions)).mean(dim=0)

    metrics = model.update(rollout)
    th.testing.assert_close(actor(model), theta + first + second, **EXACT)
    outside = ((r - 1).abs() > 0.05).double().mean().item()
    assert metrics["clip_fraction"] == pytest.approx(outside / 2)  # none in the first epoch


def test_advantages_are_standardised_over_the_minibatch_with_the_unbiased_deviation():
    model = linear_model(normalize_advantage=True)
    x, actions, _ = some_rows(4)
    A = th.tensor([1.0, 2.0, 3.0, 6.0], dtype=th.float64)
    standard = (np.array([1, 2, 3, 6]) - 3) / (np.sqrt((4 + 1 + 0 + 9) / 3) + 1e-8)
    expected = (th.tensor(standard, dtype=th.float64)[:, None] * score(model, x, actions)).mean(dim=0)
    moved, _ = step(model, batch_of(model, x, actions, A, [1.0] * 4))
    th.testing.assert_close(moved, expected, **EXACT)


def test_a_minibatch_of_one_row_keeps_its_advantage():
    model = linear_model(normalize_advantage=True)
    x, actions, A = some_rows(1)
    expected = A.item() * score(model, x, actions)[0]
    moved, _ = step(model, batch_of(model, x, actions, A, [1.0]))
    th.testing.assert_close(moved, expected, **EXACT)


def test_the_entropy_bonus_ascends_the_entropy():
    """∂H/∂logit_a = −π_a (log π_a + H)."""
    model = linear_model(ent_coef=0.3)
    x, actions, _ = some_rows(5)
    log_p = log_softmax(model, x)
    H = -(log_p.exp() * log_p).sum(dim=1, keepdim=True)
    d = -log_p.exp() * (log_p + H)
    expected = 0.3 * th.cat([(d[:, :, None] * x.double()[:, None, :]).flatten(1), d], dim=1).mean(dim=0)
    moved, _ = step(model, batch_of(model, x, actions, th.zeros(5, dtype=th.float64), [1.0] * 5))
    th.testing.assert_close(moved, expected, **EXACT)


@pytest.mark.parametrize("clip_range_vf", [None, 0.1])
def test_values_beyond_their_clip_have_no_gradient_and_the_error_of_the_clipped_value(clip_range_vf):
    """Old values such that the values now are off by 0.05, −0.05, 0.3 and −0.3; the target is 1 above the old value."""
    model = linear_model(vf_coef=0.25, clip_range_vf=clip_range_vf)
    x, actions, _ = some_rows(4)
    now = model.policy.predict_values(x).detach().flatten()
    off = th.tensor([0.05, -0.05, 0.3, -0.3], dtype=th.float64)
    old = now - off
    batch = batch_of(model, x, actions, th.zeros(4, dtype=th.float64), [1.0] * 4, values=old, returns=old + 1.0)
    inside = th.tensor([1.0, 1.0, 1.0, 1.0] if clip_range_vf is None else [1.0, 1.0, 0.0, 0.0], dtype=th.float64)
    reached = off if clip_range_vf is None else th.tensor([0.05, -0.05, 0.1, -0.1], dtype=th.float64)
    # Descent on 0.25 · mean (1 − off)²: half a mean of (1 − off) · ∂V.
    features = th.cat([x.double(), th.ones(4, 1, dtype=th.float64)], dim=1)
    expected = (0.5 * (inside * (1 - off))[:, None] * features).mean(dim=0)
    spy = Spy(model)
    moved, of_critic = step(model, batch)
    th.testing.assert_close(of_critic, expected, **EXACT)
    assert (moved == 0).all()
    assert spy.minibatches[0].measured["value_loss"] == pytest.approx((1 - reached).square().mean().item(), rel=1e-9)


# ------------------------------------------------------------------------------------------------------- in training

TRAININGS = {
    "CartPole-v1": lambda: (make_vec_env("CartPole-v1", 2, seed=0), {}),
    "gSDE": lambda: (vectorised(*(AnySpace(BOX, BOX) for _ in range(2))), dict(use_sde=True, sde_sample_freq=4)),
    "MultiBinary": lambda: (vectorised(*(AnySpace(BOX, spaces.MultiBinary(3)) for _ in range(2))), {}),
    "bounded, state-dependent std": lambda: (
        vectorised(*(AnySpace(BOX, BOX) for _ in range(2))),
        dict(policy_kwargs=dict(log_std_bounds=(-5, 2), state_dependent_std=True)),
    ),
}


@pytest.mark.parametrize("case", TRAININGS)
def test_the_ratio_is_one_in_the_first_minibatch_of_an_update_and_in_no_other(case):
    env, kwargs = TRAININGS[case]()
    kwargs = {**dict(n_steps=32, batch_size=16, n_epochs=3, learning_rate=1e-2), **kwargs}
    model = PPO("MlpPolicy", env, seed=0, device=DEVICE, compile=False, **kwargs)
    spy = Spy(model)
    model.learn(128)
    assert len(spy.minibatches) == 2 * 3 * 4
    for i, call in enumerate(spy.minibatches):
        off = (call.ratio - 1).abs().max().item()
        if i % 12 == 0:
            assert off < 1e-5 and call.measured["clip_fraction"] == 0 and call.measured["approx_kl"] < 1e-6
        else:
            assert off > 1e-3


def test_every_row_is_used_once_an_epoch_and_the_last_minibatch_may_be_smaller():
    with pytest.warns(UserWarning, match="truncated mini-batch of size 4"):
        model = PPO("MlpPolicy", vectorised(Scripted([3]), Scripted([4])), n_steps=10, batch_size=8, n_epochs=2, device=DEVICE)
    spy = Spy(model)
    model.learn(20)
    assert [len(call.ratio) for call in spy.minibatches] == [8, 8, 4] * 2
    rows = th.stack([model.last_rollout.advantages, model.last_rollout.log_prob], dim=-1).flatten(end_dim=1).tolist()
    orders = []
    for epoch in (spy.minibatches[:3], spy.minibatches[3:]):
        seen = [row for call in epoch for row in th.stack([call.advantages, call.log_prob], dim=1).tolist()]
        assert sorted(seen) == sorted(rows)
        orders.append(seen)
    assert orders[0] != orders[1]


def test_metrics_are_means_over_all_minibatches_but_for_sb3s_two_exceptions():
    model = PPO(
        "MlpPolicy", make_vec_env("CartPole-v1", 2, seed=0), n_steps=32, batch_size=16, n_epochs=3, device=DEVICE, seed=0
    )
    spy, callback = Spy(model), Metrics()
    model.learn(64, callback=callback)
    (metrics,), calls = callback.updates, [call.measured for call in spy.minibatches]
    assert len(calls) == 12
    for name in ("policy_gradient_loss", "value_loss", "entropy_loss", "clip_fraction"):
        assert metrics[name] == pytest.approx(np.mean([call[name] for call in calls]), rel=1e-5)
    assert metrics["loss"] == pytest.approx(calls[-1]["loss"], rel=1e-5)
    assert metrics["approx_kl"] == pytest.approx(np.mean([call["approx_kl"] for call in calls[-4:]]), rel=1e-5)
    assert metrics["clip_range"] == 0.2 and "clip_range_vf" not in metrics


def test_clip_ranges_follow_their_schedules_and_are_logged():
    model = PPO(
        "MlpPolicy",
        vectorised(Scripted([3])),
        n_steps=8,
        batch_size=8,
        n_epochs=1,
        device=DEVICE,
        clip_range="lin_0.2_0.1",
        clip_range_vf=lambda progress: 1.0 + progress,
    )
    spy, callback = Spy(model), Metrics()
    model.learn(32, callback=callback)
    logged = [(metrics["clip_range"], metrics["clip_range_vf"]) for metrics in callback.updates]
    expected = [(0.175, 1.75), (0.15, 1.5), (0.125, 1.25), (0.1, 1.0)]
    np.testing.assert_allclose(logged, expected, rtol=1e-12)
    np.testing.assert_allclose([(c.clip_range, c.clip_range_vf) for c in (k.coefficients for k in spy.minibatches)], expected)


def test_a_critic_whose_weight_is_set_to_zero_goes_on_as_sb3s_by_its_momentum_alone():
    reached = []
    for model_class, kwargs in ((sb3.PPO, {}), (PPO, dict(compile=False))):
        env = make_vec_env("CartPole-v1", 2, seed=0)
        settings = dict(n_steps=16, batch_size=16, n_epochs=2, learning_rate=1e-2, seed=0, device=DEVICE)
        model = model_class("MlpPolicy", env, **settings, **kwargs).learn(64)
        before = th.nn.utils.parameters_to_vector(model.policy.value_net.parameters()).detach().clone()
        model.vf_coef = 0.0
        model.learn(32, reset_num_timesteps=False)
        reached.append(th.nn.utils.parameters_to_vector(model.policy.parameters()).detach())
        after = th.nn.utils.parameters_to_vector(model.policy.value_net.parameters()).detach()
        assert (after - before).abs().max() > 1e-3
    th.testing.assert_close(reached[1], reached[0], rtol=0, atol=1e-5)


class Rounds(BaseCallback):
    """Log-probabilities and values of the rollout as another order of summation might have given them."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        generator, buffer = np.random.default_rng(0), self.model.rollout_buffer
        for array in (buffer.log_probs, buffer.values):
            array += 6e-8 * generator.choice([-1, 1], array.shape).astype(np.float32)


@pytest.mark.skipif(not clamp_passes_gradients_at_its_bounds(), reason="with this torch, SB3 clips rows at the bound, too")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("clips", [dict(clip_range=0.0), dict(clip_range_vf=lambda progress: 0.0)], ids=list)
def test_a_clip_range_that_has_reached_zero_gives_sb3s_update(clips, compile, graphs):
    """In the first step of an update, ratios are 1 and values the old ones up to rounding: none of them is clipped."""
    reached = []
    for model_class, callback, kwargs in ((sb3.PPO, None, {}), (PPO, Rounds(), dict(compile=compile))):
        env = make_vec_env("CartPole-v1", 4, seed=0)
        settings = dict(n_steps=128, batch_size=64, n_epochs=1, learning_rate=1e-3, seed=0, device=DEVICE)
        model = model_class("MlpPolicy", env, **settings, **clips, **kwargs).learn(512, callback=callback)
        reached.append(th.nn.utils.parameters_to_vector(model.policy.parameters()).detach())
    th.testing.assert_close(reached[1], reached[0], rtol=0, atol=1e-6)


def test_clip_ranges_of_zero_are_logged_as_zero():
    callback, zero = Metrics(), dict(clip_range=0.0, clip_range_vf=lambda progress: 0.0)
    PPO("MlpPolicy", vectorised(Scripted([3])), n_steps=8, batch_size=8, **zero, device=DEVICE).learn(8, callback=callback)
    assert (callback.updates[0]["clip_range"], callback.updates[0]["clip_range_vf"]) == (0.0, 0.0)


# ------------------------------------------------------------------------------------------------------- when it ends


def scripted_update(kls, target_kl, **kwargs):
    """A rollout of two minibatches an epoch whose divergences are as given."""
    model = PPO(
        "MlpPolicy",
        vectorised(Scripted([3])),
        n_steps=8,
        batch_size=4,
        n_epochs=3,
        target_kl=target_kl,
        device=DEVICE,
        compile=False,
        **kwargs,
    )
    spy = Spy(model, kls)
    metrics = []
    original = model.update
    model.update = lambda rollout: metrics.append(original(rollout)) or metrics[-1]
    model.learn(8)
    return model, spy, metrics[0]


def test_the_update_ends_before_the_step_of_the_minibatch_that_has_moved_too_far(capsys):
    model, spy, metrics = scripted_update([0.0, 0.0149, 0.001, 0.0151], target_kl=0.01, verbose=1)
    reached = th.nn.utils.parameters_to_vector(model.policy.parameters())
    assert len(spy.minibatches) == 4 and th.equal(reached, spy.minibatches[3].theta)
    assert not th.equal(reached, spy.minibatches[2].theta)
    assert model.n_gradient_steps == 3 and model._n_updates == 2  # SB3 counts the epoch that it ends in
    assert {int(state["step"]) for state in model.policy.optimizer.state.values()} == {3}
    assert metrics["approx_kl"] == pytest.approx((0.001 + 0.0151) / 2)
    assert "Early stopping at step 1 due to reaching max kl: 0.02" in capsys.readouterr().out


def test_an_update_whose_first_minibatch_has_moved_too_far_changes_nothing():
    model, spy, _ = scripted_update([1.0], target_kl=0.01)
    assert th.equal(th.nn.utils.parameters_to_vector(model.policy.parameters()), spy.minibatches[0].theta)
    assert not model.policy.optimizer.state and model._n_updates == 1


def test_one_and_a_half_times_the_target_itself_is_not_too_far():
    model, spy, _ = scripted_update([0.75] * 6, target_kl=0.5)  # both exact in binary
    assert len(spy.minibatches) == model.n_gradient_steps == 6 and model._n_updates == 3


def test_without_a_target_no_distance_is_too_far():
    model, spy, _ = scripted_update([1e9] * 6, target_kl=None)
    assert len(spy.minibatches) == model.n_gradient_steps == 6
