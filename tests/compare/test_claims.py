"""Claims: when they hold, what is kept of them, and what the command's exit status says."""

import json

import pytest

from sb3_pgx.cli import main
from sb3_pgx.compare import claims
from sb3_pgx.compare.learning import LearningClaim, judge
from sb3_pgx.compare.verdict import Settings, Verdict

CLAIM = LearningClaim("reinforce", "CartPole-v1", timesteps=200_000, threshold=475.0)


def runs(result, *means):
    return [result("reinforce", seed, returns=[mean - 10.0, mean + 10.0]) for seed, mean in enumerate(means)]


def test_a_claim_holds_by_the_interquartile_mean_over_seeds(result):
    verdict = judge(CLAIM, runs(result, 500.0, 470.0, 480.0, 478.0, 0.0), "command")
    assert verdict.passed and verdict.record["interquartile_mean"] == pytest.approx((470 + 480 + 478) / 3)
    assert not judge(CLAIM, runs(result, 500.0, 470.0, 476.0, 478.0, 0.0), "command").passed  # 474.7


def test_every_seed_is_told_and_kept(result):
    verdict = judge(CLAIM, runs(result, 500.0, 470.0, 480.0, 478.0, 0.0), "command")
    for seed, value in enumerate([500.0, 470.0, 480.0, 478.0, 0.0]):
        assert any(line.startswith(f"seed {seed}: {value:.1f}") for line in verdict.lines)
        assert verdict.record["returns_per_seed"][str(seed)] == [value - 10.0, value + 10.0]
    assert verdict.record["command"] == "command" and verdict.record["steps_per_seed"]["0"] == 1000


def test_a_failed_run_makes_the_claim_fail_whatever_the_others_reached(result):
    results = [*runs(result, 500.0, 500.0, 500.0, 500.0), result("reinforce", 4, error="ValueError: no")]
    verdict = judge(CLAIM, results, "command")
    assert not verdict.passed and "seed 4: failed, ValueError: no" in verdict.lines
    assert not judge(CLAIM, results[4:], "command").passed


@pytest.fixture
def fake_claims(monkeypatch):
    def check(key, passed):
        return lambda settings: Verdict(key, f"{key} is claimed", passed, ("a line",), {"passed": passed})

    monkeypatch.setattr(
        claims, "CLAIMS", {"true": (check("A-v0", True),), "false": (check("B-v0", False), check("C-v0", True))}
    )


@pytest.mark.parametrize(("name", "status"), [("true", 0), ("false", 1), ("all", 1)])
def test_exit_status_is_1_if_any_claim_fails(fake_claims, capsys, name, status):
    assert main(["claims", name]) == status
    printed = capsys.readouterr().out
    assert ("PASS  A-v0 is claimed" in printed) == (name != "false")
    assert ("FAIL  B-v0 is claimed" in printed) == (name != "true")


def test_verdicts_are_written_only_on_request(fake_claims, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(claims, "config_folder", lambda: tmp_path / "zoo_configs")
    main(["claims", "all"])
    assert list(tmp_path.iterdir()) == []
    main(["claims", "false", "--write"])
    assert [path.name for path in (tmp_path / "zoo_configs/results").iterdir()] == ["false.json"]
    written = json.loads((tmp_path / "zoo_configs/results/false.json").read_text())
    assert written == {"B-v0": {"passed": False}, "C-v0": {"passed": True}}


def test_a_new_verdict_replaces_the_old_one_and_leaves_the_others(tmp_path):
    path = tmp_path / "x.json"
    for key, value in (("A-v0", 1), ("B-v0", 2), ("A-v0", 3)):
        claims.record(Verdict(key, "", True, (), {"value": value}), path)
    assert json.loads(path.read_text()) == {"A-v0": {"value": 3}, "B-v0": {"value": 2}}


def test_an_unknown_claim_is_told_with_the_nearest_name(capsys):
    assert main(["claims", "reinforc"]) == 2
    assert "choose reinforce" in capsys.readouterr().err


def test_claims_of_an_installed_package_are_not_overwritten(tmp_path, monkeypatch, capsys):
    package = tmp_path / "sb3_pgx"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.setattr(claims, "config_folder", lambda: package / "zoo_configs")
    assert main(["claims", "reinforce", "--write"]) == 2
    assert "--output" in capsys.readouterr().err


def test_learning_claims_use_seeds_that_nothing_was_tuned_on():
    learning = [claim for checks in claims.CLAIMS.values() for claim in checks if isinstance(claim, LearningClaim)]
    assert learning and all(set(claim.seeds) == {0, 1, 2, 3, 4} for claim in learning)


def test_a_claim_trains_each_seed_on_its_budget(tmp_path):
    claim = LearningClaim("sb3:a2c", "CartPole-v1", timesteps=80, threshold=1e9, seeds=(0, 1), eval_episodes=3)
    verdict = claim(Settings("command", workers=2, output=tmp_path, progress=False))
    assert not verdict.passed and verdict.record["steps_per_seed"] == {"0": 80, "1": 80}
    assert [len(returns) for returns in verdict.record["returns_per_seed"].values()] == [3, 3]
    assert len(list((tmp_path / "runs/CartPole-v1").iterdir())) == 2
