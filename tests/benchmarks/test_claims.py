"""Claims: when they hold, what is kept of them, and what the command's exit status says."""

import json
from dataclasses import asdict, dataclass, replace

import numpy as np
import pytest
from readme_tables import claims_table

from benchmarks.claims import agreement, measure, relative
from benchmarks.claims import check as claims
from benchmarks.claims.__main__ import main
from benchmarks.claims.agreement import AgreementClaim
from benchmarks.claims.learning import LearningClaim, judge
from benchmarks.claims.relative import RelativeClaim
from benchmarks.claims.verdict import Settings, Verdict
from sb3_pgx.experiments import earlier_runs
from sb3_pgx.experiments.peers import prepare
from sb3_pgx.experiments.pool import read_result, write_result
from sb3_pgx.experiments.runs import versions
from sb3_pgx.experiments.statistics import area_under_curve, bootstrap_interval_of_groups, interquartile_mean_difference

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


def test_a_record_holds_the_hyperparameters_and_where_it_comes_from(result):
    config = {"source": "reinforce.yml: CartPole-v1", "n_envs": 8, "hyperparameters": {"learning_rate": "lin_0.005"}}
    record = judge(CLAIM, [result("reinforce", 0, returns=[500.0], config=config)], "command").record
    assert record["hyperparameters"] == config
    assert {"sb3_pgx", "torch", "stable_baselines3"} <= set(record["versions"]) and record["date"][:2] == "20"


AGREEMENT = AgreementClaim("ppo", "sb3:ppo", "CartPole-v1", timesteps=1000)
OURS, THEIRS = [20.0, 35.0, 31.0, 28.0, 40.0, 33.0], [25.0, 21.0, 36.0, 30.0, 29.0, 38.0]


def with_curves(result, label, finals, curves):
    """One run a seed, whose curve is a line from the first to the second of its two heights."""
    return [
        result(label, seed, returns=[final - 1.0, final + 1.0], curve_steps=[100, 300, 400], curve_returns=[a, a, b])
        for seed, (final, (a, b)) in enumerate(zip(finals, curves, strict=True))
    ]


def flat(heights):
    return [(height, height) for height in heights]


def middle_mean(values):
    """Of six values: without the lowest and the highest."""
    return np.sort(values)[..., 1:-1].mean(axis=-1)


def test_interval_of_the_difference_is_that_of_independently_drawn_seeds(result):
    record = agreement.judge(
        AGREEMENT,
        with_curves(result, "ppo", OURS, flat(OURS)),
        with_curves(result, "sb3:ppo", THEIRS, flat(THEIRS)),
        "command",
    ).record
    rng = np.random.default_rng(1)
    draws = [np.array(group)[rng.integers(0, 6, (200_000, 6))] for group in (OURS, THEIRS)]
    expected = np.quantile(middle_mean(draws[0]) - middle_mean(draws[1]), [0.025, 0.975])
    assert expected[1] - expected[0] > 10
    for name in ("final return", "area under the learning curve"):
        measured = record["differences"][name]
        assert measured["difference"] == pytest.approx(middle_mean(OURS) - middle_mean(THEIRS), abs=1e-12)
        np.testing.assert_allclose(measured["interval_95"], expected, atol=0.4)
        assert measured["width"] == measured["interval_95"][1] - measured["interval_95"][0]


def test_seeds_of_the_two_algorithms_are_not_paired(result):
    """Equal results seed by seed would leave no spread at all if seeds were drawn in pairs."""
    runs = [with_curves(result, label, OURS, flat(OURS)) for label in ("ppo", "sb3:ppo")]
    verdict = agreement.judge(AGREEMENT, *runs, "command")
    assert verdict.passed and verdict.record["differences"]["final return"]["width"] > 5


@pytest.mark.parametrize(
    ("final", "curve", "passed"), [(0.0, 0.0, True), (50.0, 0.0, False), (-50.0, 0.0, False), (0.0, 50.0, False)]
)
def test_algorithms_agree_if_both_intervals_contain_0(result, final, curve, passed):
    ours = with_curves(result, "ppo", [x + final for x in OURS], flat([x + curve for x in OURS]))
    theirs = with_curves(result, "sb3:ppo", OURS, flat(OURS))
    assert agreement.judge(AGREEMENT, ours, theirs, "command").passed == passed


