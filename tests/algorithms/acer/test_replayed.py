"""What ACER learns from when it replays: what happened then, valued as of now."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from selection import mostly_slow
from stable_baselines3.common.callbacks import BaseCallback
from support.acer_models import ACTIONS, BOTH, BOX, Normalising, distribution_of, envs, make, watch_steps
from support.acer_segments import evaluated
from support.small_environments import DEVICE, AnySpace, Scripted, vectorised

from sb3_pgx import ACER
from sb3_pgx.algorithms.acer.segments import Segments
from sb3_pgx.engine.epochs import encode


class Diary(BaseCallback):
    """What there was at every step: by the observation, which is like no other."""

    def __init__(self):
        super().__init__()
        self.pages = {}

    def _on_step(self):
        L = self.locals
        acting = distribution_of(self.model.policy, L["obs_tensor"])
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


@pytest.mark.parametrize("kind", mostly_slow(ACTIONS, ["Box"]))
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

    watch_steps(model, check)
    model.learn(120, callback=diary)
    assert len(rows) > 100 and max(stale) > 0.05


@pytest.mark.parametrize("kind", mostly_slow(ACTIONS, ["Discrete"]))
def test_replayed_segments_are_completed_with_the_values_of_the_policy_now(kind):
    """
    Batches that are drawn together have as many final observations each as there are segments, or rows; so has a single one
    in a graph, whatever it came with.
    """
    model, diary = make(kind), Diary()
    model.learn(60, callback=diary)

    def replayed(seed):
        model.replay_generator = np.random.default_rng(seed)
        (batches,) = model.replayed_segments(3)
        return batches

    counts, sizes = set(), set()
    for seed in range(20):
        model.replay_batch = 1 + seed % 2
        batches = replayed(seed)
        totals = [int(batch.truncated.sum()) for batch in batches]
        counts.update(totals)
        for batch, total in zip(batches, totals, strict=True):
            sizes.add(len(batch.final_observations))
            assert len(batch.final_observations) == (model.replay_batch if max(totals) <= model.replay_batch else len(batch))
            bare = replace(batch, final_observations=batch.final_observations[:total] if total else None)
            for same in (batch, bare, bare.for_graph()):
                assert_completed(evaluated(model, same).final_values, batch, model.policy, diary)
            size = model.replay_batch if total <= model.replay_batch else len(batch)
            assert len(bare.for_graph().final_observations) == size
    assert counts == {1, 2, 3, 4} and sizes == {1, 2, 6, 12}
    batch = replayed(5)[0]
    before = evaluated(model, batch)
    with th.no_grad():
        model.policy.value_net.bias += 7.0  # the critic says 7 more of everything, now
    after = evaluated(model, replayed(5)[0])
    th.testing.assert_close(after.final_values - before.final_values, 7.0 * batch.truncated, rtol=0, atol=1e-5)
    th.testing.assert_close(after.last_values, before.last_values + 7.0, rtol=0, atol=1e-5)


def assert_completed(final_values, batch, policy, diary):
    for t, m in batch.truncated.nonzero().tolist():
        observation = batch.observations.cpu().numpy().reshape(len(batch.rewards) + 1, -1, 3)[t, m]
        final = th.as_tensor(diary.pages[observation.tobytes()]["final"], device=DEVICE)[None]
        assert final_values[t, m].item() == pytest.approx(policy.predict_values(final).item(), rel=1e-5)
    assert not final_values[~batch.truncated].any() and not final_values.requires_grad


def test_a_graph_takes_observations_in_one_order_and_one_hot():
    """Parts of a dictionary as the space orders them, whatever the environment does; final ones, too."""
    space = spaces.Dict({"a": BOX, "b": BOX, "number": spaces.Discrete(2)})
    env = vectorised(AnySpace(space, ACTIONS["Discrete"]))
    policy = ACER("MultiInputPolicy", env, n_steps=2, device=DEVICE).policy
    a, number = th.arange(9.0, device=DEVICE).view(3, 3), th.tensor([0, 1, 1], device=DEVICE)
    final = {"number": number[1:2], "b": 2.0 + a[:1], "a": a[:1]}
    reward, no = th.zeros(2, 1), th.zeros(2, 1, dtype=th.bool)
    batch = Segments({"b": a + 50.0, "number": number, "a": a}, reward, reward, reward, no, ~no, final)
    encoded = encode(batch, policy)
    for observations in (encoded.observations, encoded.final_observations):
        assert list(observations) == ["a", "b", "number"]
        assert all(x.dtype == th.float32 for x in observations.values())
    assert encoded.observations["number"].tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    finals = {key: x[0].tolist() for key, x in encoded.final_observations.items()}
    assert finals == {"a": [0.0, 1.0, 2.0], "b": [2.0, 3.0, 4.0], "number": [0.0, 1.0]}


@BOTH
def test_values_of_final_observations_are_those_of_a_policy_that_acts_even_a_single_one(kind):
    """A layer that normalises by its batch has nothing to compare one row with, and would count it as data."""
    policy_kwargs = dict(features_extractor_class=Normalising)
    model = make(kind, env=envs(kind, n=1), on_policy_update=True, replay_ratio=0, policy_kwargs=policy_kwargs)
    counted = watch_steps(model, lambda *_: model.policy.features_extractor.norm.num_batches_tracked.item())
    model.learn(24)
    assert counted == [0, 1, 2, 3], "each step, and nothing else, counts a batch"
    assert not any(m.training for m in model.average_policy.modules())


def test_every_update_compares_with_actions_of_its_own():
    """Standard normal numbers: one for an action of the policy, and n for each of the two that it says Q of."""
    model = make("Box", n_dueling_samples=3, replay_ratio=6.0)
    noises = watch_steps(model, lambda segments, c: segments.noise)
    model.learn(96)
    assert {noise.shape for noise in noises} == {(7, 12, 2)}
    numbers = th.stack(noises)
    n = numbers.numel()
    assert n > 5000 and len(numbers.unique()) > 0.99 * n
    assert abs(numbers.mean().item()) < 5 / math.sqrt(n)
    assert abs(numbers.var().item() - 1) < 5 * math.sqrt(2 / n)
    discrete = make().learn(12)
    assert discrete.segments_of(discrete.last_rollout).noise is None


def test_the_critic_values_actions_as_the_environment_is_given_them():
    """A network is anything beyond the bounds; Q of an action out there is Q of the bound, and has no slope."""
    space = spaces.Box(np.array([[-0.1], [-9.0]]), np.array([[0.2], [0.3]]), dtype=np.float64)
    model = make("Box", env=vectorised(AnySpace(BOX, space)), on_policy_update=True).learn(12)
    batch = model.segments_of(model.last_rollout)
    within_or_far = th.tensor([[0.0, 0.0], [0.1, -9.5], [9.0, 0.2]]).repeat(len(batch) // 3, 1)
    batch = replace(batch, actions=within_or_far.to(batch.actions))
    assert batch.bounds.dtype == th.float32 and batch.bounds.tolist() == pytest.approx(np.array([[-0.1, -9.0], [0.2, 0.3]]))
    given = th.as_tensor(np.stack([np.clip(a.reshape(2, 1), space.low, space.high) for a in batch.actions.numpy()]))
    clipped = replace(batch, actions=given.flatten(1).float())
    far = (clipped.actions != batch.actions).any(dim=1)
    assert far.tolist() == [False, True, True] * (len(batch) // 3)
    of, of_clipped = (evaluated(model, x).action_values for x in (batch, clipped))
    assert th.equal(of, of_clipped)


def test_a_terminated_episode_is_completed_with_nothing_and_a_truncated_one_with_its_final_observation():
    env = vectorised(Scripted([3, 4], truncates=[False, True]), Scripted([4], truncates=[True]))
    model = make(env=env, buffer_size=100, replay_ratio=3.0)
    kinds = set()

    def check(segments, c):
        final_values = evaluated(model, segments).final_values
        observations = segments.observations[: len(segments)].view(*segments.rewards.shape, 2).cpu()
        for (t, m), (episode, step) in zip(np.ndindex(segments.rewards.shape), observations.view(-1, 2).tolist(), strict=True):
            terminated, truncated = segments.terminated[t, m].item(), segments.truncated[t, m].item()
            assert segments.rewards[t, m].item() == step + 1
            kinds.add((step, terminated, truncated))
            if truncated:
                final = th.tensor([[episode, step + 1]], device=DEVICE)
                value = model.policy.predict_values(final).item()
                assert final_values[t, m].item() == pytest.approx(value, rel=1e-5, abs=1e-6)
            else:
                assert final_values[t, m] == 0

    watch_steps(model, check)
    model.learn(96)
    assert {(2, True, False), (3, False, True)} <= kinds
    assert not {(2, False, True), (3, True, False), (0, True, False), (0, False, True)} & kinds
