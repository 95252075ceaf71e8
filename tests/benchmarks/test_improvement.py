"""What a search found against the defaults of the class: the claim holds where the interval of the difference is above 0."""

import pytest

from benchmarks.claims import improvement
from benchmarks.claims.improvement import TuningClaim, judge
from benchmarks.claims.verdict import Settings

CLAIM = TuningClaim("ppo", "CartPole-v1", timesteps=1000)
DEFAULTS = [20.0, 35.0, 31.0, 28.0, 40.0, 33.0]


def runs(result, gain):
    return {
        name: [result("ppo", seed, returns=[value + by]) for seed, value in enumerate(DEFAULTS)]
        for name, by in (("tuned", gain), ("defaults", 0.0))
    }


@pytest.mark.parametrize(("gain", "passed"), [(30.0, True), (3.0, False), (0.0, False), (-30.0, False)])
def test_tuning_beats_the_defaults_if_the_whole_interval_is_above_0(result, gain, passed):
    verdict = judge(CLAIM, runs(result, gain), "command")
    assert verdict.passed == passed
    difference = verdict.record["differences"]["final return"]
    assert difference["difference"] == pytest.approx(gain)
    assert (difference["interval_95"][0] > 0) == passed
    assert any(f"difference {gain:.1f}" in line for line in verdict.lines)


def test_a_failed_run_of_either_side_makes_the_claim_fail(result):
    for name in ("tuned", "defaults"):
        measured = runs(result, 30.0)
        measured[name][2] = result("ppo", 2, error="ValueError: no")
        verdict = judge(CLAIM, measured, "command")
        assert not verdict.passed and f"{name}, seed 2: failed, ValueError: no" in verdict.lines


def test_one_side_is_trained_with_what_the_search_found_and_the_other_with_the_class_as_it_is(result, tmp_path, monkeypatch):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "ppo.yml").write_text("CartPole-v1:\n  n_envs: 3\n  gamma: 0.9\n")
    (tmp_path / "ppo.yml").write_text("CartPole-v1:\n  n_envs: 2\n  gamma: 0.5\n")  # what is published is neither
    monkeypatch.setattr(improvement, "config_folder", lambda: tmp_path)
    trained = []

    def measure(peer, config, env_id, timesteps, seeds, settings):
        trained.append((peer.label, config.n_envs, config.hyperparameters, env_id, timesteps, len(seeds)))
        return [result("ppo", seed, returns=[config.hyperparameters.get("gamma", 0.0)]) for seed in seeds]

    monkeypatch.setattr(improvement, "measure_config", measure)
    verdict = CLAIM(Settings("command"))
    assert trained == [("ppo", 3, {"gamma": 0.9}, "CartPole-v1", 1000, 10), ("ppo", 8, {}, "CartPole-v1", 1000, 10)]
    assert verdict.passed and verdict.record["differences"]["final return"]["difference"] == pytest.approx(0.9)
