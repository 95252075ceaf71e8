"""Every check finds the fault that it is made for, and nothing in sound environments."""

import dataclasses
import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from support import faulty_environments as faulty

from sb3_pgx.doctor import DryRun, check_dry_run, examine_environment
from sb3_pgx.doctor.dry_run import MAX_BYTES, record_dry_run
from sb3_pgx.doctor.environment import check_with_sb3
from sb3_pgx.doctor.environment_checks import CHECKS


def found(env, steps=400):
    return {finding.name: finding.observed for finding in check_dry_run(record_dry_run(env, steps, seed=0))}


PLANTED = [
    (faulty.RewardNaN, "reward_not_finite", r"the reward is nan at step \d+ \(\d+ of 400 rewards\)"),
    (faulty.ObservationInfinite, "observation_not_finite", r"observation\[1\] is inf at step \d+"),
    (faulty.OutsideItsSpace, "observation_outside_space", r"observation\[1\] is .* at step \d+, .* goes from -5 to 5"),
    (
        faulty.BarelyOutside,
        "observation_outside_space",
        r"observation\[0\] is 1.000000001\d* at step \d+, .* goes from 0 to 1$",
    ),
    (faulty.NumberOutsideItsSpace, "observation_outside_space", r"observation is 3 at step \d+, .* from 0 to 2"),
    (faulty.OtherDtype, "observation_dtype", "has dtype float64, but its space has float32"),
    (faulty.ConstantDimension, "constant_observation", r"never changes in 1 of 2 dimensions \(1\) in 400 steps"),
    (faulty.BlackPictures, "constant_observation", "the observation never changes in 400 steps"),
    (faulty.WrongKey, "constant_observation", r"the observation\['bad'\] never changes"),
    (faulty.Large, "large_observation", r"\|observation\[1\]\| reaches \d{3}"),
    (faulty.NoReward, "constant_reward", "the reward is 0 at each of 400 steps"),
    (faulty.SameReturn, "constant_reward", "the reward is 1 at each of 400 steps"),
    (faulty.LargeRewards, "large_return", r"the absolute value of discounted returns \(γ = 0.99\) reaches \d+"),
    (faulty.TimeLimitTerminates, "time_limit_as_termination", "all 20 episodes end after 20 steps, none of them is truncated"),
    (faulty.NeverEnds, "no_episode_ends", "no episode ended in 400 steps"),
    (faulty.IgnoresTheSeed, "seed_ignored", "two resets with the same seed give different observations"),
    (faulty.Raises, "environment_raises", r"step 2 of the dry run raised ZeroDivisionError: division by zero"),
    (faulty.RaisesAtReset, "environment_raises", "step 0 of the dry run raised FileNotFoundError: no map"),
    (faulty.OtherShape, "environment_raises", r"shape \(1,\), but its space has \(2,\)"),
]


@pytest.mark.parametrize("env, name, sentence", PLANTED, ids=[env.__name__ for env, *_ in PLANTED])
def test_a_planted_fault_is_found_and_no_other(env, name, sentence):
    findings = found(env())
    assert list(findings) == [name]
    assert re.search(sentence, findings[name]), findings[name]


def test_every_check_has_an_environment_with_its_fault():
    assert {name for _, name, _ in PLANTED} == {check.name for check in CHECKS}


SOUND = [faulty.Sound, faulty.OfBytes, faulty.RunsOutOfFuel, faulty.EndsInAState, faulty.Goal, faulty.RoundsBeyond]
SOUND += [faulty.Catch, faulty.NumPyRewards]


@pytest.mark.parametrize("env", SOUND)
def test_a_sound_environment_has_no_findings(env):
    assert found(env()) == {}


def test_sb3s_checker_accepts_an_environment_with_a_goal_inside_gymnasiums_wrappers():
    gym.register("Goal-v0", entry_point=faulty.Goal, max_episode_steps=30)
    findings = examine_environment("Goal-v0", steps=100).findings
    assert not [f for f in findings if f.is_problem], findings


@pytest.mark.parametrize("env_id, notes", [("CartPole-v1", []), ("Pendulum-v1", ["sb3_check_env", "large_return"])])
def test_healthy_environments_of_gymnasium_get_notes_at_most(env_id, notes):
    findings = examine_environment(env_id).findings
    assert not any(finding.is_problem for finding in findings), findings
    assert [finding.name for finding in findings] == notes


@pytest.mark.parametrize(
    "action_space, is_reported",
    [
        (spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(-1, 1, (1,), np.float32)), False),
        (spaces.Tuple([spaces.Tuple([spaces.Discrete(2)])]), True),
    ],
)
def test_sb3s_warning_of_actions_in_several_parts_is_left_out_where_this_package_acts_in_them(action_space, is_reported):
    env = faulty.Sound()
    env.action_space = action_space
    reported = [finding for finding in check_with_sb3(env) if "Dict or Tuple space" in finding.observed]
    assert bool(reported) == is_reported


def test_a_constant_reward_is_accepted_if_episodes_differ_in_length():
    record = record_dry_run(gym.make("CartPole-v1"), 400, seed=0)
    assert (record.rewards == 1).all() and "constant_reward" not in {f.name for f in check_dry_run(record)}


def test_episodes_that_are_all_truncated_at_the_same_length_are_accepted():
    assert "time_limit_as_termination" not in found(gym.make("Pendulum-v1"), steps=1000)


def test_one_step_episodes_do_not_count_as_a_time_limit():
    class Bandit(faulty.Sound):
        def terminated(self):
            return True

    assert found(Bandit()) == {}


