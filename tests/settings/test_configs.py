"""Hyperparameter files: the meaning of each key, and the message for each mistake."""

import sys
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.envs.registration import EnvSpec
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize
from torch import nn

from sb3_pgx.experiments.runs import versions
from sb3_pgx.settings import registration
from sb3_pgx.settings.configs import RunConfig, check_hyperparameters, config_folder, load_config
from sb3_pgx.settings.environments import check_environment, make_eval_env, make_train_env


@pytest.fixture
def load(tmp_path: Path):
    """A function that writes an ``algo.yml`` and loads CartPole-v1 from it."""

    def write_and_load(text: str, env_id: str = "CartPole-v1") -> RunConfig:
        (tmp_path / "algo.yml").write_text(text)
        return load_config("algo", env_id, tmp_path)

    return write_and_load


def test_keys_of_the_zoo_are_consumed_and_the_rest_goes_to_the_constructor(load):
    config = load("""
CartPole-v1:
  n_envs: 4
  n_timesteps: !!float 1e5
  policy: CnnPolicy
  env_kwargs: {render_mode: rgb_array}
  frame_stack: 3
  env_wrapper: gymnasium.wrappers.FlattenObservation
  gamma: 0.98
  learning_rate: lin_0.001
""")
    assert (config.n_envs, config.n_timesteps, config.policy, config.frame_stack) == (4, 100_000, "CnnPolicy", 3)
    assert config.env_kwargs == {"render_mode": "rgb_array"}
    assert config.wrappers == (("gymnasium.wrappers.FlattenObservation", {}),)
    assert config.hyperparameters == {"gamma": 0.98, "learning_rate": "lin_0.001"}
    assert config.normalize is None
    assert config.source == "algo.yml: CartPole-v1"


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [
        ("true", {"gamma": 0.9}),
        ("false", None),
        ("{norm_reward: false}", {"norm_reward": False, "gamma": 0.9}),
        ("\"{'norm_obs': True, 'norm_reward': False}\"", {"norm_obs": True, "norm_reward": False, "gamma": 0.9}),
        ("dict(norm_reward=False)", {"norm_reward": False, "gamma": 0.9}),
    ],
)
def test_normalisation_is_read_in_each_spelling_and_takes_the_discount_factor(load, normalize, expected):
    config = load(f"CartPole-v1:\n  normalize: {normalize}\n  gamma: 0.9\n")
    assert config.normalize == expected
    assert config.hyperparameters == {"gamma": 0.9}


def test_policy_kwargs_written_as_python_are_evaluated_with_torch_in_scope(load):
    config = load('CartPole-v1:\n  policy_kwargs: "dict(net_arch=[64], activation_fn=nn.ReLU, log_std_init=-2)"\n')
    assert config.hyperparameters["policy_kwargs"] == {"net_arch": [64], "activation_fn": nn.ReLU, "log_std_init": -2}


def test_the_optimizer_of_the_zoos_a2c_on_atari_is_in_scope(load):
    config = load('CartPole-v1:\n  policy_kwargs: "dict(optimizer_class=RMSpropTFLike)"\n')
    assert config.hyperparameters["policy_kwargs"] == {"optimizer_class": RMSpropTFLike}


@pytest.mark.parametrize("text", ["__import__('os').getcwd()", "open('x')", "dict(net_arch=["])
def test_policy_kwargs_reach_nothing_but_torch_and_a_mistake_names_its_line(load, text):
    with pytest.raises(ValueError, match=r"algo\.yml, line 3, CartPole-v1, policy_kwargs: cannot evaluate"):
        load(f'CartPole-v1:\n  gamma: 0.9\n  policy_kwargs: "{text}"\n')


def test_wrappers_apply_in_order_with_their_arguments(load):
    config = load("""
CartPole-v1:
  env_wrapper:
    - gymnasium.wrappers.TimeAwareObservation
    - gymnasium.wrappers.TimeLimit: {max_episode_steps: 7}
""")
    env = make_train_env(config, "CartPole-v1", seed=0)
    monitor = env.envs[0]  # type: ignore[attr-defined]
    outer = monitor.env
    assert type(monitor).__name__ == "Monitor"  # it sees the episodes that a wrapper ends
    assert isinstance(outer, gym.wrappers.TimeLimit) and isinstance(outer.env, gym.wrappers.TimeAwareObservation)
    assert outer._max_episode_steps == 7
    assert env.observation_space.shape == (5,)