def test_area_under_the_curve_is_its_mean_height_over_the_steps(result):
    runs = [with_curves(result, label, OURS, [(6.0, 12.0)] * 6) for label in ("ppo", "sb3:ppo")]
    record = agreement.judge(AGREEMENT, *runs, "command").record
    # 6 for 200 steps, then from 6 to 12 in 100 steps: (200 * 6 + 100 * 9) / 300
    areas = record["differences"]["area under the learning curve"]["per_seed"]
    assert areas == {label: {str(seed): pytest.approx(7.0, rel=1e-12) for seed in range(6)} for label in ("ppo", "sb3:ppo")}
    assert record["runs"]["sb3:ppo"]["returns_per_seed"]["1"] == [34.0, 36.0]
    assert record["runs"]["ppo"]["steps_per_seed"] == {str(seed): 1000 for seed in range(6)}


def test_too_little_data_is_no_agreement(result):
    one = [with_curves(result, label, OURS[:1], flat(OURS[:1])) for label in ("ppo", "sb3:ppo")]
    assert not agreement.judge(AGREEMENT, *one, "command").passed  # one seed says nothing about the spread
    with pytest.raises(ValueError, match=r"at least 2 evaluations .* got 1"):
        area_under_curve([100], [1.0])
    with pytest.raises(ValueError, match="at least one value in each group"):
        bootstrap_interval_of_groups([OURS, []], interquartile_mean_difference)


def test_a_failed_run_of_either_side_makes_agreement_fail(result):
    good, bad = with_curves(result, "ppo", OURS, flat(OURS)), result("sb3:ppo", 5, error="ValueError: no")
    theirs = [*with_curves(result, "sb3:ppo", OURS, flat(OURS))[:5], bad]
    verdict = agreement.judge(AGREEMENT, good, theirs, "command")
    assert not verdict.passed and "sb3:ppo, seed 5: failed, ValueError: no" in verdict.lines
    assert verdict.record["runs"]["sb3:ppo"]["errors"] == {"5": "ValueError: no"}


RELATIVE = RelativeClaim("ppo_penalty", "ppo", ("A-v0", "B-v0"), timesteps=1000, share=0.9)


def of_means(result, label, means):
    return [result(label, seed, returns=[mean]) for seed, mean in enumerate(means)]


def relative_verdict(result, *groups):
    labels = ("ppo_penalty", "ppo", "ppo_penalty", "ppo")
    first, second, third, fourth = (of_means(result, label, group) for label, group in zip(labels, groups, strict=True))
    return relative.judge(RELATIVE, {"A-v0": (first, second), "B-v0": (third, fourth)}, "command")


@pytest.mark.parametrize(("last", "passed"), [(2100.0, True), (1800.0, False)])
def test_a_share_is_the_mean_over_environments_of_the_ratio_of_interquartile_means(result, last, passed):
    ours, theirs = [0.0, 90.0, 80.0, 100.0, 900.0], [100.0, 120.0, 80.0, 1e6, -1e6]  # 90 to 100 without the extremes
    verdict = relative_verdict(result, ours, theirs, [last / 2.1] * 5, [1000.0] * 5)
    assert verdict.record["ratio_per_environment"] == {"A-v0": pytest.approx(0.9), "B-v0": pytest.approx(last / 2100)}
    assert verdict.record["ratio"] == pytest.approx((0.9 + last / 2100) / 2)
    assert verdict.passed == passed


def test_interval_of_the_share_draws_every_group_on_its_own(result):
    rng = np.random.default_rng(2)
    groups = [rng.uniform(50.0, 150.0, 6) for _ in range(4)]
    a, b, c, d = (middle_mean(group[rng.integers(0, 6, (200_000, 6))]) for group in groups)
    expected = np.quantile((a / b + c / d) / 2, [0.025, 0.975])
    np.testing.assert_allclose(relative_verdict(result, *groups).record["interval_95"], expected, atol=0.02)


def test_no_share_of_a_return_that_is_not_positive(result):
    verdict = relative_verdict(result, [50.0] * 5, [100.0] * 5, [-10.0] * 5, [-100.0] * 5)
    assert not verdict.passed and verdict.record["ratio"] is None
    assert any("ppo is -100.0, and must be positive" in line for line in verdict.lines)


