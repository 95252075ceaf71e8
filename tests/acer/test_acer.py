"""ACER as it trains: what it keeps, what it replays and when, the average policy, and what it refuses."""

import copy
import math
import random
import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch as th
from capabilities import OwnExtractor
from gymnasium import spaces
from models import assert_same, assert_same_optimizer, parameters
from pairs import Sentences, assert_same_training, trained
from problems import DEVICE, AnySpace, Scripted, vectorised
from spies import Metrics
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from sb3_pgx.acer import ACER
from sb3_pgx.acer.policies import ACERPolicy
from sb3_pgx.common.distributions import packed, release_graph

BOX = spaces.Box(-1, 1, (3,), np.float32)
ACTIONS = {"Discrete": spaces.Discrete(3), "Box": spaces.Box(-1, 1, (2,), np.float32)}
BOTH = pytest.mark.parametrize("kind", ACTIONS)


class Told(AnySpace):
    """Random observations and rewards, all different, and a list of what each environment returned."""

    def __init__(self, action_space, seed=0):
        super().__init__(copy.deepcopy(BOX), copy.deepcopy(action_space))
        self.observation_space.seed(seed)
        self.rewards, self.observations = [], []

    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        self.observations.append(observation)
        return observation, info

    def step(self, action):
        observation, _, *others = super().step(action)
        reward = float(3 + 2 * observation[0])
        self.observations.append(observation)
        self.rewards.append(reward)
        return observation, reward, *others


def envs(kind="Discrete", n=2):
    return vectorised(*(Told(ACTIONS[kind], seed) for seed in range(n)))


def make(kind="Discrete", env=None, **kwargs):
    """Six steps of two environments a rollout, and some replay from the second rollout on."""
    policy_kwargs = {"net_arch": [8], **kwargs.pop("policy_kwargs", {})}
    small = dict(n_steps=6, buffer_size=60, replay_start=24, replay_ratio=2.0, learning_rate=5e-3, compile=False)
    arguments = {**small, "seed": 0, "device": DEVICE, **kwargs}
    return ACER("MlpPolicy", envs(kind) if env is None else env, policy_kwargs=policy_kwargs, **arguments)


def some_observations():
    return np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32)


def watch(model, method, note):
    """Have ``note`` called with a method's arguments before it runs; what it returns is collected."""
    noted, original = [], getattr(model, method)

    def noting(*args, **kwargs):
        noted.append(note(*args, **kwargs))
        return original(*args, **kwargs)

    setattr(model, method, noting)
    return noted


def distribution_of(policy, observations):
    """Packed parameters, as the policy acts."""
    with th.no_grad():
        result = packed(policy.get_distribution(observations)).clone()
    release_graph(policy)
    return result


def flat(policy, buffers=True):
    tensors = [*policy.parameters(), *(policy.buffers() if buffers else ())]
    return th.cat([x.detach().double().flatten() for x in tensors])


# ------------------------------------------------------------------------------------------------- the average policy


