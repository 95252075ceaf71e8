"""Soft Q-learning against hand-made steps, densities that are known, and soft value iteration."""

from functools import partial

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.td3.policies import TD3Policy
from support.models import assert_same
from support.off_policy import fill, make, tensors
from support.small_environments import AnySpace
from torch import nn

import sb3_pgx
from sb3_pgx import SoftQLearning
from sb3_pgx.algorithms.soft_q_learning import Coefficients, soft_q_step
from sb3_pgx.core.energy_based_policies import SoftQPolicy
from sb3_pgx.engine.joint_step import JointStep, Mover, Networks
from sb3_pgx.engine.optimizers import SGD

BOX, UNIT = spaces.Box(-1, 1, (1,), np.float32), spaces.Box(-1, 1, (3,), np.float32)


def make_soft(env=None, **kwargs):
    return make(sb3_pgx, "SoftQLearning", env, **kwargs)


# ------------------------------------------------------------------------------------------------ one step


def column(*x):
    return th.tensor(x, dtype=th.float64).reshape(-1, 1)


def step_of(policy, rates):
    held = dict(policy.named_parameters())
    movers = {
        name: Mover([of], [()], partial(SGD.stepped, group={"lr": rate, "weight_decay": 0.0}, number=1))
        for name, (of, rate) in rates.items()
    }
    return JointStep(Networks(policy, held), held, movers)


class Weight(nn.Module):
    def __init__(self, *weights):
        super().__init__()
        self.weight = nn.Parameter(th.tensor(weights, dtype=th.float64))


class Linear(Weight):
    """Q(s, a) = w a."""

    def forward(self, observations, actions):
        return (self.weight * actions,)


class Scaled(Weight):
    """f(s, ξ) = w ξ."""

    def before_tanh(self, observations, n):
        return self.weight * th.empty(len(observations), n, 1, dtype=th.float64).normal_()


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.actor, self.critic, self.critic_target = Scaled(0.7), Linear(0.8), Linear(2.0)

    def q_values(self, critic, observations, actions):
        return critic(observations, actions)[0].squeeze(2)


def test_a_step_is_that_of_the_paper():
    """With one weight per network, two particles and gradient descent, every number of a step can be written down."""
    actions, rewards, ends = np.array([1.0, -0.5, 0.2]), np.array([0.3, 5.0, 1.0]), np.array([0.0, 0.0, 1.0])
    batch = ReplayBufferSamples(*map(lambda x: column(*x), (np.zeros(3), actions, np.zeros(3), ends, rewards)), discounts=None)
    step = step_of(Policy(), {"critic": ("critic.weight", 0.2), "actor": ("actor.weight", 0.4)})
    th.manual_seed(0)
    outcome = soft_q_step(step, batch, Coefficients(0.9, 0.5, 0.25, (4,), (2,), (0.5, 2.0)))

    th.manual_seed(0)
    waiting = th.empty(3, 4, 1, dtype=th.float64).exponential_().numpy()[:, :, 0]
    noise = th.empty(3, 2, 1, dtype=th.float64).normal_().numpy()[:, :, 0]
    uniform = 1 - 2 * np.exp(-waiting)
    soft = 0.5 * np.log(np.mean(2 * np.exp(2.0 * uniform / 0.5), axis=1))  # the density is 1/2
    targets = rewards + 0.9 * (1 - ends) * soft
    weight = 0.8 + 0.2 * np.mean((targets - 0.8 * actions) * actions)
    fixed, moved = 0.7 * noise[:, 0], 0.7 * noise[:, 1]
    a, b = np.tanh(fixed), np.tanh(moved)
    score = weight / 0.5 * (1 - a**2) - 2 * a  # d/du of Q(tanh u)/α + log (1 − tanh² u), with the critic after its step
    h = (a - b) ** 2 / np.log(2)
    direction = sum(np.exp(-((a - b) ** 2) / (c * h)) * (score + (1 - a**2) * 2 * (b - a) / (c * h)) for c in (0.5, 2.0))
    expected = {
        "critic.weight": weight,
        "actor.weight": 0.7 + 0.4 * np.mean(direction * noise[:, 1]),
        "critic_target.weight": 0.75 * 2.0 + 0.25 * weight,
    }
    assert {name: step.values[name].item() for name in expected} == pytest.approx(expected, rel=1e-12)
    assert outcome["critic_loss"].item() == pytest.approx(np.mean((targets - 0.8 * actions) ** 2) / 2, rel=1e-12)
    assert outcome["soft_value"].item() == pytest.approx(soft.mean(), rel=1e-12)
    assert outcome["stein_direction"].item() == pytest.approx(np.sqrt(np.mean(direction**2)), rel=1e-12)
    assert step.check() == 0


