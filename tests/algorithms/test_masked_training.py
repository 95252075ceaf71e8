"""Action masks in every algorithm: no invalid action is taken, and what is learned is that of the masked distribution."""

import copy

import numpy as np
import pytest
import torch as th
from selection import mostly_slow
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack, VecNormalize
from support.capabilities import QUICK
from support.masked_environments import MASKED_SPACES, Masked, MaskedArrays, environments
from support.models import assert_same, make_in, parameters
from support.small_environments import DEVICE

from sb3_pgx.registry import ALGORITHMS

CASES = [
    (name, space, in_observations, compiled)
    for name in ALGORITHMS
    for space in (*MASKED_SPACES, "Dict")
    for in_observations in (False, True)
    for compiled in (False, True)
    if name != "acer" or space == "Discrete"
]


def quick(name, space, in_observations, compiled):
    """Every space with PPO, and one of them with each other algorithm."""
    of_others = [*MASKED_SPACES, "Dict"][list(ALGORITHMS).index(name) % 4]
    is_chosen = name == "ppo" or space == ("Discrete" if name == "acer" else of_others)
    return is_chosen and not compiled and in_observations == (space == "MultiDiscrete")


@pytest.mark.parametrize("name, space, in_observations, compiled", mostly_slow(CASES, quick))
def test_no_algorithm_takes_an_invalid_action(name, space, in_observations, compiled):
    model = make_in(name, environments(space, in_observations=in_observations, truncates=True), compile=compiled)
    before = parameters(model)
    model.learn(120)  # the environment raises on an invalid action
    rollout = model.last_rollout
    assert rollout.action_masks is not None and not rollout.action_masks.all()
    assert any(not th.equal(before[key], value) for key, value in parameters(model).items()), "nothing was learned"


@pytest.mark.parametrize("name", mostly_slow(ALGORITHMS, ["acer", "ppo", "reinforce", "trpo"]))
def test_masks_that_allow_everything_change_nothing(name):
    results = []
    for use_masking in (True, False):
        model = make_in(name, environments(free=True, truncates=True), compile=False)
        results.append(model.learn(100, use_masking=use_masking))
    masked, unmasked = results
    assert masked.last_rollout.action_masks is not None and unmasked.last_rollout.action_masks is None
    th.testing.assert_close(parameters(masked), parameters(unmasked), rtol=1e-4, atol=1e-5)
    assert th.equal(masked.last_rollout.actions, unmasked.last_rollout.actions)


@pytest.mark.parametrize("name", mostly_slow(ALGORITHMS, ["ppo", "trpo"]))
def test_masks_of_the_method_and_of_the_observations_are_used_alike(name):
    """The networks differ, so the masks are compared: of the rows, and of what the next rollout starts with."""
    by_method, by_part = (
        make_in(name, environments(in_observations=part, truncates=True), compile=False).learn(60) for part in (False, True)
    )
    rows = by_part.last_rollout
    assert th.equal(rows.action_masks, rows.observations["action_mask"].bool())
    assert by_method.last_rollout.action_masks.float().mean() == pytest.approx(
        rows.action_masks.float().mean().item(), abs=0.2
    )


def test_the_log_probabilities_of_a_rollout_are_those_of_the_masked_policy():
    model = make_in("ppo", environments("MultiDiscrete"), compile=False, n_steps=8, n_epochs=1).learn(16)
    rollout, policy = model.last_rollout, copy.deepcopy(make_in("ppo", environments("MultiDiscrete"), compile=False).policy)
    flat = rollout.observations.flatten(end_dim=1)
    logits = policy.action_net(policy.mlp_extractor.forward_actor(policy.extract_features(flat)))
    masks, actions = rollout.action_masks.flatten(end_dim=1), rollout.actions.flatten(end_dim=1).long()
    expected = th.zeros(len(flat))
    for part, mask, action in zip(logits.split([3, 2, 4], 1), masks.split([3, 2, 4], 1), actions.unbind(1), strict=True):
        weights = part.exp() * mask
        expected += (weights.gather(1, action[:, None]).flatten() / weights.sum(dim=1)).log().cpu()
    th.testing.assert_close(rollout.log_prob.flatten().cpu(), expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["a2c", "ppo"])
