"""The rollout buffer's arrays, asked for late in a rollout."""

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from support.small_environments import DEVICE, Scripted, vectorised

from sb3_pgx import A2C, REINFORCE


class ReadsAt(BaseCallback):
    """Keep copies of arrays at a step of the rollout; before, at an earlier step, change the policy."""

    def __init__(self, step, names, change_at=None):
        super().__init__()
        self.step, self.names, self.change_at, self.seen = step, names, change_at, {}

    def _on_step(self):
        if self.n_calls == self.change_at:
            with th.no_grad():
                for p in self.model.policy.value_net.parameters():
                    p.add_(1.0)
        if self.n_calls == self.step:
            self.seen = {name: np.array(getattr(self.model.rollout_buffer, name)) for name in self.names}
        return True


@pytest.mark.parametrize("name", ["rewards", "episode_starts", "values", "log_probs", "observations", "actions"])
def test_a_rollout_that_has_outgrown_its_arrays_is_shown_as_far_as_it_has_come(name):
    """A rollout of whole episodes begins with room for 512 rows."""
    model = REINFORCE("MlpPolicy", vectorised(Scripted([600])), n_episodes=1, device=DEVICE, seed=0)
    model.learn(1, callback=(reads := ReadsAt(560, [name])))
    array = reads.seen[name]
    assert len(array) >= 560
    assert len(model.rollout_buffer.rewards) == 600
    np.testing.assert_allclose(array[:559], getattr(model.rollout_buffer, name)[:559], rtol=1e-5)


def test_rewards_read_after_a_callback_has_changed_the_policy_are_bootstrapped_by_the_policy_before():
    """As in SB3, where each row is written when it is collected."""
    shown = []
    for kind, kwargs in ((sb3.A2C, {}), (A2C, {"compile": False})):
        env = vectorised(Scripted([3, 3, 3, 3], [True] * 4))
        model = kind("MlpPolicy", env, n_steps=12, gamma=0.5, device=DEVICE, seed=0, **kwargs)
        model.learn(12, callback=(reads := ReadsAt(11, ["rewards"], change_at=5)))
        shown.append(reads.seen["rewards"][:10])
    np.testing.assert_allclose(*shown, rtol=1e-5, atol=1e-6)


def test_an_estimate_that_a_callback_asks_for_again_is_that_of_the_last_rollout_too():
    class Edits(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            buffer = self.model.rollout_buffer
            buffer.rewards[:] += 5.0
            buffer.compute_returns_and_advantage(self.locals["values"], self.locals["dones"])
            np.testing.assert_array_equal(self.model.last_rollout.returns.numpy(force=True), buffer.returns)

    REINFORCE("MlpPolicy", vectorised(Scripted([4])), n_episodes=2, device=DEVICE, seed=0).learn(8, callback=Edits())


@pytest.mark.parametrize("action", [7, -100, -1])
@pytest.mark.parametrize("where", ["in the step", "in the buffer"])
def test_an_action_that_a_callback_has_written_and_the_space_does_not_have_is_refused(action, where):
    class Writes(BaseCallback):
        def _on_step(self):
            if where == "in the step":
                self.locals["actions"][:] = action
            return True

        def _on_rollout_end(self):
            self.model.rollout_buffer.actions[2] = action

    model = A2C("MlpPolicy", vectorised(Scripted([4])), device=DEVICE, seed=0)
    with pytest.raises(ValueError, match=f"has written the action {action}, and the space has 2 choices"):
        model.learn(8, callback=Writes())


def test_what_an_algorithm_adds_to_a_rollout_reaches_its_update():
    class Own(A2C):
        def evaluate(self, rollout):
            evaluated = super().evaluate(rollout)
            evaluated.costs = evaluated.rewards * 2.0
            return evaluated

        def update(self, rollout):
            self.learned = rollout.costs
            return super().update(rollout)

    model = Own("MlpPolicy", vectorised(Scripted([4])), device=DEVICE, seed=0).learn(5)
    assert th.equal(model.learned, 2.0 * model.last_rollout.rewards)


def test_a_buffer_class_that_keeps_its_advantages_elsewhere_is_trained_from():
    class Elsewhere(RolloutBuffer):
        def compute_returns_and_advantage(self, last_values, dones):
            super().compute_returns_and_advantage(last_values, dones)
            self.kept = self.advantages
            del self.advantages

        def get(self, batch_size=None):
            self.advantages = self.kept
            yield from super().get(batch_size)

    models = [
        A2C("MlpPolicy", vectorised(Scripted([4])), rollout_buffer_class=kind, device=DEVICE, seed=0).learn(20)
        for kind in (Elsewhere, None)
    ]
    for p, q in zip(*(model.policy.parameters() for model in models), strict=True):
        th.testing.assert_close(p, q)
