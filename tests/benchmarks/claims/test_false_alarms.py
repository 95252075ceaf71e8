"""How alarms are counted in a run whose alarms are known."""

import torch as th

from benchmarks.claims import false_alarms
from benchmarks.claims.false_alarms import AlarmCounter, count_alarms
from sb3_pgx.diagnostics import Above, Rule


def test_an_alarm_counts_when_it_begins_and_again_only_after_it_has_ended(monkeypatch):
    values = [9.0, 9.0, 0.0, 9.0]

    class Scripted(AlarmCounter):
        def __init__(self):
            super().__init__()
            self.rules = (Rule("r", "true_return", Above(1.0), "s", "m"),)
            self._needed.clear()

        def measure_more(self):
            return {"true_return": values[len(self.history)]}

    monkeypatch.setattr(false_alarms, "AlarmCounter", Scripted)
    threads = th.get_num_threads()
    draw = count_alarms("ppo", "CartPole-v1", 1000, 4 * 256)
    th.set_num_threads(threads)
    counted = {name: draw.measured[name] for name in ("updates", "alarms", "alarms of r")}
    assert counted == {"updates": 4, "alarms": 2, "alarms of r": 2}
    assert draw.measured["training return"] > 8 and (draw.seed, draw.steps) == (1000, 4 * 256)
