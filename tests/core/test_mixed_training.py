"""Training with mixed actions (``Dict`` and ``Tuple`` spaces) against the spaces that SB3 knows."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from selection import RELATIVES, mostly_slow
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from support.capabilities import MIXED_ALGORITHMS
from support.models import make, parameters
from support.small_environments import DEVICE

from sb3_pgx.environments import as_vec_env
from sb3_pgx.registry import ALGORITHMS


class Walk(gym.Env):
    """
    A walk over ten places that two numbers decide, with ends of both kinds.

    :param action_space: of the actions
    :param numbers: function that makes two numbers of an action
    """

    observation_space = spaces.Box(-1, 2, (2,), np.float32)

    def __init__(self, action_space, numbers):
        self.action_space, self.numbers = action_space, numbers
        self.place = self.steps = 0

    def _observation(self):
        return np.array([self.place / 10, self.steps / 5], np.float32)

    def reset(self, *, seed=None, options=None):
        self.place, self.steps = (7 * self.place + 3) % 10, 0
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        one, two = map(float, self.numbers(action))
        self.place, self.steps = int(3 * self.place + 2.5 * abs(one) + abs(two) + 1) % 10, self.steps + 1
        terminated = self.place == 4
        return self._observation(), self.place / 10 + one - 0.3 * two, terminated, not terminated and self.steps >= 4, {}


def walks(action_space, numbers):
    return DummyVecEnv([lambda: Walk(action_space, numbers)] * 2)


PAIR = spaces.MultiDiscrete([2, 3])
NUMBERS = spaces.Box(-1, 1, (2,), np.float32)
TWINS = {
    "Dict of choices": ((PAIR, list), (spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(3)), lambda a: (a["a"], a["b"]))),
    "Tuple of choices": (
        (PAIR, list),
        (spaces.Tuple([spaces.Discrete(2, start=5), spaces.Discrete(3)]), lambda a: (a[0] - 5, a[1])),
    ),
    "Dict of a Box": ((NUMBERS, list), (spaces.Dict(x=NUMBERS), lambda a: a["x"])),
    "Tuple of a Box": ((NUMBERS, list), (spaces.Tuple([NUMBERS]), lambda a: a[0])),
    "Dict of switches": ((spaces.MultiBinary(2), list), (spaces.Dict(on=spaces.MultiBinary(2)), lambda a: a["on"])),
}


NETWORKS = {"MlpPolicy": {}, "MlpLstmPolicy": dict(lstm_hidden_size=8), "MlpGruPolicy": dict(lstm_hidden_size=8)}


@pytest.mark.parametrize(
    "name, case, policy",
    mostly_slow(
        [(name, case, policy) for name in MIXED_ALGORITHMS for case in TWINS for policy in NETWORKS],
        lambda name, case, policy: (
            (
                policy == "MlpPolicy"
                if name == "ppo"
                else case == "Dict of choices" and (name == "trpo" or policy == "MlpPolicy")
            )
            and name not in RELATIVES
        ),
    ),
)
def test_a_product_of_what_sb3_knows_trains_bit_for_bit_as_sb3s_space(name, case, policy):
    trained = []
    for space, numbers in TWINS[case]:
        model = make(name, walks(space, numbers), policy, policy_kwargs=dict(net_arch=[8], **NETWORKS[policy]))
        before = parameters(model)
        trained.append(model.learn(60))
    plain, mixed = trained
    assert_same_parameters(mixed, plain)
    assert (parameters(plain)["action_net.weight"] - before["action_net.weight"]).abs().max() > 1e-4


def assert_same_parameters(mixed, plain):
    ours, theirs = parameters(mixed), parameters(plain)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert th.equal(ours[key], value), key


@pytest.mark.parametrize("options", [dict(log_std_bounds=(-5, 2)), dict(state_dependent_std=True), dict(log_std_init=-1.0)])
def test_standard_deviations_have_the_options_of_a_box(options):
    plain, mixed = (
        make("ppo", walks(*twin), policy_kwargs=dict(net_arch=[8], **options)).learn(60) for twin in TWINS["Dict of a Box"]
    )
    assert_same_parameters(mixed, plain)
    assert mixed.logger.name_to_value["train/std"] == plain.logger.name_to_value["train/std"]


@pytest.mark.parametrize("vec_env", [SubprocVecEnv, "VecNormalize", "VectorEnv"])
def test_environments_of_every_kind_train_alike(vec_env):
    """Each of them asserts that its actions are members of the space."""
    space, numbers = (
        spaces.Dict(a=spaces.Discrete(2, start=1), x=spaces.Box(-1, 1, (1,), np.float32)),
        lambda a: (a["a"], *a["x"]),
    )
    makers = [lambda: Walk(space, numbers)] * 2
    plain = make("a2c", DummyVecEnv(makers)).learn(60)
    if vec_env == "VecNormalize":
        env = VecNormalize(DummyVecEnv(makers), norm_obs=False, norm_reward=False)
    elif vec_env == "VectorEnv":
        same_step = gym.vector.AutoresetMode.SAME_STEP
        env = as_vec_env(gym.vector.SyncVectorEnv(makers, autoreset_mode=same_step))
    else:
        env = vec_env(makers, start_method="fork")
    model = make("a2c", env).learn(60)
    env.close()
    assert_same_parameters(model, plain)


def test_a_tuple_in_a_vector_env_trains_as_in_a_dummy_vec_env():
    case = TWINS["Tuple of choices"][1]
    same_step = gym.vector.AutoresetMode.SAME_STEP
    env = gym.vector.SyncVectorEnv([lambda: Walk(*case)] * 2, autoreset_mode=same_step)
    assert_same_parameters(make("ppo", env).learn(60), make("ppo", walks(*case)).learn(60))


class Bandit(gym.Env):
    """One step: the reward is 1 − |x − target| for the right choice, and 0 for the others; the observation shows both."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Dict(kind=spaces.Discrete(2, start=1), x=spaces.Box(-1, 1, (1,), np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.kind, self.target = int(self.np_random.integers(2)), float(self.np_random.choice([-0.5, 0.5]))
        return np.array([2 * self.kind - 1, self.target], np.float32), {}

    def step(self, action):
        right = action["kind"] == self.kind + 1
        reward = 1 - abs(float(action["x"][0]) - self.target) if right else 0.0
        return np.zeros(2, np.float32), reward, True, False, {}


