"""ACER under VecNormalize and under wrappers above it: what is kept, and when it is normalised."""

import copy
import warnings

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize
from support.acer_models import ACTIONS, BOTH, BOX, Change, envs, make, watch
from support.small_environments import DEVICE, AnySpace, vectorised

from sb3_pgx.algorithms.acer import ACER


def told(env):
    """What the environments themselves returned: all observations ever, and all rewards."""
    inner = env.unwrapped.envs
    return {o.tobytes() for e in inner for o in e.observations}, {np.float32(r) for e in inner for r in e.rewards}


def normalised(env, observations):
    by_hand = (observations - env.obs_rms.mean) / np.sqrt(env.obs_rms.var + env.epsilon)
    return np.clip(by_hand, -env.clip_obs, env.clip_obs)


@BOTH
def test_what_is_kept_is_what_the_environments_gave_and_what_is_replayed_is_normalised_as_of_now(kind):
    env = VecNormalize(envs(kind))
    model = make(kind, env=env)
    records = watch(model.replay_buffer, "add", lambda record, raw: (record, raw))
    model.learn(60)
    observations, rewards = told(env)
    final = []
    for record, raw in records:
        assert raw is True
        assert {o.tobytes() for o in record.observations.reshape(-1, 3)} <= observations
        assert {o.tobytes() for o in record.following} <= observations
        assert set(record.rewards.astype(np.float32).ravel()) <= rewards
        final += [] if record.final_observations is None else list(record.final_observations)
    originals = np.array([np.frombuffer(o, np.float32) for o in observations])
    assert len(final) == sum(record.truncated.sum() for record, _ in records) > 0
    for one in final:
        assert np.abs(originals - one).max(axis=1).min() < 1e-5

    env.obs_rms.mean, env.obs_rms.var, env.ret_rms.var = np.array([0.5, -1.0, 2.0]), np.array([1.0, 4.0, 0.25]), 9.0
    model.replay_generator = np.random.default_rng(5)
    ((segments,),) = model.replayed_segments(1)
    sample = model.replay_buffer.sample(2, np.random.default_rng(5))
    expected = normalised(env, sample.observations).reshape(-1, 3)
    np.testing.assert_allclose(segments.observations.cpu(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(segments.rewards.cpu(), sample.rewards / np.sqrt(9.0 + env.epsilon), rtol=1e-5)
    finals = normalised(env, sample.final_observations)
    np.testing.assert_allclose(segments.final_observations[: len(finals)].cpu(), finals, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (36, 36, 1), np.uint8),
        spaces.Box(0, 255, (5,), np.uint8),
        spaces.Box(-1000, 1000, (5,), np.int64),
        spaces.Box(0, 1, (5,), np.bool_),
    ],
    ids=["pictures", "bytes", "integers", "truths"],
)
def test_final_observations_of_whole_numbers_are_those_that_the_environments_gave(space):
    given = []
    random = np.random.default_rng(0)

    class Noting(AnySpace):
        def step(self, action):
            _, *others = super().step(action)
            low, high = int(space.low.min()), int(space.high.max())
            observation = random.integers(low, high, space.shape, endpoint=True).astype(space.dtype)
            given.extend([observation] if self.steps == 5 else [])
            return observation, *others

    env = VecNormalize(vectorised(*(Noting(copy.deepcopy(space), ACTIONS["Discrete"]) for _ in range(2))))
    model = make(env=env, policy_kwargs={"normalize_images": False} if len(space.shape) > 1 else {})
    records = watch(model.replay_buffer, "add", lambda record, raw: record)
    model.learn(60)
    final = np.concatenate([r.final_observations for r in records if r.final_observations is not None])
    assert len(final) == 12 and final.dtype == space.dtype
    np.testing.assert_array_equal(final.reshape(12, *space.shape), given)


class Careless(AnySpace):
    """The parts of an observation in another order, and fractions in double precision."""

    def step(self, action):
        observation, *others = super().step(action)
        reverse = {k: v.astype(float) if v.dtype == np.float32 else v for k, v in reversed(list(observation.items()))}
        return reverse, *others


def test_parts_of_a_dictionary_are_kept_and_normalised_each_as_the_wrapper_says():
    space = spaces.Dict({"vector": BOX, "number": spaces.Discrete(3), "other": BOX})
    inner = vectorised(*(Careless(copy.deepcopy(space), ACTIONS["Discrete"]) for _ in range(2)))
    env = VecNormalize(inner, norm_obs_keys=["vector"])
    model = ACER("MultiInputPolicy", env, n_steps=6, buffer_size=60, replay_start=12, replay_ratio=2.0, seed=0, device=DEVICE)
    model.learn(60)
    env.obs_rms["vector"].mean = np.array([0.5, -1.0, 2.0])
    model.replay_generator = np.random.default_rng(5)
    ((segments,),), sample = model.replayed_segments(1), model.replay_buffer.sample(2, np.random.default_rng(5))
    by_hand = (sample.observations["vector"] - env.obs_rms["vector"].mean) / np.sqrt(env.obs_rms["vector"].var + env.epsilon)
    np.testing.assert_allclose(segments.observations["vector"].cpu(), by_hand.reshape(-1, 3), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(segments.observations["other"].cpu(), sample.observations["other"].reshape(-1, 3))
    np.testing.assert_array_equal(segments.observations["number"].cpu(), sample.observations["number"].ravel())
    kinds = [[(key, x.dtype) for key, x in o.items()] for o in (segments.observations, segments.final_observations)]
    assert kinds[0] == kinds[1], "a graph is made for one of them"


def test_under_another_wrapper_normalised_data_are_kept_and_one_warning_says_so():
    env = VecFrameStack(VecNormalize(envs()), 2)
    model = make(env=env)
    records = watch(model.replay_buffer, "add", lambda record, raw: (record, raw, copy.deepcopy(model.last_rollout)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(60)
    said = [str(w.message) for w in caught if "VecNormalize" in str(w.message)]
    assert len(said) == 1 and "VecFrameStack" in said[0] and "outermost" in said[0]
    for record, raw, rollout in records:
        assert not raw
        np.testing.assert_array_equal(record.observations, rollout.observations.cpu())
        np.testing.assert_array_equal(record.rewards, rollout.rewards.cpu())
    model.replay_generator = np.random.default_rng(5)
    sample = model.replay_buffer.sample(2, np.random.default_rng(5))
    ((segments,),) = model.replayed_segments(1)
    np.testing.assert_array_equal(segments.observations.cpu(), sample.observations.reshape(-1, 6))


def test_without_a_wrapper_above_there_is_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(env=VecNormalize(envs())).learn(24)
        make(env=VecFrameStack(envs(), 2)).learn(24)


def test_replay_may_begin_in_the_middle_of_a_training_under_vec_normalize():
    model = make("Discrete", VecNormalize(envs("Discrete")), replay_ratio=0.0)
    model.learn(72, callback=Change(16, replay_ratio=2.0))
    assert model.replay_buffer.raw is True and model.replay_buffer.size == 60
