"""Stages that a subclass overrides: what they return is what the next stage gets."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from support.small_environments import DEVICE, Scripted, vectorised

from sb3_pgx import A2C, PPO, REINFORCE
from sb3_pgx.core.undo import Undo
from sb3_pgx.stages.quotas import EpisodeQuota


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


class Reads(BaseCallback):
    """Ask for the rollout buffer's rewards in each step, as a callback that edits them does."""

    def _on_step(self):
        return self.model.rollout_buffer.rewards is not None


@pytest.mark.parametrize("callback", [None, Reads])
def test_a_subclass_that_only_weighs_learns_from_its_weights(callback):
    class Weighs(PPO):
        def reweight(self, rollout):
            rollout.advantages = rollout.advantages * 0.0

        def update(self, rollout):
            self.learned = rollout.advantages.clone()
            return super().update(rollout)

    model = Weighs("MlpPolicy", vectorised(Scripted([4])), n_steps=8, device=DEVICE, seed=0)
    model.learn(8, callback=None if callback is None else callback())
    assert (model.learned == 0).all() and (model.rollout_buffer.advantages == 0).all()


def test_an_environment_that_only_waits_may_run_on():
    """The first one has delivered its episode, and its next one is endless; the second one takes its time."""
    quota = EpisodeQuota(1, vectorised(Scripted([4]), Scripted([4])), max_episode_steps=5)
    ends = [[True, False], [False, False], [False, True], [False, False], [False, False], [False, False]]
    assert [quota.count(np.array(end)) for end in ends[:3]] == [False, False, True]
    quota = EpisodeQuota(1, vectorised(Scripted([4]), Scripted([4])), max_episode_steps=5)
    quota.missing[1] = 3
    for end in ([True, False], [False, True], [False, False], [False, True], [False, False], [False, False]):
        assert not quota.count(np.array(end)), "the waiting environment has run for 5 steps"


def test_everything_is_put_back_even_if_one_thing_cannot_be():
    undo, done = Undo(), []

    def fails():
        raise OSError("cannot be put back")

    undo.add(lambda: done.append("first"), fails, lambda: done.append("last"))
    with pytest.raises(OSError, match="cannot be put back") as error:
        with undo.on(ValueError):
            raise ValueError("refused")
    assert done == ["last", "first"] and isinstance(error.value.__context__, ValueError)
