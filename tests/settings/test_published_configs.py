"""Every entry of ``zoo_configs/`` for our algorithms makes a model that trains, and says whether it was measured."""

from dataclasses import replace
from inspect import signature

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from generated_sections import CONFIGS, comments, measured
from selection import mostly_slow
from support.small_environments import DEVICE, AnySpace, vectorised

import sb3_pgx.tasks  # noqa: F401  # registers environments of some entries
from sb3_pgx.registry import ALGORITHMS, EVERY_ALGORITHM, OFF_POLICY
from sb3_pgx.settings.action_noise import KEYS, with_action_noise
from sb3_pgx.settings.configs import RunConfig, check_hyperparameters, load_config
from sb3_pgx.settings.environments import find_environment, make_train_env

ENTRIES = [
    (algorithm, env_id)
    for algorithm in EVERY_ALGORITHM
    for env_id in yaml.safe_load((CONFIGS / f"{algorithm}.yml").read_text(encoding="utf-8"))
]
# What an entry's sizes are cut down to, so that two updates take a moment: largest values, and what these then need besides.
SMALL = {
    "n_steps": 8,
    "batch_size": 8,
    "n_epochs": 2,
    "n_critic_updates": 2,
    "cg_max_steps": 2,
    "buffer_size": 64,
    "replay_start": 8,
    "replay_batch": 2,
    "learning_starts": 8,
    "n_workers": 1,
}
SMALL_ENVS, SHORT_EPISODE, SOME_STEPS = 2, 6, 400
SB3S = ("clip_range", "train_freq")  # arguments that SB3 replaces by a function or a tuple
# How an entry says that nothing is claimed of it.
MARKS = ("not measured", "no claim", "checked:", "tuned on seed", "does not solve it", "measured on seeds 100")


def some_of(quick):
    """Return all entries as parameters; the other ones are slow."""
    return mostly_slow([(entry,) for entry in ENTRIES], lambda entry: entry in quick)


# The entries for all Atari games have the same environment and network.
@pytest.fixture(params=some_of([e for e in ENTRIES if e[1] != "atari" or e[0] in ("acer", "ppo")]), ids=":".join)
def entry(request):
    """An algorithm, an environment that the entry is for, and the settings."""
    algorithm, env_id = request.param
    config = load_config(algorithm, env_id)
    assert config.source == f"{algorithm}.yml: {env_id}" and config.n_timesteps
    if env_id == "atari":  # the zoo's name for all of its games
        gym.register_envs(pytest.importorskip("ale_py", reason="Atari is not installed"))
    if env_id.startswith("MinAtar/"):
        pytest.importorskip("minatar", reason="MinAtar is not installed")
    env_id = {"atari": "PongNoFrameskip-v4", "default": "Pendulum-v1" if algorithm in OFF_POLICY else "CartPole-v1"}.get(
        env_id, env_id
    )
    if "mujoco" in str(find_environment(env_id).entry_point):
        pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    return EVERY_ALGORITHM[algorithm], env_id, config


def cut_down(algorithm, config: RunConfig) -> RunConfig:
    """The same settings, with sizes that train in a moment; episodes end early."""
    given = config.hyperparameters
    sizes = {
        name: min(given.get(name) or size, size) for name, size in SMALL.items() if name in signature(algorithm).parameters
    }
    generator = np.random.default_rng(0)
    wrappers = (
        ("gymnasium.wrappers.TimeLimit", {"max_episode_steps": SHORT_EPISODE}),
        # Else episodes that a limit ends may all have the same return, and nothing would be learned from them.
        ("gymnasium.wrappers.TransformReward", {"func": lambda reward: float(reward) + generator.normal()}),
    )
    return replace(
        config,
        n_envs=min(config.n_envs, SMALL_ENVS),
        wrappers=(*config.wrappers, *wrappers),
        hyperparameters={**given, **sizes},
    )


def test_every_entry_is_made_as_it_stands(entry):
    algorithm, env_id, config = entry
    env = make_train_env(cut_down(algorithm, config), env_id, seed=0)
    check_hyperparameters(algorithm, config)
    spaces = [AnySpace(env.observation_space, env.action_space) for _ in range(config.n_envs)]
    given = with_action_noise(config.hyperparameters, env.action_space, config.source)
    as_it_stands = algorithm(config.policy, vectorised(*spaces), seed=0, device=DEVICE, **given)
    assert (as_it_stands.action_noise is not None) == any(key in config.hyperparameters for key in KEYS)
    for name, value in config.hyperparameters.items():
        if isinstance(value, int | float | str) and name in vars(as_it_stands) and name not in SB3S:
            assert getattr(as_it_stands, name) == value, name
    env.close()


@pytest.mark.parametrize(
    "entry", some_of([*[e for e in ENTRIES if e[1] != "atari"][::4], ("ppo", "atari")]), ids=":".join, indirect=True
)
def test_every_entry_trains_cut_down(entry):
    algorithm, env_id, config = entry
    small = cut_down(algorithm, config)
    env = make_train_env(small, env_id, seed=0)
    few = with_action_noise(small.hyperparameters, env.action_space, small.source)
    model = algorithm(small.policy, env, seed=0, device=DEVICE, **few)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(SOME_STEPS, callback=lambda locals_, _: locals_["self"]._n_updates < 2)
    env.close()
    assert model._n_updates >= 2
    assert any(not th.equal(p, q) for p, q in zip(before, model.policy.parameters(), strict=True))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_atari_game_has_the_entry_of_all_games_and_another_environment_the_default(algorithm, monkeypatch):
    monkeypatch.setitem(gym.registry, "Game-v0", gym.envs.registration.EnvSpec("Game-v0", entry_point="some_package:AtariEnv"))
    assert load_config(algorithm, "Game-v0").source == f"{algorithm}.yml: atari"
    assert load_config(algorithm, "Taxi-v3").source == f"{algorithm}.yml: default"


@pytest.mark.parametrize("algorithm", EVERY_ALGORITHM)
def test_every_entry_has_a_claim_or_says_that_it_has_none(algorithm):
    silent = [
        env_id
        for env_id, comment in comments(algorithm).items()
        if (algorithm, env_id) not in measured() and not any(mark in comment.lower() for mark in MARKS)
    ]
    assert not silent, f"{algorithm}.yml: say above {silent} that it is a starting point, or what was tried"
