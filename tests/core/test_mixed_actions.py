"""Mixed actions (``Dict`` and ``Tuple`` spaces): what environments and callers of ``predict`` get, and what is refused."""

import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from support.capabilities import BOX, DICT, MIXED, MIXED_ALGORITHMS, envs
from support.models import make, parameters
from support.refusals import refusal
from support.small_environments import DEVICE

from sb3_pgx.core.mixed_policies import MixedActionsPolicy
from sb3_pgx.core.mixed_spaces import by_part
from sb3_pgx.core.policies import split_parameters
from sb3_pgx.core.policy_names import named_policy
from sb3_pgx.diagnostics import DiagnosticsCallback

# ------------------------------------------------------------------------------------------------------- structure

ORDERED = spaces.Dict(
    [
        ("z", spaces.Discrete(3, start=2)),
        ("a", spaces.Box(-0.1, 0.1, (2, 2), np.float32)),
        ("m", spaces.Box(0, 3, (2,), np.int64)),
    ]
)
SPACES = {"Dict": ORDERED, "Tuple": spaces.Tuple(ORDERED.values())}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("deterministic", [True, False])
def test_predict_returns_a_member_for_one_environment_and_a_list_for_several(space, deterministic):
    model = make("ppo", envs(action_space=space), policy_kwargs=dict(log_std_init=1.0)).learn(24)
    observations = np.stack([BOX.sample() for _ in range(4)])
    for predictor in (model, model.policy):
        one, _ = predictor.predict(observations[0], deterministic=deterministic)
        several, _ = predictor.predict(observations, deterministic=deterministic)
        assert isinstance(several, list) and len(several) == 4
        for action in (one, *several):
            assert space.contains(action)
            parts = list(action.values()) if isinstance(action, dict) else action
            assert [np.asarray(x).dtype for x in parts] == [np.int64, np.float32, np.int64]
            if isinstance(action, dict):
                assert list(action) == ["z", "a", "m"]
    assert model.policy.action_space is model.action_space == space


def test_an_action_of_predict_is_the_most_probable_one_of_each_part():
    model = make("a2c", envs(action_space=ORDERED)).learn(24)
    observation = BOX.sample()
    distribution = model.policy.get_distribution(model.policy.obs_to_tensor(observation)[0])
    gaussian, choice = distribution.parts[1].distribution, distribution.parts[0].distribution
    action, _ = model.predict(observation, deterministic=True)
    assert action["z"] == choice.probs.argmax().item() + 2
    np.testing.assert_array_equal(action["a"].ravel(), gaussian.mean.detach().cpu().numpy().ravel().clip(-0.1, 0.1))


def test_a_rollout_keeps_rows_of_numbers_in_the_order_of_the_space():
    class Watch(BaseCallback):
        taken = ()

        def _on_step(self):
            assert self.locals["actions"].shape == (2, 7)
            for row, action in zip(self.locals["actions"], self.locals["clipped_actions"], strict=True):
                assert list(action) == ["z", "a", "m"] and action["z"] == row[0] + 2
                np.testing.assert_array_equal(action["a"].ravel(), row[1:5].clip(-0.1, 0.1).astype(np.float32))
                np.testing.assert_array_equal(action["m"], np.rint(row[5:].clip(0, 3)))
            self.taken = (*self.taken, self.locals["actions"].copy())
            return True

        def _on_rollout_end(self):
            np.testing.assert_array_equal(self.model.rollout_buffer.actions, np.stack(self.taken))
            self.taken = ()

    model = make("ppo", envs(action_space=ORDERED)).learn(24, callback=Watch())
    assert model.rollout_buffer.actions.dtype == np.float32
    assert [tuple(x.shape) for x, _ in by_part(model.last_rollout.actions, ORDERED)] == [(6, 2, 1), (6, 2, 4), (6, 2, 2)]


