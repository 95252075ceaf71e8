"""Every measurement records the version of its simulator."""

import pytest
from stable_baselines3 import A2C
from support.packages import install

from sb3_pgx.experiments.comparison import plan_comparison
from sb3_pgx.experiments.runs import RunSpec, execute, failed
from sb3_pgx.settings.configs import RunConfig

pytestmark = pytest.mark.usefixtures("jax_unseen")


@pytest.fixture
def env_ids(tmp_path, monkeypatch):
    return [install(f"engine_{number}", tmp_path, monkeypatch) for number in range(2)]


def simulators(versions):
    return {name: version for name, version in versions.items() if name.startswith("engine_")}


def test_a_run_and_one_that_failed(env_ids):
    spec = RunSpec("sb3:a2c", A2C, env_ids[0], 0, 10, RunConfig(source="test", n_envs=2), eval_episodes=1)
    done = execute(spec)
    assert done.error is None
    for result in (done, failed(spec, MemoryError("no"))):
        assert simulators(result.versions) == {"engine_0": "2.0"}


def test_a_comparison_in_several_environments(env_ids, tmp_path):
    plan = plan_comparison(env_ids, ["a2c"], timesteps=80, seeds=1, output=tmp_path / "out")
    assert simulators(plan.design.versions) == {"engine_0": "2.0", "engine_1": "2.0"}
