"""The speed benchmark: its arithmetic on given timings, and one small run. No test asserts a speed."""

import json
import subprocess
import sys
from dataclasses import replace

import generated_sections
import gymnasium as gym
import pytest
from stable_baselines3.common.env_checker import check_env
from support.packages import without

from benchmarks.speed import cases, report, run
from benchmarks.speed.__main__ import main
from benchmarks.speed.cases import CASES, Case, Goal, contender_class, missing_package
from benchmarks.speed.measure import Measurement
from benchmarks.speed.phases import PHASES
from benchmarks.speed.results import (
    CaseResult,
    PhaseRound,
    Round,
    Timing,
    as_record,
    compare_with_peers,
    read_results,
)
from benchmarks.speed.timed_code import hash_of_case
from sb3_pgx.settings.configs import RunConfig, check_hyperparameters

# ------------------------------------------------------------------------------------------------ ratios

CASE = Case("a-case", "ppo", "CartPole-v1", ("sb3:ppo",), ours={"compile": False}, timesteps=16, n_envs=2)


def timing(seconds, update=1.0, memory=100.0, collect=1.0):
    """So many seconds for 1000 frames, a round each; phases of 10 steps of the environments and 4 minibatches."""
    phases = {"collect": collect, "evaluate": 0.0, "update": update, "environment": 1.0, "callback": 0.0, "other": 0.0}
    return Timing([Round(1000, s) for s in seconds], [PhaseRound(phases, 10, 4)], 0.5, memory, data_bytes=int(memory))


def case_result(case=CASE, **timings):
    theirs = timing([3.0, 2.0, 20.0], update=3.0, collect=4.0)
    given = {"ppo": timing([1.0, 2.0, 4.0], update=0.5, memory=115.0), "sb3:ppo": theirs}
    return CaseResult(
        case=case,
        timings={**given, **timings},
        ceiling=[Round(1000, 0.01)],
        skipped={"sbx:ppo": "sbx:ppo needs sbx"},
        timesteps=1000,
        command="python -m benchmarks.speed",
        date="2026-01-02",
        machine={"cpu": "a processor", "cores": 3, "system": "an os"},
        versions={"torch": "9.9"},
    )


def test_a_ratio_is_the_median_of_the_rounds_ratios_and_not_the_ratio_of_medians():
    frames, step, acting, memory, data = compare_with_peers(case_result())
    assert (frames.ours, frames.theirs) == (pytest.approx(500.0), pytest.approx(1000 / 3))  # their ratio would be 1.5
    assert frames.ratio == pytest.approx((3.0, 1.0, 5.0))  # 3/1, 2/2, 20/4
    assert (step.ours, step.theirs) == (pytest.approx(125_000.0), pytest.approx(750_000.0))
    assert step.ratio == pytest.approx((6.0, 6.0, 6.0))
    assert (acting.ours, acting.theirs, acting.ratio.median) == (100_000.0, 400_000.0, 4.0)
    assert memory.ratio.median == data.ratio.median == pytest.approx(1.15)


@pytest.mark.parametrize(
    ("metric", "goal", "reached"),
    [
        ("frames", 2.9, True),
        ("frames", 3.1, False),
        ("memory", 1.2, True),
        ("memory", 1.1, False),
        ("data", 1.1, False),
        ("step", 6.5, False),
        ("acting", 3.5, True),
        ("acting", 4.5, False),
    ],
)
def test_a_goal_is_reached_by_the_median_and_memory_by_staying_below(metric, goal, reached):
    result = case_result(replace(CASE, goals=(Goal(metric, "sb3:ppo", goal), Goal(metric, "sbx:ppo", 1.0))))
    judged = {c.metric: c for c in compare_with_peers(result)}
    assert (judged[metric].goal, judged[metric].reached) == (goal, reached)
    assert all(c.goal is None and c.reached is None for name, c in judged.items() if name != metric)
    assert f"{'✓' if reached else '✗'} {'≤' if metric in ('memory', 'data') else '≥'} {goal:g}" in report.markdown([result])


def test_contenders_take_turns():
    calls = []
    measured = run.take_turns({name: lambda n=name: calls.append(n) or len(calls) for name in "abc"}, rounds=2)
    assert calls == ["a", "b", "c", "a", "b", "c"]
    assert measured == {"a": [1, 4], "b": [2, 5], "c": [3, 6]}


