"""The record of soft Q-learning: which goals count as reached, and that a record keeps the runs of other seeds."""

import numpy as np
import pytest

from benchmarks.soft_q_learning import EPISODES, SEEDS, goals_of, markdown, record, recorded


class ToNearest:
    """Walks along one axis to the goal on the side of the start, and now and then stays where it is."""

    def __init__(self, axis, stays=0):
        self.axis, self.stays, self.episodes = axis, stays, 0

    def predict(self, observation, deterministic):
        assert not deterministic
        self.episodes += np.abs(observation).max() < 0.6  # at the start
        action = np.zeros(2, np.float32)
        if self.episodes > self.stays:
            action[self.axis] = np.sign(observation[self.axis])
        return action, None


def test_the_ends_of_episodes_are_counted():
    right, left, up, down = goals_of(ToNearest(0), 40)
    assert right + left == 40 and min(right, left) >= 8 and up == down == 0
    right, left, up, down = goals_of(ToNearest(1, stays=30 * 10), 40)  # ten whole episodes of 30 steps
    assert up + down == 30 and min(up, down) >= 5 and right == left == 0


@pytest.mark.slow
def test_a_record_keeps_the_runs_of_other_seeds_and_algorithms(tmp_path):
    record("goals", ["sac"], [101], tmp_path, timesteps=6100)
    record("goals", ["soft_q_learning"], [101, 102], tmp_path, timesteps=6100)
    written = record("goals", ["soft_q_learning"], [100, 101], tmp_path, timesteps=6100)
    assert [*written["algorithms"]] == ["sac", "soft_q_learning"] and len(written["commit"]) == 40
    runs = written["algorithms"]["soft_q_learning"]["runs"]
    assert [run["seed"] for run in runs] == [100, 101, 102]
    for run in runs:
        assert sum(run["ends"]) <= EPISODES
        assert run["goals_reached"] == sum(count >= 5 for count in run["ends"])
    words = markdown("goals", tmp_path)
    assert "| `SAC` |" in words and "| `SoftQLearning` |" in words and "After 6,100 steps" in words
    record("pendulum", ["soft_q_learning"], [100], tmp_path, timesteps=1010)
    assert "mean return of 20 deterministic episodes | seed 100" in markdown("pendulum", tmp_path)


def test_the_published_records_have_every_seed():
    for what in recorded():
        words = markdown(what)
        assert all(f"seed {seed}" in words for seed in SEEDS)
