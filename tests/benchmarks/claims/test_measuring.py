"""The command: what it refuses, what it runs, what it reuses, and its exit status."""

import json
import subprocess
from dataclasses import asdict, replace

import pytest
import yaml
from support.constructed_claims import claim_of
from support.packages import install, without

from benchmarks import CLAIMS
from benchmarks.claims.__main__ import main
from benchmarks.claims.draws import RunOptions, in_processes
from benchmarks.claims.false_alarms import count_alarms
from benchmarks.claims.measuring import measure_claim, run_shares
from benchmarks.claims.training_runs import contenders_of, train
from sb3_pgx.experiments.pool import run_here, write_result
from sb3_pgx.experiments.runs import RunResult, versions
from sb3_pgx.experiments.shards import Shard

POWER = {"pilot": "none", "wanted": 0.8, "distance": {"final return": 1}, "spread": {"final return": 0.1}}
ENTRY = {
    "kind": "learning",
    "algorithm": "sb3:a2c",
    "environments": {"CartPole-v1": 80},
    "bound": 0,
    "seeds": "1000-1009",
    "power": POWER,
}


class Pretender(list):
    """Pretends to train, writes what was trained as the pool does, and lists it; seed 1003 fails if it is asked to."""

    fails = False

    def __call__(self, specs, paths, workers, progress, on_result):
        results = []
        for spec, path in zip(specs, paths, strict=True):
            self.append(f"{spec.label} {spec.seed}")
            failed = spec.seed == 1003 and self.fails
            outcome = {"error": "ValueError: no"} if failed else {"returns": [1.0] * 20, "steps": 80}
            known = {"config": asdict(spec.config), "versions": versions(spec.env_id), "training_seconds": 2.0}
            results.append(
                RunResult(spec.label, spec.env_id, spec.seed, spec.timesteps, spec.config.source, **known, **outcome)
            )
            write_result(results[-1], path)
        return results


@pytest.fixture
def trained():
    return Pretender()


@pytest.fixture
def claims(tmp_path):
    """A committed folder with two claims, of which one is false, and an empty one for their records."""
    folder = tmp_path / "claims"
    folder.mkdir()
    (folder / "protocol.yml").write_text((CLAIMS / "protocol.yml").read_text())
    (folder / "true.yml").write_text(yaml.safe_dump({"one": ENTRY}))
    other = {**ENTRY, "bound": 2, "seeds": "1010-1019", "environments": {"Acrobot-v1": 80}}
    (folder / "false.yml").write_text(yaml.safe_dump({"two": other}))
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "claims"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return folder


@pytest.fixture
def run(trained):
    """A function that runs the command on a folder of claims."""
    return lambda claims, *arguments: main([*arguments], claims, claims.parent / "results", trained)


@pytest.mark.parametrize(("name", "status"), [("true", 0), ("false", 1), ("all", 1)])
def test_exit_status_is_1_if_a_claim_does_not_hold(run, claims, trained, capsys, name, status):
    assert run(claims, name) == status
    printed = capsys.readouterr().out
    assert ("REACHED  sb3:a2c reaches 0 on CartPole-v1" in printed.replace("NOT REACHED", "")) == (name != "false")
    assert ("NOT REACHED  sb3:a2c reaches 2 on Acrobot-v1" in printed) == (name != "true")
    assert not (claims.parent / "results").exists()


def test_check_lists_what_is_missing_or_stale(run, claims, trained, capsys):
    assert run(claims, "--check") == 1
    printed = capsys.readouterr().out
    assert printed.count("missing: it has not been measured") == 2 and "2 of 2 claims need measuring" in printed
    assert trained == []
    run(claims, "true", "--write")
    assert run(claims, "true", "--check") == 0 and run(claims, "all", "--check") == 1
    path = claims.parent / "results" / "true.json"
    (record,) = json.loads(path.read_text())
    path.write_text(json.dumps([{**record, "code_hash": "other"}]))
    capsys.readouterr()
    assert run(claims, "true", "--check") == 1
    assert "stale: measured with code other" in capsys.readouterr().out