def test_the_report_tells_ratios_phases_machine_and_versions():
    text = report.markdown([case_result(replace(CASE, acting_goal=60.0))])
    assert "| a-case | sb3:ppo | 500 / 333 / 100 000 | 3.00 (1.00–5.00) | 6.00 | 4.00 | 1.15 | 1.15 |" in text
    assert "| a-case | ppo | 40 % | 0 % | 20 % | 40 % | 0 % | 0 % | 100000, ✗ ≤ 60 | 125000 | – | 115 |" in text
    assert "2026-01-02 on a processor, 3 cores, an os; torch 9.9" in text and "over the rounds, 3 per case" in text
    compiled = replace(timing([1.0]), warm_cache_seconds=0.25)
    assert "| 0.5 / 0.2 |" in report.markdown([case_result(ppo=compiled, **{"sb3:ppo": timing([1.0])})])


def test_of_a_peer_that_runs_as_one_piece_only_the_frames_are_compared(tmp_path):
    piece = replace(timing([2.0]), phase_rounds=[], peak_memory_mib=None, data_bytes=None)
    result = case_result(replace(CASE, peers=("rltools:ppo",)), ppo=timing([1.0]), **{"sb3:ppo": timing([4.0])})
    result.timings["rltools:ppo"] = piece
    frames = [c for c in compare_with_peers(result) if c.peer == "rltools:ppo"]
    assert [(c.metric, c.ratio.median) for c in frames] == [("frames", 2.0)]
    text = report.markdown([result])
    assert "| a-case | rltools:ppo | 1 000 / 500 / 100 000 | 2.00 | – | – | – | – |" in text
    assert text.count("rltools:ppo") == 1  # it has no phases
    (tmp_path / "bench.json").write_text(json.dumps({"a-case": as_record(result)}))
    assert read_results(tmp_path / "bench.json") == [result]


def test_data_that_torch_does_not_hold_are_not_compared():
    """Off-policy models of SBX have neither tensors nor a rollout buffer."""
    of_jax = replace(timing([3.0, 2.0, 20.0]), data_bytes=0)
    compared = compare_with_peers(case_result(**{"sb3:ppo": of_jax}))
    assert [c.metric for c in compared] == ["frames", "step", "acting", "memory"]


def test_the_report_tells_which_peers_were_missing():
    result = case_result()
    assert "\n\n**Not measured**: a-case: sbx:ppo needs sbx.\n" in report.markdown([result, replace(result, skipped={})])
    assert "Not measured" not in report.markdown([replace(result, skipped={})])


def test_rows_that_were_measured_with_other_code_are_shown_as_stale():
    today = replace(case_result(), code_hash=hash_of_case(CASE))
    assert "Stale" not in report.markdown([today, replace(today, case=replace(CASE, goals=()))])
    other_arguments = replace(CASE, name="ppo-cartpole")  # not those of today's case of that name
    with_those = replace(today, case=other_arguments, code_hash=hash_of_case(other_arguments))
    for stale in (case_result(), replace(today, code_hash="other"), with_those):
        assert "**Stale** (" in report.markdown([stale]) and report.markdown([stale]).endswith("): all rows.")
    other = replace(case_result(), case=replace(CASE, name="another-case"))
    assert report.markdown([today, other]).endswith("): another-case.")


def test_versions_that_another_case_has_too_are_told_once():
    results = [replace(case_result(), versions=v) for v in ({"torch": "9.9"}, {"torch": "9.9", "pfrl": "1"}, {"torch": "9.8"})]
    assert "an os; torch 9.8; torch 9.9, pfrl 1. Ratios" in report.markdown([*results, *results])


def test_a_callbacks_share_is_judged_for_our_contender_alone():
    slow = timing([1.0])
    slow.phase_rounds[0].seconds.update(collect=0.9, environment=0.0, update=0.04, callback=0.06)
    for goal, verdict in ((0.05, "✗ ≤ 5 %"), (0.1, "✓ ≤ 10 %")):
        text = report.markdown([case_result(replace(CASE, callback_goal=goal), ppo=slow, **{"sb3:ppo": timing([1.0])})])
        assert text.count(f"| 6.0 %, {verdict} |") == 1 and "≤ 5 %" not in text.replace(verdict, "")