class Table(Weight):
    """Q(s, ·) = the weights, whatever s."""

    def forward(self, observations, actions=None):
        values = self.weight.expand(len(observations), -1)
        return values if actions is None else (values.gather(1, actions),)


class Choosing(nn.Module):
    def __init__(self):
        super().__init__()
        self.critic, self.critic_target = Table(0.1, -0.4, 2.0), Table(1.0, 3.0, -1.0)


def test_a_step_with_discrete_actions_has_the_exact_soft_value():
    rewards, ends, choices = np.array([0.3, 5.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0, 0.0]), [2, 0, 0, 1]
    parts = (column(*np.zeros(4)), th.tensor(choices)[:, None], column(*np.zeros(4)), column(*ends), column(*rewards))
    step = step_of(Choosing(), {"critic": ("critic.weight", 0.2)})
    outcome = soft_q_step(step, ReplayBufferSamples(*parts, discounts=None), Coefficients(0.9, 0.5, 0.25, (), (), ()))
    soft = 0.5 * np.log(np.exp(2.0) + np.exp(6.0) + np.exp(-2.0))
    before = np.array([0.1, -0.4, 2.0])
    errors = rewards + 0.9 * (1 - ends) * soft - before[choices]
    after = before.copy()
    np.add.at(after, choices, 0.2 * errors / 4)
    assert step.values["critic.weight"].tolist() == pytest.approx(after.tolist(), rel=1e-12)
    target = 0.75 * np.array([1.0, 3.0, -1.0]) + 0.25 * after
    assert step.values["critic_target.weight"].tolist() == pytest.approx(target.tolist(), rel=1e-12)
    assert outcome["critic_loss"].item() == pytest.approx(np.mean(errors**2) / 2, rel=1e-12)
    assert outcome["soft_value"].item() == pytest.approx(soft, rel=1e-12)


# ------------------------------------------------------------------------------------------------ what is sampled


class TwoModes(nn.Module):
    """Q(s, a) = −20 (a² − ¼)² + ¼ a: with α = ½, modes near ±½, of which the right one is more probable."""

    def forward(self, inputs):
        actions = inputs[..., -1:]
        return -20 * (actions.square() - 0.25).square() + 0.25 * actions


class KnownPolicy(SoftQPolicy):
    """A policy whose critic is known."""

    def make_critic(self, features_extractor=None):
        critic = super().make_critic(features_extractor)
        critic.q_networks = [TwoModes()]
        return critic


def masses(n_bins, temperature):
    """Return the exact probabilities of equal bins from −1 to 1, by quadrature."""
    x = (np.arange(1000 * n_bins) + 0.5) / (500 * n_bins) - 1
    density = np.exp((-20 * (x**2 - 0.25) ** 2 + 0.25 * x) / temperature)
    return (density / density.sum()).reshape(n_bins, -1).sum(axis=1)


@pytest.mark.slow  # it trains the sampler until it is as near as 0.05
def test_the_histogram_of_the_sampler_is_that_of_the_density():
    env = DummyVecEnv([lambda: AnySpace(UNIT, spaces.Box(-2, 2, (1,), np.float32))])
    model = make_soft(
        env,
        policy=KnownPolicy,
        policy_kwargs=dict(net_arch=[128, 128]),
        ent_coef=0.5,
        learning_starts=500,
        learning_rate="lin_3e-3",
        batch_size=16,
    ).learn(400)
    model.train_sampler(2500)
    for observation in ([0.0, 0.0, 0.0], [0.7, -0.2, 0.4]):
        actions = model.predict(np.tile(np.float32(observation), (200_000, 1)))[0] / 2
        shares = np.histogram(actions, 40, (-1, 1))[0] / len(actions)
        assert np.abs(shares - masses(40, 0.5)).sum() / 2 <= 0.05


