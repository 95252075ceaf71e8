"""RLtools as a peer: what it is asked for, next to SB3's defaults, and what it answers."""

import inspect
import json
import math
from dataclasses import replace
from textwrap import dedent

import pytest
from stable_baselines3 import PPO
from support.packages import without

from benchmarks.speed import run
from benchmarks.speed.cases import CASES, Case, missing_package
from benchmarks.speed.measure import Measurement

PLAIN, MKL = "rltools:ppo", "rltools:ppo+mkl"
HYPERPARAMETERS = {"n_steps": 16, "batch_size": 8, "n_epochs": 3}
CASE = Case("a-case", "ppo", "Pendulum-v1", (PLAIN,), hyperparameters=HYPERPARAMETERS, ours={"compile": False}, n_envs=2)
STAND_IN = """
    import json, sys
    from pathlib import Path

    assert "torch" not in sys.modules
    print("RLtools prints what it likes")

    class PPO:
        def __init__(self, environment, **settings):
            self.folder, self.asked = Path({folder!r}), dict(settings, steps=0, **environment)
            self.asked["header"] = Path(environment["path"], "environment.h").read_text()
            if settings["BATCH_SIZE"] == 1:
                raise RuntimeError("the compiler says no")

        def State(self, seed):
            self.asked["seed"] = seed
            return self

        def step(self):
            self.asked["steps"] += 1
            (self.folder / "asked.json").write_text(json.dumps(self.asked))
"""


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A stand-in for the package. Return a function that returns what it was asked for."""
    (tmp_path / "rltools.py").write_text(dedent(STAND_IN.format(folder=str(tmp_path))))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda: json.loads((tmp_path / "asked.json").read_text())


@pytest.mark.parametrize("contender, blas", [(PLAIN, False), (MKL, True)])
def test_it_trains_with_the_settings_of_the_case_and_sb3s_defaults(asked, contender, blas):
    measurement = Measurement(CASE, contender)
    assert measurement.round(33).frames == 64 and measurement.round(1).frames == 32  # whole rollouts of 2 times 16 steps
    job, sb3 = asked(), {name: p.default for name, p in inspect.signature(PPO.__init__).parameters.items()}
    assert (job["steps"], job["seed"], job["enable_blas"], job["force_blas"]) == (3, 0, blas, blas)
    assert [job[k] for k in ("N_ENVIRONMENTS", "ON_POLICY_RUNNER_STEPS_PER_ENV", "BATCH_SIZE", "N_EPOCHS")] == [2, 16, 8, 3]
    assert (job["GAMMA"], job["LAMBDA"], job["EPSILON_CLIP"]) == (sb3["gamma"], sb3["gae_lambda"], sb3["clip_range"])
    assert (job["OPTIMIZER_ALPHA"], job["ACTION_ENTROPY_COEFFICIENT"]) == (sb3["learning_rate"], sb3["ent_coef"])
    policy = PPO("MlpPolicy", "Pendulum-v1", device="cpu").policy
    assert math.log(job["INITIAL_ACTION_STD"]) == policy.log_std.item()
    assert job["OPTIMIZER_EPSILON"] == policy.optimizer.defaults["eps"]
    for net, part in ((policy.mlp_extractor.policy_net, "ACTOR"), (policy.mlp_extractor.value_net, "CRITIC")):
        layers = [layer for layer in net if hasattr(layer, "out_features")]
        assert {layer.out_features for layer in layers} == {job[f"{part}_HIDDEN_DIM"]}
        assert len(layers) + 1 == job[f"{part}_NUM_LAYERS"]
        assert type(net[1]).__name__.upper() == job[f"{part}_ACTIVATION_FUNCTION"]
    assert not job["enable_evaluation"] and "environments::Pendulum<" in job["header"]


def test_a_build_that_fails_is_one_sentence(asked):
    with pytest.raises(RuntimeError, match=r"^RLtools ended with exit code 1: RuntimeError: the compiler says no$"):
        Measurement(replace(CASE, hyperparameters={**HYPERPARAMETERS, "batch_size": 1}), PLAIN)


def test_it_needs_what_it_needs(monkeypatch):
    without(monkeypatch, "rltools")
    assert missing_package(PLAIN) == "rltools:ppo needs rltools, which is not installed: pip install rltools"
    assert missing_package(MKL) == 'rltools:ppo+mkl needs rltools, which is not installed: pip install "rltools[mkl]"'
    without(monkeypatch, but_with=["rltools"])
    monkeypatch.setenv("PATH", "")
    assert missing_package(PLAIN) == "rltools:ppo needs a C++ compiler, which is not installed: install g++"
    monkeypatch.setattr("sys.path", [])  # where metadata are looked for
    assert missing_package(MKL) == 'rltools:ppo+mkl needs MKL, which is not installed: pip install "rltools[mkl]"'


def test_its_cases_are_on_the_environment_that_it_has():
    assert {case.env_id for case in CASES if {PLAIN, MKL} & set(case.peers)} == {"Pendulum-v1"}


@pytest.mark.slow
@pytest.mark.parametrize("contender", [PLAIN, MKL])
def test_the_package_itself_trains(contender):
    if reason := missing_package(contender):
        pytest.skip(reason)
    result = run.measure(replace(CASE, peers=(contender,)), rounds=1, timesteps=40, command="")
    assert [r.frames for r in result.timings[contender].rounds] == [64] and result.skipped == {}
