"""Masks that are wrong, are lost on the way, or come in unusual forms: used as they are meant, or refused by name."""

import copy
import gc
import weakref

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from selection import each_value
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv
from support.capabilities import QUICK
from support.masked_environments import Masked, MaskedArrays, environments
from support.models import assert_same, make_in, parameters
from support.small_environments import DEVICE

from sb3_pgx import PPO


def test_a_state_without_a_valid_action_is_named():
    env = environments()
    env.envs[1].action_masks = lambda: np.zeros(5, bool)
    with pytest.raises(
        ValueError, match=r"environment 1 .*no valid action at step 0 .*action_masks\(\) gives \[0, 0, 0, 0, 0\]"
    ):
        make_in("ppo", env).learn(8)


def test_a_mask_of_the_wrong_size_is_refused():
    env = environments()
    env.envs[1].action_masks = lambda: np.ones(4, bool)
    with pytest.raises(ValueError, match=r"masks of shape \(4,\) and \(5,\).*need 5 entries"):
        make_in("ppo", env).learn(8)


def test_a_mask_of_other_numbers_is_refused():
    env = environments()
    env.envs[0].action_masks = lambda: np.full(5, 0.5)
    with pytest.raises(ValueError, match=r"gives 0.5 in a mask.*norm_obs_keys"):
        make_in("ppo", env).learn(8)


def test_a_policy_with_a_distribution_of_its_own_is_refused():
    class Own(PPO.policy_aliases["MlpPolicy"]):
        def get_distribution(self, obs):
            return copy.deepcopy(super().get_distribution(obs))

    with pytest.raises(ValueError, match=r"Own.get_distribution makes a distribution of its own, which cannot be masked"):
        PPO(Own, environments(), n_steps=8, batch_size=8, device=DEVICE).learn(8)


class OwnForward(PPO.policy_aliases["MlpPolicy"]):
    def forward(self, obs, deterministic=False):
        distribution = CategoricalDistribution(5).proba_distribution(th.zeros(len(obs), 5, device=obs.device))
        actions = distribution.get_actions(deterministic)
        return actions, self.predict_values(obs), distribution.log_prob(actions)


class OwnEvaluation(PPO.policy_aliases["MlpPolicy"]):
    def evaluate_actions(self, obs, actions):
        values, log_prob, entropy = super().evaluate_actions(obs, actions)
        return values, th.full_like(log_prob, -1.0), entropy


class OwnDistribution(CategoricalDistribution):
    """A user's class, whose probabilities may be others."""


class WithOwnDistribution(PPO.policy_aliases["MlpPolicy"]):
    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.action_dist = OwnDistribution(5)


@pytest.mark.parametrize(
    "policy, match",
    [(OwnForward, "OwnForward.forward"), (OwnEvaluation, "OwnEvaluation.evaluate_actions"), (WithOwnDistribution, "OwnDis")],
)
def test_whatever_method_leaves_the_masks_out_is_named(policy, match):
    model = PPO(policy, environments(free=True), n_steps=8, batch_size=8, device=DEVICE)
    with pytest.raises(ValueError, match=f"environments mask actions, but .*{match}"):
        model.learn(8)
    model.learn(8, use_masking=False)


class ReadsProbabilities(PPO.policy_aliases["MlpPolicy"]):
    def evaluate_actions(self, obs, actions):
        self.probabilities = self.get_distribution(obs).distribution.probs
        return super().evaluate_actions(obs, actions)


def test_an_overridden_method_finds_sb3s_distribution_masked():
    model = PPO(ReadsProbabilities, environments(), n_steps=8, batch_size=16, n_epochs=1, device=DEVICE).learn(16)
    possible, valid = model.policy.probabilities > 0, model.last_rollout.rows().action_masks
    assert possible.sum() == valid.sum() < valid.numel()  # of all rows, in another order


class OwnBuffer(RolloutBuffer):
    """A user's class that knows no masks."""


class Swallows(RolloutBuffer):
    def add(self, *args, action_masks=None):
        super().add(*args)


