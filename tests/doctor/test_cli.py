"""The command ``sb3-pgx doctor``: exit codes, output, and one sentence per user error."""

import ctypes
import time

import gymnasium as gym
import pytest
from support import faulty_environments as faulty
from support.broken_algorithms import TruncationIsTermination

from sb3_pgx.cli import main
from sb3_pgx.registry import ALGORITHMS


@pytest.fixture
def registered():
    """Register environments for the duration of a test."""
    names = []

    def register(entry_point):
        gym.register("Patient-v0", entry_point)
        names.append("Patient-v0")
        return names[-1]

    yield register
    for name in names:
        gym.registry.pop(name)


def test_a_sound_environment_exits_with_0(registered, capsys):
    assert main(["doctor", "env", registered(faulty.Sound), "--steps", "300"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Patient-v0: 300 random steps, ") and printed.endswith("\nno faults, no warnings\n")


def test_notes_are_printed_and_exit_with_0(registered, capsys):
    assert main(["doctor", "env", registered(faulty.NeverEnds), "--steps", "300"]) == 0
    printed = capsys.readouterr().out
    assert "note     no_episode_ends: no episode ended in 300 steps" in printed and "no faults, no warnings" in printed


def test_an_environment_that_ends_its_process_is_a_fault_with_the_place(registered, capsys):
    class Crashes(faulty.Sound):
        def step(self, action):
            ctypes.string_at(0)

    assert main(["doctor", "env", registered(Crashes), "--steps", "300"]) == 1
    printed = capsys.readouterr().out
    assert "fault    environment_raises: its process was ended by SIGSEGV: compiled code in it crashed" in printed
    assert "string_at" in printed


def test_an_environment_that_hangs_is_a_fault_with_the_place(registered, capsys):
    class Hangs(faulty.Sound):
        def step(self, action):
            time.sleep(1e6)

    assert main(["doctor", "env", registered(Hangs), "--timeout", "1"]) == 1
    printed = capsys.readouterr().out
    assert "fault    takes_too_long: the examination was ended because it took longer than 1 s" in printed
    assert "test_cli.py" in printed.partition("Current thread")[2]


@pytest.mark.parametrize("env, line", [(faulty.RewardNaN, "fault    reward_not"), (faulty.Large, "warning  large_obs")])
def test_a_fault_or_a_warning_exits_with_1_and_prints_the_remedy(registered, capsys, env, line):
    assert main(["doctor", "env", registered(env), "--steps", "300"]) == 1
    printed = capsys.readouterr().out
    assert line in printed and "\n         → " in printed and "no faults" not in printed


def test_warnings_come_before_notes(registered, capsys):
    class Both(faulty.NeverEnds, faulty.IgnoresTheSeed):
        pass

    assert main(["doctor", "env", registered(Both), "--steps", "300"]) == 1
    printed = capsys.readouterr().out
    assert printed.index("warning  seed_ignored") < printed.index("note     no_episode_ends")


def test_an_algorithm_that_passes_exits_with_0_and_prints_a_table_of_answers(capsys):
    assert main(["doctor", "algo", "reinforce", "--seed", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith(("action ", "constant", "stored"))] == [
        "skipped",
        "passed",
        "passed",
        "passed",
        "passed",
    ]
    assert not any("failed" in line for line in lines)


def test_an_algorithm_that_fails_exits_with_1_and_names_the_broken_part(monkeypatch, capsys):
    monkeypatch.setitem(ALGORITHMS, "ppo", TruncationIsTermination)
    assert main(["doctor", "algo", "ppo"]) == 1
    printed = capsys.readouterr().out
    assert "time limit              V(0)" in printed
    assert printed.splitlines()[-2].startswith("time limit: truncated episodes are treated as terminated")


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["env", "CartPol-v1"], "environment 'CartPol-v1' is unknown: did you mean 'CartPole-v1'"),
        (["env", "CartPole-v1", "--steps", "1"], "steps is 1; a dry run needs at least 2"),
        (["algo", "ppoo"], "algorithm 'ppoo' is unknown; choose ppo"),
        (["algo", "sb3:pppo"], "did you mean 'sb3:ppo'"),
        (["algo", "sb3:dqn"], "DQN is not an on-policy algorithm"),
        (["algo", "ppo[gama=1]"], "PPO has no argument 'gama'; did you mean 'gamma'"),
        (["algo", "ppo[gamma=0.9]"], "gamma cannot be set"),
        (["algo", "ppo[batch_size=1]"], "PPO cannot be created: normalize_advantage=True needs more than one row"),
    ],
)
def test_a_user_error_is_one_sentence_and_exits_with_2(capsys, arguments, sentence):
    assert main(["doctor", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("sb3-pgx: ") and printed.err.count("\n") == 1
    assert sentence in printed.err
