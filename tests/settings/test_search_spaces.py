"""Search spaces: samples can be trained with, and they include the published settings."""

import inspect
from dataclasses import replace

import optuna
import pytest
import torch as th
import yaml
from optuna.trial import FixedTrial
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from sb3_pgx.registry import ALGORITHMS, EVERY_ALGORITHM, OFF_POLICY
from sb3_pgx.settings.configs import RunConfig, config_folder, load_config
from sb3_pgx.settings.search_spaces import arguments_of, merged, names_of, params_of, sample_params

SAMPLES = 3
PUBLISHED = [
    (path.stem, env)
    for path in config_folder().glob("*.yml")
    if path.stem in EVERY_ALGORITHM
    for env in yaml.safe_load(path.read_text())
]
# Outside of the space, which sb3-contrib's TRPO shares: it takes no schedule there. A search from it samples that one anew.
FALLING_BOUND = ("trpo", "Walker2d-v5")
# The networks that the policies have by default.
TANH, RELU = {"activation_fn": nn.Tanh}, {"activation_fn": nn.ReLU}
DEFAULT_NETWORKS = {
    "sac": {"net_arch": [256, 256], **RELU},
    "td3": {"net_arch": [400, 300], **RELU},
    "ddpg": {"net_arch": [400, 300], **RELU},
    "d4pg": {"net_arch": [400, 300], **RELU},
    "soft_q_learning": {"net_arch": [256, 256], **RELU},
}


@pytest.fixture(scope="module")
def env():
    env = make_vec_env("CartPole-v1", n_envs=3)  # no power of two: a minibatch may not be a whole share of a rollout
    yield env
    env.close()


@pytest.fixture(scope="module")
def continuous_env():
    env = make_vec_env("Pendulum-v1", n_envs=3)
    yield env
    env.close()


def study(seed=0):
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))


def defaults(algorithm):
    return {p.name: p.default for p in inspect.signature(EVERY_ALGORITHM[algorithm]).parameters.values()}


def number(value):
    """What a schedule starts from, however its file writes it: lin_2.5e-4 is lin_0.00025."""
    return ("lin", float(value.removeprefix("lin_"))) if isinstance(value, str) and value.startswith("lin_") else value


@pytest.mark.parametrize("algorithm", EVERY_ALGORITHM)
def test_every_algorithm_has_a_search_space(algorithm):
    cls = EVERY_ALGORITHM[algorithm]
    assert cls.search_space, f"declare search_space in {inspect.getsourcefile(cls)}"


def test_an_unknown_algorithm_is_refused_with_the_nearest_names():
    with pytest.raises(ValueError, match=r"algorithm 'pqo' is unknown; choose ppo"):
        sample_params("pqo", FixedTrial({}))


@pytest.mark.parametrize("algorithm", EVERY_ALGORITHM)
def test_samples_are_arguments_that_construct_a_model_and_can_be_had_again_from_the_parameters(algorithm, env, continuous_env):
    random, env = study(), continuous_env if algorithm in OFF_POLICY else env
    names = ("n_steps", "n_episodes", "n_epochs", "n_critic_updates", "gamma", "tau")
    for _ in range(SAMPLES):
        trial = random.ask()
        arguments = sample_params(algorithm, trial, env.num_envs)
        small = {"buffer_size": 100} if algorithm in OFF_POLICY else {}
        model = EVERY_ALGORITHM[algorithm]("MlpPolicy", env, device="cpu", **small, **arguments)
        kept = [name for name in arguments if name in names]
        assert all(getattr(model, name) == arguments[name] for name in kept) and len(kept) >= 2
        assert model.policy.net_arch == arguments["policy_kwargs"]["net_arch"]
        assert tuple(trial.params) == names_of(algorithm)
        assert arguments_of(algorithm, trial.params, env.num_envs) == arguments
        assert sample_params(algorithm, FixedTrial(trial.params), env.num_envs) == arguments


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_arguments_stay_in_the_ranges_in_which_they_mean_something(algorithm):
    random = study(seed=1)
    for _ in range(100):
        arguments = sample_params(algorithm, random.ask(), n_envs=1)
        assert 0.8 <= arguments["gamma"] <= 1 and 0.7 <= arguments.get("gae_lambda", 1) <= 1
        assert arguments.get("batch_size", 0) <= arguments.get("n_steps", 0)
        assert arguments.get("ent_coef", 0) == 0 or 1e-5 <= arguments["ent_coef"] <= 0.1
        assert arguments.get("baseline") in (None, "mean") or arguments["n_episodes"] >= 2