def test_a_failed_run_makes_the_share_fail(result):
    good = of_means(result, "ppo", [100.0] * 5)
    pair = ([*good[:4], result("ppo_penalty", 4, error="ValueError: no")], good)
    verdict = relative.judge(RELATIVE, {"A-v0": pair}, "command")
    assert not verdict.passed and "ppo_penalty on A-v0, seed 4: failed, ValueError: no" in verdict.lines


def test_claims_on_single_environments_do_not_overwrite_each_other(result):
    means = of_means(result, "a", [1.0] * 5)
    keys = {
        relative.judge(RelativeClaim("a", "b", env_ids, 10, 0.5), dict.fromkeys(env_ids, (means, means)), "command").key
        for env_ids in (("A-v0",), ("B-v0",), ("A-v0", "B-v0"))
    }
    assert keys == {"0.5 of b, A-v0", "0.5 of b, B-v0", "0.5 of b"}


@pytest.fixture
def trained(monkeypatch, result):
    """Pretends to train, writes what was trained as the pool does, and keeps count."""
    names = []

    def run_all(specs, paths, workers, progress, on_result):
        names.extend(f"{spec.label} {spec.seed} {spec.timesteps}" for spec in specs)
        results = [
            result(
                spec.label,
                spec.seed,
                timesteps=spec.timesteps,
                returns=[1.0] * spec.eval_episodes,
                config=asdict(spec.config),
                versions=versions(spec.env_id),
            )
            for spec in specs
        ]
        for path, one in zip(paths, results, strict=True):
            write_result(one, path)
        return results

    monkeypatch.setattr(earlier_runs, "run_all", run_all)
    return names


def test_a_finished_run_is_read_back_as_it_was(result, tmp_path):
    run = result("sb3:ppo", 3, returns=[1.5, 2.5], curve_steps=[10], curve_returns=[0.25], config={"n_envs": 8})
    write_result(run, tmp_path / "run.json")
    assert read_result(tmp_path / "run.json") == run


def test_claims_that_need_the_same_run_share_it_and_an_interrupted_measurement_goes_on(trained, tmp_path):
    selected = {
        "a": [LearningClaim("sb3:a2c", "CartPole-v1", 80, 0.0, seeds=(0, 1))],
        "b": [
            LearningClaim("sb3:a2c", "CartPole-v1", 80, 2.0, seeds=(1, 2)),
            LearningClaim("sb3:a2c", "CartPole-v1", 160, 0.0, seeds=(1,)),
        ],
    }
    assert not claims.check_claims(selected, Settings("command"), tell=lambda line: None)
    assert trained == ["sb3:a2c 0 80", "sb3:a2c 1 80", "sb3:a2c 2 80", "sb3:a2c 1 160"]
    for expected, told in ((4, 3), (0, 4)):  # nothing was kept before; then everything is there, and it is told
        trained.clear()
        lines = []
        claims.check_claims(selected, Settings("command", output=tmp_path), tell=lines.append)
        assert len(trained) == expected and len(lines) == told


def test_a_run_counts_only_with_the_same_settings_and_versions(trained, tmp_path, monkeypatch):
    settings = Settings("command", configs=tmp_path, output=tmp_path / "out")

    def train(gamma, timesteps=80, eval_episodes=3, algorithm="sb3:a2c"):
        (tmp_path / "a2c.yml").write_text(f"default: {{gamma: {gamma}, learning_rate: lin_0.1}}")
        before = len(trained)
        measure.measure(algorithm, "CartPole-v1", timesteps, (0,), settings, eval_episodes)
        return len(trained) - before

    assert [train(0.9), train(0.9)] == [1, 0]
    assert [train(0.8), train(0.9, timesteps=81), train(0.9, eval_episodes=4), train(0.9, algorithm="a2c")] == [1] * 4
    assert [train(0.8), train(0.9)] == [0, 0]  # none took the place of another
    monkeypatch.setattr("sb3_pgx.experiments.runs.simulator_versions", lambda env_ids: dict.fromkeys(env_ids, "2.0"))
    assert [train(0.9), train(0.9)] == [1, 0]
    monkeypatch.setattr(measure, "versions", lambda env_id: {"torch": "another"})
    assert train(0.9) == 1