class Normalising(FlattenExtractor):
    """Features with buffers: running statistics, and a counter of batches."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.norm = th.nn.BatchNorm1d(self.features_dim)

    def forward(self, observations):
        return self.norm(super().forward(observations))


@BOTH
@pytest.mark.parametrize("batch_norm", [False, True], ids=["", "buffers"])
def test_the_average_policy_is_the_exponentially_weighted_sum_of_all_policies(kind, batch_norm):
    model = make(kind, average_coef=0.8, policy_kwargs=dict(features_extractor_class=Normalising) if batch_norm else {})
    start = flat(model.policy)
    assert th.equal(flat(model.average_policy), start)
    counters = [x for x in model.policy.buffers() if not x.is_floating_point()]
    both = watch(model, "_learn_from", lambda *_: (flat(model.average_policy), flat(model.policy)))
    model.learn(96)
    averages, policies = zip(*both, (flat(model.average_policy), flat(model.policy)), strict=True)
    policies = policies[1:]  # each as an update has left it
    assert len(policies) > 5
    for m, (before, after) in enumerate(pairwise(averages), start=1):
        assert not th.equal(before, after), "every update moves it"
        expected = 0.8**m * start + sum(0.2 * 0.8**i * policies[m - 1 - i] for i in range(m))
        n = len(expected) - len(counters)  # which are copied, and come last
        th.testing.assert_close(after[:n], expected[:n], rtol=1e-5, atol=1e-6)
        assert th.equal(after[n:], policies[m - 1][n:])
    assert len(counters) == batch_norm


@BOTH
def test_the_trust_region_is_around_the_average_policy_as_it_is_now(kind):
    model = make(kind)

    def distance(segments, c):
        expected = distribution_of(model.average_policy, segments.observations[: len(segments)])
        return (segments.average - expected).abs().max().item()

    distances = watch(model, "_learn_from", distance)
    model.learn(96)
    assert len(distances) > 5 and max(distances) < 1e-6
    assert not model.average_policy.training and not any(p.requires_grad for p in model.average_policy.parameters())


# ------------------------------------------------------------------------------------------------- how often


def test_replayed_updates_are_poisson_distributed():
    """Mean and variance of 10⁴ draws are the ratio, within five standard errors; and so is the share of zeros, e^−r."""
    ratio, n = 3.0, 10_000
    model = make(replay_ratio=ratio).learn(24)
    model.replay_buffer.add = lambda record, raw: None
    counts = np.array([model._remember(model._rollout) for _ in range(n)])
    assert abs(counts.mean() - ratio) < 5 * math.sqrt(ratio / n)
    assert abs(counts.var() - ratio) < 5 * math.sqrt((ratio + 2 * ratio**2) / n)
    assert abs((counts == 0).mean() - math.exp(-ratio)) < 5 * math.sqrt(math.exp(-ratio) / n)


@BOTH
def test_nothing_is_replayed_before_the_memory_holds_enough(kind):
    model, metrics = make(kind, replay_start=36, replay_ratio=20.0), Metrics()
    before = parameters(model)
    model.learn(24, callback=metrics)
    assert [m["replay_updates"] for m in metrics.updates] == [0, 0]
    if kind == "Box":
        assert_same(before, parameters(model))
    model.learn(12, callback=metrics, reset_num_timesteps=False)
    assert metrics.updates[2]["replay_updates"] > 0


@pytest.mark.parametrize("kind, given, learns", [("Discrete", None, True), ("Box", None, False), ("Box", True, True)])
def test_discrete_actions_are_learned_from_as_they_come_and_box_actions_from_the_memory_alone(kind, given, learns):
    model = make(kind, on_policy_update=given, replay_start=60)
    updates = watch(model, "_learn_from", lambda segments, c: th.equal(segments.rewards, model._rollout.rewards))
    model.learn(36)
    assert updates == [True] * (3 * learns)
    assert model.n_gradient_steps == model._n_updates == 3 * learns


@pytest.mark.parametrize("replay_batch, segments", [(None, 2), (5, 5)])
def test_as_many_segments_are_replayed_as_there_are_environments_unless_told_otherwise(replay_batch, segments):
    model = make("Box", replay_batch=replay_batch)
    shapes = watch(model, "_learn_from", lambda batch, c: tuple(batch.rewards.shape))
    model.learn(60)
    assert set(shapes) == {(6, segments)}


def test_metrics_are_means_over_the_updates_of_a_rollout_and_the_largest_ratio_is_the_largest():
    model, metrics = make(replay_ratio=4.0), Metrics()
    measured, learn_from = [], model._learn_from
    model._learn_from = lambda *arguments: measured.append(learn_from(*arguments)) or measured[-1]
    model.learn(60, callback=metrics)
    for logged in metrics.updates:
        of_rollout, measured = measured[: 1 + int(logged["replay_updates"])], measured[1 + int(logged["replay_updates"]) :]
        assert logged["ratio_max"] == max(m["ratio_max"] for m in of_rollout)
        assert logged["q_loss"] == pytest.approx(np.mean([m["q_loss"] for m in of_rollout]))
        assert of_rollout[0]["ratio_max"] == pytest.approx(1.0, abs=1e-5), "the first is the one on the rollout itself"
        assert len(of_rollout) == 1 or logged["ratio_max"] > 1.01
    assert not measured


def test_without_on_policy_updates_every_update_is_a_replayed_one():
    model, metrics = make(on_policy_update=False), Metrics()
    model.learn(96, callback=metrics)
    assert model._n_updates == sum(m["replay_updates"] for m in metrics.updates) > 0


@BOTH
def test_without_replay_there_is_one_update_a_rollout_and_no_memory(kind):
    model = make(kind, env=VecNormalize(envs(kind)), replay_ratio=0, on_policy_update=True).learn(48)
    assert model._n_updates == 4
    assert model.replay_buffer.size == 0


# ------------------------------------------------------------------------------------------------- what is replayed


class Diary(BaseCallback):
    """What there was at every step: by the observation, which is like no other."""

    def __init__(self):
        super().__init__()
        self.pages = {}

    def _on_step(self):
        L = self.locals
        acting = distribution_of(self.model.policy, self.model._as_tensor(L["obs_tensor"].cpu().numpy()))
        for i, observation in enumerate(L["obs_tensor"].cpu().numpy()):
            final = L["infos"][i].get("terminal_observation")
            self.pages[observation.tobytes()] = dict(
                env=i,
                action=L["actions"][i],
                behaviour=acting[i].cpu().numpy(),
                reward=L["rewards"][i],
                following=L["new_obs"][i],
                final=final,
            )
        return True


@BOTH
def test_a_replayed_segment_is_what_happened_with_the_distribution_that_acted_then(kind):
    """Five steps an episode, six a rollout: segments cross both. The policy moves all the while."""
    model = make(kind, policy_kwargs=dict(learn_std=True), replay_ratio=4.0, learning_rate=0.02)
    diary, rows, stale = Diary(), [], []

    def check(segments, c):
        T, M = segments.rewards.shape
        observations = segments.observations.cpu().numpy().reshape(T + 1, M, -1)
        actions, behaviour = (x.cpu().numpy().reshape(T, M, -1) for x in (segments.actions, segments.behaviour))
        for m in range(M):
            pages = [diary.pages[observations[t, m].tobytes()] for t in range(T)]
            assert len({page["env"] for page in pages}) == 1
            for t, page in enumerate(pages):
                np.testing.assert_array_equal(actions[t, m], np.ravel(page["action"]))
                np.testing.assert_allclose(behaviour[t, m], page["behaviour"], rtol=1e-5, atol=1e-6)
                assert segments.rewards[t, m].item() == pytest.approx(page["reward"])
                np.testing.assert_array_equal(observations[t + 1, m], page["following"])
                assert segments.truncated[t, m].item() == (page["final"] is not None) and not segments.terminated[t, m]
                rows.append(t)
        now = distribution_of(model.policy, segments.observations[: T * M])
        stale.append((now - segments.behaviour).abs().max().item())

    watch(model, "_learn_from", check)
    model.learn(120, callback=diary)
    assert len(rows) > 100 and max(stale) > 0.05


@BOTH
def test_replayed_segments_are_completed_with_the_values_of_the_policy_now(kind):
    model, diary = make(kind), Diary()
    model.learn(60, callback=diary)

    def replayed():
        model._generator = np.random.default_rng(5)
        segments = model._replayed()
        return segments, model.objective.evaluate(model.policy, segments).last_values.detach()

    before, last_before = replayed()
    assert before.truncated.any()
    for t, m in before.truncated.nonzero().tolist():
        observation = before.observations.cpu().numpy().reshape(7, -1, 3)[t, m]
        final = th.as_tensor(diary.pages[observation.tobytes()]["final"], device=DEVICE)[None]
        assert before.final_values[t, m].item() == pytest.approx(model.policy.predict_values(final).item(), rel=1e-5)
    assert not before.final_values[~before.truncated].any()
    with th.no_grad():
        model.policy.value_net.bias += 7.0  # the critic says 7 more of everything, now
    after, last_after = replayed()
    th.testing.assert_close(after.final_values - before.final_values, 7.0 * before.truncated, rtol=0, atol=1e-5)
    th.testing.assert_close(last_after - last_before, th.full_like(last_before, 7.0), rtol=0, atol=1e-5)


@BOTH
def test_values_of_final_observations_are_those_of_a_policy_that_acts_even_a_single_one(kind):
    """A layer that normalises by its batch has nothing to compare one row with, and would count it as data."""
    policy_kwargs = dict(features_extractor_class=Normalising)
    model = make(kind, env=envs(kind, n=1), on_policy_update=True, replay_ratio=0, policy_kwargs=policy_kwargs)
    counted = watch(model, "_learn_from", lambda *_: model.policy.features_extractor.norm.num_batches_tracked.item())
    model.learn(24)
    assert counted == [0, 1, 2, 3], "each step, and nothing else, counts a batch"
    assert not any(m.training for m in model.average_policy.modules())


def test_every_update_compares_with_actions_of_its_own():
    """Standard normal numbers: one for an action of the policy, and n for each of the two that it says Q of."""
    model = make("Box", n_dueling_samples=3, replay_ratio=6.0)
    noises = watch(model, "_learn_from", lambda segments, c: segments.noise)
    model.learn(96)
    assert {noise.shape for noise in noises} == {(7, 12, 2)}
    numbers = th.stack(noises)
    n = numbers.numel()
    assert n > 5000 and len(numbers.unique()) > 0.99 * n
    assert abs(numbers.mean().item()) < 5 / math.sqrt(n)
    assert abs(numbers.var().item() - 1) < 5 * math.sqrt(2 / n)
    discrete = make().learn(12)
    assert discrete._on_policy(discrete._rollout).noise is None


def test_the_critic_values_actions_as_the_environment_is_given_them():
    """A network is anything beyond the bounds; Q of an action out there is Q of the bound, and has no slope."""
    space = spaces.Box(np.array([[-0.1], [-9.0]]), np.array([[0.2], [0.3]]), dtype=np.float64)
    model = make("Box", env=vectorised(AnySpace(BOX, space)), on_policy_update=True).learn(12)
    batch = model._on_policy(model._rollout)
    batch = replace(batch, actions=3 * batch.actions)
    assert batch.bounds.dtype == th.float32 and batch.bounds.tolist() == pytest.approx(np.array([[-0.1, -9.0], [0.2, 0.3]]))
    given = th.as_tensor(np.stack([np.clip(a.reshape(2, 1), space.low, space.high) for a in batch.actions.numpy()]))
    clipped = replace(batch, actions=given.flatten(1).float())
    far = (clipped.actions != batch.actions).any(dim=1)
    assert 0 < far.float().mean() < 1
    of, of_clipped = (model.objective.evaluate(model.policy, x).action_values for x in (batch, clipped))
    assert th.equal(of, of_clipped)


def test_a_terminated_episode_is_completed_with_nothing_and_a_truncated_one_with_its_final_observation():
    env = vectorised(Scripted([3, 4], truncates=[False, True]), Scripted([4], truncates=[True]))
    model = make(env=env, buffer_size=100, replay_ratio=3.0)
    kinds = set()

    def check(segments, c):
        observations = segments.observations[: len(segments)].view(*segments.rewards.shape, 2).cpu()
        for (t, m), (episode, step) in zip(np.ndindex(segments.rewards.shape), observations.view(-1, 2).tolist(), strict=True):
            terminated, truncated = segments.terminated[t, m].item(), segments.truncated[t, m].item()
            assert segments.rewards[t, m].item() == step + 1
            kinds.add((step, terminated, truncated))
            if truncated:
                final = th.tensor([[episode, step + 1]], device=DEVICE)
                value = model.policy.predict_values(final).item()
                assert segments.final_values[t, m].item() == pytest.approx(value, rel=1e-5, abs=1e-6)
            else:
                assert segments.final_values[t, m] == 0

    watch(model, "_learn_from", check)
    model.learn(96)
    assert {(2, True, False), (3, False, True)} <= kinds
    assert not {(2, False, True), (3, True, False), (0, True, False), (0, False, True)} & kinds


# ------------------------------------------------------------------------------------------------- VecNormalize


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
    model._generator = np.random.default_rng(5)
    segments = model._replayed()
    sample = model.replay_buffer.sample(2, np.random.default_rng(5))
    expected = normalised(env, sample.observations).reshape(-1, 3)
    np.testing.assert_allclose(segments.observations.cpu(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(segments.rewards.cpu(), sample.rewards / np.sqrt(9.0 + env.epsilon), rtol=1e-5)
    with th.no_grad():
        finals = th.as_tensor(normalised(env, sample.final_observations), dtype=th.float32, device=DEVICE)
        values = model.policy.predict_values(finals).flatten()
    th.testing.assert_close(segments.final_values[segments.truncated], values, rtol=1e-4, atol=1e-5)


def test_parts_of_a_dictionary_are_kept_and_normalised_each_as_the_wrapper_says():
    space = spaces.Dict({"vector": BOX, "number": spaces.Discrete(3), "other": BOX})
    inner = vectorised(*(AnySpace(copy.deepcopy(space), ACTIONS["Discrete"]) for _ in range(2)))
    env = VecNormalize(inner, norm_obs_keys=["vector"])
    model = ACER("MultiInputPolicy", env, n_steps=6, buffer_size=60, replay_start=12, replay_ratio=2.0, seed=0, device=DEVICE)
    model.learn(60)
    env.obs_rms["vector"].mean = np.array([0.5, -1.0, 2.0])
    model._generator = np.random.default_rng(5)
    segments, sample = model._replayed(), model.replay_buffer.sample(2, np.random.default_rng(5))
    by_hand = (sample.observations["vector"] - env.obs_rms["vector"].mean) / np.sqrt(env.obs_rms["vector"].var + env.epsilon)
    np.testing.assert_allclose(segments.observations["vector"].cpu(), by_hand.reshape(-1, 3), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(segments.observations["other"].cpu(), sample.observations["other"].reshape(-1, 3))
    np.testing.assert_array_equal(segments.observations["number"].cpu(), sample.observations["number"].ravel())


def test_under_another_wrapper_normalised_data_are_kept_and_one_warning_says_so():
    env = VecFrameStack(VecNormalize(envs()), 2)
    model = make(env=env)
    records = watch(model.replay_buffer, "add", lambda record, raw: (record, raw, copy.deepcopy(model._rollout)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(60)
    said = [str(w.message) for w in caught if "VecNormalize" in str(w.message)]
    assert len(said) == 1 and "VecFrameStack" in said[0] and "outermost" in said[0]
    for record, raw, rollout in records:
        assert not raw
        np.testing.assert_array_equal(record.observations, rollout.observations.cpu())
        np.testing.assert_array_equal(record.rewards, rollout.rewards.cpu())
    model._generator = np.random.default_rng(5)
    sample = model.replay_buffer.sample(2, np.random.default_rng(5))
    np.testing.assert_array_equal(model._replayed().observations.cpu(), sample.observations.reshape(-1, 6))


def test_without_a_wrapper_above_there_is_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(env=VecNormalize(envs())).learn(24)
        make(env=VecFrameStack(envs(), 2)).learn(24)


# ------------------------------------------------------------------------------------------------- seeds and files


@BOTH
def test_the_same_seed_trains_the_same_model(kind):
    one, same, other = (make(kind, seed=seed, env=envs(kind)).learn(60) for seed in (0, 0, 1))
    assert_same(parameters(one), parameters(same))
    assert_same(one.average_policy.state_dict(), same.average_policy.state_dict())
    assert not th.equal(flat(one.policy), flat(other.policy))


def test_replay_has_random_numbers_of_its_own():
    """Whoever else draws from numpy's generator changes nothing."""
    models = []
    for seed in (1, 2):
        model = make()
        np.random.seed(seed)
        models.append(model.learn(60))
    assert models[0]._n_updates > 5 + 2
    assert_same(*map(parameters, models))