def test_what_is_claimed_is_committed_before_the_first_run(run, claims, trained, capsys):
    (claims / "true.yml").write_text(yaml.safe_dump({"one": {**ENTRY, "bound": -5}}))
    assert run(claims, "true", "--write") == 2
    assert "true.yml before the first run" in capsys.readouterr().err and trained == []


def test_seeds_that_a_record_has_used_are_refused_before_any_run(run, claims, trained, capsys):
    assert run(claims, "true", "--write") == 0
    trained.clear()
    assert run(claims, "true", "--write") == 2
    assert "each seed is used once" in capsys.readouterr().err and trained == []


def test_a_record_names_commit_hash_machine_versions_and_wall_clock(run, claims, trained):
    run(claims, "all", "--only", "CartPole-v1", "--write", "--workers", "2")
    (record,) = json.loads((claims.parent / "results" / "true.json").read_text())
    assert len(record["commit"]) == 40 and len(record["code_hash"]) == 16 and record["clean"] in (True, False)
    assert record["machine"]["cpu"] and record["versions"]["torch"] and record["wall_clock_seconds"] > 0
    assert record["command"] == "python -m benchmarks.claims all --only CartPole-v1 --write"
    assert len(record["draws"]) == 10 and record["draws"][0]["returns"] == [1.0] * 20


def test_a_record_names_the_simulators_of_all_its_environments_and_the_packages_of_its_peers(trained, tmp_path, monkeypatch):
    env_ids = [install(f"engine_{number}", tmp_path, monkeypatch) for number in range(2)]
    claim = claim_of("relative", n_seeds=2, environments=dict.fromkeys(env_ids, 10))
    options = RunOptions(output=tmp_path / "out", runner=trained)
    record = measure_claim(replace(claim, peer="contrib:trpo"), options, "command")
    assert {"engine_0", "engine_1", "sb3_contrib"} <= set(record["versions"])
    assert len(record["draws"]) == 8 and set(record["hyperparameters"]) == {"ppo", "contrib:trpo"}


def test_the_plan_shows_the_power_calculation_and_trains_nothing(run, claims, trained, capsys):
    assert run(claims, "true", "--plan") == 0
    assert "power 0.8 for the verdict 'reached' needs 10 seeds; 10 are planned (power 1.00)" in capsys.readouterr().out
    assert trained == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tru"], "nothing is claimed of 'tru'; choose true"),
        (["false", "--only", "Acrobot-v2"], "nothing is claimed of false on 'Acrobot-v2'; choose Acrobot-v1"),
        ([], "say what to measure: a subject, such as trpo, or all"),
        (["true", "--workers", "0"], "workers is 0"),
    ],
)
def test_a_user_error_is_one_sentence_before_any_run(run, claims, trained, capsys, arguments, sentence):
    assert run(claims, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and sentence in printed.err and trained == []


def test_what_a_claim_needs_is_checked_before_any_claim_is_measured(run, claims, trained, capsys):
    broken = {**ENTRY, "environments": {"CartPol-v1": 80}, "seeds": "1020-1029"}
    (claims / "true.yml").write_text(yaml.safe_dump({"one": ENTRY, "two": broken}))
    assert run(claims, "true") == 2
    assert "did you mean 'CartPole-v1'" in capsys.readouterr().err and trained == []


def test_an_output_folder_must_be_empty_or_hold_an_earlier_measurement(run, claims, trained, tmp_path, capsys):
    output = tmp_path / "kept"
    output.mkdir()
    (output / "thesis.txt").write_text("precious")
    assert run(claims, "true", "--output", str(output)) == 2
    assert "is not empty" in capsys.readouterr().err
    (output / "runs").mkdir()
    assert run(claims, "true", "--output", str(output)) == 0
    assert json.loads((output / "true.json").read_text())[0]["name"] == "one"


def test_kept_runs_are_reused_only_with_the_same_hash_and_settings(trained, tmp_path):
    claim = claim_of("learning", n_seeds=2)
    options = RunOptions(output=tmp_path, progress=False, runner=trained)
    draws = train(claim, options, "this code")
    assert trained == ["ppo 1000", "ppo 1001"]
    assert train(claim, options, "this code") == draws and len(trained) == 2
    train(claim, options, "other code")
    assert len(trained) == 4
    train(replace(claim, environments={"CartPole-v1": 2000}), options, "this code")
    assert len(trained) == 6
    train(replace(claim, seeds=(1001, 1002)), options, "this code")
    assert trained[6:] == ["ppo 1002"]


def test_a_failed_run_is_a_draw_and_is_not_repeated(trained, tmp_path):
    trained.fails = True
    claim = replace(claim_of("learning", n_seeds=2), seeds=(1003, 1004))
    options = RunOptions(output=tmp_path, progress=False, runner=trained)
    first = train(claim, options, "code")
    assert [draw.error for draw in first] == ["ValueError: no", None]
    trained.clear()
    assert train(claim, options, "code") == first and trained == []
    for file in (tmp_path / "runs").rglob("*.json"):
        file.write_text(file.read_text()[:50])  # half written: no run at all
    train(claim, options, "code")
    assert len(trained) == 2


def test_one_side_of_an_improvement_has_what_the_search_found_and_the_other_the_defaults(tmp_path):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "ppo.yml").write_text("CartPole-v1:\n  n_envs: 3\n  gamma: 0.9\n")
    (tmp_path / "ppo.yml").write_text("CartPole-v1:\n  n_envs: 2\n  gamma: 0.5\n")  # the published settings are neither
    contenders = contenders_of(claim_of("improvement"), tmp_path)
    assert [(label, config.n_envs, config.hyperparameters) for label, _, _, config in contenders] == [
        ("tuned", 3, {"gamma": 0.9}),
        ("defaults", 8, {}),
    ]


