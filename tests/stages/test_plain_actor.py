"""Eager acting without a callback runs SB3's standard networks directly: the same actions, and no hook is skipped."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from support.capabilities import BOX, IMAGE, envs
from support.models import assert_same, make, parameters

from sb3_pgx.stages.plain_actor import acts_plainly

ACTIONS = {"choice": spaces.Discrete(3), "gaussian": spaces.Box(-1, 1, (2, 3), np.float32)}
OBSERVATIONS = {"numbers": (BOX, "MlpPolicy"), "choice": (spaces.Discrete(5), "MlpPolicy"), "image": (IMAGE, "CnnPolicy")}


class Looks(BaseCallback):
    """A callback that may look at the policy at each step, so SB3's own methods act."""

    def _on_step(self):
        return True


@pytest.mark.parametrize("observed", OBSERVATIONS)
@pytest.mark.parametrize("actions", ACTIONS)
def test_training_is_that_of_sb3s_own_methods(actions, observed):
    space, policy = OBSERVATIONS[observed]

    def run(callback):
        env = envs(action_space=ACTIONS[actions], observation_space=space)
        model = make("a2c", env, policy, compile=False).learn(60, callback)
        assert acts_plainly(model.policy)
        return parameters(model)

    assert_same(run(None), run(Looks()))


def hooked(policy, calls):
    policy.mlp_extractor.policy_net[0].register_forward_hook(lambda *_: calls.append(0))


def replaced(policy, calls):
    net = policy.mlp_extractor.policy_net

    class Counted(type(net)):
        def __call__(self, x):
            calls.append(0)
            return super().__call__(x)

    policy.mlp_extractor.policy_net = Counted(*net)


@pytest.mark.parametrize("change", [hooked, replaced])
def test_what_a_user_has_put_around_a_layer_runs_at_each_step(change):
    model, calls = make("ppo", envs(action_space=ACTIONS["choice"]), compile=False, n_epochs=1), []
    change(model.policy, calls)
    model.learn(1)
    assert len(calls) >= model.n_steps


def test_a_method_that_a_callback_replaces_evaluates_from_the_next_update_on():
    model, calls = make("ppo", envs(action_space=ACTIONS["choice"]), compile=False).learn(6), []
    evaluate = model.policy.evaluate_actions
    model.policy.evaluate_actions = lambda *args: calls.append(0) or evaluate(*args)
    model.learn(6, reset_num_timesteps=False)
    steps = model.n_epochs * -(-model.n_steps * model.n_envs // model.batch_size)
    assert len(calls) >= steps


def test_a_policys_own_methods_act():
    class Own(ActorCriticPolicy):
        def _get_action_dist_from_latent(self, latent_pi):
            return super()._get_action_dist_from_latent(0 * latent_pi + 1)

    model = make("ppo", envs(action_space=ACTIONS["choice"]), Own, compile=False)
    assert not acts_plainly(model.policy)
    model.policy.action_dist = th.nn.Identity()
    assert not acts_plainly(model.policy)