SOLVING = {
    "a2c": dict(n_steps=16, learning_rate=3e-2, use_rms_prop=False),
    "a3c": dict(n_steps=16, learning_rate=3e-2, use_rms_prop=False),
    "acktr": dict(n_steps=16, target_kl=0.05),
    "npg": dict(n_steps=64, target_kl=0.1),
    "ppo": dict(n_steps=32, batch_size=64, n_epochs=8, learning_rate=1e-2),
    "ppo_penalty": dict(n_steps=32, batch_size=64, n_epochs=8, learning_rate=1e-2),
    "reinforce": dict(n_episodes=64, learning_rate=3e-2),
    "reinforce_baseline": dict(n_episodes=64, learning_rate=3e-2),
    "trpo": dict(n_steps=64, target_kl=0.1),
}


@pytest.mark.parametrize("name", mostly_slow(MIXED_ALGORITHMS, ["reinforce"]))
def test_every_algorithm_learns_both_parts(name):
    """A policy that ignores either part of the observation gets at most 0.5."""
    env = DummyVecEnv([lambda: Monitor(Bandit())] * 8)
    env.seed(0)
    kwargs = dict(policy_kwargs=dict(net_arch=[16], log_std_init=-1.0), gamma=0.5, **SOLVING[name])
    model = ALGORITHMS[name]("MlpPolicy", env, seed=0, device=DEVICE, **kwargs).learn(4_000)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=100)
    assert mean > 0.75


def test_sb3s_checks_callbacks_and_evaluation_work(tmp_path):
    check_env(Bandit())
    callback = EvalCallback(DummyVecEnv([lambda: Monitor(Bandit())]), eval_freq=6, log_path=str(tmp_path), verbose=0)
    env = VecNormalize(DummyVecEnv([lambda: Monitor(Bandit())] * 2))
    callback.eval_env = VecNormalize(callback.eval_env, training=False)
    model = make("ppo", env).learn(24, callback=callback)
    assert callback.evaluations_results
    for evaluated in (
        env,
        as_vec_env(gym.vector.SyncVectorEnv([Bandit] * 2, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)),
    ):
        mean, _ = evaluate_policy(model, evaluated, n_eval_episodes=4, warn=False)
        assert math.isfinite(mean)