def test_choices_are_samples_of_the_softmax_and_the_best_one_if_deterministic():
    model = make_soft(DummyVecEnv([lambda: AnySpace(UNIT, spaces.Discrete(4))]), ent_coef=0.3)
    with th.no_grad():
        model.policy.q_net.q_net[-1].weight *= 5
    observation = np.float32([0.5, -0.5, 0.9])
    with th.no_grad():
        values = model.policy.q_net(th.tensor(observation)[None])[0].double()
    actions = model.predict(np.tile(observation, (100_000, 1)))[0]
    shares = np.bincount(actions, minlength=4) / len(actions)
    expected = (values / 0.3).softmax(dim=0).numpy()
    assert np.abs(shares - expected).max() < 0.006 and expected.max() < 0.9
    assert model.predict(observation, deterministic=True)[0] == values.argmax()


def test_the_deterministic_action_is_the_best_of_those_that_the_sampler_gives():
    model = make_soft(make_vec_env("Pendulum-v1", 1, seed=0), policy_kwargs=dict(n_candidates=5))
    policy, observations = model.policy, th.rand(4, 3)
    with th.no_grad():
        actions = policy.candidates(observations)
        pairs = th.cat([observations[:, None].expand(-1, 5, -1), actions], dim=2)
        best = policy.critic.q_networks[0](pairs)[..., 0].argmax(dim=1)
    chosen, _ = model.predict(observations.numpy(), deterministic=True)
    assert chosen == pytest.approx(2 * actions[th.arange(4), best].numpy(), rel=1e-5)
    assert len({round(action.item(), 6) for action in actions.flatten()}) == 20
    assert np.array_equal(chosen, model.predict(observations.numpy(), deterministic=True)[0])
    assert not np.array_equal(model.predict(observations.numpy())[0], model.predict(observations.numpy())[0])


def test_critics_are_composed_by_their_mean_or_their_minimum():
    observations, actions = th.rand(3, 3), th.rand(3, 7, 1) * 2 - 1
    for mean in (False, True):
        policy = make_soft(policy_kwargs=dict(n_critics=2, mean_of_critics=mean)).policy
        with th.no_grad():
            pairs = th.cat([observations[:, None].expand(-1, 7, -1), actions], dim=2)
            each = [network(pairs)[..., 0].numpy() for network in policy.critic.q_networks]
            together = policy.q_values(policy.critic, observations, actions).numpy()
        assert together == pytest.approx(sum(each) / 2 if mean else np.minimum(*each), rel=1e-5)


# ------------------------------------------------------------------------------------------------ what is learned


def test_discrete_actions_reach_the_values_of_soft_value_iteration():
    """
    Two states, two choices: state −1 pays 0 or 1 and leads to state 1, which pays 2 or 0, and leads back or ends.
    """
    model = make_soft(
        DummyVecEnv([lambda: AnySpace(BOX, spaces.Discrete(2))]),
        ent_coef=0.7,
        gamma=0.8,
        tau=0.1,
        learning_rate="lin_0.02",
        batch_size=64,
    )
    low, high = np.full((1, 1), -1, np.float32), np.full((1, 1), 1, np.float32)
    transitions = [
        (low, 0, high, 0.0, False),
        (low, 1, high, 1.0, False),
        (high, 0, low, 2.0, False),
        (high, 1, low, 0.0, True),
    ]
    for state, choice, following, reward, ends in transitions * 50:
        memory = model.replay_buffer
        memory.add(state, following, np.array([[choice]]), np.array([reward]), np.array([ends]), [{}])
    model.set_logger(Logger(None, []))
    for done in range(0, 600, 50):
        model._current_progress_remaining = 1 - done / 600
        model.train(50, model.batch_size)
    q = np.zeros((2, 2))
    for _ in range(500):
        v = 0.7 * np.log(np.exp(q / 0.7).sum(axis=1))
        q = np.array([[0.8 * v[1], 1 + 0.8 * v[1]], [2 + 0.8 * v[0], 0.0]])
    with th.no_grad():
        learned = model.policy.q_net(th.tensor([[-1.0], [1.0]])).numpy()
    assert np.allclose(learned, q, rtol=0, atol=0.15) and q.max() > 5


