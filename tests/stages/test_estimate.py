"""Stages that a subclass overrides: what they return is what the next stage gets."""

import pytest
import torch as th
from support.small_environments import DEVICE, Scripted, vectorised

from sb3_pgx import A2C, PPO, REINFORCE


def learn(kind, **kwargs):
    arguments = {"n_episodes": 2} if issubclass(kind, REINFORCE) else {"n_steps": 8}
    return kind("MlpPolicy", vectorised(Scripted([4])), **arguments, device=DEVICE, seed=0, **kwargs).learn(8)


@pytest.mark.parametrize("base", [A2C, PPO, REINFORCE])
@pytest.mark.parametrize("stage, remedy", [("evaluate", r"rollout\.evaluated\("), ("estimate", r"rollout\.estimated\(")])
def test_a_stage_that_returns_nothing_is_refused_with_what_it_should_return(base, stage, remedy):
    kind = type("Own", (base,), {stage: lambda self, rollout: None})
    with pytest.raises(TypeError, match=rf"Own\.{stage} returned NoneType: return {remedy}"):
        learn(kind)


def test_an_estimate_of_ones_own_is_what_the_update_and_the_rollout_buffer_get():
    class Own(PPO):
        def estimate(self, rollout):
            return rollout.estimated(th.full_like(rollout.values, 2.0), rollout.rewards + 1.0)

        def update(self, rollout):
            self.learned = rollout
            return super().update(rollout)

    model = learn(Own)
    assert (model.learned.advantages == 2.0).all() and th.equal(model.learned.returns, model.learned.rewards + 1.0)
    assert (model.rollout_buffer.advantages == 2.0).all()
    assert model.rollout_buffer.returns.tolist() == model.learned.returns.tolist()
