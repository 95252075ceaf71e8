"""What off-policy algorithms refuse: the model is then as it was before."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from selection import each_value, mostly_slow
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from support.array_environments import TERMINATED, Arrays, Episodes
from support.off_policy import EVERY_NAME, NAMES, fill, make, tensors
from support.small_environments import AnySpace

import sb3_pgx
from sb3_pgx.registry import name_of

EVERY = pytest.mark.parametrize("name", EVERY_NAME)


class Faulty(gym.Env):
    """Observations are random; the reward or the observation of one step is NaN, or the step raises."""

    observation_space, action_space = spaces.Box(-1, 1, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, fault, at=25):
        self.fault, self.at, self.steps = fault, at, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action):
        self.steps += 1
        observation, reward = self.np_random.uniform(-1, 1, 3).astype(np.float32), 1.0
        if self.steps == self.at:
            if self.fault == "raises":
                raise OSError("the robot is gone")
            reward = np.nan if self.fault == "reward" else reward
            observation = observation * (np.inf if self.fault == "observation" else 1)
        return observation, reward, self.steps % 10 == 0, False, {}


def state(model):
    kept = {name: value.clone() for name, value in tensors(model).items()}
    counters = (model.num_timesteps, model._n_updates, model.replay_buffer.pos, copy.copy(model.replay_buffer.rewards))
    return kept, counters


def same(one, other):
    (tensors_, counters), (others, other_counters) = one, other
    assert tensors_.keys() == others.keys() and all(th.equal(value, others[name]) for name, value in tensors_.items())
    assert counters[:3] == other_counters[:3] and np.array_equal(counters[3], other_counters[3])


@pytest.mark.parametrize("fault, traced", each_value(["reward", "observation"], [False, True]))
@EVERY
def test_a_number_that_is_not_finite_is_not_stored(name, fault, traced, graphs):
    model, untroubled = (
        make(sb3_pgx, name, VecNormalize(DummyVecEnv([lambda at=at: Faulty(fault, at)])), compile=traced) for at in (25, 1000)
    )
    untroubled.set_random_seed(0)
    untroubled.learn(24)
    model.set_random_seed(0)
    with pytest.raises(ValueError, match=rf"^environment 0 returned {fault} (nan|-?inf).* unchanged since update 16; check"):
        model.learn(40)
    same(state(untroubled), state(model))
    assert np.array_equal(model.env.obs_rms.mean, untroubled.env.obs_rms.mean)
    model.learn(10, reset_num_timesteps=False)
    assert model.num_timesteps == 34 and all(th.isfinite(p).all() for p in model.policy.parameters())


@pytest.mark.parametrize("where, traced", each_value(["rewards", "observations"], [False, True]))
@EVERY
def test_a_gradient_step_that_is_not_finite_is_not_taken(name, where, traced, graphs):
    model = fill(make(sb3_pgx, name, policy_kwargs={} if name == "D4PG" else dict(n_critics=2)))
    model.compiled = traced
    model.train(3, batch_size=8)
    good = copy.deepcopy(getattr(model.replay_buffer, where))
    before = state(model)
    getattr(model.replay_buffer, where)[:] = np.nan
    with pytest.raises(ValueError, match=rf"in gradient step 4; the step was not taken.*The batch's {where} are not finite"):
        model.train(2, batch_size=8)
    getattr(model.replay_buffer, where)[:] = good
    same(before, state(model))
    model.train(2, batch_size=8)
    assert model._n_updates == 5 and all(th.isfinite(p).all() for p in model.policy.parameters())


def test_a_step_by_the_optimizer_itself_that_is_not_finite_is_undone():
    model = fill(make(sb3_pgx, "SAC", policy_kwargs=dict(optimizer_kwargs=dict(amsgrad=True))))
    model.train(3, batch_size=8)
    good, before = copy.deepcopy(model.replay_buffer.rewards), state(model)
    model.replay_buffer.rewards[:] = np.nan
    with pytest.raises(ValueError, match=r"in gradient step 4; the step was not taken.*The batch's rewards are not finite"):
        model.train(2, batch_size=8)
    model.replay_buffer.rewards[:] = good
    same(before, state(model))
    model.train(1, batch_size=8)


@EVERY
def test_exceptions_of_the_users_code_stay(name):
    model = make(sb3_pgx, name, DummyVecEnv([lambda: Faulty("raises")]))
    with pytest.raises(OSError, match=r"^the robot is gone$"):
        model.learn(40)


@pytest.mark.parametrize("name", [name for name in EVERY_NAME if name != "SoftQLearning"])
def test_discrete_actions_are_refused_with_a_remedy(name):
    with pytest.raises(AssertionError, match=rf"^{name} needs continuous actions \(Box\), but .*Discrete\(2\): use PPO"):
        make(sb3_pgx, name, make_vec_env("CartPole-v1", 1))


class Pushed(Episodes):
    """Scripted episodes with one number as the action."""

    def step(self, action):
        return super().step(action[0])


def arrays(mode):
    """Two environments that step as arrays and take one number from −1 to 1."""
    made = Arrays([[(4, TERMINATED)]] * 2, mode, honours_mask=False, of=Pushed)
    made.single_action_space = spaces.Box(-1, 1, (1,), np.float32)
    made.action_space = batch_space(made.single_action_space, 2)
    return made


def test_environments_that_step_as_arrays_are_taken_if_no_step_only_resets():
    with pytest.raises(ValueError, match=r"the replay memory keeps every step; use an environment that resets in the same"):
        make(sb3_pgx, "SAC", arrays(AutoresetMode.NEXT_STEP)).learn(10)
    model = make(sb3_pgx, "SAC", arrays(AutoresetMode.SAME_STEP)).learn(20)
    assert model._n_updates > 0 and model.replay_buffer.dones[:10].sum() == 4


WRONG = {
    "buffer_size": (0, "at least 1"),
    "batch_size": (2.5, "whole number"),
    "learning_starts": (-1, "at least 0"),
    "gradient_steps": (-2, "at least -1"),
    "train_freq": (0, "at least 1"),
    "tau": (1.5, "outside"),
    "gamma": (-0.1, "outside"),
    "n_steps": (0, "at least 1"),
    "learning_rate": ("fast", "not a schedule"),
    "seed": (-1, "whole number"),
    "compile": ("yes", "unknown"),
}


@pytest.mark.parametrize("argument", WRONG)
def test_a_wrong_argument_is_refused_in_one_sentence(argument):
    value, reason = WRONG[argument]
    with pytest.raises(ValueError, match=rf"{argument}.*{reason}"):
        make(sb3_pgx, "TD3", **{argument: value})


def test_no_episodes_at_all_are_refused_and_episodes_of_several_environments():
    with pytest.raises(ValueError, match=r"train_freq=0 must be a whole number, at least 1"):
        make(sb3_pgx, "SAC", train_freq=(0, "episode"))
    with pytest.raises(ValueError, match=r"train_freq=\(1, 'episode'\) counts episodes, but there are 2 environments"):
        make(sb3_pgx, "SAC", make_vec_env("Pendulum-v1", 2), train_freq=(1, "episode")).learn(10)


@EVERY
def test_discrete_observations_that_do_not_begin_with_0_are_refused(name):
    env = DummyVecEnv([lambda: AnySpace(spaces.Discrete(4, start=2), spaces.Box(-1, 1, (1,), np.float32))])
    with pytest.raises(ValueError, match=r"Discrete\(4, start=2\) begin with another number than 0.*wrapper"):
        make(sb3_pgx, name, env)


@pytest.mark.parametrize(
    "settings, reason",
    [
        (dict(ent_coef="auto_0"), 'after "auto_" must be positive'),
        (dict(ent_coef="much"), "must be a number"),
        (dict(target_entropy="low"), "in nats"),
        (dict(target_update_interval=0), "at least 1"),
    ],
)
def test_a_wrong_temperature_is_refused_in_one_sentence(settings, reason):
    with pytest.raises(ValueError, match=reason):
        make(sb3_pgx, "SAC", **settings)


def test_a_delay_and_noise_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="policy_delay=0 must be a whole number"):
        make(sb3_pgx, "TD3", policy_delay=0)
    with pytest.raises(ValueError, match="target_policy_noise=-1 must be finite"):
        make(sb3_pgx, "TD3", target_policy_noise=-1)


@pytest.mark.parametrize("name", NAMES)
def test_files_go_both_ways(name, tmp_path):
    ours, theirs = fill(make(sb3_pgx, name, learning_rate="lin_0.001")), fill(make(sb3, name))
    for model in (ours, theirs):
        model.train(4, batch_size=8)
    ours.save(tmp_path / "ours.zip")
    theirs.save(tmp_path / "theirs")
    ours.save_replay_buffer(tmp_path / "memory")
    env = make_vec_env("Pendulum-v1", 1, seed=0)
    read, written = getattr(sb3, name).load(tmp_path / "ours.zip", env), getattr(sb3_pgx, name).load(tmp_path / "theirs", env)
    for saved, loaded in ((ours, read), (theirs, written)):
        one, other = tensors(saved), tensors(loaded)
        assert one.keys() == other.keys() and all(th.equal(value, other[key]) for key, value in one.items())
    for loaded in (read, written):
        loaded.load_replay_buffer(tmp_path / "memory.pkl")
        loaded.learn(12, reset_num_timesteps=False)
    assert name_of(type(ours)) == name.lower() and b"sb3_pgx" not in (tmp_path / "ours.zip").read_bytes()


def test_the_users_arguments_are_not_changed():
    kwargs, memory = dict(net_arch=[8]), {}
    sb3_pgx.DDPG("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs, replay_buffer_kwargs=memory, n_steps=3, device="cpu")
    assert kwargs == dict(net_arch=[8]) and memory == {}


@pytest.mark.parametrize("name", mostly_slow(EVERY_NAME, ["SAC"]))
def test_layers_that_are_thawed_train_on_beside_a_callback(name):
    """Their optimizer has taken fewer steps for them than for the others, so it takes the steps itself."""
    model = make(sb3_pgx, name)
    layer = next(module for module in model.actor.modules() if isinstance(module, th.nn.Linear))
    layer.requires_grad_(False)
    model.learn(30)
    before = layer.weight.detach().clone()
    layer.requires_grad_(True)
    for _ in range(2):
        model.learn(30, callback=lambda *_: True, reset_num_timesteps=False)
    assert not th.equal(layer.weight, before)