@BOTH
@pytest.mark.parametrize("normalize", [False, True], ids=["", "VecNormalize"])
def test_save_load_continue_equals_uninterrupted_bit_for_bit(kind, normalize, tmp_path):
    """Parameters, moments, the average policy, the memory, the random numbers of the replay."""
    env = VecNormalize(envs(kind)) if normalize else envs(kind)
    model = make(kind, env=env).learn(48)
    model.save(tmp_path / "model.zip")
    model.save_replay_buffer(tmp_path / "memory.pkl")
    later = copy.deepcopy(env)
    if normalize:  # it leaves these two out of a copy
        later.set_venv(copy.deepcopy(env.venv))
        later.returns, later.old_obs = env.returns.copy(), env.old_obs.copy()
    states = (random.getstate(), np.random.get_state(), th.random.get_rng_state())
    model.learn(48, reset_num_timesteps=False)

    loaded = ACER.load(tmp_path / "model.zip", device=DEVICE)
    loaded.load_replay_buffer(tmp_path / "memory.pkl")
    loaded.set_env(later, force_reset=False)
    random.setstate(states[0])
    np.random.set_state(states[1])
    th.random.set_rng_state(states[2])
    counts, metrics = model._n_updates, Metrics()
    loaded.learn(48, reset_num_timesteps=False, callback=metrics)

    assert sum(m["replay_updates"] for m in metrics.updates) > 0 and loaded._n_updates == counts
    assert_same(parameters(model), parameters(loaded))
    assert_same(model.average_policy.state_dict(), loaded.average_policy.state_dict())
    assert_same_optimizer(*(m.policy.optimizer.state_dict() for m in (model, loaded)))
    assert model._generator.bit_generator.state == loaded._generator.bit_generator.state
    samples = [m.replay_buffer.sample(3, np.random.default_rng(1)) for m in (model, loaded)]
    np.testing.assert_array_equal(samples[0].observations, samples[1].observations)