def test_environment_comes_before_default_and_default_before_the_class(load, tmp_path):
    text = "default:\n  gamma: 0.5\nCartPole-v1:\n  gamma: 0.9\n"
    assert load(text).hyperparameters == {"gamma": 0.9}
    assert (load(text, "Acrobot-v1").hyperparameters, load(text, "Acrobot-v1").source) == ({"gamma": 0.5}, "algo.yml: default")
    for config in (load("Acrobot-v1: {gamma: 0.9}\n"), load_config("no_such_file", "CartPole-v1", tmp_path)):
        assert config == RunConfig(source="defaults of the class", policy="MlpPolicy", n_envs=8)


def test_a_file_that_does_not_say_gets_one_environment_as_in_the_zoo(load):
    assert load("CartPole-v1: {gamma: 0.9}\n").n_envs == 1


def test_anchors_are_merged_as_in_the_zoo(load):
    config = load("default: &base\n  n_envs: 2\n  gamma: 0.5\nCartPole-v1:\n  <<: *base\n  gamma: 0.9\n")
    assert (config.n_envs, config.hyperparameters) == (2, {"gamma": 0.9})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("CartPole-v1:\n  gamma: [0.9\n", r"algo\.yml, line 3 is not valid YAML"),
        ("- CartPole-v1\n", r"algo\.yml: expected an environment's name"),
        ("CartPole-v1: 3\n", r"algo\.yml, line 1, CartPole-v1: expected hyperparameters"),
        ("CartPole-v1:\n  gamma: 0.9\n  n_envs: none\n", r"line 3, CartPole-v1, n_envs: 'none' is not a whole number"),
        ("CartPole-v1:\n  n_timesteps: 0.5\n", r"line 2, CartPole-v1, n_timesteps: 0.5 is not a whole number"),
        ("CartPole-v1:\n  learning_rate: 1e-3\n", r"line 2, CartPole-v1, learning_rate: .* write 0\.001 or !!float 1e-3"),
        (
            "CartPole-v1:\n  env_wrapper: gymnasium.NoSuch\n",
            r"line 2, CartPole-v1, env_wrapper: module gymnasium has no NoSuch",
        ),
        ("CartPole-v1:\n  callback: my.Callback\n", r"line 2, CartPole-v1, callback: .* no effect"),
        ("CartPole-v1:\n  normalize: 3\n", r"line 2, CartPole-v1, normalize: 3 is not a dictionary"),
        ("CartPole-v1:\n  gamma: 0.9\nCartPole-v1:\n  gamma: 0.8\n", r"line 3: CartPole-v1 is already defined in line 1"),
    ],
)
def test_a_mistake_is_told_with_file_line_and_key(load, text, problem):
    with pytest.raises(ValueError, match=problem):
        load(text)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_config("ppo", "CartPole-v1", tmp_path / "nowhere")


def test_an_argument_that_the_class_lacks_is_told_with_the_nearest_name(load):
    config = load("CartPole-v1: {gama: 0.9}\n")
    with pytest.raises(ValueError, match=r"algo\.yml: CartPole-v1: A2C has no argument 'gama'; did you mean .*'gamma'"):
        check_hyperparameters(A2C, config)


@pytest.mark.parametrize(
    ("env_id", "problem"),
    [("CartPol-v1", "'CartPole-v1'"), ("CartPole-v9", "'CartPole-v1'"), ("Zzz/Qqq-v0", "Zzz")],
)
def test_an_unknown_environment_is_told_with_the_nearest_names(env_id, problem):
    with pytest.raises(ValueError, match=f"environment '{env_id}' is unknown.*{problem}"):
        check_environment(env_id, RunConfig(source=""))


def test_a_module_of_environments_that_cannot_be_imported_is_told_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import no_such_simulator\n")
    monkeypatch.syspath_prepend(tmp_path)
    for module, missing in (("needs_more", "no_such_simulator"), ("no_such_module", "no_such_module")):
        with pytest.raises(ImportError, match=f"module {module} cannot be imported: No module named '{missing}'"):
            check_environment(f"{module}:CartPole-v1", RunConfig(source=""))


REGISTERS = """
import gymnasium

def register_envs():
    gymnasium.register("Arcade/Pole-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=9)
"""