def test_a_choice_that_a_callback_writes_must_exist():
    class Writes(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            self.model.rollout_buffer.actions[0, 0, 0] = 3.0

    model = make("ppo", envs(action_space=ORDERED))
    with pytest.raises(ValueError, match="has written the action 3, and the space has 3 choices from 0"):
        model.learn(24, callback=Writes())


def test_a_users_own_buffer_keeps_the_same_rows():
    class Own(RolloutBuffer):
        """A user's class."""

    model = make("ppo", envs(action_space=ORDERED), rollout_buffer_class=Own).learn(24)
    assert type(model.rollout_buffer) is Own and model.rollout_buffer_class is Own
    rows = model.last_rollout.actions.transpose(0, 1).flatten(end_dim=1)
    np.testing.assert_array_equal(model.rollout_buffer.actions, rows.cpu().numpy())
    usual = parameters(make("ppo", envs(action_space=ORDERED)).learn(24))
    for key, value in parameters(model).items():
        th.testing.assert_close(value, usual[key], rtol=1e-4, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize(
    "name, policy, observation_space", [("ppo", "MlpPolicy", BOX), ("reinforce", "MultiInputPolicy", DICT)]
)
def test_models_are_saved_and_loaded(name, policy, observation_space, tmp_path):
    model = make(name, envs(observation_space, ORDERED), policy).learn(24)
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    reordered = spaces.Dict(sorted(ORDERED.items()))
    loaded = type(model).load(tmp_path / "model", env=envs(observation_space, reordered), device=DEVICE)
    policies = [loaded, loaded.policy, type(model.policy).load(tmp_path / "policy", device=DEVICE)]
    observation = observation_space.sample()
    expected, _ = model.predict(observation, deterministic=True)
    for predictor in policies:
        action, _ = predictor.predict(observation, deterministic=True)
        assert list(action) == list(expected) and all(np.array_equal(action[key], expected[key]) for key in expected)
    loaded.learn(24, reset_num_timesteps=False)
    with pytest.raises(ValueError, match="Action spaces do not match"):
        type(model).load(tmp_path / "model", env=envs(observation_space, spaces.Dict(z=spaces.Discrete(3))), device=DEVICE)


# ------------------------------------------------------------------------------------------------------- parameters


def test_there_is_a_standard_deviation_for_each_number_and_none_for_logits():
    model = make("ppo", envs(action_space=MIXED), policy_kwargs=dict(log_std_init=-0.5))
    assert model.policy.action_net.out_features == 4 + 3 + 2 + 5 + 1
    assert th.equal(model.policy.log_std, th.full((5,), -0.5, device=DEVICE))
    actor, critic = split_parameters(model.policy)
    assert set(actor) | set(critic) == set(dict(model.policy.named_parameters()))
    in_optimizer = {id(p) for group in model.policy.optimizer.param_groups for p in group["params"]}
    assert in_optimizer == {id(p) for p in model.policy.parameters()}
    without = make("ppo", envs(action_space=spaces.Dict(a=spaces.Discrete(2), b=spaces.MultiBinary(2))))
    assert not hasattr(without.policy, "log_std")


def test_policies_for_images_and_without_critic():
    model = make("ppo", envs(DICT, MIXED), "MultiInputPolicy").learn(12)
    assert isinstance(model.policy, MixedActionsPolicy.__mro__[2])
    image = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    make("a2c", envs(image, MIXED), "CnnPolicy").learn(12)
    actor = make("reinforce", envs(image, MIXED), "CnnPolicy").learn(12).policy
    assert not split_parameters(actor)[1]


class OwnMixedPolicy(MixedActionsPolicy):
    """A user's policy for mixed actions."""


def test_a_users_policy_may_be_derived_from_ours():
    assert type(make("ppo", envs(action_space=MIXED), OwnMixedPolicy).learn(24).policy) is OwnMixedPolicy


def test_diagnostics_know_the_parts():
    callback = DiagnosticsCallback()
    model = make("ppo", envs(action_space=MIXED), policy_kwargs=dict(log_std_init=0.5)).learn(24, callback=callback)
    numbers, rollout = callback.history[-1], model.last_rollout
    std = model.policy.log_std.exp()
    assert "relative_entropy" not in numbers
    for metric, value in dict(std_mean=std.mean(), std_min=std.min(), std_max=std.max()).items():
        assert numbers[metric] == pytest.approx(value.item())
    flat = rollout.actions.flatten(end_dim=1).cpu().numpy()
    keys = list(MIXED)
    outside = [
        (rows < MIXED[key].low.ravel()) | (rows > MIXED[key].high.ravel())
        for key, (rows, _) in zip(keys, by_part(flat, MIXED), strict=True)
        if isinstance(MIXED[key], spaces.Box)
    ]
    assert 0 < numbers["actions_clipped"] < 1
    assert numbers["actions_clipped"] == pytest.approx(np.concatenate(outside, axis=1).mean())
    choices = spaces.Tuple([spaces.Discrete(3), spaces.MultiDiscrete([2, 4]), spaces.MultiBinary(2)])
    callback = DiagnosticsCallback()
    make("ppo", envs(action_space=choices)).learn(12, callback=callback)
    numbers = callback.history[-1]
    assert numbers["relative_entropy"] == pytest.approx(numbers["entropy"] / math.log(3 * 2 * 4 * 2 * 2))


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", MIXED_ALGORITHMS)
@pytest.mark.parametrize(
    "space, message",
    [
        (spaces.Dict({}), "the action space is an empty Dict"),
        (spaces.Tuple([]), "the action space is an empty Tuple"),
        (spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2))), "the part 'a' of the action space is Dict('b': Discrete(2))"),
        (spaces.Tuple([spaces.Discrete(2), spaces.Text(3)]), "the part 1 of the action space is Text(1, 3, charset="),
        (spaces.Dict(a=spaces.MultiBinary([2, 3])), "the part 'a' of the action space is MultiBinary((2, 3)), but SB3's"),
        (spaces.Dict(a=spaces.Box(-np.inf, np.inf, (2,))), "give it finite bounds, to which actions are clipped"),
        (spaces.Tuple([spaces.Box(-1, 1, (0,))]), "the part 0 of the action space is Box([], [], (0,), float32), whose"),
    ],
)
def test_parts_that_cannot_be_acted_in_are_refused(name, space, message):
    assert message in refusal(lambda: make(name, envs(action_space=space)))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(policy_kwargs=dict(squash_output=True)), "squash_output=True needs Box actions, but the action space is Dict("),
        (dict(policy=type("Own", (ActorCriticPolicy,), {})), "Own cannot act in Dict("),
    ],
)
def test_options_that_need_one_box_are_refused(kwargs, message):
    assert message in refusal(lambda: make("ppo", envs(action_space=MIXED), **kwargs))


def test_gsde_is_refused():
    with pytest.raises(ValueError, match=r"gSDE.* can only be used with continuous actions"):
        make("ppo", envs(action_space=MIXED), use_sde=True)
    assert "use_sde=True needs Box actions" in refusal(lambda: MixedActionsPolicy(BOX, MIXED, lambda _: 1e-3, use_sde=True))


def test_acer_and_sb3s_spaces_are_refused_with_the_alternative():
    assert "ACER cannot act in Dict(" in refusal(lambda: make("acer", envs(action_space=MIXED)))
    recurrent = type("OwnMemory", (named_policy("MlpLstmPolicy"),), {})
    message = refusal(lambda: make("ppo", envs(action_space=MIXED), recurrent))
    assert "OwnMemory cannot act in Dict(" in message and "MlpLstmPolicy, MlpGruPolicy or their relatives" in message
    assert "acts in Dict and Tuple spaces" in refusal(lambda: make("ppo", envs(), MixedActionsPolicy))
    options = dict(policy_kwargs=dict(log_std_bounds=(-5, 2)))
    assert "need a Gaussian policy" in refusal(
        lambda: make("ppo", envs(action_space=spaces.Dict(a=spaces.MultiDiscrete([2, 3]))), **options)
    )
