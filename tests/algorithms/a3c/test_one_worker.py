"""With one worker, A3C computes the same numbers as A2C, through the same shared memory as with many."""

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import KVWriter, Logger
from support.capabilities import BOX, envs
from support.models import assert_same, assert_same_optimizer, parameters
from support.small_environments import DEVICE, AnySpace, vectorised

from sb3_pgx import A2C, A3C

CASES = {
    "RMSprop": {},
    "own statistics": dict(share_statistics=False),
    "Adam": dict(use_rms_prop=False),
    "no rule": dict(policy_kwargs=dict(optimizer_class=th.optim.Adagrad)),
    "schedules": dict(learning_rate="lin_0.01", ent_coef="lin_0.1", ent_coef_last=0.5),
    "gSDE": dict(use_sde=True, sde_sample_freq=2),
    "memory": dict(policy="MlpLstmPolicy", policy_kwargs=dict(net_arch=[8], lstm_hidden_size=8)),
    "compiled": dict(compile=True),
}


class Keeper(KVWriter):
    """Keeps every row of the log, without times."""

    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        self.rows.append({k: v for k, v in key_values.items() if k not in ("time/fps", "time/time_elapsed")})

    def close(self):
        pass


def trained(algorithm, n_envs=1, policy="MlpPolicy", **kwargs):
    keeper = Keeper()
    env = envs(n=n_envs, action_space=envs().action_space if kwargs.get("use_sde") else spaces.Discrete(3))
    model = algorithm(policy, env, seed=3, device=DEVICE, **{"compile": False, **kwargs})
    model.set_logger(Logger(None, [keeper]))
    model.learn(60, log_interval=5)
    model.learn(30, log_interval=5, reset_num_timesteps=False)
    return model, keeper.rows


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow) if c == "compiled" else c for c in CASES])
def test_one_worker_is_a2c_bit_for_bit(case):
    """One environment, as in the paper: parameters, optimizer, log and counters after two calls of ``learn``."""
    arguments = CASES[case]
    of_a2c = {k: v for k, v in arguments.items() if k not in ("share_statistics", "ent_coef_last")}
    (ours, log), (theirs, log_of_a2c) = trained(A3C, **arguments), trained(A2C, **of_a2c)
    assert_same(parameters(ours), parameters(theirs))
    assert_same_optimizer(ours.policy.optimizer.state_dict(), theirs.policy.optimizer.state_dict())
    assert ours.num_timesteps == theirs.num_timesteps == 90 and ours._n_updates == theirs._n_updates == 18
    assert [row.pop("train/staleness", 0.0) for row in log] == [0.0] * len(log_of_a2c)
    assert [{k: v for k, v in row.items() if "compile" not in k} for row in log] == [
        {k: v for k, v in row.items() if "compile" not in k} for row in log_of_a2c
    ]


class Huge(AnySpace):
    """Rewards overflow in the loss of the third rollout."""

    steps_so_far = 0

    def step(self, action):
        observation, reward, *rest = super().step(action)
        self.steps_so_far += 1
        return observation, 1e30 if self.steps_so_far > 10 else reward, *rest


def test_a_refused_update_counts_no_steps_and_changes_nothing():
    models = []
    for algorithm in (A3C, A2C):
        models.append(algorithm("MlpPolicy", vectorised(Huge(BOX, BOX)), seed=0, device=DEVICE, compile=False))
        with pytest.raises(ValueError, match=r"unchanged|is inf"):
            models[-1].learn(100)
    assert [model.num_timesteps for model in models] == [10, 10]
    assert_same(*map(parameters, models))


def test_several_environments_per_worker_are_a2c_with_as_many():
    (ours, _), (theirs, _) = trained(A3C, n_envs=3), trained(A2C, n_envs=3)
    assert_same(parameters(ours), parameters(theirs))
