"""Diagnostics do not change a run and leave nothing behind; if they cannot guarantee this, they refuse to run."""

import copy

import numpy as np
import pytest
import torch as th
from sb3_contrib import MaskablePPO, RecurrentPPO
from selection import mostly_slow
from stable_baselines3 import A2C as SB3A2C
from stable_baselines3 import DQN
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.callbacks import CallbackList, EveryNTimesteps
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from support.models import ACTION_SPACES
from support.small_environments import AnySpace, Scripted, vectorised
from support.witnessed_runs import MODELS, OBSERVATIONS, Witness, train

from sb3_pgx import A2C, PPO
from sb3_pgx.diagnostics import DiagnosticsCallback


@pytest.mark.parametrize(
    "name",
    mostly_slow([*MODELS, "PPO, compiled", "sb3 PPO, Dropout"], ["A2C", "contrib TRPO", "PPO, compiled", "sb3 PPO, Dropout"]),
)
def test_a_run_is_bit_for_bit_the_same_with_and_without_diagnostics(name, graphs):
    trained = []
    for callbacks in ([], [DiagnosticsCallback(costly_every=1)]):
        model_class, settings = MODELS[name.partition(",")[0]]
        env = DummyVecEnv([lambda: AnySpace(OBSERVATIONS, ACTION_SPACES["Box"])] * 2)
        kwargs = dict(compile=True) if "compiled" in name else {}
        model = model_class("MlpPolicy", env, **settings, **kwargs)
        if "Dropout" in name:
            model.policy.mlp_extractor.policy_net.append(th.nn.Sequential(th.nn.Dropout(0.3), th.nn.BatchNorm1d(64)))
        model.learn(96, callback=callbacks)
        modes = th.tensor([module.training for module in model.policy.modules()])
        random = {"next": th.rand(3), "next of numpy": th.as_tensor(np.random.rand(3))}
        state = {**model.policy.state_dict(), **random, "modes": modes}
        trained.append(state)
        assert not {"step_async", "step_wait"} & vars(env).keys(), "the environment is restored"
        assert not any(p._post_accumulate_grad_hooks for p in model.policy.parameters())
    for key, value in trained[0].items():
        assert th.equal(value, trained[1][key]), key
    assert ("compiled" in name) == bool(graphs)


def test_the_distribution_kept_for_the_callback_is_not_part_of_minibatches():
    model, _ = train("PPO", ACTION_SPACES["Box"], DiagnosticsCallback(), n_updates=1)
    assert model.last_rollout.behaviour.shape == (16, 2, 4) and model.last_rollout.rows().distribution is None
    assert not model.keeps_distribution


class Remembers(FlattenExtractor):
    """A features extractor that updates a running mean even in evaluation mode."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.register_buffer("mean", th.zeros(self.features_dim))

    def forward(self, observations):
        features = super().forward(observations)
        with th.no_grad():
            self.mean.mul_(0.9).add_(0.1 * features.mean(dim=0))
        return features - self.mean


class ActsItsOwnWay(ActorCriticPolicy):
    """A policy that draws random numbers in every forward pass."""

    def extract_features(self, obs, features_extractor=None):
        features = super().extract_features(obs, features_extractor)
        return features + 0.1 * th.rand_like(features)


@pytest.mark.parametrize("model_class", [PPO, SB3PPO])
@pytest.mark.parametrize(
    "policy, policy_kwargs", [("MlpPolicy", dict(features_extractor_class=Remembers)), (ActsItsOwnWay, {})]
)
def test_a_policy_that_changes_in_each_forward_pass_is_not_changed_by_diagnostics(model_class, policy, policy_kwargs):
    trained = []
    for callback in (None, DiagnosticsCallback(costly_every=1)):
        env = DummyVecEnv([lambda: AnySpace(OBSERVATIONS, ACTION_SPACES["Box"])])
        model = model_class(
            policy, env, n_steps=16, batch_size=8, n_epochs=2, policy_kwargs=policy_kwargs, seed=0, device="cpu"
        )
        model.learn(48, callback=callback)
        trained.append(th.cat([x.flatten() for x in model.policy.state_dict().values()]))
    assert th.equal(*trained)


def test_it_is_refused_inside_a_callback_that_skips_steps():
    env = DummyVecEnv([lambda: AnySpace(OBSERVATIONS, ACTION_SPACES["Box"])])
    for nested in (DiagnosticsCallback(), CallbackList([DiagnosticsCallback()])):
        with pytest.raises(ValueError, match=r"has to see every step: .* not to EveryNTimesteps"):
            SB3A2C("MlpPolicy", env, device="cpu").learn(20, callback=EveryNTimesteps(10, nested))


def test_the_history_covers_all_calls_of_learn_of_one_model():
    diagnostics = DiagnosticsCallback()
    env = DummyVecEnv([lambda: AnySpace(OBSERVATIONS, ACTION_SPACES["Box"])])
    for expected in ([1, 2, 3, 4], [1, 2, 3, 4]):  # a second model starts a new history
        model = A2C("MlpPolicy", env, device="cpu")
        for _ in range(2):
            model.learn(10, callback=diagnostics, log_interval=1, reset_num_timesteps=False)
        assert [n["update"] for n in diagnostics.history] == expected


def test_model_and_environment_are_restored_after_an_error():
    class Fails(Witness):
        def _on_step(self):
            raise RuntimeError("no more")

    env = DummyVecEnv([lambda: AnySpace(OBSERVATIONS, ACTION_SPACES["Box"])])
    own = env.step_wait
    env.step_wait = lambda: own()
    mine = env.step_wait
    model = A2C("MlpPolicy", env, device="cpu")
    with pytest.raises(RuntimeError, match="no more"):
        model.learn(20, callback=[DiagnosticsCallback(), Fails()])
    assert env.step_wait is mine and "step_async" not in vars(env) and not model.keeps_distribution


@pytest.mark.parametrize(
    "model_class, policy",
    [(DQN, "MlpPolicy"), (MaskablePPO, "MlpPolicy"), (RecurrentPPO, "MlpLstmPolicy")],  # those of sb3-contrib
)
def test_an_algorithm_that_cannot_be_measured_is_refused(model_class, policy):
    class Masked(Scripted):
        def action_masks(self):
            return np.ones(2, bool)

    model = model_class(policy, vectorised(Masked([4])), device="cpu")
    with pytest.raises(ValueError, match="DiagnosticsCallback"):
        model.learn(8, callback=DiagnosticsCallback())


def test_an_interrupted_callback_can_be_used_again():
    class Stops(Witness):
        def _on_step(self):
            raise KeyboardInterrupt

    env = DummyVecEnv([lambda: AnySpace(OBSERVATIONS, ACTION_SPACES["Box"])])
    model = SB3A2C("MlpPolicy", env, device="cpu")
    diagnostics = DiagnosticsCallback()
    with pytest.raises(KeyboardInterrupt):
        model.learn(20, callback=[diagnostics, Stops()], log_interval=1)
    copied = copy.deepcopy(env)
    model.learn(20, callback=diagnostics, log_interval=1)
    assert len(diagnostics.history) == 4 and not {"step_async", "step_wait"} & vars(env).keys()
    steps = env.envs[0].steps
    copied.step(copied.action_space.sample()[None])
    assert env.envs[0].steps == steps, "a copy of the environment steps itself"