@pytest.fixture
def arcade(tmp_path, monkeypatch):
    """Installs a package ``arcade`` of this code, as ``arcade-games``, with a function for its environments as entry point."""

    def install(code):
        (tmp_path / "arcade.py").write_text(code)
        folder = tmp_path / "arcade_games-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: arcade-games\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text("[gymnasium.envs]\nArcade = arcade:register_envs\n")
        (folder / "top_level.txt").write_text("arcade\n")
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    gym.registry.pop("Arcade/Pole-v0", None)
    sys.modules.pop("arcade", None)
    registration.run_once.cache_clear()


def test_an_installed_package_registers_the_environments_of_its_namespace(arcade, monkeypatch):
    with pytest.raises(ValueError, match="environment 'Arcade/Pole-v0' is unknown"):
        check_environment("Arcade/Pole-v0", RunConfig(source=""))
    arcade(REGISTERS)
    own = EnvSpec("Arcade/Own-v0", entry_point="gymnasium.envs.classic_control:CartPoleEnv")
    monkeypatch.setitem(gym.registry, own.id, own)  # of somebody else
    assert check_environment("Arcade/Pole-v0", RunConfig(source="")).spec.max_episode_steps == 9
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as Gymnasium's of what is registered twice
        assert load_config("acer", "Arcade/Pol-v0").source == "acer.yml: default"
        with pytest.raises(ValueError, match="did you mean 'Arcade/Pole-v0'"):
            check_environment("Arcade/Pol-v0", RunConfig(source=""))
    del gym.registry["Arcade/Pole-v0"]  # as in a process of its own
    registration.run_once.cache_clear()
    assert make_train_env(RunConfig(source="", n_envs=2), "Arcade/Pole-v0", seed=0).reset().shape == (2, 4)


def test_an_atari_game_of_an_installed_package_has_the_entry_of_all_games(arcade):
    arcade(REGISTERS.replace("gymnasium.envs.classic_control:CartPoleEnv", "some_package:AtariEnv"))
    assert load_config("acer", "Arcade/Pole-v0").source == "acer.yml: atari"


def test_what_a_run_depends_on_names_the_package_that_simulates(arcade, monkeypatch):
    """Gymnasium's own version is recorded separately, and code that is not an installed package has no version."""
    arcade(REGISTERS.replace("gymnasium.envs.classic_control:CartPoleEnv", "arcade:Game"))

    class Here(gym.Env):
        pass

    for spec in (EnvSpec("Here-v0", Here), EnvSpec("Vector-v0", vector_entry_point="gymnasium.envs.classic_control:Many")):
        monkeypatch.setitem(gym.registry, spec.id, spec)
    without = ["CartPole-v1", "Here-v0", "Vector-v0", "Unknown-v0", "no_such_module:Pole-v0"]
    found = registration.simulator_versions([*without, "HalfCheetah-v5", "LunarLander-v3", "Arcade/Pole-v0"])
    assert found == {"mujoco": version("mujoco"), "Box2D": version("box2d"), "arcade-games": "1.0"}
    assert versions("Arcade/Pole-v0", "CartPole-v1") == {**versions(), "arcade-games": "1.0"}


@pytest.mark.parametrize(
    "code", ["import no_such_thing", "no_function = 1", "def register_envs():\n    raise OSError('no ROM')"]
)
def test_a_package_that_cannot_register_its_environments_is_told_with_the_reason(arcade, code):
    arcade(code)
    reason = "no_such_thing|register_envs|no ROM"
    with pytest.raises(
        ImportError, match=f"environment Arcade/Pole-v0: arcade:register_envs cannot register it: .*({reason})"
    ):
        check_environment("Arcade/Pole-v0", RunConfig(source=""))


@pytest.mark.parametrize(
    ("env_id", "hint"), [("ALE/Pong-v5", "write ale_py:ALE/"), ("MinAtar/Pong-v9", "pip install minatar")]
)
def test_where_the_environments_of_a_namespace_come_from_is_told(env_id, hint, monkeypatch):
    monkeypatch.setattr("importlib.metadata.distributions", lambda **_: [])  # as if none were installed
    for known in [name for name in gym.registry if name.partition("/")[0] == env_id.partition("/")[0]]:
        monkeypatch.delitem(gym.registry, known)
    with pytest.raises(ValueError, match=f"environment '{env_id}' is unknown: .*{hint}"):
        check_environment(env_id, RunConfig(source=""))


