"""Vector environments of gymnasium: the rollouts are those of the same environments one by one, in every autoreset mode."""

from itertools import product

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from selection import mostly_slow
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env as sb3_make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize
from support.array_environments import (
    BOTH,
    OBSERVATIONS,
    TERMINATED,
    TRUNCATED,
    Arrays,
    Episodes,
    assert_same,
    functions,
    one_by_one,
    trained,
)

from sb3_pgx import A2C, ACER, PPO
from sb3_pgx.environments import as_vec_env, make_vec_env

# Of each environment, the lengths of its episodes and how they end, over and over. A rollout has 8 steps.
PATTERNS = {
    "first row": [[(1, TERMINATED), (20, TERMINATED)], [(1, TRUNCATED), (20, TRUNCATED)], [(9, TRUNCATED)]],
    "last row": [[(8, TERMINATED)], [(8, TRUNCATED)], [(16, BOTH)]],
    "all at once": [[(3, TERMINATED)], [(3, TRUNCATED)], [(3, BOTH)]],
    "consecutive": [[(1, TERMINATED)], [(1, TRUNCATED), (1, TERMINATED), (2, TRUNCATED)], [(2, BOTH), (1, TRUNCATED)]],
    "mixed": [[(5, TERMINATED), (2, TRUNCATED)], [(7, TRUNCATED)], [(4, TERMINATED), (30, TRUNCATED)]],
}

WAYS = {
    **{f"sync {mode.name}": lambda p, mode=mode: SyncVectorEnv(functions(p), autoreset_mode=mode) for mode in AutoresetMode},
    "arrays SAME_STEP": lambda p: Arrays(p, AutoresetMode.SAME_STEP),
    "arrays DISABLED": lambda p: Arrays(p, AutoresetMode.DISABLED),
}
ASYNC = {f"async {m.name}": lambda p, mode=m: AsyncVectorEnv(functions(p), autoreset_mode=mode) for m in AutoresetMode}


@pytest.mark.parametrize(
    "way, pattern", mostly_slow(product(WAYS, PATTERNS), lambda way, pattern: way == "sync NEXT_STEP" or pattern == "mixed")
)
def test_a_rollout_is_that_of_the_environments_one_by_one(way, pattern):
    assert_same(trained("ppo", WAYS[way](PATTERNS[pattern])), trained("ppo", one_by_one(PATTERNS[pattern])))


@pytest.mark.parametrize("way", [pytest.param(way, marks=pytest.mark.slow) for way in ASYNC])
def test_a_rollout_of_worker_processes_is_that_of_the_environments_one_by_one(way):
    assert_same(trained("ppo", ASYNC[way](PATTERNS["mixed"])), trained("ppo", one_by_one(PATTERNS["mixed"])))


def test_every_algorithm_trains_as_with_the_environments_one_by_one(name):
    patterns = PATTERNS["mixed"]
    assert_same(trained(name, Arrays(patterns, AutoresetMode.DISABLED)), trained(name, one_by_one(patterns)))


# ---------------------------------------------------------------------------------- environments whose next step only resets


def carrying(pattern, wild=0.0):
    return Arrays(PATTERNS[pattern], AutoresetMode.NEXT_STEP, honours_mask=False, wild=wild)


def played(pattern, actions):
    """Rows of one environment alone that is given these actions: observation, reward, how it ended, final observation."""
    env, rows = pattern, []
    observation, _ = env.reset(seed=0)
    for action in actions:
        following, reward, terminated, truncated, _ = env.step(action)
        rows.append((*observation, reward, terminated, truncated and not terminated))
        observation = env.reset()[0] if terminated or truncated else following
    return np.array(rows, np.float32)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_rows_that_count_are_those_of_an_environment_stepped_by_hand(pattern):
    model = trained("ppo", carrying(pattern), timesteps=1, n_steps=40, batch_size=120)
    rollout, counted = model.last_rollout, 0
    for i, of_env in enumerate(PATTERNS[pattern]):
        valid = rollout.valid[:, i]
        expected = played(Episodes(i, of_env), rollout.actions[valid, i].flatten().tolist())
        ours = [rollout.observations[:, i], rollout.rewards[:, i : i + 1], rollout.terminated[:, i : i + 1]]
        ours = th.cat([x.float() for x in (*ours, rollout.truncated[:, i : i + 1])], dim=1)[valid]
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
        counted += int(valid.sum())
    n_resets = int((~rollout.valid).sum())
    assert n_resets > 0 and model.num_timesteps == counted == 40 * 3 - n_resets
    truncated = (rollout.truncated & rollout.valid).nonzero()
    for place, (t, i) in enumerate(truncated.tolist()):
        assert rollout.final_observations[place, :2].tolist() == rollout.observations[t, i, :2].tolist()
        assert rollout.final_observations[place, 2] == rollout.observations[t, i, 2] + 0.25


