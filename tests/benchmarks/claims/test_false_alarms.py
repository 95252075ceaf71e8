"""How alarms are counted in a run whose alarms are known."""

import torch as th

from benchmarks.claims.false_alarms import AlarmCounter, count_alarms
from sb3_pgx.diagnostics import Above, Rule


def test_an_alarm_counts_when_it_begins_and_again_only_after_it_has_ended():
    values = [9.0, 9.0, 0.0, 9.0]

    class Scripted(AlarmCounter):
        def measure_more(self):
            return {"true_return": values[len(self.history)]}

    health = Scripted(rules=[Rule("r", "true_return", Above(1.0), "s", "m")])
    threads = th.get_num_threads()
    draw = count_alarms("ppo", "CartPole-v1", 1000, 4 * 256, health=health)
    th.set_num_threads(threads)
    counted = {name: draw.measured[name] for name in ("updates", "alarms", "alarms of r")}
    assert counted == {"updates": 4, "alarms": 2, "alarms of r": 2}
    assert draw.measured["training return"] > 8 and (draw.seed, draw.steps) == (1000, 4 * 256)
