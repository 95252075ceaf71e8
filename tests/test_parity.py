"""A2C and PPO against SB3's on the same seed: actions, parameters, random numbers and log."""

import copy
import pickle
import random
from itertools import product

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from gymnasium.envs.mujoco import MujocoEnv
from selection import mostly_slow
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize
from support.capabilities import BOX, DICT, envs
from support.small_environments import DEVICE, Scripted, vectorised

import sb3_pgx

CASES = {
    "CartPole-v1": lambda: ("MlpPolicy", make_vec_env("CartPole-v1", 4, seed=0), {}),
    "Pendulum-v1, truncated, normalised": lambda: (
        "MlpPolicy",
        VecNormalize(make_vec_env("Pendulum-v1", 4, seed=0)),
        dict(normalize_advantage=True, gae_lambda=0.9),
    ),
    "gSDE": lambda: ("MlpPolicy", make_vec_env("Pendulum-v1", 4, seed=0), dict(use_sde=True, sde_sample_freq=3)),
    "squashed gSDE": lambda: ("MlpPolicy", envs(), dict(use_sde=True, policy_kwargs=dict(squash_output=True))),
    "MultiDiscrete": lambda: (
        "MlpPolicy",
        envs(action_space=spaces.MultiDiscrete([2, 3])),
        dict(ent_coef=0.5, vf_coef=0.1, max_grad_norm=0.2),
    ),
    "MultiBinary": lambda: ("MlpPolicy", envs(action_space=spaces.MultiBinary(3)), dict(use_rms_prop=False)),
    "Dict": lambda: ("MultiInputPolicy", envs(DICT, BOX), {}),
    "truncation and termination": lambda: ("MlpPolicy", vectorised(Scripted([2, 3, 4], [True, False, True])), {}),
}


class Actions(BaseCallback):
    def __init__(self):
        super().__init__()
        self.actions = []

    def _on_step(self):
        self.actions.append(self.locals["actions"].copy())
        return True


OWN = {
    "A2C": (sb3.A2C, sb3_pgx.A2C, dict(n_steps=7)),
    "PPO": (sb3.PPO, sb3_pgx.PPO, dict(n_steps=32, batch_size=24, n_epochs=3)),
    "PPO, all options": (
        sb3.PPO,
        sb3_pgx.PPO,
        dict(n_steps=32, batch_size=32, n_epochs=4, clip_range_vf=0.1, target_kl=0.002, learning_rate=1e-3),
    ),
}

QUICK = {
    "A2C": ["CartPole-v1", "gSDE", "MultiBinary", "Dict", "truncation and termination"],
    "PPO": ["CartPole-v1", "squashed gSDE"],
    "PPO, all options": ["Pendulum-v1, truncated, normalised", "MultiDiscrete", "truncation and termination"],
}


@pytest.mark.filterwarnings("ignore:.*truncated mini-batch:UserWarning")
@pytest.mark.parametrize(
    "algorithm, case",
    mostly_slow(product(OWN, CASES), lambda algorithm, case: case in QUICK[algorithm]),
)
def test_the_same_seed_gives_sb3s_training(algorithm, case):
    *classes, own = OWN[algorithm]
    results = []
    for model_class in classes:
        policy, env, kwargs = CASES[case]()
        if algorithm != "A2C":
            kwargs = {k: v for k, v in kwargs.items() if k != "use_rms_prop"}
        callback = Actions()
        model = model_class(policy, env, seed=3, device=DEVICE, **own, **kwargs).learn(280, callback=callback)
        parameters = th.nn.utils.parameters_to_vector(model.policy.parameters()).detach()
        drawn = (np.random.rand(), th.rand(1).item(), model._n_updates)
        results.append((np.stack(callback.actions), parameters, *drawn))
    theirs, ours = results
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-3, atol=1e-3)
    th.testing.assert_close(ours[1], theirs[1], rtol=1e-3, atol=1e-4)
    assert ours[2:] == theirs[2:], "random numbers were drawn differently"