def test_a_callback_sees_and_cannot_silently_write_the_masks(name):
    class Reads(BaseCallback):
        def _on_rollout_end(self):
            masks = self.model.rollout_buffer.action_masks
            assert masks.shape == (self.model.n_steps, 2, 5) and masks.dtype == bool
            with pytest.raises(ValueError, match="read-only"):
                masks[0] = True
            self.seen = masks

        def _on_step(self):
            values, log_probs = self.locals["values"], self.locals["log_probs"]  # computed when read
            self.read = values + log_probs
            return True

    callback = Reads()
    watched = make_in(name, environments(), compile=False).learn(60, callback)
    assert np.array_equal(callback.seen, watched.last_rollout.action_masks.numpy())
    assert_close = th.testing.assert_close
    assert_close(parameters(watched), parameters(make_in(name, environments(), compile=False).learn(60)), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_masks_pass_through_processes():
    plain = make_in("ppo", environments(in_observations=True), compile=False).learn(32)
    space = copy.deepcopy(MASKED_SPACES["Discrete"])
    processes = make_vec_env(Masked, 2, env_kwargs=dict(action_space=space, in_observations=True), vec_env_cls=SubprocVecEnv)
    try:
        assert_same(parameters(make_in("ppo", processes, compile=False).learn(32)), parameters(plain))
    finally:
        processes.close()
    asked = make_vec_env(Masked, 2, env_kwargs=dict(action_space=space), vec_env_cls=SubprocVecEnv)
    try:
        by_method = make_in("ppo", environments(), compile=False).learn(32)
        assert_same(parameters(make_in("ppo", asked, compile=False).learn(32)), parameters(by_method))
    finally:
        asked.close()


def test_the_masks_pass_through_wrappers():
    for wrapped in (
        VecNormalize(environments(in_observations=True), norm_obs_keys=["vector"]),
        VecNormalize(environments()),
        VecFrameStack(environments(in_observations=True), 3),
        VecFrameStack(environments(), 3),
    ):
        model = make_in("ppo", wrapped, compile=False).learn(60)
        assert not model.last_rollout.action_masks.all()


def test_stacked_frames_are_masked_as_their_newest_one():
    model = make_in("ppo", VecFrameStack(environments(in_observations=True), 3), compile=False).learn(16)
    rollout = model.last_rollout
    assert th.equal(rollout.action_masks, rollout.observations["action_mask"][..., -5:].bool())


def test_predict_takes_masks_and_finds_those_of_the_observations():
    model = make_in("ppo", environments(), compile=False)
    observation, mask = np.zeros((2, 3), np.float32), np.array([[0, 0, 1, 0, 0], [1, 0, 0, 0, 0]])
    for deterministic in (False, True):
        for given in (mask, mask.astype(bool), mask.tolist()):
            assert model.predict(observation, action_masks=given, deterministic=deterministic)[0].tolist() == [2, 0]
    assert model.predict(observation[0], action_masks=mask[0])[0] == 2
    parts = make_in("ppo", environments(in_observations=True), compile=False)
    seen = {"vector": observation, "action_mask": mask.astype(np.int8)}
    assert parts.predict(seen)[0].tolist() == [2, 0]
    assert parts.predict({key: part[0] for key, part in seen.items()})[0] == 2


def test_sb3s_evaluation_uses_the_masks_of_the_observations():
    model = make_in("ppo", environments(in_observations=True), compile=False).learn(32)
    evaluate_policy(model, environments(in_observations=True), n_eval_episodes=6)  # the environment raises on others


def test_a_row_added_by_a_caller_brings_its_masks():
    model = make_in("ppo", environments(), n_steps=4, batch_size=8, n_epochs=1, compile=False)
    model.learn(8)
    buffer, rollout = model.rollout_buffer, copy.deepcopy(model.last_rollout)
    buffer.reset()
    for t in range(4):
        row = (rollout.observations[t], rollout.actions[t], rollout.rewards[t], rollout.episode_starts[t])
        masks = rollout.action_masks[t].numpy()
        buffer.add(*(x.numpy() for x in row), rollout.values[t], rollout.log_prob[t], action_masks=masks)
    buffer.compute_returns_and_advantage(rollout.last_values, np.zeros(2))
    model.train()
    assert th.equal(model.last_rollout.action_masks, rollout.action_masks)


@pytest.mark.parametrize("name", mostly_slow([n for n in ALGORITHMS if n != "acer"], ["ppo", "reinforce"]))
def test_a_step_that_only_resets_an_environment_needs_no_valid_action(name):
    model = ALGORITHMS[name]("MultiInputPolicy", MaskedArrays(), **{"seed": 0, "device": DEVICE, **QUICK[name]}, compile=False)
    model.learn(60)
    rollout = model.last_rollout
    learned = rollout.rows(rollout.valid_rows())
    assert (~rollout.valid).any() and learned.action_masks.any(dim=1).all()