@pytest.mark.parametrize("environment", ["Pendulum-v1", "CartPole-v1"])
def test_traced_steps_and_those_of_the_optimizers_are_the_eager_ones(environment, graphs):
    trained = {}
    for way in ("eager", "traced", "optimizers"):
        model = make_soft(make_vec_env(environment, 2, seed=0), compile=way == "traced", n_particles=8, n_value_samples=8)
        if way == "optimizers":  # whose steps are not those of a function
            model.optimizers()["critic"].register_step_post_hook(lambda *args: None)
        model.set_random_seed(0)
        trained[way] = model.learn(60, log_interval=None)
    assert len(graphs) == 2  # acting and the gradient step
    for other in ("traced", "optimizers"):
        one, two = (model.policy.state_dict() for model in (trained["eager"], trained[other]))
        assert all(th.allclose(x.double(), two[name].double(), rtol=0, atol=1e-5) for name, x in one.items()), other


def test_target_networks_move_now_and_then():
    model = fill(make_soft(tau=1.0, target_update_interval=3))
    lag = []
    for _ in range(7):
        model.train(1, 8)
        pairs = zip(model.critic.parameters(), model.critic_target.parameters(), strict=True)
        lag.append(any(not th.equal(p, q) for p, q in pairs))
    assert lag == [True, True, False, True, True, False, True]


def test_the_sampler_is_trained_alone():
    model = make_soft(learning_rate="lin_0.01").learn(30)
    before = {name: x.clone() for name, x in model.policy.state_dict().items()}
    model.train_sampler(5)
    moved = {name.partition(".")[0] for name, x in model.policy.state_dict().items() if not th.equal(x, before[name])}
    assert moved == {"actor"}
    model.learn(12, reset_num_timesteps=False)
    assert not th.equal(model.policy.critic.qf0[0].weight, before["critic.qf0.0.weight"])


def test_images_and_dictionaries_have_their_policies(graphs):
    image = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    dictionary = spaces.Dict({"a": BOX, "b": UNIT})
    for actions in (BOX, spaces.Discrete(3)):
        for policy, space in (("CnnPolicy", image), ("MultiInputPolicy", dictionary)):
            env = DummyVecEnv([lambda space=space, actions=actions: AnySpace(space, actions)])
            assert make_soft(env, policy=policy, compile=True).learn(16)._n_updates == 8
    goals = DummyVecEnv([lambda: BitFlippingEnv(n_bits=3, continuous=True, max_steps=4)])
    hindsight = dict(replay_buffer_class=HerReplayBuffer, learning_starts=10, policy="MultiInputPolicy")
    assert make_soft(goals, compile=True, **hindsight).learn(20)._n_updates == 10
    assert len(graphs) == 10


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("environment", ["Pendulum-v1", "CartPole-v1"])
def test_a_loaded_model_with_its_memory_trains_on_as_the_saved_one(environment, tmp_path):
    model = make_soft(make_vec_env(environment, 1, seed=0), ent_coef=0.3, kernel_scales=[0.5]).learn(30)
    model.save(tmp_path / "model"), model.save_replay_buffer(tmp_path / "memory")
    loaded = SoftQLearning.load(tmp_path / "model", env=model.get_env(), device=model.device)
    loaded.load_replay_buffer(tmp_path / "memory")
    assert (loaded.ent_coef, loaded.kernel_scales) == (0.3, [0.5])
    loaded.compiled = model.compiled
    loaded.set_logger(Logger(None, []))
    for each in (model, loaded):
        each.set_random_seed(1)
        each.train(4, 8)
    assert_same(model.policy.state_dict(), loaded.policy.state_dict())
    if environment == "Pendulum-v1":
        assert_same(tensors(model), tensors(loaded))
    else:
        colder = SoftQLearning.load(tmp_path / "model", env=model.get_env(), ent_coef=0.1)
        assert colder.policy.temperature == 0.1