@pytest.mark.parametrize("algorithm", OWN)
def test_the_log_is_sb3s_and_its_last_row_has_the_last_update(algorithm):
    """SB3 writes a row before each update, and leaves the metrics of the last update in the logger."""
    *classes, own = OWN[algorithm]
    logs, left = [], []
    for model_class in classes:
        dumps = []
        logger = configure(None, [""])
        original = logger.dump
        logger.dump = lambda step=0, log=logger, d=dumps, o=original: d.append((step, dict(log.name_to_value))) or o(step)
        model = model_class("MlpPolicy", make_vec_env("CartPole-v1", 4, seed=0), seed=0, device=DEVICE, **own)
        model.set_logger(logger)
        model.learn(400, log_interval=1)
        logs.append(dumps)
        left.append(dict(logger.name_to_value))
    theirs, ours = logs
    theirs[-1][1].update(left[0])
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    for (_, mine), (_, expected) in zip(ours, theirs, strict=True):
        assert expected.keys() <= mine.keys()
        for key in expected.keys() - {"time/fps", "time/time_elapsed"}:
            np.testing.assert_allclose(mine[key], expected[key], rtol=1e-3, atol=1e-4, err_msg=key)
    assert left[0].keys() <= left[1].keys()


# ------------------------------------------------------------------------------------------------------- ten rollouts

SMALL_DICT = spaces.Dict({"vector": BOX, "number": spaces.Discrete(3)})
LONG = {
    "CartPole-v1": lambda: ("MlpPolicy", make_vec_env("CartPole-v1", 4, seed=0)),
    "Pendulum-v1": lambda: ("MlpPolicy", make_vec_env("Pendulum-v1", 4, seed=0)),
    "MultiDiscrete": lambda: ("MlpPolicy", envs(action_space=spaces.MultiDiscrete([2, 3]), n=4)),
    "Dict": lambda: ("MultiInputPolicy", envs(SMALL_DICT, spaces.Discrete(3), n=4)),
}
# Chaotic to the last place: after a hundred steps nothing is left of what differed by one unit there, as compiled actions may.
CHAOTIC = {"HalfCheetah-v5, normalised": lambda: ("MlpPolicy", VecNormalize(make_vec_env("HalfCheetah-v5", 4, seed=0)))}
N_ROLLOUTS, ROWS = 10, 4 * 128
# Rollouts whose actions must be equal. Pendulum-v1 is chaotic: SB3 itself, with every parameter moved by one unit in the last
# place at the start, plays 87 % to 100 % of the same actions over ten rollouts, depending on the seed.
EQUAL_ROLLOUTS = {"Pendulum-v1": 5}
TOTAL = N_ROLLOUTS * ROWS
SETTINGS = dict(n_steps=128, batch_size=64, n_epochs=4, seed=3, device=DEVICE)


def twin(env):
    """Environments that go on as these do: of SB3's and MuJoCo's, ``copy.deepcopy`` fails or starts anew."""
    if isinstance(env, VecNormalize):
        copied = pickle.loads(pickle.dumps(env))
        copied.set_venv(twin(env.venv))
        copied.returns = env.returns.copy()
        return copied
    copied = copy.deepcopy(env)
    for one, other in zip(env.unwrapped.envs, copied.unwrapped.envs, strict=True):
        if isinstance(one.unwrapped, MujocoEnv):
            for name in ("data", "np_random"):
                setattr(other.unwrapped, name, copy.deepcopy(getattr(one.unwrapped, name)))
    return copied


class States(Actions):
    """All that decides how a training goes on, at the start of each rollout."""

    def __init__(self):
        super().__init__()
        self.states = []

    def _on_rollout_start(self):
        m = self.model
        self.states.append(
            dict(
                env=twin(m.env),
                policy=copy.deepcopy(m.policy.state_dict()),
                optimizer=copy.deepcopy(m.policy.optimizer.state_dict()),
                random=(random.getstate(), np.random.get_state(), th.random.get_rng_state()),
                attributes={k: copy.deepcopy(getattr(m, k)) for k in ("_last_obs", "_last_episode_starts", "num_timesteps")},
                counts=dict(_n_updates=m._n_updates, _current_progress_remaining=m._current_progress_remaining),
            )
        )


