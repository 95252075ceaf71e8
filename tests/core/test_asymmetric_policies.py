"""Policies of which the actor does not see one part of the observations."""

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from support.capabilities import MIXED, QUICK
from support.refusals import refusal
from support.small_environments import AnySpace, vectorised

from sb3_pgx import ACER, PPO, REINFORCE, RecurrentPPO
from sb3_pgx.core.asymmetric_policies import AsymmetricMultiInputPolicy
from sb3_pgx.registry import ALGORITHMS

BOX = spaces.Box(-1, 1, (3,), np.float32)
SPACE = spaces.Dict({"critic": spaces.Box(-1, 1, (4,), np.float32), "kind": spaces.Discrete(3), "own": BOX})
KWARGS = dict(critic_key="critic", net_arch=dict(pi=[8], vf=[6, 5]))
WITH_CRITIC = [name for name in ALGORITHMS if name not in ("acer", "reinforce")]


class EverythingExtractor(BaseFeaturesExtractor):
    """A user's extractor, which takes all it is given."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 1)
        self.weight = th.nn.Parameter(th.ones(1))

    def forward(self, observations):
        flat = [part.flatten(1) for part in observations.values()]
        return self.weight * th.cat(flat, dim=1).sum(dim=1, keepdim=True)


def model(name="ppo", space=SPACE, actions=BOX, **kwargs):
    env = vectorised(*(AnySpace(space, actions) for _ in range(2)))
    arguments = dict(QUICK[name], policy_kwargs=KWARGS, seed=0, device="cpu", **{"compile": False, **kwargs})
    return ALGORITHMS[name]("MultiInputPolicy", env, **arguments)


def observations(n=5):
    th.manual_seed(0)
    return {"critic": th.randn(n, 4), "kind": th.arange(n).reshape(n, 1) % 3, "own": th.randn(n, 3)}


def arrays():
    return {key: part.numpy().reshape(5, *SPACE[key].shape) for key, part in observations().items()}


@pytest.mark.parametrize("extractor", [None, EverythingExtractor])
@pytest.mark.parametrize("actions", [BOX, spaces.Discrete(4), MIXED], ids=["Box", "Discrete", "mixed"])
def test_the_actors_gradient_in_what_the_critic_sees_is_zero(actions, extractor):
    more = {} if extractor is None else {"features_extractor_class": extractor}
    env = vectorised(AnySpace(SPACE, actions))
    policy = PPO("MultiInputPolicy", env, policy_kwargs=KWARGS | more, seed=0, device="cpu").policy
    given = observations()
    given["critic"].requires_grad_(True), given["own"].requires_grad_(True)
    with th.no_grad():
        taken = policy(given)[0]
    values, log_prob, entropy = policy.evaluate_actions(given, taken)
    of_actor = th.autograd.grad((log_prob + entropy).sum(), [given["critic"], given["own"]], allow_unused=True)
    assert of_actor[0] is None or not of_actor[0].any()
    of_critic = th.autograd.grad(values.sum(), [given["critic"], given["own"]])
    assert all((gradient.abs().sum(dim=1) > 0).all() for gradient in of_critic)
    assert of_actor[1].abs().max() > 0


@pytest.mark.parametrize("name", WITH_CRITIC)
def test_every_algorithm_with_a_critic_trains_it_on_all_parts_and_its_actor_on_the_rest(name):
    learned = model(name).learn(48)
    policy = learned.policy
    given, other = observations(), observations()
    other["critic"] = other["critic"] + 1
    assert th.equal(policy.get_distribution(given).distribution.mean, policy.get_distribution(other).distribution.mean)
    assert (policy.predict_values(given) - policy.predict_values(other)).abs().min() > 0
    fresh = model(name).policy
    moved = {n.partition(".")[0] for n, p in policy.named_parameters() if not th.equal(p, fresh.get_parameter(n))}
    assert moved >= {"mlp_extractor", "action_net", "value_net"}


def test_predict_needs_no_critics_part():
    learned = model().learn(24)
    whole = arrays()
    rest = {key: part for key, part in whole.items() if key != "critic"}
    expected, _ = learned.predict(whole, deterministic=True)
    assert np.array_equal(learned.predict(rest, deterministic=True)[0], expected) and expected.shape == (5, 3)
    single, _ = learned.predict({key: part[0] for key, part in rest.items()}, deterministic=True)
    np.testing.assert_allclose(single, expected[0], rtol=1e-6)


def test_training_is_that_of_sb3s_ppo_with_this_policy():
    def env():
        return vectorised(*(AnySpace(SPACE, BOX) for _ in range(2)))

    settings = dict(n_steps=16, batch_size=8, n_epochs=2, policy_kwargs=KWARGS, seed=0, device="cpu", learning_rate=1e-2)
    ours = PPO("MultiInputPolicy", env(), compile=False, **settings).learn(96)
    theirs = sb3.PPO(AsymmetricMultiInputPolicy, env(), **settings).learn(96)
    assert type(ours.policy) is AsymmetricMultiInputPolicy
    for name, value in theirs.policy.state_dict().items():
        th.testing.assert_close(ours.policy.state_dict()[name], value, rtol=0, atol=1e-5)


def test_options_of_the_standard_deviation_may_be_combined_with_it():
    learned = PPO(
        "MultiInputPolicy",
        vectorised(AnySpace(SPACE, BOX)),
        policy_kwargs=KWARGS | dict(log_std_bounds=(-5, 2), state_dependent_std=True),
        n_steps=8,
        batch_size=8,
        device="cpu",
        compile=False,
    ).learn(16)
    given, other = observations(), observations()
    other["critic"] = other["critic"] + 1
    std, same = (learned.policy.get_distribution(x).distribution.stddev for x in (given, other))
    assert th.equal(std, same) and std.std() > 0


def test_a_saved_model_keeps_its_key(tmp_path):
    learned = model().learn(24)
    learned.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", device="cpu")
    given = arrays()
    assert loaded.policy.critic_key == "critic"
    assert np.array_equal(loaded.predict(given, deterministic=True)[0], learned.predict(given, deterministic=True)[0])
    learned.policy.save(tmp_path / "policy")
    policy = AsymmetricMultiInputPolicy.load(tmp_path / "policy")
    assert np.array_equal(policy.predict(given, deterministic=True)[0], learned.predict(given, deterministic=True)[0])


class Hidden(gym.Env):
    """The reward is known beforehand, but not to the actor."""

    observation_space = spaces.Dict({"critic": spaces.Box(-1, 1, (1,), np.float32), "own": BOX})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.sign = self.np_random.choice([-1.0, 1.0])
        return {"critic": np.array([self.sign], np.float32), "own": np.zeros(3, np.float32)}, {}

    def step(self, action):
        reward = float(self.sign)
        return self.reset()[0], reward, True, False, {}


class Explained(BaseCallback):
    def on_update_end(self, metrics):
        self.variance = metrics["explained_variance"]

    def _on_step(self):
        return True


def test_the_critic_explains_returns_by_what_the_actor_cannot_see():
    settings = dict(n_steps=128, batch_size=64, n_epochs=10, learning_rate=1e-2, seed=0, device="cpu", compile=False)
    explained, env = Explained(), vectorised(Hidden())
    PPO("MultiInputPolicy", env, policy_kwargs=dict(critic_key="critic"), **settings).learn(512, callback=explained)
    assert explained.variance > 0.95


def test_traced_training_is_the_eager_one(graphs):
    eager, traced = model().learn(48), model(compile=True).learn(48)
    assert traced.compiled and len(graphs) >= 2  # acting and the gradient step
    for name, value in eager.policy.state_dict().items():
        th.testing.assert_close(traced.policy.state_dict()[name], value, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- refusals


def test_a_key_that_does_not_exist_names_those_that_do():
    env = vectorised(AnySpace(SPACE, BOX))
    text = refusal(lambda: PPO("MultiInputPolicy", env, policy_kwargs=dict(critic_key="state")))
    assert "critic_key='state'" in text and "'critic', 'kind', 'own'" in text


def test_the_only_part_cannot_be_the_critics():
    env = vectorised(AnySpace(spaces.Dict({"critic": BOX}), BOX))
    assert "the actor needs one, too" in refusal(lambda: PPO("MultiInputPolicy", env, policy_kwargs=dict(critic_key="critic")))


def test_policies_without_dictionaries_or_a_critic_are_refused():
    flat, parts = vectorised(AnySpace(BOX, BOX)), vectorised(AnySpace(SPACE, BOX))
    key = dict(policy_kwargs=dict(critic_key="critic"))
    assert "MultiInputPolicy" in refusal(lambda: PPO("MlpPolicy", flat, **key))
    assert "REINFORCE" in refusal(lambda: REINFORCE("MultiInputPolicy", parts, **key))
    assert "ACER" in refusal(lambda: ACER("MultiInputPolicy", parts, **key))
    assert "critic_key" in refusal(lambda: PPO("MultiInputLstmPolicy", parts, **key))
    assert "critic_key" in refusal(lambda: RecurrentPPO("MultiInputLstmPolicy", parts, **key))
    shared = dict(policy_kwargs=dict(critic_key="critic", share_features_extractor=True))
    assert "leave share_features_extractor out" in refusal(lambda: PPO("MultiInputPolicy", parts, **shared))