def test_a_policy_is_saved_by_itself(tmp_path):
    observations = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    for actions, kwargs in ((BOX, dict(n_critics=2, noise_dim=3, n_candidates=4)), (spaces.Discrete(3), {})):
        env = DummyVecEnv([lambda actions=actions: AnySpace(UNIT, actions)])
        policy = make_soft(env, ent_coef=0.2, policy_kwargs=kwargs).policy
        policy.save(tmp_path / "policy")
        again = type(policy).load(tmp_path / "policy")
        taken = []
        for each in (policy, again):
            th.manual_seed(0)
            taken.append([each.predict(observations, deterministic=best)[0] for best in (False, True)])
        assert all(np.array_equal(one, other) for one, other in zip(*taken, strict=True))


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (dict(ent_coef=0.0), r"ent_coef=0.0 must be positive and finite"),
        (dict(ent_coef="auto"), r"ent_coef='auto' must be positive and finite"),
        (dict(n_particles=5), r"n_particles=5 must be even"),
        (dict(n_particles=0), r"n_particles=0 must be a whole number, at least 2"),
        (dict(n_value_samples=0), r"n_value_samples=0 must be a whole number, at least 1"),
        (dict(target_update_interval=0), r"target_update_interval=0 must be a whole number"),
        (dict(kernel_scales=[]), r"kernel_scales=\[\] must be a list of positive numbers, such as"),
        (dict(kernel_scales=0.5), r"kernel_scales=0.5 must be a list of positive numbers, such as"),
        (dict(kernel_scales=(1.0, -1.0)), r"kernel_scales\[1\]=-1.0 must be positive"),
        (
            dict(policy=TD3Policy),
            r"policy=TD3Policy is not energy-based for Box actions: give a name, or a class derived from",
        ),
        (dict(policy_kwargs=dict(noise_dim=0)), r"policy_kwargs: noise_dim=0 must be a whole number, at least 1"),
        (dict(policy_kwargs=dict(n_candidates=0)), r"policy_kwargs: n_candidates=0 must be a whole number, at least 1"),
        (dict(policy_kwargs=dict(temperature=1.0)), r"policy_kwargs has temperature, which is SoftQLearning's ent_coef"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_one_sentence(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_soft(**settings)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (
            dict(policy=SoftQPolicy, action_noise=NormalActionNoise(np.zeros(1), np.ones(1))),
            r"action_noise cannot be added to",
        ),
        (dict(policy=TD3Policy), r"policy=TD3Policy is not energy-based for Discrete actions"),
        (dict(policy_kwargs=dict(n_critics=2)), r"policy_kwargs has n_critics, which SoftQLearning has for Box actions alone"),
    ],
)
def test_what_discrete_actions_do_not_have_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_soft(make_vec_env("CartPole-v1", 1), **settings)


def test_other_actions_are_refused_with_a_remedy():
    env = DummyVecEnv([lambda: AnySpace(UNIT, spaces.MultiDiscrete([2, 3]))])
    with pytest.raises(AssertionError, match=r"^SoftQLearning needs Box or Discrete actions, but .*MultiDiscrete.*: use PPO"):
        make_soft(env)


def test_choices_that_do_not_count_from_0_are_refused():
    env = DummyVecEnv([lambda: AnySpace(UNIT, spaces.Discrete(3, start=1))])
    with pytest.raises(ValueError, match=r"Discrete\(3, start=1\), but SoftQLearning's choices count from 0: shift them"):
        make_soft(env)


def test_a_sampler_that_cannot_be_trained_alone_is_refused():
    with pytest.raises(ValueError, match=r"the replay memory is empty, .*: call learn or load_replay_buffer before"):
        make_soft().train_sampler(1)
    with pytest.raises(ValueError, match=r"Discrete actions have no sampler"):
        make_soft(make_vec_env("CartPole-v1", 1)).train_sampler(1)
    with pytest.raises(ValueError, match=r"gradient_steps=0 must be a whole number"):
        make_soft().train_sampler(0)
