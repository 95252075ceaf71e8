"""Budgets that are too short to learn from, and the part of a budget that is not learned from."""

import pytest
import stable_baselines3 as sb3

from sb3_pgx import PPO, REINFORCE
from sb3_pgx.cli import main
from sb3_pgx.experiments.budgets import budget_of, shorten_rollouts, unlearned_lines
from sb3_pgx.experiments.runs import RunSpec
from sb3_pgx.settings.configs import RunConfig
from sb3_pgx.tuning.tuning_plan import plan_tuning


def settings(n_envs=4, **hyperparameters):
    return RunConfig(source="ppo.yml: default", n_envs=n_envs, hyperparameters=hyperparameters)


@pytest.mark.parametrize(
    ("algorithm", "config", "timesteps", "learned"),
    [
        (PPO, settings(n_steps=64), 512, 512),
        (PPO, settings(n_steps=64), 600, 512),
        (PPO, settings(n_steps=64), 255, 0),
        (sb3.PPO, settings(n_envs=1), 5000, 4096),  # its default is 2048
        (sb3.DQN, settings(learning_starts=100), 100, 0),
        (sb3.DQN, settings(learning_starts=100), 101, 101),
    ],
)
def test_a_rollout_that_is_cut_short_is_not_learned_from(algorithm, config, timesteps, learned):
    assert budget_of(algorithm, config, timesteps).learned_from == learned


def test_whole_episodes_are_as_long_as_they_are():
    assert budget_of(REINFORCE, settings(), 10) is None


def test_the_unlearned_part_of_a_budget_is_told_once_per_algorithm():
    specs = [RunSpec("ppo", PPO, "A-v0", seed, 600, settings(n_steps=64)) for seed in (0, 1)]
    specs.append(RunSpec("a2c", PPO, "A-v0", 0, 600, settings(n_steps=5)))
    (line,) = unlearned_lines(specs)
    assert line == "ppo on A-v0 learns from 512 of 600 steps: rollouts have 256 steps, and the last one is cut short"


def test_compare_refuses_a_budget_below_one_rollout(tmp_path, capsys):
    (tmp_path / "ppo.yml").write_text("CartPole-v1: {n_envs: 8, n_steps: 128}\n")
    command = [
        "compare",
        "--env",
        "CartPole-v1",
        "--algos",
        "ppo",
        "--configs",
        str(tmp_path),
        "--output",
        str(tmp_path / "out"),
    ]
    assert main([*command, "--timesteps", "1k"]) == 2
    assert capsys.readouterr().err == (
        "sb3-pgx: ppo would learn nothing in CartPole-v1: one rollout has 1024 steps (8 environments times n_steps), and "
        "timesteps is 1000; raise timesteps to 1024, or set n_steps to 125 or less\n"
    )
    assert not (tmp_path / "out").exists()


def test_rollouts_are_halved_until_they_fit_into_a_run():
    config = shorten_rollouts(PPO, settings(n_steps=128, batch_size=256), 400)
    assert config.hyperparameters == {"n_steps": 64, "batch_size": 256}
    assert shorten_rollouts(PPO, settings(n_steps=128, batch_size=256), 100).hyperparameters == {
        "n_steps": 16,
        "batch_size": 64,
    }
    fitting = settings(n_steps=100)
    assert shorten_rollouts(PPO, fitting, 400) is fitting


def test_the_first_trial_of_a_search_learns_something(tmp_path):
    (tmp_path / "ppo.yml").write_text("CartPole-v1: {n_envs: 8, n_steps: 128, batch_size: 512}\n")
    plan = plan_tuning("ppo", "CartPole-v1", timesteps=400, configs=tmp_path, output=tmp_path / "out")
    assert plan.config.hyperparameters == {"n_steps": 32, "batch_size": 256}
    assert "n_steps=32 to fit into 400 steps" in plan.config.source
