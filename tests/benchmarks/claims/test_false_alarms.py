"""How false alarms are counted, on trainings and on outcomes whose count is known."""

import pytest
import torch as th

from benchmarks.claims import false_alarms
from benchmarks.claims.false_alarms import CountsAlarms, FalseAlarmClaim, Watched, judge, watch_training
from sb3_pgx.diagnostics import Above, Rule

CLAIM = FalseAlarmClaim("ppo", (("A", 100), ("B", 200)), bound=2.0, seeds=(0, 1))


@pytest.mark.parametrize("n_alarms, passed", [(8, True), (9, False)])
def test_the_rate_is_over_the_updates_of_all_trainings(n_alarms, passed):
    outcomes = [Watched("A", 100, {"x": 1}, 1.0), Watched("A", 100, {}, 2.0), Watched("B", 200, {"x": n_alarms - 1}, 3.0)]
    verdict = judge(CLAIM, outcomes, "command")
    assert verdict.passed == verdict.record["passed"] == passed
    assert verdict.record["alarms_in_100_updates"] == pytest.approx(n_alarms / 4)
    assert verdict.lines[0] == "A: 1 alarms in 200 updates {'x': 1}"
    assert verdict.record["environments"]["A"]["training_return_per_seed"] == [1.0, 2.0]


def test_an_alarm_counts_when_it_begins_and_again_only_after_it_has_ended(monkeypatch):
    values = [9.0, 9.0, 0.0, 9.0]

    class Scripted(CountsAlarms):
        def __init__(self):
            super().__init__()
            self.rules = (Rule("r", "true_return", Above(1.0), "s", "m"),)
            self._needed.clear()

        def measure_more(self):
            return {"true_return": values[len(self.history)]}

    monkeypatch.setattr(false_alarms, "CountsAlarms", Scripted)
    threads = th.get_num_threads()
    watched = watch_training("ppo", "CartPole-v1", 4 * 256, 0, None)
    th.set_num_threads(threads)
    assert (watched.updates, watched.alarms) == (4, {"r": 2}) and watched.training_return > 8