@pytest.mark.parametrize("buffer", [OwnBuffer, Swallows])
def test_a_buffer_that_loses_the_masks_is_refused(buffer):
    model = make_in("ppo", environments(), rollout_buffer_class=buffer)
    with pytest.raises(
        ValueError, match=f"{buffer.__name__} does not keep action masks: derive it from .*MaskableRolloutBuffer"
    ):
        model.learn(40)


def test_a_buffer_derived_from_contribs_keeps_the_masks():
    class Own(MaskableRolloutBuffer):
        """A user's class."""

    kept, plain = (make_in("ppo", environments(), compile=False, **kwargs) for kwargs in ({"rollout_buffer_class": Own}, {}))
    kept.set_random_seed(3), kept.learn(40)
    plain.set_random_seed(3), plain.learn(40)
    th.testing.assert_close(parameters(kept), parameters(plain), rtol=1e-4, atol=1e-6)


def test_masks_that_the_environment_overwrites_are_kept_as_they_were_acted_on():
    class Reuses(MaskedArrays):
        def stacked(self, seen):
            new = MaskedArrays.stacked(seen)
            known = self.__dict__.setdefault("arrays", {key: x.copy() for key, x in new.items()})
            for key, array in known.items():
                array[:] = new[key]
            return known

    arguments = {"seed": 0, "device": DEVICE, **QUICK["ppo"], "compile": False}
    one, other = (PPO("MultiInputPolicy", env, **arguments).learn(60) for env in (Reuses(), MaskedArrays()))
    assert th.equal(one.last_rollout.action_masks, other.last_rollout.action_masks)
    assert_same(parameters(one), parameters(other))


def test_an_attribute_that_is_no_method_and_environments_out_of_reach():
    env = environments()
    env.envs[0].action_masks = np.ones(5)
    with pytest.raises(ValueError, match=r"action_masks of the environments is .*must be a method"):
        make_in("ppo", env).learn(8)

    class OutOfReach(DummyVecEnv):
        def get_attr(self, name, indices=None):
            if name == "render_mode":
                return super().get_attr(name, indices)
            raise NotImplementedError

    make_in("ppo", OutOfReach([lambda: Masked(free=True)])).learn(8)


def test_array_environments_may_give_the_masks_of_all_at_once():
    class Batched(MaskedArrays):
        def __init__(self):
            super().__init__()
            self.envs = [Masked(length=length) for length in (3, 5)]
            self.single_observation_space = self.envs[0].observation_space
            self.observation_space = batch_space(self.single_observation_space, 2)

        def action_masks(self):
            return np.stack([env.mask | ended for env, ended in zip(self.envs, self.ended, strict=True)])

        def step(self, actions):
            seen = []
            for i, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
                seen.append((env.reset()[0], 0.0, False) if self.ended[i] else env.step(action)[:3])
            self.ended = np.array([end for *_, end in seen])
            rewards = np.array([reward for _, reward, _ in seen])
            return self.stacked([x for x, *_ in seen]), rewards, self.ended.copy(), np.zeros(2, bool), {}

        @staticmethod
        def stacked(seen):
            return np.stack(seen)

    model = PPO("MlpPolicy", Batched(), **{"seed": 0, "device": DEVICE, **QUICK["ppo"]}, compile=False).learn(60)
    assert not model.last_rollout.action_masks.all()


def test_predict_masks_as_the_training_did():
    model = make_in("ppo", environments(in_observations=True, free=True), compile=False).learn(16, use_masking=False)
    seen = {"vector": np.zeros(3, np.float32), "action_mask": np.zeros(5, np.int8)}
    assert model.predict(seen)[0] in range(5)  # the part means nothing to this model
    model.learn(16)
    with pytest.raises(ValueError, match="leaves no valid action"):
        model.predict(seen)


def test_predict_takes_tensors_and_one_mask_for_all():
    model = make_in("ppo", environments(), compile=False)
    observations = np.zeros((3, 3), np.float32)
    assert model.predict(observations, action_masks=th.tensor([0, 0, 1, 0, 0]))[0].tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match=r"masks of shape \(2, 5\)"):
        model.predict(observations, action_masks=np.ones((2, 5)))


def test_after_training_the_model_does_not_hold_on_to_the_environments():
    env = environments()
    model = make_in("ppo", env, compile=False).learn(16)
    held = weakref.ref(env.envs[0])
    model.env = None
    del env
    gc.collect()
    assert held() is None