def test_sb3s_checkpoints_hold_the_memory(tmp_path):
    model = make()
    model.learn(48, callback=CheckpointCallback(save_freq=12, save_path=tmp_path, save_replay_buffer=True))
    (file,) = tmp_path.glob("*replay_buffer*24_steps*")
    loaded = ACER.load(tmp_path / "rl_model_24_steps", env=envs(), device=DEVICE)
    loaded.load_replay_buffer(file)
    # The callback is called before the rollout under way is kept.
    assert loaded.replay_buffer.size == 12
    loaded.learn(24, reset_num_timesteps=False)
    assert loaded.replay_buffer.size == 36


@pytest.mark.parametrize(
    "other, message",
    [
        (lambda: make("Box"), "action space"),
        (lambda: make(env=envs(n=3)), "number of environments"),
        (lambda: make(env=vectorised(Scripted([3]), Scripted([4])), buffer_size=60), "observation space"),
        (lambda: make(n_steps=2, buffer_size=8, replay_start=8), "shorten the segments"),
        (lambda: make(buffer_size=12, replay_start=12), "replay_start=24 is never reached: the memory holds 12"),
    ],
    ids=["actions", "environments", "observations", "segments", "start"],
)
def test_a_memory_of_another_environment_is_refused_and_the_model_keeps_its_own(other, message, tmp_path):
    model = make().learn(36)
    other().learn(24).save_replay_buffer(tmp_path / "memory.pkl")
    held = model.replay_buffer
    before = held.sample(3, np.random.default_rng(0))
    with pytest.raises(ValueError, match=message):
        model.load_replay_buffer(tmp_path / "memory.pkl")
    assert model.replay_buffer is held and held.size == 36
    np.testing.assert_array_equal(before.observations, held.sample(3, np.random.default_rng(0)).observations)