@pytest.mark.parametrize("pattern", ["mixed", "consecutive"])
def test_what_a_step_that_only_resets_returns_does_not_matter(pattern, name):
    if name == "acer":
        with pytest.raises(ValueError, match=r"Arrays resets an environment in the step after .* ACER replays whole segments"):
            trained(name, carrying(pattern))
        return
    calm, wild = (trained(name, carrying(pattern, wild)) for wild in (0.0, 1e6))
    assert calm.num_timesteps == wild.num_timesteps
    returns, others = ([(e["r"], e["l"]) for e in model.ep_info_buffer] for model in (calm, wild))
    assert returns == others != []
    for key, value in calm.policy.state_dict().items():
        assert th.equal(wild.policy.state_dict()[key], value), key
    lengths = {length for of_env in PATTERNS[pattern] for length, _ in of_env}
    assert {e["l"] for e in calm.ep_info_buffer} <= lengths


def test_vec_normalize_counts_what_a_policy_acts_on_once_and_no_reward_of_a_reset():
    env = VecNormalize(as_vec_env(carrying("mixed", wild=1e6)))
    model = trained("ppo", env, timesteps=1, n_steps=40, batch_size=120)
    rollout = model.last_rollout
    before = vars(env.obs_rms).keys()
    observed, discounted = [], []
    for i, of_env in enumerate(PATTERNS["mixed"]):
        valid = rollout.valid[:, i]
        rows = played(Episodes(i, of_env), [*rollout.actions[valid, i].flatten().tolist(), 0])
        n = int(valid.sum())
        last_is_an_end = rows[n - 1, 4:].any()
        observed.append(rows[: n if last_is_an_end and rollout.valid[-1, i] else n + 1, :3])
        total = 0.0
        for reward, ended in zip(rows[:n, 3], rows[:n, 4:].any(axis=1), strict=True):
            discounted.append(total := total * env.gamma + reward)
            total *= not ended
    expected, of_returns = RunningMeanStd(shape=(3,)), RunningMeanStd(shape=())
    expected.update(np.concatenate(observed).astype(np.float64))
    of_returns.update(np.array(discounted))
    np.testing.assert_allclose(env.obs_rms.mean, expected.mean, rtol=1e-5)
    np.testing.assert_allclose(env.obs_rms.var, expected.var, rtol=1e-3)
    np.testing.assert_allclose(env.ret_rms.mean, of_returns.mean, rtol=1e-4)
    np.testing.assert_allclose(env.ret_rms.var, of_returns.var, rtol=1e-3)
    assert round(env.obs_rms.count) == round(expected.count) and "update" not in before


def test_a_step_that_only_resets_is_no_part_of_the_longest_episode():
    model = trained("reinforce", carrying("all at once"), max_episode_steps=3)
    assert {e["l"] for e in model.ep_info_buffer} == {3}


@pytest.mark.parametrize(
    "make",
    [
        lambda p: AsyncVectorEnv(functions(p), shared_memory=False),  # whose workers forget to call the next reset off
        lambda p: gym.wrappers.vector.RecordEpisodeStatistics(SyncVectorEnv(functions(p))),  # which has an account of its own
        lambda p: Arrays(p, AutoresetMode.NEXT_STEP),  # which may reset once more
    ],
)
def test_where_a_masked_reset_may_go_wrong_the_next_step_only_resets(make):
    env = as_vec_env(make(PATTERNS["mixed"]))
    try:
        assert env.carries
        model = trained("ppo", env, timesteps=40)
        lengths = [{length for length, _ in pattern} for pattern in PATTERNS["mixed"]]
        assert {e["l"] for e in model.ep_info_buffer} <= set.union(*lengths) and not model.last_rollout.valid.all()
    finally:
        env.close()


def test_frames_of_two_episodes_are_not_stacked():
    with pytest.raises(ValueError, match=r"Arrays resets .* VecFrameStack would mix the frames of two episodes"):
        trained("ppo", VecFrameStack(as_vec_env(carrying("mixed")), 2))


class Alike(Episodes):
    """All episodes look the same."""

    def observe(self):
        return np.array([0, 0, self.t / 4], np.float32)