def rollout(rewards, terminated, **changes):
    """Return a record of N copies, as in the rollouts of a run, from ``[T][N]`` lists."""
    rewards = np.array(rewards, float)
    seen = np.random.default_rng(0).uniform(-1, 1, (2, *rewards.shape, 1)).astype(np.float32)
    record = DryRun(
        observation_spaces={"": spaces.Box(-1, 1, (1,), np.float32)},
        observations={"": seen[0]},
        next_observations={"": seen[1]},
        rewards=rewards,
        terminated=np.array(terminated, bool),
        truncated=np.zeros_like(rewards, bool),
    )
    return dataclasses.replace(record, **changes)


def test_episodes_are_counted_separately_for_each_environment():
    terminated = [[0, 1], [1, 0], [0, 1], [0, 0], [1, 0]]
    record = rollout(np.arange(10).reshape(5, 2), terminated)
    assert sorted(record.episode_lengths()) == [1, 2, 2, 3]
    # The length of the first episodes is unknown if the record does not start at a reset.
    assert sorted(dataclasses.replace(record, starts_at_reset=False).episode_lengths()) == [2, 3]


def test_returns_are_discounted_within_episodes():
    record = rollout([[1, 0], [10, 0], [100, 4], [1000, 8]], [[0, 0], [1, 0], [0, 0], [0, 1]])
    assert record.returns(0.5)[:, 0].tolist() == [6, 10, 600, 1000]
    assert record.returns(0.5)[:, 1].tolist() == [2, 4, 8, 8]


@pytest.mark.parametrize("outside", [7, -7])
def test_a_number_beyond_either_bound_is_reported_with_its_environment(outside):
    seen = np.zeros((3, 2, 1), np.float32)
    seen[1, 1], seen[2, 0] = outside, 0.5
    (finding,) = check_dry_run(rollout([[1, 2], [3, 4], [5, 6]], np.eye(3, 2), observations={"": seen}))
    assert finding.observed == f"observation[0] is {outside} at step 1 of environment 1, but its space goes from -1 to 1"


def test_an_entry_that_changes_only_in_final_observations_is_not_constant():
    same = np.zeros((3, 1, 1), np.float32)
    assert check_dry_run(rollout([[1], [2], [3]], [[1], [1], [1]], observations={"": same})) == []


def test_final_observations_are_checked():
    after = np.zeros((3, 1, 1), np.float32)
    after[2] = np.nan
    record = rollout([[1], [2], [3]], [[0], [1], [1]], next_observations={"": after})
    assert [finding.name for finding in check_dry_run(record)] == ["observation_not_finite"]


def test_the_record_does_not_change_when_an_environment_reuses_its_array():
    class WritesInPlace(faulty.Sound):
        array = np.zeros(2, np.float32)

        def observe(self):
            self.array[:] = super().observe()
            return self.array

    record = record_dry_run(WritesInPlace(), 50, seed=0)
    same, other = (record_dry_run(faulty.Sound(), 50, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(record.observations[""], same.observations[""])
    assert not np.array_equal(same.observations[""], other.observations[""])


def test_a_dry_run_with_large_observations_is_shorter():
    class Huge(faulty.OfBytes):
        observation_space = spaces.Box(0, 255, (1024, 1024, 8), np.uint8)

        def observe(self):
            return np.full((1024, 1024, 8), self.age, np.uint8)

    record = record_dry_run(Huge(), 100, seed=0)
    assert record.observations[""].nbytes <= MAX_BYTES and len(record.rewards) == 8


@pytest.mark.parametrize(
    "env, severity, sentence",
    [
        (faulty.OtherDtype, "fault", "Expected: float32, actual dtype: float64"),
        (faulty.Raises, "fault", "ZeroDivisionError: division by zero"),
    ],
)
def test_an_error_of_sb3s_checker_is_a_fault_without_a_traceback(env, severity, sentence):
    (finding,) = check_with_sb3(env())
    assert finding.severity == severity and sentence in finding.observed and "\n" not in finding.observed


@pytest.mark.parametrize("env", [faulty.RoundsBeyond, faulty.NumPyRewards])
def test_what_training_accepts_is_no_fault_for_sb3s_checker(env):
    assert check_with_sb3(env()) == []


def test_sb3s_checker_still_finds_what_is_more_than_rounding():
    class Outside(faulty.RoundsBeyond):
        def observe(self):
            return np.array([1.0 + 1e-9, 0.5])

    (finding,) = check_with_sb3(Outside())
    assert "does not match the bounds" in finding.observed and len(finding.observed) <= 310


def test_a_part_that_no_policy_reads_is_named_and_the_others_are_checked():
    gym.register("Text-v0", entry_point=faulty.WithText)
    findings = examine_environment("Text-v0", steps=100).findings
    assert [(f.name, f.observed) for f in findings] == [
        ("unreadable_observation", "observation['mission'] is of a Text space, which no policy reads")
    ]


def test_a_warning_of_sb3s_checker_is_a_warning_and_a_recommendation_is_a_note():
    class Warned(faulty.Sound):
        observation_space = spaces.Box(-5, 5, (2, 2), np.float32)
        action_space = spaces.Box(0, 1, (1,), np.float32)

        def observe(self):
            return np.zeros((2, 2), np.float32)

    findings = check_with_sb3(Warned())
    assert [finding.severity for finding in findings] == ["warning", "note"]
    assert "unconventional shape" in findings[0].observed and "symmetric and normalized" in findings[1].observed
