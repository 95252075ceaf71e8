"""Comparisons and warm-ups of algorithms with a replay memory."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

from sb3_pgx.experiments.peers import prepare
from sb3_pgx.experiments.runs import RunSpec, execute
from sb3_pgx.experiments.warmup import Warmup, warm_up
from sb3_pgx.settings.action_noise import with_action_noise

SMALL = "learning_starts=10, batch_size=8, buffer_size=100, policy_kwargs={net_arch: [8]}"
BOX = spaces.Box(-2, 2, (3,), np.float32)


@pytest.mark.parametrize("name", ["sac", "td3", "d4pg", "soft_q_learning", "sb3:td3"])
def test_a_run_of_a_comparison_trains_with_the_settings_of_the_file(name):
    peer, config, _ = prepare(f"{name}[{SMALL}]", "Pendulum-v1")
    result = execute(RunSpec(name, peer.algorithm, "Pendulum-v1", 0, 30, config, curve_points=1, eval_episodes=1))
    assert result.error is None and 30 <= result.steps < 30 + config.n_envs and len(result.returns) == 1
    assert ("noise_type" in config.hyperparameters) == (name not in ("sac", "soft_q_learning"))


@pytest.mark.parametrize("central", ["true", "false"])
def test_several_agents_are_compared_in_an_environment_in_which_they_act_together(central):
    pytest.importorskip("mpe2", reason="mpe2 is not installed")
    small = "learning_starts=10, batch_size=8, train_freq=5, policy_kwargs={net_arch: [8]}, compile=false"
    name, env_id = f"maddpg[{small}, central_critics={central}]", "sb3_pgx.tasks:SimpleSpread-v3"
    peer, config, _ = prepare(name, env_id)
    assert config.source.startswith("maddpg.yml: SimpleSpread-v3") and config.hyperparameters["central_critics"] == (
        central == "true"
    )
    result = execute(RunSpec(name, peer.algorithm, env_id, 0, 60, config, curve_points=2, curve_episodes=1, eval_episodes=2))
    assert result.error is None and result.steps == 60 and len(result.curve_returns) == len(result.returns) == 2
    assert max(result.returns) < 0 and "mpe2" in result.versions


def test_an_algorithm_for_several_agents_fails_in_an_environment_of_one():
    peer, config, _ = prepare("maddpg", "Pendulum-v1")
    result = execute(RunSpec("maddpg", peer.algorithm, "Pendulum-v1", 0, 60, config))
    assert "MADDPG learns in environments of several agents" in result.error


@pytest.mark.parametrize("name, n_graphs", [("sac", 2), ("td3", 3), ("ddpg", 2), ("d4pg", 2), ("soft_q_learning", 2)])
def test_a_warm_up_compiles_acting_and_each_kind_of_step(name, n_graphs, graphs):
    peer, config, _ = prepare(f"{name}[{SMALL}]", "Pendulum-v1")
    said = []
    warm_up(Warmup(peer.algorithm, "Pendulum-v1", config), said.append)
    assert len(graphs) == n_graphs and sum(sentence.endswith("is compiled") for sentence in said) == n_graphs


def test_the_noise_of_a_file_is_that_of_its_type():
    made = with_action_noise({"noise_type": "normal", "noise_std": 0.5, "gamma": 0.9}, BOX, "a file")
    noise = made.pop("action_noise")
    assert made == {"gamma": 0.9} and isinstance(noise, NormalActionNoise)
    assert np.std([noise() for _ in range(4000)]) == pytest.approx(0.5, rel=0.05) and noise().shape == (3,)
    other = with_action_noise({"noise_type": "ornstein-uhlenbeck", "noise_std": 0.5}, BOX, "a file")["action_noise"]
    assert isinstance(other, OrnsteinUhlenbeckActionNoise)


@pytest.mark.parametrize("kind, std, space", [("pink", 0.1, BOX), ("normal", None, BOX), ("normal", 0.1, spaces.Discrete(2))])
def test_noise_that_cannot_be_made_is_refused_in_one_sentence(kind, std, space):
    with pytest.raises(ValueError, match=r"^a file: noise_type=.* must be one of normal, ornstein-uhlenbeck, and noise_std"):
        with_action_noise({"noise_type": kind, "noise_std": std}, space, "a file")