def test_results_survive_their_file(tmp_path):
    original = case_result(replace(CASES[0], peers=("sb3:ppo", "sbx:ppo")))
    (tmp_path / "bench.json").write_text(json.dumps({"ppo-cartpole": as_record(original)}))
    assert read_results(tmp_path / "bench.json") == [original]
    comparisons = as_record(original)["comparisons"]
    assert comparisons[0]["ratio"] == {"median": 3.0, "low": 1.0, "high": 5.0} and comparisons[0]["goal"] == 4.5


# ------------------------------------------------------------------------------------------------ cases


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_gives_arguments_that_its_contenders_have(case):
    for contender in (case.algorithm, *case.peers):
        if missing_package(contender) is None:
            config = RunConfig(source=case.name, hyperparameters=case.arguments(contender))
            check_hyperparameters(contender_class(contender), config)


def test_only_algorithms_of_this_package_get_its_own_arguments():
    case = replace(CASE, hyperparameters={"n_steps": 8}, ours={"compile": True})
    assert case.arguments("ppo") == {"n_steps": 8, "compile": True} and case.arguments("sb3:ppo") == {"n_steps": 8}
    alone = replace(case, alone={"sb3:ppo": {"n_steps": 4}})
    assert alone.arguments("ppo") == case.arguments("ppo") and alone.arguments("sb3:ppo") == {"n_steps": 4}


def test_every_goal_is_against_a_peer_of_its_case():
    assert all(goal.peer in case.peers for case in CASES for goal in case.goals)
    assert len({case.name for case in CASES}) == len(CASES)


def test_random_frames_are_images_and_end():
    env = gym.make("benchmarks.speed.frames:RandomFrames-v0")
    check_env(env.unwrapped)
    first, _ = env.reset()
    ends = [env.step(0) for _ in range(100)]
    assert (ends[0][0] != first).any()
    assert [truncated for *_, truncated, _ in ends] == [False] * 99 + [True]