def test_the_steps_that_only_reset_do_not_age_an_episode():
    """A2C weights steps by γ^t: after 3 steps, a reset and 2 steps as after 4 steps and 2 steps."""
    settings = dict(discount_state_weighting=True, gamma=0.5, n_steps=6, max_grad_norm=None, ent_coef=0.0)
    settings["policy_kwargs"] = dict(optimizer_class=th.optim.SGD, net_arch=[4])
    models = []
    for length, mode in ((3, AutoresetMode.NEXT_STEP), (4, AutoresetMode.DISABLED)):
        env = Arrays([[(length, TERMINATED), (50, TERMINATED)]], mode, of=Alike)
        models.append(trained("a2c", env, 1, **settings))
    assert models[0].last_rollout.valid[:, 0].tolist() == [True] * 3 + [False] + [True] * 2
    models[1].policy.load_state_dict(models[0].policy.state_dict())
    for model in models:
        th.manual_seed(1)
        model.learn(1, reset_num_timesteps=False)
    assert th.equal(models[0].last_rollout.observations, models[1].last_rollout.observations)
    for key, value in models[1].policy.state_dict().items():
        th.testing.assert_close(models[0].policy.state_dict()[key], value, rtol=1e-6, atol=1e-7)


def test_a_rollout_without_a_row_that_counts_goes_on():
    model = trained("a2c", Arrays([[(2, TERMINATED)]] * 2, AutoresetMode.NEXT_STEP), timesteps=12, n_steps=1)
    assert model.num_timesteps == 12 and model.last_rollout.valid.any()


@pytest.mark.parametrize(("batch_size", "sizes"), [(5, {5}), (7, {7}), (64, {18})])
def test_minibatches_are_of_one_size_although_rows_are_left_out(batch_size, sizes):
    """The eighteen rows that count come at least once, and none of them twice before all have come."""
    model = PPO("MlpPolicy", Arrays(PATTERNS["all at once"], AutoresetMode.NEXT_STEP), n_steps=8, batch_size=8, seed=0)
    model.learn(1)
    batches = list(model.minibatches(model.last_rollout, batch_size))
    assert {len(batch) for batch in batches} == sizes
    seen = th.cat([batch.advantages for batch in batches]).tolist()
    expected = model.last_rollout.advantages[model.last_rollout.valid].tolist()
    assert len(set(expected)) == len(expected) == 18
    assert sorted(seen[:18]) == sorted(expected)
    assert seen[18:] == seen[: len(seen) - 18]


def test_a_buffer_of_ones_own_cannot_leave_rows_out():
    class Own(RolloutBuffer):
        pass

    with pytest.raises(ValueError, match="a rollout buffer of your own learns from every row"):
        trained("ppo", carrying("mixed"), rollout_buffer_class=Own)


@pytest.mark.slow
def test_gymnasiums_own_vectorised_cartpole_learns():
    """It resets in the next step, and ignores a mask."""
    env = make_vec_env("CartPole-v1", 16, seed=0, vector=True)
    assert env.carries and type(env.vector_env.unwrapped).__name__ == "CartPoleVectorEnv"
    settings = dict(n_steps=64, batch_size=128, n_epochs=6, learning_rate=1e-3)
    model = PPO("MlpPolicy", env, seed=0, device="cpu", compile=False, **settings).learn(25_000)
    mean, _ = evaluate_policy(model, sb3_make_vec_env("CartPole-v1", 1, seed=5), n_eval_episodes=5)
    assert mean > 150
    assert np.mean([e["r"] for e in model.ep_info_buffer]) == np.mean([e["l"] for e in model.ep_info_buffer])


# ---------------------------------------------------------------------------------------------------------- the interface


@pytest.mark.parametrize("wrap", [VecNormalize, VecMonitor, lambda env: VecFrameStack(env, 2)])
def test_sb3s_wrappers_do_what_they_do_one_by_one(wrap):
    patterns = PATTERNS["mixed"]
    plain = DummyVecEnv(functions(patterns)) if wrap is VecMonitor else one_by_one(patterns)
    ours, theirs = wrap(as_vec_env(WAYS["sync NEXT_STEP"](patterns))), wrap(plain)
    assert_same(trained("ppo", ours), trained("ppo", theirs))
    if wrap is VecNormalize:
        assert np.array_equal(ours.obs_rms.mean, theirs.obs_rms.mean) and np.array_equal(ours.ret_rms.var, theirs.ret_rms.var)


class Parts(Episodes):
    observation_space = spaces.Dict({"number": spaces.Discrete(200), "vector": OBSERVATIONS})

    def observe(self):
        return {"number": self.t, "vector": super().observe()}


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_observations_in_parts(mode):
    makes = [lambda i=i, p=p: Parts(i, p) for i, p in enumerate(PATTERNS["mixed"])]
    arguments = dict(n_steps=8, batch_size=12, n_epochs=2, seed=0, device="cpu", compile=False)
    models = []
    for env in (SyncVectorEnv(makes, autoreset_mode=mode), DummyVecEnv([lambda make=make: Monitor(make()) for make in makes])):
        np.random.seed(0)
        models.append(PPO("MultiInputPolicy", env, **arguments).learn(48))
    for key, value in models[1].policy.state_dict().items():
        assert th.equal(models[0].policy.state_dict()[key], value), key


