"""What MADDPG cannot do is one sentence with a remedy."""

import numpy as np
import pytest
from gymnasium import spaces
from mpe2 import simple_spread_v3
from stable_baselines3.common.env_util import make_vec_env
from support.parallel_environments import Agents, OneStep
from support.refusals import refusal

from sb3_pgx import MADDPG
from sb3_pgx.diagnostics import HealthCallback
from sb3_pgx.environments import AgentsVecEnv, JointEnv
from sb3_pgx.registry import EVERY_ALGORITHM, algorithm_class

BOX = spaces.Box(-1, 1, (2,), np.float32)
SMALL = dict(policy_kwargs=dict(net_arch=[8]), learning_starts=4, batch_size=4, buffer_size=100, device="cpu", compile=False)
SMALL |= dict(train_freq=1)


def agents(*made):
    return Agents(*(made or (OneStep(BOX), OneStep(BOX))))


@pytest.mark.parametrize(
    "env", ["CartPole-v1", make_vec_env("CartPole-v1"), AgentsVecEnv([agents])], ids=["id", "one agent", "rows"]
)
def test_environments_without_several_agents_are_refused(env):
    text = refusal(lambda: MADDPG("MlpPolicy", env))
    assert "PettingZoo's parallel API" in text and "JointEnv" in text


def test_agents_that_act_in_turn_are_refused():
    assert "parallel_env()" in refusal(lambda: MADDPG("MlpPolicy", simple_spread_v3.env()))


@pytest.mark.parametrize("space", [spaces.MultiBinary(2), spaces.MultiDiscrete([2, 2]), spaces.Dict({"a": BOX})])
def test_other_actions_are_refused(space):
    assert "agent_1 acts in" in refusal(lambda: MADDPG("MlpPolicy", agents(OneStep(BOX), OneStep(space))))


def test_observations_that_are_no_vectors_are_refused():
    picture = OneStep(BOX)
    picture.observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    assert "agent_0 observes" in refusal(lambda: MADDPG("MlpPolicy", agents(picture)))


@pytest.mark.parametrize("name", ["a.b", "keys", 3])
def test_names_that_cannot_name_a_network_are_refused(name):
    class Named(Agents):
        def __init__(self):
            super().__init__(OneStep(BOX))
            self.envs = {name: self.envs["agent_0"]}
            self.possible_agents = [name]

    assert str(name) in refusal(lambda: MADDPG("MlpPolicy", Named()))


def test_an_agent_that_ends_early_is_refused_and_the_model_stays_as_it_was():
    class Longer(OneStep):
        def step(self, action):
            observation, reward, *_ = super().step(action)
            return observation, reward, False, False, {}

    model = MADDPG("MlpPolicy", agents(OneStep(BOX), Longer(BOX)), seed=0, **SMALL)
    text = refusal(lambda: model.learn(10))
    assert "agent_0 ended at step 1" in text and "agent_1 goes on" in text and "black_death" in text
    assert model.num_timesteps == 0 and model.replay_buffer.pos == 0


@pytest.mark.parametrize(
    "argument, value, words",
    [
        ("temperature", 0.0, "temperature=0.0"),
        ("logit_coef", -1.0, "logit_coef=-1.0"),
        ("max_grad_norm", 0.0, "max_grad_norm=0.0"),
        ("central_critics", "yes", "central_critics='yes'"),
        ("tau", 2.0, "tau=2.0"),
        ("batch_size", 0, "batch_size=0"),
        ("policy_kwargs", [], "policy_kwargs"),
    ],
)
def test_invalid_arguments_are_refused(argument, value, words):
    assert words in refusal(lambda: MADDPG("MlpPolicy", agents(), **{**SMALL, argument: value}))
    assert "MlpPolicy" in refusal(lambda: MADDPG("MultiInputPolicy", agents(), **SMALL))


def test_predict_names_the_agent_whose_observation_is_missing():
    model = MADDPG("MlpPolicy", agents(), **SMALL)
    assert "agent_1" in refusal(lambda: model.predict({"agent_0": np.zeros(2, np.float32)}))


def test_rewards_that_are_not_finite_are_not_stored():
    class Broken(OneStep):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return (observation, np.nan, *rest)

    model = MADDPG("MlpPolicy", agents(OneStep(BOX), Broken(BOX)), **SMALL)
    assert "reward nan" in refusal(lambda: model.learn(10)) and model.replay_buffer.pos == 0


def test_commands_and_diagnostics_say_that_it_is_for_several_agents():
    assert "maddpg" not in EVERY_ALGORITHM
    assert "several agents" in refusal(lambda: algorithm_class("maddpg"))
    model = MADDPG("MlpPolicy", agents(), **SMALL)
    assert "MADDPG" in refusal(lambda: model.learn(10, callback=HealthCallback()))


def test_a_joint_environment_is_one_of_gymnasiums():
    env = JointEnv(simple_spread_v3.parallel_env(max_cycles=3))
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation) and info["agents"].keys() == observation.keys()
    action = env.action_space.sample()
    for steps_left in (2, 1, 0):
        observation, reward, terminated, truncated, info = env.step(action)
        assert env.observation_space.contains(observation) and reward == pytest.approx(info["agent_rewards"].sum())
        assert (terminated, truncated) == (False, steps_left == 0) and not info["agent_terminations"].any()
    env.close()


def test_critics_are_chosen_in_one_place():
    kwargs = {**SMALL, "policy_kwargs": dict(central_critics=False)}
    assert "argument of MADDPG itself" in refusal(lambda: MADDPG("MlpPolicy", agents(), **kwargs))