@pytest.fixture(scope="module")
def in_a_new_process():
    """By how much the peak of memory grows with 128 MiB, and the size of a model's data."""
    case = replace(CASE, hyperparameters={"n_steps": 8, "batch_size": 16, "n_epochs": 1})
    code = (
        "import numpy as np; from benchmarks.speed.measure import Measurement, peak_memory;"
        "from benchmarks.speed.cases import Case;"
        "before = peak_memory(); kept = np.ones(2**24); print(peak_memory() - before);"
        f"m = Measurement({case!r}, 'ppo'); m.warm_up(); print(m.data_bytes())"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    return {"grown": float(lines[0]), "data": int(lines[-1])}


@pytest.mark.slow
def test_the_data_of_a_model_are_its_parameters_moments_and_rollout(in_a_new_process):
    network = 4 * (2 * (4 * 64 + 64 + 64 * 64 + 64) + 3 * 64 + 3)  # actor and critic of CartPole-v1, 4 bytes a number
    assert (
        3 * network < in_a_new_process["data"] < 3 * network + 8192
    )  # two moments each; a rollout of 16 rows and small change


@pytest.mark.slow
def test_memory_is_in_mebibytes(in_a_new_process):
    assert in_a_new_process["grown"] == pytest.approx(128, abs=30)


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """The command with three cases, the second of which fails, and made-up results, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    three = tuple(replace(CASE, name=name) for name in ("first", "second", "third"))

    def measure_case(case, rounds, timesteps, command):
        if case.name == "second":
            raise RuntimeError("no\nluck")
        return replace(case_result(case), timesteps=timesteps, command=f"{rounds} rounds: {command}")

    def command(arguments, known=three):
        return main(arguments, known=known, results=tmp_path / "benchmarks" / "results", measure_case=measure_case)

    return command


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--cases", "ppo-cartpol"], "benchmark case 'ppo-cartpol' is unknown; did you mean 'ppo-cartpole'"),
        (["--cases", "xyz"], "choose from ppo-cartpole, ppo-pendulum"),
        (["--rounds", "0"], "rounds is 0; it must be at least 1"),
        (["--timesteps", "0", "--quick"], "timesteps is 0; it must be at least 1"),
        (["--quick", "--write"], "leave out --quick or --write"),
        (["--output", "."], ". exists; choose another file"),
    ],
)
def test_a_user_error_is_one_sentence_before_any_measuring(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments], measure_case=lambda *args: pytest.fail("measuring started")) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("sb3-pgx: ") and printed.err.count("\n") == 1
    assert sentence in printed.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_only_by_force(bench, tmp_path, capsys):
    file = tmp_path / "bench.json"
    file.write_text("precious")
    command = ["--cases", "first", "--output", str(file)]
    assert bench(command) == 2
    assert "--force" in capsys.readouterr().err and file.read_text() == "precious"
    assert bench([*command, "--force"]) == 0
    assert list(json.loads(file.read_text())) == ["first"]


def test_a_case_that_fails_is_told_and_takes_no_other_with_it(bench, tmp_path, capsys):
    assert bench(["--output", "bench.json"]) == 1
    printed = capsys.readouterr().out
    assert "second: failed, RuntimeError: no luck\n" in printed
    assert "first: 3.00 (1.00–5.00) times sb3:ppo; sbx:ppo needs sbx (skipped)\n" in printed
    results = read_results(tmp_path / "bench.json")
    assert [result.case.name for result in results] == ["first", "third"] and report.markdown(results) in printed


def test_writing_into_the_repository_keeps_the_cases_that_were_not_measured(bench, tmp_path):
    file = tmp_path / "benchmarks/results/bench.json"
    assert bench(["--write", "--cases", "first", "third"]) == 0
    assert bench(["--write", "--cases", "third", "--rounds", "7"]) == 0
    commands = [result.command for result in read_results(file)]
    assert commands == [
        "5 rounds: python -m benchmarks.speed --write --cases first third",
        "7 rounds: python -m benchmarks.speed --write --cases third --rounds 7",
    ]


@pytest.mark.parametrize(
    ("arguments", "rounds", "timesteps"),
    [([], 5, 16), (["--quick"], 2, 1), (["--quick", "--rounds", "3", "--timesteps", "40"], 3, 40)],
)
def test_rounds_and_timesteps_are_the_cases_unless_given(bench, tmp_path, arguments, rounds, timesteps):
    assert bench(["--cases", "first", "--output", "bench.json", *arguments]) == 0
    (result,) = read_results(tmp_path / "bench.json")
    assert (result.timesteps, result.command.split(" rounds")[0]) == (timesteps, str(rounds))


def test_a_case_whose_environment_needs_a_missing_package_is_skipped_with_its_reason(bench, tmp_path, capsys):
    known = [replace(CASE, name="first", env_id="sticks:Pole-v0"), replace(CASE, name="third")]
    assert bench(["--output", "bench.json"], known) == 0
    printed = capsys.readouterr().out
    assert (
        "first: skipped, environment sticks:Pole-v0: module sticks cannot be imported: No module named 'sticks'\n" in printed
    )
    assert [result.case.name for result in read_results(tmp_path / "bench.json")] == ["third"]


def test_a_case_whose_own_environments_need_a_missing_package_is_skipped_with_its_reason(bench, tmp_path, capsys, monkeypatch):
    without(monkeypatch, "envpool")
    assert bench(["--output", "bench.json"], [replace(CASE, name="first", algorithm="ppo+envpool"), CASE]) == 0
    reason = "ppo+envpool needs envpool, which is not installed: pip install envpool"
    assert f"first: skipped, {reason}\n" in capsys.readouterr().out
    assert [result.case.name for result in read_results(tmp_path / "bench.json")] == ["a-case"]


@pytest.mark.parametrize("content", ['{"first": {', "[1]"])
def test_results_that_cannot_be_read_are_left_alone(bench, tmp_path, capsys, content):
    file = tmp_path / "benchmarks/results/bench.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    assert bench(["--write"]) == 2
    assert f"{file} cannot be read (" in capsys.readouterr().err and file.read_text() == content


@pytest.mark.slow
def test_a_small_benchmark_measures_everything(tmp_path, monkeypatch, capsys):
    """Two rounds of our PPO beside SB3's, as if SBX were not installed."""
    without(monkeypatch, "sbx")
    hyperparameters = {"n_steps": 8, "batch_size": 4, "n_epochs": 2}
    small = replace(CASE, peers=("sb3:ppo", "sbx:ppo"), hyperparameters=hyperparameters, ours={"compile": True})
    file = tmp_path / "new" / "bench.json"
    assert main(["--rounds", "2", "--timesteps", "20", "--output", str(file)], known=[small]) == 0
    (result,) = read_results(file)
    assert report.markdown([result]) in capsys.readouterr().out
    assert "sbx:ppo needs sbx, which is not installed: pip install sbx-rl" == result.skipped["sbx:ppo"]
    assert list(result.timings) == ["sb3:ppo", "ppo"]
    for contender in result.timings.values():
        assert [r.frames for r in contender.rounds] == [32, 32]  # 20 are two rollouts of 16
        (phases,) = contender.phase_rounds
        assert (phases.env_steps, phases.gradient_steps) == (16, 16)
        assert all(phases.seconds[phase] > 0 for phase in PHASES if phase not in ("evaluate", "callback"))
        assert contender.warm_up_seconds >= 0 and contender.peak_memory_mib > 50
    ours, theirs = result.timings["ppo"], result.timings["sb3:ppo"]
    assert ours.phase_rounds[0].seconds["evaluate"] > 0 == theirs.phase_rounds[0].seconds["evaluate"]
    assert ours.warm_cache_seconds is not None and theirs.warm_cache_seconds is None
    assert [r.frames for r in result.ceiling] == [20]
    assert result.machine["cpu"] and result.machine["cores"] and result.versions["torch"] and result.date
    assert result.command.startswith("python -m benchmarks.speed --rounds 2")
    assert result.commit and result.clean is not None and result.code_hash == hash_of_case(small)


def test_one_model_trains_with_and_without_diagnostics():
    calls = []

    class Here:
        """A process's stand-in, which notes who was asked for what."""

        def __init__(self, case, contender, cache):
            self.name, self.measurement = contender, Measurement(case, contender)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def wait(self):
            pass

        def call(self, method, *args):
            calls.append((self.name, method.__name__, *args[1:]))
            return method(self.measurement, *args)

    small = {"n_steps": 8, "batch_size": 4, "n_epochs": 2}
    case = replace(CASE, algorithm="ppo+diagnostics", peers=("ppo",), hyperparameters=small)
    result = run.measure(case, rounds=2, timesteps=16, command="", process=Here)
    rounds = [(name, *rest) for name, method, *rest in calls if method == "round" and rest]
    assert rounds == 2 * [("ppo+diagnostics", False), ("ppo+diagnostics", True)]
    shares = {name: t.phase_rounds[0].share("callback") for name, t in result.timings.items()}
    assert shares["ppo"] == 0 < shares["ppo+diagnostics"] < 1


def test_pfrls_acer_is_timed_by_segments_as_ours_is():
    pytest.importorskip("pfrl", reason="PFRL is not installed: pip install pfrl gym", exc_type=ImportError)
    arguments = {"n_steps": 5, "replay_start": 10, "replay_ratio": 3}
    case = replace(CASE, algorithm="acer", peers=(cases.PFRL_ACER,), hyperparameters=arguments, ours={}, n_envs=2)
    measurement = Measurement(case, cases.PFRL_ACER)
    assert measurement.phase_round(1).gradient_steps == 1  # a rollout of ours, each row learned from once
    agent, rows = measurement.model.agent, []
    compute_loss = agent.compute_loss
    agent.compute_loss = lambda **kwargs: rows.extend(kwargs["actions"]) or compute_loss(**kwargs)
    assert [measurement.round(60).frames, measurement.round(1).frames] == [60, 10]
    before = measurement.model.n_gradient_steps
    phases = measurement.phase_round(20)
    assert phases.env_steps == 20 and phases.gradient_steps == (10 + len(rows)) // 10 - before > 2
    assert all(phases.share(phase) > 0 for phase in ("collect", "update", "environment"))


def test_pfrls_acer_needs_what_it_needs(monkeypatch):
    for missing, other in (("pfrl", "gym"), ("gym", "pfrl")):
        without(monkeypatch, missing, but_with=[other])
        assert missing_package(cases.PFRL_ACER) == "pfrl:acer needs PFRL and Gym: pip install pfrl gym"
    without(monkeypatch, but_with=["pfrl", "gym"])
    assert missing_package(cases.PFRL_ACER) is None


# ------------------------------------------------------------------------------------------------ the published tables


def test_published_speeds_are_those_that_were_measured():
    assert generated_sections.section("speed") == generated_sections.GENERATED["speed"]()


def test_the_table_of_speeds_is_made_from_the_file_and_left_alone_without_it(tmp_path):
    file = tmp_path / "bench.json"
    assert generated_sections.speed_tables(file) == generated_sections.section("speed")
    file.write_text(json.dumps({"a-case": as_record(case_result())}))
    assert generated_sections.speed_tables(file) == report.markdown([case_result()])