def test_a_run_that_failed_or_is_half_written_is_tried_again(trained, tmp_path):
    settings = Settings("command", output=tmp_path)
    measure.measure("sb3:a2c", "CartPole-v1", 80, (0, 1), settings)
    (path,) = tmp_path.rglob("*seed1.json")
    whole = path.read_text()
    write_result(replace(read_result(path), error="MemoryError"), path)
    failed = path.read_text()
    for left in (failed, whole[:100], ""):  # the last two: half written
        path.write_text(left)
        trained.clear()
        results = measure.measure("sb3:a2c", "CartPole-v1", 80, (1, 0), settings)
        assert trained == ["sb3:a2c 1 80"] and [(r.seed, r.error) for r in results] == [(1, None), (0, None)]


@dataclass(frozen=True)
class Fake:
    """A claim that knows its verdict."""

    key: str
    passed: bool
    env_id: str = "CartPole-v1"

    @property
    def trains(self):
        return (("sb3:a2c", self.env_id),)

    def __call__(self, settings):
        return Verdict(self.key, f"{self.key} is claimed", self.passed, ("a line",), {"passed": self.passed})


@pytest.fixture
def fake_claims(monkeypatch):
    fakes = {"true": (Fake("A-v0", True),), "false": (Fake("B-v0", False), Fake("C-v0", True, "Acrobot-v1"))}
    monkeypatch.setattr(claims, "CLAIMS", fakes)


@pytest.mark.parametrize(("name", "status"), [("true", 0), ("false", 1), ("all", 1)])
def test_exit_status_is_1_if_any_claim_fails(fake_claims, capsys, name, status):
    assert main([name]) == status
    printed = capsys.readouterr().out
    assert ("PASS  A-v0 is claimed" in printed) == (name != "false")
    assert ("FAIL  B-v0 is claimed" in printed) == (name != "true")


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["false", "--only", "Acrobot-v1"], ["C"]),
        (["all", "--only", "CartPole-v1"], ["A", "B"]),
        (["all", "--only", "Acrobot-v1"], ["C"]),
    ],
)
def test_only_the_claims_on_one_environment_are_measured(fake_claims, capsys, arguments, keys):
    main([*arguments])
    assert [line[6] for line in capsys.readouterr().out.splitlines() if "claimed" in line] == keys


def test_an_environment_without_a_claim_is_told_with_the_nearest_name(fake_claims, capsys):
    assert main(["false", "--only", "Acrobot-v2"]) == 2
    assert "nothing is claimed of false on 'Acrobot-v2'; choose Acrobot-v1" in capsys.readouterr().err