def test_a_memory_is_loaded_by_a_model_with_shorter_segments(tmp_path):
    make().learn(36).save_replay_buffer(tmp_path / "memory.pkl")
    model = make(n_steps=3)
    model.load_replay_buffer(tmp_path / "memory.pkl")
    assert model._replayed().rewards.shape == (3, 2)


def test_a_model_without_its_memory_is_small_and_predicts_without_making_one(tmp_path):
    model = make(buffer_size=10**14)  # which no machine could allocate
    observation = some_observations()[0]
    expected = model.predict(observation, deterministic=True)[0]
    model.save(tmp_path / "model.zip")
    loaded = ACER.load(tmp_path / "model.zip", device=DEVICE)
    assert loaded.predict(observation, deterministic=True)[0] == expected
    assert loaded.replay_buffer.size == 0
    small = make().learn(60)
    small.save(tmp_path / "small.zip")
    loaded = ACER.load(tmp_path / "small.zip", device=DEVICE)
    data, tensors, _ = load_from_zip_file(tmp_path / "small.zip", device="cpu")
    assert loaded.replay_buffer.size == 0 and not {"replay_buffer", "_raw"} & {*data, *tensors}
    assert_same(small.average_policy.state_dict(), loaded.average_policy.state_dict())


# ------------------------------------------------------------------------------------------------- policies