@pytest.mark.parametrize("algorithm, env_id", PUBLISHED)
def test_published_settings_are_points_of_the_space_and_come_back_as_they_are(algorithm, env_id):
    config = load_config(algorithm, env_id)
    if (algorithm, env_id) == FALLING_BOUND:
        assert "target_kl" not in params_of(algorithm, config)
        config = replace(config, hyperparameters={**config.hyperparameters, "target_kl": 0.06})
    if env_id == "MultiGoal-v0":  # networks between two that a search tries
        assert "net_arch" not in params_of(algorithm, config)
        config = replace(config, hyperparameters={**config.hyperparameters, "policy_kwargs": {"net_arch": [256, 256]}})
    params = params_of(algorithm, config)
    assert set(params) == set(names_of(algorithm, config.policy))
    given = {**defaults(algorithm), **config.hyperparameters}
    back = arguments_of(algorithm, params, config.n_envs, config.policy)
    assert all(number(value) == number(given[name]) for name, value in back.items() if name != "policy_kwargs")
    memory = {"lstm_hidden_size": 256, "enable_critic_lstm": True} if "Lstm" in config.policy else {}
    network = DEFAULT_NETWORKS.get(algorithm, {"net_arch": [64, 64], **TANH})
    kwargs = {**network, **memory, **(given["policy_kwargs"] or {})}
    searched = config.policy.startswith("Mlp")
    assert merged(given, back)["policy_kwargs"] == (kwargs if searched else given["policy_kwargs"])


def test_what_lies_outside_of_the_space_is_left_out():
    config = RunConfig("", hyperparameters={"gamma": 0.5, "n_steps": 48, "learning_rate": "exp_0.001", "n_epochs": 7})
    params = params_of("ppo", config)
    assert params["n_epochs"] == 7
    assert not {"one_minus_gamma", "n_steps_pow", "learning_rate", "learning_rate_schedule"} & set(params)


@pytest.mark.parametrize("name, value", [("gae_lambda", 0.7), ("gamma", 0.8), ("gamma", 0.9998), ("gamma", 0.99)])
def test_the_ends_of_the_space_are_in_it_whatever_rounding_makes_of_their_complement(name, value):
    params = params_of("ppo", RunConfig("", hyperparameters={name: value}))
    assert set(params) == set(names_of("ppo"))
    assert sample_params("ppo", FixedTrial(params))[name] == value


def test_a_schedule_that_does_not_fall_to_zero_is_outside_whatever_python_makes_of_an_underscore():
    params = params_of("ppo", RunConfig("", hyperparameters={"clip_range": "lin_0.2_1", "learning_rate": "lin_0.001_0.0001"}))
    assert not {"clip_range", "clip_range_schedule", "learning_rate", "learning_rate_schedule"} & set(params)


def test_parameters_mean_what_they_say():
    params = {**params_of("ppo", RunConfig("")), "one_minus_gamma": 0.02, "learning_rate": 0.003, "batch_size_pow": 11}
    params |= {"learning_rate_schedule": "linear", "n_steps_pow": 7, "ent_coef": 2e-6, "net_arch": "tiny"}
    arguments = arguments_of("ppo", params, n_envs=2)
    assert arguments["gamma"] == 0.98 and arguments["learning_rate"] == "lin_0.003" and arguments["ent_coef"] == 0
    assert (arguments["n_steps"], arguments["batch_size"]) == (128, 256)  # not 2048: that is all there is
    assert arguments["policy_kwargs"] == {"net_arch": [64], "activation_fn": nn.Tanh}


def test_a_rollout_is_no_longer_than_the_training():
    params = {**params_of("ppo", RunConfig("")), "n_steps_pow": 11, "batch_size_pow": 11}
    arguments = arguments_of("ppo", params, n_envs=8, timesteps=1_000)
    assert (arguments["n_steps"], arguments["batch_size"]) == (64, 512)
    assert arguments_of("ppo", params, n_envs=8, timesteps=100_000)["n_steps"] == 2048
    assert arguments_of("a2c", params_of("a2c", RunConfig("")), n_envs=8, timesteps=4)["n_steps"] == 1


def test_a_missing_parameter_is_named():
    with pytest.raises(ValueError, match="a trial of npg have no cg_damping"):
        arguments_of("npg", {k: v for k, v in params_of("npg", RunConfig("")).items() if k != "cg_damping"})


def test_changes_of_the_policys_arguments_keep_what_they_do_not_name():
    given = {"gamma": 0.9, "policy_kwargs": {"log_std_init": -2.0, "net_arch": [8]}}
    changed = merged(given, {"policy_kwargs": {"net_arch": [16], "optimizer_class": th.optim.SGD}})
    assert changed == {
        "gamma": 0.9,
        "policy_kwargs": {"log_std_init": -2.0, "net_arch": [16], "optimizer_class": th.optim.SGD},
    }
    assert given["policy_kwargs"]["net_arch"] == [8]


@pytest.mark.parametrize("policy, searched", [("MlpGruPolicy", True), ("MlpLstmPolicy", True), ("MlpPolicy", False)])
def test_the_size_of_the_memory_is_searched_for_recurrent_policies(policy, searched, env):
    assert ("lstm_hidden_size" in names_of("ppo", policy)) is searched
    trial = study().ask()
    arguments = sample_params("ppo", trial, env.num_envs, policy)
    model = ALGORITHMS["ppo"](policy, env, device="cpu", **arguments)
    if searched:
        assert model.policy.lstm_actor.hidden_size == arguments["policy_kwargs"]["lstm_hidden_size"]
        assert (model.policy.lstm_critic is not None) is arguments["policy_kwargs"]["enable_critic_lstm"]
    assert arguments_of("ppo", trial.params, env.num_envs, policy) == arguments