def test_a_claim_trains_each_seed_on_its_budget():
    claim = replace(claim_of("learning", n_seeds=2), algorithm="sb3:a2c", environments={"CartPole-v1": 80})
    record = measure_claim(claim, RunOptions(progress=False, runner=run_here), "command")
    assert record["verdict"] == "not reached" and [d["steps"] for d in record["draws"]] == [80, 80]
    assert all(len(d["returns"]) == 20 and d["seconds"] > 0 for d in record["draws"])
    assert all(set(d["measured"]) == {"final return", "area under the learning curve"} for d in record["draws"])


@pytest.mark.slow
def test_an_exception_in_a_process_is_a_failed_draw():
    (draw,) = in_processes(count_alarms, [("nothing", "CartPole-v1", 1000, 8)], workers=1)
    assert (draw.contender, draw.seed, draw.measured) == ("nothing", 1000, {}) and "ValueError: algorithm" in draw.error


def test_shards_train_the_runs_and_the_last_call_judges_without_training(run, claims, trained, tmp_path, capsys):
    output = str(tmp_path / "kept")
    seen = []
    for number in (2, 1, 3):
        trained.clear()
        assert run(claims, "true", "--write", "--output", output, "--shard", f"{number}/3") == 0
        assert 3 <= len(trained) <= 4 and not (claims.parent / "results").exists()
        seen += trained
    assert sorted(seen) == [f"sb3:a2c {seed}" for seed in range(1000, 1010)]
    assert "4 runs of shard 1/3 finished, 0 failed" in capsys.readouterr().out
    trained.clear()
    assert run(claims, "true", "--write", "--output", output) == 0 and trained == []
    assert len(json.loads((claims.parent / "results" / "true.json").read_text())[0]["draws"]) == 10


def test_a_shard_leaves_claims_that_need_other_measurements_to_the_last_call(trained, tmp_path, capsys):
    claim = claim_of("false alarms", n_seeds=2)
    run_shares({"ppo": [claim]}, RunOptions(output=tmp_path, runner=trained, shard=Shard(1, 2)))
    assert trained == [] and f"{claim.statement}: left to the command without --shard" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--shard", "1/2"], "--shard needs --output"),
        (["--shard", "3/2", "--output", "kept"], "shard 3/2: shards are numbered from 1"),
        (["--ray", "nowhere"], "Ray address nowhere: write host:port"),
    ],
)
def test_a_shard_or_cluster_that_cannot_be_is_refused_before_any_run(
    run, claims, trained, tmp_path, monkeypatch, capsys, options, sentence
):
    monkeypatch.chdir(tmp_path)
    without(monkeypatch, but_with=("ray",))
    assert run(claims, "true", *options) == 2
    assert sentence in capsys.readouterr().err and trained == [] and not (tmp_path / "kept").exists()