@pytest.mark.parametrize(
    "options", [{}, dict(learn_std=True), dict(state_dependent_std=True)], ids=["", "learned", "of state"]
)
def test_the_standard_deviation_is_the_papers_until_it_is_to_be_learned(options):
    model = make("Box", policy_kwargs=options)
    observations = th.as_tensor(some_observations(), device=DEVICE)
    before = distribution_of(model.policy, observations)[:, 2:]
    if options != dict(state_dependent_std=True):
        th.testing.assert_close(before, th.full_like(before, 0.3))
    model.learn(60)
    after = distribution_of(model.policy, observations)[:, 2:]
    assert model.n_gradient_steps > 0 and th.equal(before, after) == (not options) == (not model.policy.learns_std)


@BOTH
@pytest.mark.parametrize("share", [True, False], ids=["shared", "separate"])
def test_every_way_of_asking_a_policy_gives_the_same_answer(kind, share):
    kwargs = dict(features_extractor_class=OwnExtractor, share_features_extractor=share)
    policy = make(kind, policy_kwargs=kwargs).policy
    observations = th.as_tensor(some_observations(), device=DEVICE)
    with th.no_grad():
        actions, values, log_prob = policy(observations)
        expected = policy.evaluate_actions(observations, actions)
        th.testing.assert_close((values, log_prob), expected[:2])
        th.testing.assert_close(policy.predict_values(observations), values)
        if kind == "Discrete":
            features = policy.pi_features_extractor(observations), policy.vf_features_extractor(observations)
            latents = policy.mlp_extractor.forward_actor(features[0]), policy.mlp_extractor.forward_critic(features[1])
            pi, q = policy.action_net(latents[0]).softmax(dim=1), policy.value_net(latents[1])
            th.testing.assert_close(values.flatten(), (pi * q).sum(dim=1))
            assert (q.mean(dim=1) - values.flatten()).abs().max() > 1e-4


