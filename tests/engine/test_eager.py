"""The gradient step: clipping, and refusing what is not finite."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from support.small_environments import DEVICE, Scripted, vectorised

from sb3_pgx import A2C, REINFORCE, REINFORCEBaseline
from sb3_pgx.engine import accumulated_step


def test_the_step_is_clipped_and_reports_the_norm_before():
    p = th.tensor([0.0, 0.0], requires_grad=True)
    optimizer = th.optim.SGD([p], lr=1.0)
    loss = 3 * p[0] + 4 * p[1]
    loss.backward()
    measured = accumulated_step(optimizer, {"p": p}, 1.0, loss, update=0)
    assert measured["grad_norm"] == pytest.approx(5.0) and measured["grad_clipped"]
    th.testing.assert_close(p.detach(), th.tensor([-0.6, -0.8]), rtol=1e-5, atol=0)
    assert p.grad is None


def test_a_gradient_that_is_not_finite_is_named_and_nothing_moves():
    p, q = th.tensor([1.0], requires_grad=True), th.tensor([0.0], requires_grad=True)
    optimizer = th.optim.Adam([p, q], lr=1.0)
    loss = p.sum() + q.sqrt().sum()  # the derivative of √x at 0
    loss.backward()
    with pytest.raises(ValueError, match=r"the gradient of q is not finite in update 8; the step was not taken"):
        accumulated_step(optimizer, {"p": p, "q": q}, None, loss, update=7)
    assert p.item() == 1.0 and q.item() == 0.0 and not optimizer.state and p.grad is None and q.grad is None


@pytest.mark.parametrize("model_class", [A2C, REINFORCE, REINFORCEBaseline])
def test_rewards_of_absurd_size_stop_the_training_before_the_bad_step(model_class):
    class Absurd(Scripted):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, 1e30 if self.episode > 1 else 1.0, *rest

    model = model_class("MlpPolicy", vectorised(Absurd([4])), device=DEVICE, seed=0)
    with pytest.raises(ValueError, match=r"is .* in update \d+; the step was not taken, .*learning_rate"):
        model.learn(400)
    assert all(th.isfinite(p).all() for p in model.policy.parameters())
    model.predict(model.observation_space.sample())


@pytest.mark.parametrize("model_class", [A2C, REINFORCE, REINFORCEBaseline])
def test_gradients_that_a_callback_left_behind_do_not_enter_the_step(model_class):
    class Leaves(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            (sum(p.sum() for p in self.model.policy.parameters()) * 100).backward()

    clean, spoilt = (model_class("MlpPolicy", vectorised(Scripted([4])), device=DEVICE, seed=0) for _ in range(2))
    for model, callback in ((clean, None), (spoilt, Leaves())):
        th.manual_seed(0)
        np.random.seed(0)
        model.learn(40, callback=callback)
    for p, q in zip(clean.policy.parameters(), spoilt.policy.parameters(), strict=True):
        assert th.equal(p, q)


@pytest.mark.parametrize("max_grad_norm", [0.0, -1.0])
@pytest.mark.parametrize("model_class", [A2C, REINFORCE, REINFORCEBaseline])
def test_clipping_to_nothing_or_backwards_is_refused(model_class, max_grad_norm):
    with pytest.raises(ValueError, match=r"max_grad_norm=.* must be positive"):
        model_class("MlpPolicy", vectorised(Scripted([4])), max_grad_norm=max_grad_norm, device=DEVICE)