def test_infos_are_those_of_the_environments_one_by_one():
    ours, theirs = as_vec_env(WAYS["sync SAME_STEP"](PATTERNS["mixed"])), one_by_one(PATTERNS["mixed"])
    ours.reset(), theirs.reset()
    assert ours.reset_infos == theirs.reset_infos == [{"started": 0}] * 3
    for _ in range(12):
        expected = theirs.step(np.zeros(3, int))
        result = ours.step(np.zeros(3, int))
        for a, b in zip(result[:3], expected[:3], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        assert len(result[3]) == 3 and result[3][-1] == list(result[3])[2]
        for info, other in zip(result[3], expected[3], strict=True):
            assert info.keys() == other.keys() and (info["t"], info["even"]) == (other["t"], other["even"])
            np.testing.assert_array_equal(info.get("terminal_observation"), other.get("terminal_observation"))
            assert info["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            assert {k: v for k, v in info.get("episode", {}).items() if k != "t"} == {
                k: pytest.approx(v) for k, v in other.get("episode", {}).items() if k != "t"
            }
    assert ours.reset_infos == theirs.reset_infos


def test_methods_attributes_seeds_and_evaluation():
    env = as_vec_env(SyncVectorEnv(functions(PATTERNS["mixed"])))
    assert env.env_method("twice", 5) == [10, 11, 12] and env.get_attr("index") == [0, 1, 2]
    assert env.get_attr("index", [2, 0]) == [2, 0]
    env.set_attr("index", 7, 1)
    assert env.get_attr("index") == [0, 7, 2]
    with pytest.raises(ValueError, match="twice can be called in all environments"):
        env.env_method("twice", 5, indices=0)
    with pytest.raises(AttributeError, match="CartPoleVectorEnv cannot reach into single environments, as seeded would"):
        make_vec_env("CartPole-v1", 2, vector=True).env_method("seeded")
    assert env.env_is_wrapped(Monitor) == [True] * 3 and env.env_is_wrapped(gym.wrappers.TimeLimit) == [False] * 3
    mean, _ = evaluate_policy(trained("a2c", env), env, n_eval_episodes=6)
    assert mean > 0
    first, second = (make_vec_env("Acrobot-v1", 3, seed=4, vector=True) for _ in range(2))
    np.testing.assert_array_equal(first.reset(), second.reset())
    one_by_one, arrays = (make_vec_env("Acrobot-v1", 3, seed=4, vector=vector) for vector in (False, True))
    np.testing.assert_array_equal(one_by_one.reset(), arrays.reset())


def test_a_model_is_saved_and_loaded_with_a_vector_environment(tmp_path):
    model = trained("a2c", Arrays(PATTERNS["mixed"], AutoresetMode.SAME_STEP))
    model.save(tmp_path / "model.zip")
    loaded = A2C.load(tmp_path / "model.zip", env=Arrays(PATTERNS["mixed"], AutoresetMode.SAME_STEP), device="cpu")
    assert loaded.learn(24).num_timesteps >= 24
    loaded.set_env(WAYS["sync NEXT_STEP"](PATTERNS["mixed"]))
    loaded.learn(24)
    assert sb3.A2C.load(tmp_path / "model.zip").predict(np.zeros((1, 3), np.float32))[0].shape == (1,)


def test_a_wrapper_is_put_around_single_environments_where_there_are_any():
    arrays, one_by_one = (
        make_vec_env("Acrobot-v1", 2, seed=4, vector=vector, wrapper_class=lambda env: gym.wrappers.TimeLimit(env, 3))
        for vector in (True, False)
    )
    np.testing.assert_array_equal(arrays.reset(), one_by_one.reset())
    for _ in range(7):
        ours, expected = (env.step(np.ones(2, int)) for env in (arrays, one_by_one))
        for a, b in zip(ours[:3], expected[:3], strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="CartPole-v1's own vectorised implementation steps all environments at once"):
        make_vec_env("CartPole-v1", 2, vector=True, wrapper_class=gym.wrappers.TimeAwareObservation)


class Unspoken(Arrays):
    def __init__(self):
        super().__init__(PATTERNS["mixed"], AutoresetMode.SAME_STEP)
        self.metadata = {}


def test_what_cannot_be_stepped_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"Unspoken does not say how it resets: metadata\['autoreset_mode'\] is None"):
        PPO("MlpPolicy", Unspoken())
    stubborn = Arrays(PATTERNS["mixed"], AutoresetMode.DISABLED, honours_mask=False)
    with pytest.raises(ValueError, match=r"Arrays does not reset environments itself .* it does not leave the others alone"):
        ACER("MlpPolicy", stubborn)
    with pytest.raises(TypeError, match="vector=True takes env_kwargs and wrapper_class, but not vec_env_cls"):
        make_vec_env("CartPole-v1", 2, vector=True, vec_env_cls=DummyVecEnv)