# ------------------------------------------------------------------------------------------------- refusals


class WithoutActions(ActorCriticPolicy):
    """A user's policy, whose critic knows states alone."""


@pytest.mark.parametrize(
    "given, words",
    [
        (dict(importance_clip=0.0), ["importance_clip=0.0", "positive", "math.inf"]),
        (dict(importance_clip=math.nan), ["importance_clip=nan", "positive"]),
        (dict(trust_region_delta=-1.0), ["trust_region_delta=-1.0", "negative"]),
        (dict(average_coef=1.5), ["average_coef=1.5", "[0, 1]"]),
        (dict(replay_ratio=-1), ["replay_ratio=-1", "negative"]),
        (dict(replay_ratio=math.inf), ["replay_ratio=inf", "finite"]),
        (dict(replay_batch=0), ["replay_batch=0", "at least 1"]),
        (dict(n_steps=0), ["n_steps=0", "at least 1"]),
        (dict(buffer_size=0), ["buffer_size=0", "at least 1"]),
        (dict(n_dueling_samples=0), ["n_dueling_samples=0", "at least 1"]),
        (dict(trust_region_statistics="log_probs"), ["trust_region_statistics='log_probs'", "'probs'", "'logits'"]),
        (dict(ent_coef=-0.1), ["ent_coef", "-0.1"]),
        (dict(q_coef="lin_x"), ["q_coef", "lin_x"]),
        (dict(gamma=1.1), ["gamma=1.1", "[0, 1]"]),
        (dict(buffer_size=11), ["buffer_size=11", "segment of 6 steps", "raise it to 12"]),
        (dict(replay_start=61), ["replay_start=61", "60", "Lower replay_start, or raise buffer_size"]),
        (dict(replay_start=61, buffer_size=61), ["replay_start=61", "60", "Lower replay_start, or raise buffer_size"]),
        (dict(kind="Box", replay_ratio=0), ["replay_ratio=0", "Box", "on_policy_update=True"]),
        (dict(on_policy_update=False, replay_ratio=0), ["replay_ratio=0", "on_policy_update=True"]),
    ],
    ids=lambda x: ", ".join(f"{k}={v}" for k, v in x.items()) if isinstance(x, dict) else "",
)
def test_an_argument_that_makes_no_sense_is_named_with_its_value_and_a_remedy(given, words):
    with pytest.raises(ValueError) as error:
        make(**given)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)], ids=["MultiDiscrete", "MultiBinary"])
def test_several_choices_at_once_are_refused_with_what_can_take_them(space):
    with pytest.raises(ValueError, match=r"ACER cannot act in Multi.*PPO") as error:
        make(env=vectorised(AnySpace(BOX, space)))
    assert str(space) in str(error.value)


def test_a_policy_whose_critic_knows_no_actions_is_refused():
    with pytest.raises(ValueError, match=r"WithoutActions.*derive it from sb3_pgx\.acer\.policies\.ACERPolicy"):
        ACER(WithoutActions, envs())