def test_wrong_environment_arguments_are_told():
    with pytest.raises(ValueError, match=r"CartPole-v1 cannot be made with .*wind"):
        check_environment("CartPole-v1", RunConfig(source="", env_kwargs={"wind": 3}))
    wrapped = RunConfig(source="", wrappers=(("gymnasium.wrappers.TimeLimit", {"max_steps": 3}),))
    with pytest.raises(ValueError, match=r"CartPole-v1 cannot be made with .*TimeLimit.*max_steps"):
        check_environment("CartPole-v1", wrapped)


def test_a_missing_package_of_an_environment_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "Box2D", None)
    for name in [m for m in sys.modules if m.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r'LunarLander-v3 cannot be made.*pip install "gymnasium\[box2d\]"'):
        check_environment("LunarLander-v3", RunConfig(source=""))


def test_evaluation_environments_freeze_statistics_and_return_raw_rewards():
    config = RunConfig(source="", n_envs=2, normalize={"gamma": 0.9}, frame_stack=2)
    train, evaluation = make_train_env(config, "CartPole-v1", 0), make_eval_env(config, "CartPole-v1", 0, n_envs=3)
    assert isinstance(train, VecFrameStack) and isinstance(evaluation, VecFrameStack)
    inner, outer = train.venv, evaluation.venv
    assert isinstance(inner, VecNormalize) and isinstance(outer, VecNormalize)
    assert (inner.training, inner.norm_reward, inner.gamma, inner.num_envs) == (True, True, 0.9, 2)
    assert (outer.training, outer.norm_reward, outer.gamma, outer.num_envs) == (False, False, 0.9, 3)
    assert train.observation_space.shape == (8,)
    evaluation.reset()
    _, rewards, _, _ = evaluation.step(np.zeros(3, dtype=int))
    np.testing.assert_array_equal(rewards, [1.0, 1.0, 1.0])  # what CartPole gives


def test_every_environment_starts_from_a_seed_of_its_own():
    first, again, other = (make_train_env(RunConfig(source=""), "CartPole-v1", seed).reset() for seed in (0, 0, 100))
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(np.concatenate([first, other]), axis=0)) == 16


CLASSIC = {"CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1"}
BOX2D = {"LunarLander-v3", "LunarLanderContinuous-v3", "BipedalWalker-v3"}
MUJOCO = {"HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Swimmer-v5", "Ant-v5"}
TASKS = {f"{name}-v0" for name in ("Recall", "MaskedRecall", "InvalidActions", "Gripper")} | {
    "CartPoleNoVel-v1",
    "PendulumNoVel-v1",
}
ENVIRONMENTS = CLASSIC | BOX2D | MUJOCO


@pytest.mark.parametrize(("key", "algorithm"), [("ppo", PPO), ("a2c", A2C), ("contrib_trpo", TRPO)])
def test_published_settings_of_sb3s_algorithms_are_arguments_of_theirs(key, algorithm):
    text = (config_folder() / f"{key}.yml").read_text()
    entries = {env_id: values for env_id, values in yaml.safe_load(text).items() if env_id not in TASKS}  # which SB3 cannot do
    assert set(entries) == ENVIRONMENTS | ({"atari", "default"} if key != "contrib_trpo" else set())
    for env_id in entries:
        check_hyperparameters(algorithm, load_config(key, env_id))


def test_a_name_with_its_module_finds_the_settings_of_the_name():
    named, plain = (load_config("ppo", name) for name in ("sb3_pgx.tasks:Recall-v0", "Recall-v0"))
    assert named == plain and plain.policy == "MlpLstmPolicy"


def test_published_settings_are_read_with_normalisation_and_policy_kwargs():
    assert load_config("ppo", "Acrobot-v1").normalize == {"gamma": 0.99}
    assert load_config("ppo", "Walker2d-v5").normalize == {"gamma": 0.99}
    assert load_config("a2c", "Pendulum-v1").hyperparameters["policy_kwargs"] == {"log_std_init": -2, "ortho_init": False}


@pytest.mark.parametrize("env_id", sorted(ENVIRONMENTS | {"atari", "default"}))
def test_the_penalised_variant_is_trained_as_the_clipped_one_is(env_id):
    clipped, penalised = (load_config(key, env_id) for key in ("ppo", "ppo_penalty"))
    ours = {"kl_coef": 1.0, "target_kl": 0.01}
    expected = {k: v for k, v in clipped.hyperparameters.items() if k != "clip_range"} | ours
    assert replace(penalised, source="") == replace(clipped, source="", hyperparameters=expected)