def test_what_a_claim_needs_is_checked_before_any_claim_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(claims, "CLAIMS", {"x": (Fake("A-v0", True), Fake("B-v0", True, "CartPol-v1"))})
    assert main(["x"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "did you mean 'CartPole-v1'" in printed.err


def test_an_output_folder_must_be_empty_or_of_an_earlier_measurement(fake_claims, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("precious")
    assert main(["true", "--output", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    (tmp_path / "runs").mkdir()
    assert main(["true", "--output", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "true.json").read_text()) == {"A-v0": {"passed": True}}


def test_verdicts_are_written_only_on_request(fake_claims, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(claims, "config_folder", lambda: tmp_path / "zoo_configs")
    main(["all"])
    assert list(tmp_path.iterdir()) == []
    main(["false", "--write"])
    assert [path.name for path in (tmp_path / "benchmarks/results").iterdir()] == ["false.json"]
    written = json.loads((tmp_path / "benchmarks/results/false.json").read_text())
    assert written == {"B-v0": {"passed": False}, "C-v0": {"passed": True}}


def test_a_record_names_the_command_that_reproduces_it_without_what_is_of_this_machine_alone(
    fake_claims, tmp_path, monkeypatch
):
    commands = []
    monkeypatch.setattr(claims, "check_claims", lambda chosen, settings, results: commands.append(settings.command) or True)
    main(["all", "--only", "CartPole-v1", "--output", str(tmp_path), "--workers", "2"])
    main(["true"])
    assert commands == [
        "python -m benchmarks.claims all --only CartPole-v1 --write",
        "python -m benchmarks.claims true --write",
    ]


def test_a_new_verdict_replaces_the_old_one_and_leaves_the_others(tmp_path):
    path = tmp_path / "x.json"
    for key, value in (("A-v0", 1), ("B-v0", 2), ("A-v0", 3)):
        claims.record(Verdict(key, "", True, (), {"value": value}), path)
    assert json.loads(path.read_text()) == {"A-v0": {"value": 3}, "B-v0": {"value": 2}}


def test_every_kind_of_claim_is_in_the_table(result, monkeypatch):
    ours, theirs = (with_curves(result, label, values, flat(values)) for label, values in (("ppo", OURS), ("sb3:ppo", THEIRS)))
    verdicts = [
        judge(CLAIM, runs(result, 500.0, 480.0), "command"),
        agreement.judge(AGREEMENT, ours, theirs, "command"),
        relative_verdict(result, [95.0] * 5, [100.0] * 5, [50.0] * 5, [50.0] * 5),
    ]
    records = [json.loads(json.dumps(verdict.record)) for verdict in verdicts]  # as the file has them
    monkeypatch.setattr("readme_tables.results", lambda: [{"claim": "of another kind"}, *records])
    learning, final, area, share = claims_table().splitlines()[2:]
    assert learning == f"| {CLAIM.statement} | 490.0 | 480.0 to 500.0 | 500.0, 480.0 |"
    low, high = verdicts[1].record["differences"]["final return"]["interval_95"]
    assert final == (
        f"| {AGREEMENT.statement}: difference in final return | +1.8 | {low:+.1f} to {high:+.1f} ({high - low:.1f} wide) | "
        "ppo: 20.0, 35.0, 31.0, 28.0, 40.0, 33.0; sb3:ppo: 25.0, 21.0, 36.0, 30.0, 29.0, 38.0 |"
    )
    assert area.startswith(f"| {AGREEMENT.statement}: difference in area under the learning curve | ")
    assert share.startswith(f"| {RELATIVE.statement} | 0.975 | 0.975 to 0.975 | ppo_penalty on A-v0: 95.0, ")


@pytest.mark.parametrize("key", ["npg", "ppo", "ppo_penalty", "trpo"])
def test_a_claim_trains_on_the_budget_of_the_published_settings(key):
    for claim in claims.CLAIMS[key]:
        for algorithm, env_id in claim.trains:
            assert prepare(algorithm, env_id)[1].n_timesteps == claim.timesteps


def test_an_unknown_claim_is_told_with_the_nearest_name(capsys):
    assert main(["reinforc"]) == 2
    assert "choose reinforce" in capsys.readouterr().err


def test_claims_of_an_installed_package_are_not_overwritten(tmp_path, monkeypatch, capsys):
    package = tmp_path / "sb3_pgx"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.setattr(claims, "config_folder", lambda: package / "zoo_configs")
    assert main(["reinforce", "--write"]) == 2
    assert "--output" in capsys.readouterr().err


def test_learning_claims_use_seeds_that_nothing_was_tuned_on():
    learning = [claim for checks in claims.CLAIMS.values() for claim in checks if isinstance(claim, LearningClaim)]
    games = [claim for claim in learning if claim.env_id.startswith("MinAtar/")]  # slow: fewer seeds
    assert learning and all(set(claim.seeds) == ({0, 1, 2} if claim in games else {0, 1, 2, 3, 4}) for claim in learning)


def test_a_claim_trains_each_seed_on_its_budget(runs_in_this_process, tmp_path):
    claim = LearningClaim("sb3:a2c", "CartPole-v1", timesteps=80, threshold=1e9, seeds=(0, 1), eval_episodes=3)
    verdict = claim(Settings("command", workers=2, output=tmp_path, progress=False))
    assert not verdict.passed and verdict.record["steps_per_seed"] == {"0": 80, "1": 80}
    assert [len(returns) for returns in verdict.record["returns_per_seed"].values()] == [3, 3]
    assert len(list((tmp_path / "runs/CartPole-v1").rglob("*.json"))) == 2