# ------------------------------------------------------------------------------------------------- compiled


@BOTH
def test_a_compiled_training_is_the_eager_one(kind, graphs):
    """
    Acting, and on rollouts and on replayed segments, of another number of rows, the step and the average policy: five graphs,
    however often rollouts and replays take turns.
    """
    models = []
    for compile in (False, True):
        model = make(kind, compile=compile, on_policy_update=True, n_steps=2, replay_batch=3, replay_start=12)
        model.log = Sentences()
        model.set_logger(Logger(None, [model.log]))
        models.append(model)
    eager, compiled = models
    assert trained(compiled) == trained(eager), "random numbers were drawn differently"
    assert eager._n_updates > 6, "six rollouts, and something to replay"
    assert not any("uncompiled" in sentence for sentence in compiled.log.sentences)
    assert len(graphs) == 5
    assert_same_training(eager, compiled)
    th.testing.assert_close(flat(compiled.average_policy), flat(eager.average_policy), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------- what changes meanwhile


class Change(BaseCallback):
    """Sets an attribute of the model after so many steps."""

    def __init__(self, after, **attributes):
        super().__init__()
        self.after, self.attributes = after, attributes

    def _on_step(self):
        if self.num_timesteps == self.after:
            vars(self.model).update(self.attributes)
        return True


def test_replay_may_begin_in_the_middle_of_a_training_under_vec_normalize():
    model = make("Discrete", VecNormalize(envs("Discrete")), replay_ratio=0.0)
    model.learn(72, callback=Change(16, replay_ratio=2.0))
    assert model.replay_buffer.raw is True and model.replay_buffer.size == 60


def test_a_replay_ratio_of_0_is_refused_when_it_leaves_nothing_to_learn_from():
    with pytest.raises(ValueError, match="replay_ratio=0 leaves nothing to learn from"):
        make("Box").learn(72, callback=Change(16, replay_ratio=0.0))


def test_a_memory_is_not_mixed_with_what_another_wrapping_gives(tmp_path):
    plain, wrapped = make("Discrete"), make("Discrete", VecNormalize(envs("Discrete")))
    for model, other, what in ((plain, wrapped, "after it"), (wrapped, plain, "before VecNormalize")):
        model.learn(48)
        model.save_replay_buffer(tmp_path / "memory.pkl")
        other.load_replay_buffer(tmp_path / "memory.pkl")
        updates = other._n_updates
        with pytest.raises(ValueError, match=rf"48 transitions as they were .*{what}, and those to come .*reset\(\)"):
            other.learn(12)
        assert other._n_updates == updates
        other.replay_buffer.reset()


def test_a_policy_that_is_given_brings_its_own_average():
    model, other = make("Discrete").learn(24), make("Discrete", seed=1)
    other.set_parameters({"policy": model.policy.state_dict()}, exact_match=False)
    assert th.equal(flat(other.average_policy), flat(model.policy))
    other.set_parameters(model.get_parameters())
    assert th.equal(flat(other.average_policy), flat(model.average_policy))
    assert not th.equal(flat(model.average_policy), flat(model.policy))
    other.policy = make("Discrete", policy_kwargs=dict(net_arch=[5])).policy
    other.learn(24)


def test_a_seed_given_at_loading_is_that_of_the_replay(tmp_path):
    model = make("Discrete").learn(24)
    model.save(tmp_path / "model.zip")

    def first(**kwargs):
        return ACER.load(tmp_path / "model.zip", device=DEVICE, **kwargs)._generator.random()

    assert first(seed=1) == first(seed=1) != first(seed=2)
    assert first() == model._generator.random()


def test_without_a_seed_numpys_global_one_decides():
    def first():
        np.random.seed(5)
        return make("Discrete", seed=None)._generator.random()

    assert first() == first()


def test_an_action_that_is_masked_out_leaves_every_metric_finite():
    class Masked(ACERPolicy):
        def _get_action_dist_from_latent(self, latent_pi):
            mask = th.tensor([0.0, -th.inf, 0.0])
            return self.action_dist.proba_distribution(self.action_net(latent_pi) + mask)

    model = ACER(Masked, envs("Discrete"), n_steps=6, buffer_size=60, replay_start=12, seed=0, device=DEVICE).learn(48)
    assert all(np.isfinite(value) for value in model._metrics.values()), model._metrics
