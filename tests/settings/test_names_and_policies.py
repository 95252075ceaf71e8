"""One name of an environment serves all commands, and observations decide on the policy where no setting does."""

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
from gymnasium import spaces

from sb3_pgx import PPO
from sb3_pgx.experiments.peers import prepare
from sb3_pgx.settings.configs import CLASS_DEFAULTS, RunConfig, check_hyperparameters, load_config
from sb3_pgx.settings.environments import choose_policy, find_environment


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("mine:Walk-v0", "Walk-v0"),
        ("Walk-v0", "mine:Walk-v0"),
        ("mine:Walk-v0", "mine:Walk-v0"),
        ("other:Walk-v0", "mine:Walk-v0"),
        ("mine:ns/Walk-v0", "ns/Walk-v0"),
        ("ns/Walk-v0", "mine:ns/Walk-v0"),
    ],
)
def test_the_module_of_a_name_does_not_matter_for_settings(tmp_path, written, asked):
    (tmp_path / "ppo.yml").write_text(f"default: {{gamma: 0.1}}\n{written}: {{gamma: 0.5}}\nWalk-v1: {{gamma: 0.2}}\n")
    (tmp_path / "mine.py").write_text("")
    assert load_config("ppo", asked, tmp_path).hyperparameters == {"gamma": 0.5}


def test_the_name_as_it_was_asked_for_comes_first(tmp_path):
    (tmp_path / "ppo.yml").write_text("other:A-v0: {gamma: 0.1}\nA-v0: {gamma: 0.2}\nmine:A-v0: {gamma: 0.3}\n")
    read = [load_config("ppo", name, tmp_path).hyperparameters["gamma"] for name in ("mine:A-v0", "A-v0", "third:A-v0")]
    assert read == [0.3, 0.2, 0.2]


def test_a_misspelt_name_with_a_module_gets_the_nearest_one_with_it():
    with pytest.raises(ValueError, match="did you mean 'gymnasium:CartPole-v1'"):
        find_environment("gymnasium:CartPol-v1")


def test_a_misspelt_key_of_a_file_gets_the_nearest_one():
    with pytest.raises(ValueError, match="PPO has no argument 'n_timestep'; did you mean 'n_timesteps'"):
        check_hyperparameters(PPO, RunConfig(source="ppo.yml: A-v0", hyperparameters={"n_timestep": 5}))
    with pytest.raises(ValueError, match="did you mean 'env_wrapper'"):
        check_hyperparameters(PPO, RunConfig(source="ppo.yml: A-v0", hyperparameters={"env_wraper": "x"}))


VECTOR = spaces.Box(-1, 1, (3,), np.float32)
PICTURE, SMALL_PICTURE = (spaces.Box(0, 255, (size, size, 3), np.uint8) for size in (40, 7))
DICTIONARY = spaces.Dict({"a": VECTOR})


@pytest.mark.parametrize(
    ("space", "source", "given", "chosen"),
    [
        (VECTOR, "ppo.yml: default", "MlpPolicy", "MlpPolicy"),
        (DICTIONARY, "ppo.yml: default", "MlpPolicy", "MultiInputPolicy"),
        (DICTIONARY, "ppo.yml: A-v0", "MlpPolicy", "MultiInputPolicy"),  # no other policy can read it
        (DICTIONARY, "ppo.yml: default", "MlpLstmPolicy", "MultiInputLstmPolicy"),
        (PICTURE, "ppo.yml: default, gamma=0.9", "MlpPolicy", "CnnPolicy"),
        (PICTURE, CLASS_DEFAULTS, "MlpPolicy", "CnnPolicy"),
        (PICTURE, "ppo.yml: default", "MlpGruPolicy", "CnnGruPolicy"),
        (PICTURE, "ppo.yml: A-v0", "MlpPolicy", "MlpPolicy"),  # as its own entry says
        (PICTURE, "ppo.yml: default", "CnnPolicy", "CnnPolicy"),
        (SMALL_PICTURE, "ppo.yml: default", "MlpPolicy", "MlpPolicy"),
    ],
)
def test_the_observations_decide_where_no_setting_does(space, source, given, chosen):
    config = RunConfig(source=source, policy=given)
    assert choose_policy(config, space, PPO).policy == chosen


def test_a_policy_that_the_algorithm_does_not_have_is_not_chosen():
    class FewPolicies(sb3.PPO):
        policy_aliases = {"MlpPolicy": sb3.ppo.MlpPolicy}  # noqa: RUF012  # as SB3 writes it

    assert choose_policy(RunConfig(source="default"), DICTIONARY, FewPolicies).policy == "MlpPolicy"


@pytest.mark.parametrize(("space", "policy"), [(DICTIONARY, "MultiInputPolicy"), (PICTURE, "CnnPolicy")])
def test_comparisons_choose_the_policy(monkeypatch, space, policy):
    class Shows(gym.Env):
        observation_space, action_space = space, spaces.Discrete(2)

    monkeypatch.setitem(gym.registry, "Shows-v0", gym.envs.registration.EnvSpec("Shows-v0", Shows))
    assert prepare("ppo", "Shows-v0")[1].policy == prepare("sb3:ppo", "Shows-v0")[1].policy == policy
