"""D4PG against hand-made steps, a chain whose distribution of returns is known, and DDPG's targets."""

from functools import partial

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.td3.policies import TD3Policy
from support.models import assert_same
from support.off_policy import EVERY_NAME, fill, make, tensors
from support.small_environments import AnySpace
from torch import nn

import sb3_pgx
from sb3_pgx import D4PG
from sb3_pgx.algorithms import td3
from sb3_pgx.algorithms.d4pg import Coefficients, d4pg_step, distributional_target
from sb3_pgx.core.prioritized_replay import PrioritizedReplayBuffer, PrioritizedSamples
from sb3_pgx.engine.joint_step import JointStep, Mover, Networks
from sb3_pgx.engine.optimizers import SGD

PRIORITIES = dict(prioritized_replay_alpha=0.6, prioritized_replay_beta="lin_0.4_1")


# ------------------------------------------------------------------------------------------------ one step


class TwoAtoms(nn.Module):
    """Probabilities of the atoms −1 and 3: σ(−w a) and σ(w a), whose logarithms have known derivatives."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(th.tensor([weight], dtype=th.float64))

    def atoms(self, like):
        return th.tensor([-1.0, 3.0], dtype=th.float64)

    def logits(self, observations, actions):
        return th.cat([th.zeros_like(actions), self.weight * actions], dim=1)

    def q1_forward(self, observations, actions):
        return self.logits(observations, actions).softmax(dim=1) @ self.atoms(None)[:, None]


class Constant(nn.Module):
    def __init__(self, action):
        super().__init__()
        self.action = nn.Parameter(th.tensor([action], dtype=th.float64))

    def forward(self, observations):
        return self.action.expand(len(observations), 1)


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.actor, self.actor_target = Constant(0.5), Constant(-0.25)
        self.critic, self.critic_target = TwoAtoms(0.8), TwoAtoms(2.0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_a_step_is_that_of_the_paper():
    """With two atoms, one weight per network and gradient descent, every number of a step can be written down."""
    policy = Policy()
    held = dict(policy.named_parameters())
    movers = {
        name: Mover([of], [()], partial(SGD.stepped, group={"lr": rate, "weight_decay": 0.0}, number=1))
        for name, of, rate in (("critic", "critic.weight", 0.2), ("actor", "actor.action", 0.4))
    }
    column = lambda *x: th.tensor(x, dtype=th.float64).reshape(-1, 1)  # noqa: E731
    zeros, actions, rewards = np.zeros(3), np.array([1.0, -0.5, 0.2]), np.array([0.3, 5.0, 1.0])
    ends, discounts, likely = np.array([0.0, 0.0, 1.0]), np.array([0.9, 0.81, 0.9]), np.array([2.0, 0.5, 1.0])
    columns = map(lambda x: column(*x), (zeros, actions, zeros, ends, rewards, discounts, likely))
    batch = PrioritizedSamples(*columns, rows=th.arange(3))
    step = JointStep(Networks(policy, held), held, movers)
    outcome = d4pg_step(step, batch, Coefficients(0.5, 0.25, 0.7))

    next_upper = sigmoid(2.0 * -0.25)  # probability of the atom 3 at s'
    values = rewards[:, None] + (1 - ends[:, None]) * discounts[:, None] * np.array([-1.0, 3.0])
    upper = (np.clip(values, -1, 3) + 1) / 4 @ np.array([1 - next_upper, next_upper])  # of Y
    before = sigmoid(0.8 * actions)
    weights = likely**-0.7
    loss = weights * -(upper * np.log(before) + (1 - upper) * np.log(1 - before))
    weight = 0.8 + 0.2 * np.mean(weights * (upper - before) * actions)
    chosen = sigmoid(weight * 0.5)
    action = 0.5 + 0.4 * 4 * chosen * (1 - chosen) * weight
    expected = {
        "critic.weight": weight,
        "actor.action": action,
        "critic_target.weight": 0.75 * 2.0 + 0.25 * weight,
        "actor_target.action": 0.75 * -0.25 + 0.25 * action,
    }
    assert {name: step.values[name].item() for name in expected} == pytest.approx(expected, rel=1e-12)
    assert outcome["critic_loss"].item() == pytest.approx(loss.mean(), rel=1e-12)
    assert outcome["actor_loss"].item() == pytest.approx(-(4 * chosen - 1), rel=1e-12)
    assert outcome["errors"].tolist() == pytest.approx(4 * np.abs(upper - before), rel=1e-12)
    assert step.check() == 0


def test_the_means_of_the_targets_are_ddpgs():
    """A projection keeps the mean, as long as no return is outside of the support."""
    model = fill(make(sb3_pgx, "D4PG", v_min=-60.0, v_max=60.0, n_steps=3, gamma=0.9))

    def call(function, *inputs):
        return function(model.policy, *inputs)

    batch = model.replay_buffer.sample(64)
    with th.no_grad():
        model.policy.critic_target.q_networks[0][-1].weight *= 30  # no uniform distribution
    target = distributional_target(call, batch, 0.9)
    ddpgs = td3.smoothed_targets(call, batch, td3.Coefficients(0.9, 0.0, (0.0,), 0.0, True))
    assert th.allclose(target.projected @ target.atoms, ddpgs[:, 0], rtol=0, atol=1e-3) and ddpgs.std() > 0.1


# ------------------------------------------------------------------------------------------------ whole runs


class Chain(AnySpace):
    """The spaces of a chain of two states, which are told by one number."""

    def __init__(self):
        super().__init__(spaces.Box(-1, 1, (1,), np.float32), spaces.Box(-1, 1, (1,), np.float32))


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(dict(n_steps=1), marks=pytest.mark.slow),
        dict(n_steps=2),
        pytest.param(dict(n_steps=1, **PRIORITIES), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_it_learns_the_distribution_of_the_returns_of_a_chain(settings):
    """
    State −1 pays −1 or 1 and leads to state 1, which pays 0 or 4 and is the last one. With γ = ½ the return of state −1 is
    −1, 1 or 3, with probabilities ¼, ½, ¼. All of these are atoms.
    """
    arguments = dict(v_min=-1.0, v_max=4.0, n_atoms=6, gamma=0.5, batch_size=256, learning_rate="lin_0.02", tau=0.1)
    model = make(sb3_pgx, "D4PG", DummyVecEnv([Chain]), buffer_size=2000, **arguments, **settings)
    random = np.random.default_rng(1)
    pairs = random.permutation([(-1, 0), (-1, 4), (1, 0), (1, 4)] * 125)
    for first, second in pairs.astype(np.float32):
        actions = random.uniform(-1, 1, (2, 1, 1)).astype(np.float32)
        state, last = np.full((1, 1), -1, np.float32), np.full((1, 1), 1, np.float32)
        model.replay_buffer.add(state, last, actions[0], np.array([first]), np.array([False]), [{}])
        model.replay_buffer.add(last, last, actions[1], np.array([second]), np.array([True]), [{}])
    model.set_logger(Logger(None, []))
    for done in range(0, 400, 50):
        model._current_progress_remaining = 1 - done / 400
        model.train(50, model.batch_size)
    with th.no_grad():
        logits = model.critic.logits(th.tensor([[-1.0], [1.0]]), th.zeros(2, 1))
    expected = [[0.25, 0, 0.5, 0, 0.25, 0], [0, 0.5, 0, 0, 0, 0.5]]
    assert np.allclose(logits.softmax(dim=1), expected, rtol=0, atol=0.04)
    with th.no_grad():
        assert model.critic(th.tensor([[-1.0]]), th.zeros(1, 1))[0].item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("settings", [{}, PRIORITIES], ids=["uniform", "priorities"])
def test_traced_steps_and_those_of_the_optimizers_are_the_eager_ones(settings, graphs):
    env = partial(make_vec_env, "Pendulum-v1", 2, seed=0)
    trained = {}
    for way in ("eager", "traced", "optimizers"):
        model = make(sb3_pgx, "D4PG", env(), v_min=-100.0, v_max=0.0, compile=way == "traced", **settings)
        if way == "optimizers":  # whose steps are not those of a function
            model.critic.optimizer.register_step_post_hook(lambda *args: None)
        model.set_random_seed(0)
        trained[way] = model.learn(60, log_interval=None)
    assert len(graphs) == 2  # acting and the gradient step
    for other in ("traced", "optimizers"):
        one, two = tensors(trained["eager"]), tensors(trained[other])
        assert one.keys() == two.keys()
        assert all(th.allclose(x.double(), two[name].double(), rtol=0, atol=1e-5) for name, x in one.items()), other
        if settings:
            priorities = [m.replay_buffer.priorities for m in (trained["eager"], trained[other])]
            assert np.allclose(*priorities, rtol=1e-3, atol=1e-5) and np.unique(priorities[0]).size > 20


def test_priorities_are_those_of_the_errors():
    model = fill(make(sb3_pgx, "D4PG", v_min=-5.0, v_max=5.0, n_steps=2, learning_rate=0.0, **PRIORITIES))
    model.train(1, 100)
    memory, critic = model.replay_buffer, model.critic
    drawn = (memory.priorities != 1.0) & (memory.priorities > 0)
    assert drawn.sum() == 100  # one of each pair
    # With learning rate 0, the critic is still the one whose errors these are.
    batch = memory.sample(4000)
    with th.no_grad():
        target = distributional_target(lambda f, *x: f(model.policy, *x), batch, None)
        errors = (target.projected @ target.atoms - critic(batch.observations, batch.actions)[0][:, 0]).abs().numpy()
    rows, first = np.unique(batch.rows.numpy(), return_index=True)
    again = drawn[rows]
    assert np.allclose(memory.priorities[rows[again]], (errors[first[again]] + 1e-6) ** 0.6, rtol=1e-3, atol=1e-4)


def test_one_environment_per_actor_and_one_row_of_the_memory_per_step():
    model = make(sb3_pgx, "D4PG", make_vec_env("Pendulum-v1", 5, seed=0), gradient_steps=-1, **PRIORITIES).learn(100)
    assert model.replay_buffer.pos == 20 and model._n_updates == 95
    assert model.replay_buffer.size() == 20 and (model.replay_buffer.priorities[:100] > 0).all()


def test_images_and_dictionaries_have_their_policies(graphs):
    image, box = spaces.Box(0, 255, (36, 36, 1), np.uint8), spaces.Box(-1, 1, (2,), np.float32)
    model = make(sb3_pgx, "D4PG", DummyVecEnv([lambda: AnySpace(image, box)]), policy="CnnPolicy", compile=True).learn(16)
    assert model.critic(*map(th.zeros, ((2, 1, 36, 36), (2, 2))))[0].shape == (2, 1)
    goals = DummyVecEnv([lambda: BitFlippingEnv(n_bits=3, continuous=True, max_steps=4)])
    hindsight = dict(replay_buffer_class=HerReplayBuffer, n_steps=1, learning_starts=10, policy="MultiInputPolicy")
    assert make(sb3_pgx, "D4PG", goals, compile=True, **hindsight).learn(20)._n_updates == 10
    assert len(graphs) == 4


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.filterwarnings("error:.*is ignored")
@pytest.mark.parametrize("settings", [{}, PRIORITIES], ids=["uniform", "priorities"])
def test_a_loaded_model_with_its_memory_trains_on_as_the_saved_one(settings, tmp_path):
    model = fill(make(sb3_pgx, "D4PG", v_min=-9.0, v_max=9.0, n_atoms=21, **settings))
    model.train(3, 8)
    model.save(tmp_path / "model"), model.save_replay_buffer(tmp_path / "memory")
    loaded = D4PG.load(tmp_path / "model", env=model.get_env(), device=model.device)
    loaded.load_replay_buffer(tmp_path / "memory")
    assert type(loaded.replay_buffer) is (PrioritizedReplayBuffer if settings else NStepReplayBuffer)
    assert (loaded.v_min, loaded.v_max, loaded.n_atoms) == (-9.0, 9.0, 21) and loaded.critic.n_atoms == 21
    loaded.compiled = model.compiled
    loaded.set_logger(Logger(None, []))
    for each in (model, loaded):
        each.set_random_seed(1)
        each.train(4, 8)
    assert_same(tensors(model), tensors(loaded))


@pytest.mark.parametrize("name", EVERY_NAME)
def test_the_memory_of_a_loaded_model_follows_the_arguments_of_load(name, tmp_path):
    model = fill(make(sb3_pgx, name, n_steps=3))
    model.save(tmp_path / "model")
    changed = type(model).load(tmp_path / "model", env=model.get_env(), gamma=0.5, n_steps=2)
    assert type(changed.replay_buffer) is NStepReplayBuffer
    assert (changed.replay_buffer.gamma, changed.replay_buffer.n_steps) == (0.5, 2)
    assert type(type(model).load(tmp_path / "model", env=model.get_env(), n_steps=1).replay_buffer) is ReplayBuffer


def test_a_loaded_model_may_get_or_lose_priorities(tmp_path):
    make(sb3_pgx, "D4PG").save(tmp_path / "uniform")
    make(sb3_pgx, "D4PG", **PRIORITIES).save(tmp_path / "by priority")
    env = make_vec_env("Pendulum-v1")
    assert type(D4PG.load(tmp_path / "uniform", env=env, **PRIORITIES).replay_buffer) is PrioritizedReplayBuffer
    uniform = D4PG.load(tmp_path / "by priority", env=env, prioritized_replay_alpha=0.0)
    assert type(uniform.replay_buffer) is NStepReplayBuffer and uniform.replay_buffer.n_steps == uniform.n_steps


def test_a_policy_is_saved_by_itself(tmp_path):
    policy = make(sb3_pgx, "D4PG", v_min=-7.0, v_max=2.0, n_atoms=9).policy
    policy.save(tmp_path / "policy")
    again = type(policy).load(tmp_path / "policy")
    observations, actions = th.rand(3, 3), th.rand(3, 1)
    assert th.equal(again.critic.logits(observations, actions), policy.critic.logits(observations, actions))
    assert again.critic.atoms(actions).tolist() == pytest.approx(np.linspace(-7, 2, 9))


# ------------------------------------------------------------------------------------------------ refusals

DICTIONARY = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32)})


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (dict(n_atoms=1), r"n_atoms=1 must be a whole number, at least 2"),
        (dict(v_min=1.0, v_max=1.0), r"v_min=1.0 and v_max=1.0 must be finite numbers, and v_min the smaller one: choose"),
        (dict(v_min=-np.inf), r"v_min=-inf and v_max=150.0 must be finite"),
        (dict(v_max="high"), r"v_max='high' must be finite numbers"),
        (dict(prioritized_replay_alpha=-0.1), r"prioritized_replay_alpha=-0.1 must be finite and not negative"),
        (dict(prioritized_replay_beta="fast"), r'prioritized_replay_beta="fast" is not a schedule'),
        (dict(policy=TD3Policy), r"policy=TD3Policy has no categorical critic: give a name, or a class derived from sb3_pgx"),
        (dict(policy_kwargs=dict(v_min=-1, v_max=1)), r"policy_kwargs has v_max and v_min, arguments of D4PG itself"),
        (dict(policy_kwargs=dict(n_critics=2)), r"D4PG has one critic: remove it, or use TD3"),
        (dict(replay_buffer_class=NStepReplayBuffer, **PRIORITIES), r"replay_buffer_class is .*NStepReplay.*: leave one"),
        (dict(optimize_memory_usage=True), r"n_steps=5, prioritized_replay_alpha=0.0: the memories .* set n_steps=1 and"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_one_sentence(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(sb3_pgx, "D4PG", **settings)


def test_returns_over_several_steps_are_refused_where_observations_are_dictionaries():
    env = DummyVecEnv([lambda: AnySpace(DICTIONARY, spaces.Box(-1, 1, (2,), np.float32))])
    with pytest.raises(ValueError, match=r"n_steps=5.* take neither dictionaries"):
        make(sb3_pgx, "D4PG", env, policy="MultiInputPolicy")