def test_a_policy_with_nan_does_not_predict_an_action():
    model = make_in("ppo", environments(), compile=False)
    with th.no_grad():
        model.policy.action_net.bias.fill_(th.nan)
    for deterministic in (False, True):
        with pytest.raises(ValueError, match="nan"):
            model.predict(np.zeros(3, np.float32), action_masks=np.ones(5), deterministic=deterministic)


def test_masks_of_actions_that_cannot_be_masked_are_refused():
    env = make_vec_env("Pendulum-v1", 1)
    env.envs[0].unwrapped.action_masks = lambda: np.ones(1, bool)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, device=DEVICE)
    with pytest.raises(ValueError, match=r"those of Box.* cannot be masked.*use_masking=False"):
        model.learn(8)
    model.learn(8, use_masking=False)


@pytest.mark.parametrize("given, match", [(np.ones(4), "need 5 entries"), (np.zeros(5), "leaves no valid action")])
def test_bad_masks_for_predict_are_refused(given, match):
    model = make_in("ppo", environments())
    with pytest.raises(ValueError, match=match):
        model.predict(np.zeros(3, np.float32), action_masks=given)


def test_acer_needs_the_masks_of_final_states():
    class Forgets(Masked):
        def step(self, action):
            return *super().step(action)[:4], {}

    env = DummyVecEnv([lambda: Forgets(truncates=True)])
    with pytest.raises(ValueError, match=r'environment 0 .*was truncated.*info\["action_masks"\].*action_mask'):
        make_in("acer", env).learn(100)


@pytest.mark.parametrize("change, first", each_value(["use_masking", "other environments", "memory of a file"], [False, True]))
def test_acers_memory_takes_transitions_with_masks_or_without_but_not_both(first, change, tmp_path):
    masked, unmasked = (lambda: environments(free=True)), (lambda: DummyVecEnv([Unmasked] * 2))
    model = make_in("acer", masked(), compile=False)
    if change == "other environments":
        model.set_env(masked() if first else unmasked())
        model.learn(40)
        model.set_env(unmasked() if first else masked())
    else:
        model.learn(40, use_masking=first)
    if change == "memory of a file":
        model.save_replay_buffer(tmp_path / "memory.pkl")
        model = make_in("acer", masked(), compile=False)
        model.load_replay_buffer(tmp_path / "memory.pkl")
    before, policy = model.replay_buffer.size, parameters(model)
    again = {} if change == "other environments" else {"use_masking": not first}
    held, new = ("with", "without") if first else ("without", "with")
    with pytest.raises(ValueError, match=rf"holds {before} transitions {held} action masks.*stored {new} .*reset\(\)"):
        model.learn(40, **again)
    assert model.replay_buffer.size == before
    assert_same(parameters(model), policy)
    model.replay_buffer.reset()
    model.learn(40, **again)
    assert (model.last_rollout.action_masks is None) == first


class Unmasked(Masked):
    """All actions are valid, and there are no masks."""

    def __init__(self):
        super().__init__(free=True)
        del self.action_masks


class Named(Masked):
    """Observations are a dictionary; its parts have the names that are given."""

    def __init__(self, names, masked):
        super().__init__(free=not masked, truncates=True)
        self.observation_space = spaces.Dict({name: self.observation_space for name in names})
        if not masked:
            del self.action_masks

    def drawn(self):
        return dict.fromkeys(self.observation_space.spaces, super().drawn())


@pytest.mark.parametrize(
    "names, masked", each_value([("action_masks", "vector"), ("observations", "vector"), ("observations",)], [False, True])
)
def test_parts_of_observations_may_have_any_name(names, masked):
    """ACER's memory keeps masks together with the observations."""
    learned = [
        make_in("acer", DummyVecEnv([lambda names=parts: Named(names, masked)] * 2), compile=False).learn(60)
        for parts in (names, ["a", "b"][: len(names)])
    ]
    named, expected = (model.policy.state_dict() for model in learned)
    assert learned[0].n_gradient_steps > 10
    assert all(th.equal(x, y) for x, y in zip(named.values(), expected.values(), strict=True))
    assert (learned[0].last_rollout.action_masks is None) != masked
