"""The rollout buffer's arrays, asked for late in a rollout."""

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
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
