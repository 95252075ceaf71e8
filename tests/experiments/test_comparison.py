"""A comparison as a whole: several environments, the files it writes, and how it resumes."""

import csv
import json
import sys
from dataclasses import replace
from itertools import product
from types import ModuleType

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.envs.registration import EnvSpec
from selection import mostly_slow
from support.browser import browse, needs_browser, pixels_of
from support.run_in_process import compare_here

from sb3_pgx.experiments import compare
from sb3_pgx.experiments.pool import read_result, run_here, write_result
from sb3_pgx.experiments.random_policy import random_returns
from sb3_pgx.pages.looks import COLORS
from sb3_pgx.settings.configs import RunConfig

pytestmark = pytest.mark.usefixtures("jax_unseen")
ENVS, ALGOS = ("Thirty-v0", "Forty-v0"), ("a2c", "sb3:a2c")
COMPARE = ["compare", "--env", *ENVS, "--algos", *ALGOS, "--seeds", "2", "--timesteps", "80", "--eval-episodes", "2"]


@pytest.fixture(scope="module", autouse=True)
def environments():
    """Two environments whose episodes have at most 30 and 40 steps."""
    for env_id, steps in zip(ENVS, (30, 40), strict=True):
        entry = "gymnasium.envs.classic_control:CartPoleEnv"
        gymnasium.register(env_id, entry, max_episode_steps=steps, reward_threshold=steps - 0.5)
    yield
    for env_id in ENVS:
        gymnasium.registry.pop(env_id)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The output folder of a comparison, which the tests below only read."""
    folder = tmp_path_factory.mktemp("first") / "out"
    assert compare_here([*COMPARE, "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def again(first, undrawn, tmp_path):
    """
    A copy of the folder, and a function that runs the command again and returns its exit status and the runs that it would
    have trained.
    """
    names, done, folder = [], {}, tmp_path / "out"
    for path in first.rglob("*"):
        if path.is_file():
            copy = folder / path.relative_to(first)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    for path in first.glob("runs/*/*.json"):
        result = read_result(path)
        done[result.env_id, result.label, result.seed] = result

    def pretend(specs, paths, workers, progress, on_result):
        names.extend(f"{spec.label} {spec.env_id} {spec.seed}" for spec in specs)
        return [done[spec.env_id, spec.label, spec.seed] for spec in specs]

    def command(*options):
        names.clear()
        status = compare_here([*COMPARE, *options, "--output", str(folder)], pretend)
        return status, list(names)

    return folder, command


@pytest.mark.slow
def test_with_jax_imported_random_actions_are_played_in_a_new_process_that_knows_the_environments(monkeypatch):
    """Environments that use JAX would hang in a copy of a process that has imported it."""
    configs = {"Thirty-v0": RunConfig(source="test"), "Local-v0": RunConfig(source="test")}

    local = EnvSpec("Local-v0", lambda **kwargs: CartPoleEnv(**kwargs), max_episode_steps=30)  # as in a notebook
    monkeypatch.setitem(gymnasium.registry, "Local-v0", local)
    expected = random_returns(configs)
    monkeypatch.setitem(sys.modules, "jax", ModuleType("jax"))
    # The time limit is about the environments: a new process takes longer to start.
    assert random_returns(configs, timeout=1.5) == expected and len(expected) == 2


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_environment_algorithm_and_seed_is_a_run_and_a_row(first):
    runs = {path.relative_to(first / "runs").as_posix() for path in first.glob("runs/*/*.json")}
    assert runs == {f"{e}/{a}-seed{s}.json" for e, a, s in product(ENVS, ("a2c", "sb3-a2c"), (0, 1))}
    rows = table(first / "runs.csv")
    assert [(r["environment"], r["algorithm"], r["seed"]) for r in rows] == [*product(ENVS, ALGOS, ("0", "1"))]
    for row in rows:
        run = json.loads(
            (first / "runs" / row["environment"] / f"{row['algorithm'].replace(':', '-')}-seed{row['seed']}.json").read_text()
        )
        assert float(row["mean_return"]) == run["mean_return"] and run["timesteps"] == 80
    assert len(table(first / "curves.csv")) == sum(
        len(json.loads(p.read_text())["curve_steps"]) for p in first.glob("runs/*/*")
    )


def test_scores_are_0_for_a_random_policy_and_1_at_the_threshold(first):
    report = (first / "report.md").read_text()
    scale = {}
    for line in report.partition("## What counts as 0 and as 1")[2].splitlines()[4:6]:
        env_id, low, why_low, high, why_high = (cell.strip() for cell in line.strip("|").split("|"))
        assert (why_low, why_high) == ("a random policy (at most 20 episodes)", "the threshold")
        scale[env_id] = (float(low), float(high))
    assert [high for _, high in scale.values()] == [29.5, 39.5] and all(15 < low < 29 for low, _ in scale.values())
    for row in table(first / "runs.csv"):
        low, high = scale[row["environment"]]
        assert float(row["score"]) == pytest.approx((float(row["mean_return"]) - low) / (high - low), abs=0.2)


def test_the_summary_sums_up_the_rows_of_the_runs(first):
    rows, summary = table(first / "runs.csv"), table(first / "summary.csv")
    for algorithm in ALGOS:
        scores = np.array([float(r["score"]) for r in rows if r["algorithm"] == algorithm])  # two of each environment
        (iqm,) = [
            r for r in summary if (r["environment"], r["algorithm"]) == ("all", algorithm) and "interq" in r["statistic"]
        ]
        assert float(iqm["value"]) == pytest.approx(np.sort(scores)[1:3].mean())
        assert float(iqm["low"]) <= float(iqm["value"]) <= float(iqm["high"])
    assert [r["statistic"] for r in summary if "improvement" in r["statistic"]] == ["probability of improvement over sb3:a2c"]


def test_the_report_names_what_it_takes_to_do_it_again(first):
    for report in ((first / "report.md").read_text(), (first / "report.html").read_text()):
        assert (
            "sb3-pgx compare --env Thirty-v0 Forty-v0 --algos a2c sb3:a2c --timesteps 80 --seeds 2 --eval-episodes 2" in report
        )
        assert "2 seeds are few" in report and "torch 2." in report and "a2c.yml: default" in report
    names = {"curves", "aggregates", "profiles", "improvement", "sample_efficiency", "wall_clock"}
    assert {path.stem for path in first.glob("*.png")} == names


@needs_browser
def test_a_browser_shows_every_picture_and_has_nothing_to_complain_about(first):
    seen, console = browse(first / "report.html")
    assert console == []
    for color in COLORS[: len(ALGOS)]:
        assert pixels_of(seen, color) > 500


def test_finished_runs_are_not_trained_again(again, capsys):
    folder, command = again
    before = (folder / "report.md").read_text()
    assert command() == (0, [])
    assert (folder / "report.md").read_text() == before
    assert "8 of them have already ended and are reused" in capsys.readouterr().out


def test_runs_that_are_missing_failed_or_half_written_are_trained_again(again, capsys):
    folder, command = again
    missing, failed, half, other = (
        folder / "runs" / name
        for name in (
            "Thirty-v0/a2c-seed0.json",
            "Thirty-v0/a2c-seed1.json",
            "Forty-v0/a2c-seed0.json",
            "Forty-v0/sb3-a2c-seed1.json",
        )
    )
    missing.unlink()
    write_result(replace(read_result(failed), error="MemoryError: no"), failed)
    half.write_bytes(half.read_bytes()[:200])
    other.write_bytes((folder / "runs/Thirty-v0/sb3-a2c-seed1.json").read_bytes())
    assert command("--retry-failed") == (0, ["a2c Thirty-v0 0", "a2c Thirty-v0 1", "a2c Forty-v0 0", "sb3:a2c Forty-v0 1"])
    printed = capsys.readouterr().out
    for path in (half, other):
        assert f"{path} is incomplete or belongs to different settings; this run is repeated" in printed
    assert str(failed) not in printed and "4 of them have already ended and are reused" in printed


def test_further_seeds_and_algorithms_may_join(again):
    folder, command = again
    record = json.loads((folder / "comparison.json").read_text())
    del record["configs"]["Forty-v0"]
    (folder / "comparison.json").write_text(json.dumps({**record, "seeds": [0]}))
    assert command() == (0, [])
    assert json.loads((folder / "comparison.json").read_text())["seeds"] == [0, 1]


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (["--timesteps", "81"], "timesteps was 80 and is now 81"),
        (["--eval-episodes", "3"], "eval_episodes was 2 and is now 3"),
        (["--seeds", "1"], "seeds were [0, 1] and are now [0]"),
        (["--algos", "a2c"], "it includes sb3:a2c on Thirty-v0, which is not part of this one"),
        (["--env", "Thirty-v0"], "it includes a2c on Forty-v0, which is not part of this one"),
        (["--configs", "CONFIGS"], "settings of a2c on Thirty-v0: gamma was None and is now 0.5"),
        (["--vec-env", "vector"], "settings of a2c on Thirty-v0: vec_env was dummy and is now vector"),
    ],
)
def test_a_folder_of_another_comparison_is_refused_and_untouched(again, tmp_path, capsys, options, difference):
    folder, command = again
    (tmp_path / "CONFIGS").mkdir()
    (tmp_path / "CONFIGS" / "a2c.yml").write_text("default: {n_envs: 8, n_timesteps: 7, gamma: 0.5}\n")
    options = [str(tmp_path / "CONFIGS") if word == "CONFIGS" else word for word in options]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert command(*options) == (2, [])
    error = capsys.readouterr().err
    assert (
        f"{folder} holds another comparison ({difference}); choose another folder, or use --force" in error
        and error.count("\n") == 1
    )
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_other_versions_are_another_comparison_and_force_trains_every_run_anew(again, capsys):
    folder, command = again
    record = json.loads((folder / "comparison.json").read_text())
    record["versions"]["torch"] = "1.0"
    (folder / "comparison.json").write_text(json.dumps(record))
    (folder / "notes.txt").write_text("precious")
    assert command() == (2, [])
    assert "torch was 1.0 and is now 2." in capsys.readouterr().err
    (folder / "comparison.json").write_text("{half")
    assert command() == (2, []) and "its comparison.json cannot be read" in capsys.readouterr().err
    status, trained = command("--force")
    assert status == 0 and len(trained) == 8
    assert not list(folder.glob("runs/*/*.json")), "what was there would count as finished after an interruption"
    assert (folder / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize("option", mostly_slow(["--configs", "--vec-env"], ["--configs"]))
def test_runs_of_what_was_there_before_force_do_not_count_as_those_of_another_comparison(again, tmp_path, option):
    folder, command = again
    (tmp_path / "configs").mkdir()
    for name in ("a2c", "sb3_a2c"):
        (tmp_path / "configs" / f"{name}.yml").write_text("default: {n_envs: 8, gamma: 0.5}\n")
    settings = [option, {"--configs": str(tmp_path / "configs"), "--vec-env": "vector"}[option]]
    assert command(*settings, "--algos", "a2c", "--force")[0] == 0
    assert len(list(folder.glob("runs/*/sb3-a2c-seed*.json"))) == 4
    assert set(command(*settings)[1]) >= {f"sb3:a2c {env_id} {seed}" for env_id, seed in product(ENVS, (0, 1))}


@pytest.mark.slow
def test_environments_that_step_as_arrays_give_the_same_runs(first, tmp_path):
    output = tmp_path / "out"
    assert compare_here([*COMPARE, "--vec-env", "vector", "--output", str(output)]) == 0
    for name in ("runs.csv", "curves.csv"):
        for row, expected in zip(table(output / name), table(first / name), strict=True):
            timed = {key for key in row if "second" in key}
            assert timed and {k: v for k, v in row.items() if k not in timed} == {
                k: expected[k] for k in row if k not in timed
            }
    assert {read_result(path).config["vec_env"] for path in output.glob("runs/*/*.json")} == {"vector"}
    assert "a2c.yml: default, vec_env=vector" in (output / "report.md").read_text()


def test_one_environment_keeps_returns_and_leaves_out_what_sums_environments_up(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "a2c.yml").write_text("default: {n_envs: 4}\n")
    (tmp_path / "configs" / "ppo.yml").write_text("default: {n_envs: 4, n_steps: 20, learning_rate: -1.0}\n")
    output = tmp_path / "out"
    found = compare(
        "Thirty-v0",
        ["sb3:a2c", "sb3:ppo"],
        80,
        seeds=[3],
        output=output,
        eval_episodes=2,
        configs=tmp_path / "configs",
        progress=False,
        runner=run_here,
    )
    assert found.report == (output / "report.md").read_text()
    assert "| sb3:ppo | every run failed |" in found.brief
    assert "sb3:ppo on Thirty-v0, seed 3: ValueError: Invalid learning rate: -1.0" in found.brief
    assert "One seed says nothing about the spread" in found.report
    assert {path.stem for path in output.glob("*.png")} == {"curves", "profiles", "wall_clock"}
    assert "What counts as 0" not in found.report and "--seeds 3," in found.report
    ran, failed = table(output / "runs.csv")
    assert ran["score"] == ran["mean_return"] and failed["error"].startswith("ValueError: Invalid learning rate")
