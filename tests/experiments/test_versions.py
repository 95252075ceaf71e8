"""Every measurement records the version of its simulator."""

import pytest
from stable_baselines3 import A2C

from sb3_pgx.experiments.comparison import plan_comparison
from sb3_pgx.experiments.runs import RunSpec, execute, failed
from sb3_pgx.settings.configs import RunConfig


@pytest.fixture(autouse=True)
def engines(monkeypatch):
    def found(env_ids):
        return {f"engine of {env_id}": "2.0" for env_id in env_ids}

    monkeypatch.setattr("sb3_pgx.experiments.runs.simulator_versions", found)


def simulators(versions):
    return {name for name in versions if name.startswith("engine of ")}


def test_a_run_and_one_that_failed():
    spec = RunSpec("sb3:a2c", A2C, "CartPole-v1", 0, 10, RunConfig(source="test", n_envs=2), eval_episodes=1)
    for result in (execute(spec), failed(spec, MemoryError("no"))):
        assert simulators(result.versions) == {"engine of CartPole-v1"}


def test_a_comparison_in_several_environments(tmp_path):
    plan = plan_comparison(["CartPole-v1", "Pendulum-v1"], ["a2c"], timesteps=10, seeds=1, output=tmp_path / "out")
    assert simulators(plan.design.versions) == {"engine of CartPole-v1", "engine of Pendulum-v1"}
