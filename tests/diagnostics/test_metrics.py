"""Every logged key has a documented meaning, and nothing is documented that is not logged."""

import pytest
from stable_baselines3.common.logger import Logger
from support.logged_metrics import KeyCollector, logged_by
from support.small_environments import Scripted, vectorised

from sb3_pgx import PPO
from sb3_pgx.diagnostics import LOGGED_KEYS, METRICS, HealthCallback
from sb3_pgx.diagnostics.metrics import HEALTH_METRICS, TRAINING_METRICS
from sb3_pgx.registry import EVERY_ALGORITHM

FILE = "sb3_pgx/diagnostics/metrics.py"


@pytest.mark.parametrize("name", EVERY_ALGORITHM)
def test_every_key_that_an_algorithm_logs_is_documented(name):
    missing = logged_by(name) - TRAINING_METRICS.keys()
    assert not missing, f"{name} logs {sorted(missing)}: add the meaning to TRAINING_METRICS in {FILE}, then run `make table`"


def test_every_documented_key_is_logged_by_some_algorithm():
    unused = TRAINING_METRICS.keys() - frozenset().union(*(logged_by(name) for name in EVERY_ALGORITHM))
    assert not unused, f"no algorithm logs {sorted(unused)}: remove it from TRAINING_METRICS in {FILE}, then run `make table`"


@pytest.mark.filterwarnings("ignore::sb3_pgx.diagnostics.HealthWarning")
def test_the_keys_of_the_callbacks_are_documented():
    writer = KeyCollector()
    model = PPO("MlpPolicy", vectorised(Scripted([4])), n_steps=16, batch_size=8, n_epochs=1, device="cpu")
    model.set_logger(Logger(None, [writer]))
    model.learn(48, callback=HealthCallback(costly_every=1), log_interval=1)
    missing = writer.keys - LOGGED_KEYS.keys()
    assert not missing, f"the callbacks log {sorted(missing)}: add the meaning to METRICS or HEALTH_METRICS in {FILE}"
    assert writer.keys > HEALTH_METRICS.keys() and {f"diagnostics/{name}" for name in METRICS} & writer.keys


def test_every_meaning_can_be_read_on_its_own():
    for key, meaning in LOGGED_KEYS.items():
        assert not meaning.startswith(("its ", "their ", "the same ", "of ")), key