def trained(model_class, case, callback, **kwargs):
    policy, env = (LONG | CHAOTIC)[case]()
    return model_class(policy, env, **SETTINGS, **kwargs).learn(TOTAL, callback=callback)


def vector(parameters):
    return th.nn.utils.parameters_to_vector(parameters).detach().clone()


@pytest.fixture(scope="module")
def theirs(request):
    """SB3's training: its name, its states, its actions and the parameters after each of its rollouts."""
    callback = States()
    model = trained(sb3.PPO, request.param, callback)
    reached = [vector_of(state["policy"], model) for state in callback.states[1:]]
    return request.param, callback.states, np.stack(callback.actions), [*reached, vector(model.policy.parameters())]


def vector_of(state_dict, model):
    return th.cat([state_dict[name].flatten() for name, _ in model.policy.named_parameters()])


def fraction_of_equal_rows(ours, theirs):
    """Rows of an environment whose action is the same, to 1e-4 where it is continuous."""
    close = np.isclose(ours, theirs, rtol=0, atol=1e-4) if ours.dtype.kind == "f" else ours == theirs
    return close.reshape(*ours.shape[:2], -1).all(axis=2).mean()


@pytest.mark.parametrize("compile", mostly_slow([False, True], [False]))
@pytest.mark.parametrize("theirs", mostly_slow([*LONG, *CHAOTIC], CHAOTIC), indirect=True)
def test_one_iteration_from_each_of_sb3s_states_gives_sb3s_actions_and_parameters(compile, theirs):
    case, states, actions, reached = theirs
    assert len(states) == len(reached) == N_ROLLOUTS
    policy, env = (LONG | CHAOTIC)[case]()
    model = sb3_pgx.PPO(policy, env, **SETTINGS, compile=compile)
    for i, state in enumerate(states):
        callback = Actions()
        _, stage = model._setup_learn(TOTAL, callback, reset_num_timesteps=False)
        model.env = twin(state["env"])
        model.policy.load_state_dict(state["policy"])
        model.policy.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # it keeps the tensors that it is given
        vars(model).update(copy.deepcopy(state["attributes"]), **state["counts"])
        random.setstate(state["random"][0])
        np.random.set_state(state["random"][1])
        th.random.set_rng_state(state["random"][2])

        model.compiled = compile and case not in CHAOTIC
        assert model.collect_rollouts(model.env, stage, model.rollout_buffer, model.n_steps)
        model.compiled = compile
        model._update_current_progress_remaining(model.num_timesteps, TOTAL)
        model.train()

        expected = actions[i * 128 : (i + 1) * 128]
        np.testing.assert_allclose(np.stack(callback.actions), expected, rtol=0, atol=1e-6)
        before = vector_of(state["policy"], model)
        moved = (reached[i] - before).abs().max()
        th.testing.assert_close(vector(model.policy.parameters()), reached[i], rtol=0, atol=1e-5)
        assert moved > 1e-3 and model._n_updates == 4 * (i + 1)
        drawn = np.random.get_state()[1:3], th.random.get_rng_state()
        if i + 1 < N_ROLLOUTS:
            after = states[i + 1]["random"]
            assert np.array_equal(drawn[0][0], after[1][1]) and drawn[0][1] == after[1][2] and th.equal(drawn[1], after[2])


@pytest.mark.parametrize("theirs", mostly_slow(LONG, ["MultiDiscrete"]), indirect=True)
def test_ten_rollouts_on_its_own_give_sb3s_actions_and_parameters(theirs):
    case, _, actions, reached = theirs
    callback = Actions()
    model = trained(sb3_pgx.PPO, case, callback, compile=False)
    ours = np.stack(callback.actions)
    assert ours.shape == actions.shape
    rows = 128 * EQUAL_ROLLOUTS.get(case, N_ROLLOUTS)
    assert fraction_of_equal_rows(ours[:rows], actions[:rows]) >= 0.999
    th.testing.assert_close(vector(model.policy.parameters()), reached[-1], rtol=0, atol=1e-3)
