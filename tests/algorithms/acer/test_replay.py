"""What a sampled segment holds, read off rows whose every number says which environment and step it comes from."""

import copy
import pickle
import tracemalloc
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
from gymnasium import spaces

from sb3_pgx.algorithms.acer.replay import Record, Sample, SegmentReplay

VECTOR = spaces.Box(-np.inf, np.inf, (2,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 2, 4), np.uint8)
BOTH = spaces.Dict({"vec": VECTOR, "image": IMAGE})
MOVES = spaces.Discrete(7)
FINAL = 100  # added to the environment's number in a final observation


def observe(space, env, step):
    """Observations that tell environment and step, ``[..., *obs]``."""
    if isinstance(space, spaces.Dict):
        return {key: observe(sub, env, step) for key, sub in space.spaces.items()}
    env, step = np.broadcast_arrays(env, step)
    if space == VECTOR:
        return np.stack([env, step], axis=-1).astype(np.float32)
    codes = np.stack([env, step % 256, step // 256], axis=-1).astype(np.uint8)
    return np.broadcast_to(codes[..., None, None], (*env.shape, *IMAGE.shape))


def origins(observations):
    """Environment and step of single observations ``[M, *obs]``, the inverse of :func:`observe`."""
    if isinstance(observations, dict):
        observations = observations["vec"]
    if observations.dtype == np.uint8:
        codes = observations[:, :, 0, 0].astype(int)
        return [(env, low + 256 * high) for env, low, high in codes.tolist()]
    return [(int(env), int(step)) for env, step in observations]


def assert_same(actual, expected):
    """Equal in value, dtype and shape."""
    if isinstance(expected, dict):
        assert set(actual) == set(expected)
        for key in expected:
            assert_same(actual[key], expected[key])
    elif expected is None:
        assert actual is None
    else:
        np.testing.assert_array_equal(actual, expected, strict=True)


def assert_same_sample(actual, expected):
    for field in fields(Sample):
        assert_same(getattr(actual, field.name), getattr(expected, field.name))


class World:
    """
    Environments that never repeat an observation, and plain lists of all rows that there were: ``history[env]``.

    :param ends: probabilities of a row to be terminated, and to be truncated
    """

    def __init__(self, n_envs=3, space=VECTOR, ends=(0.0, 0.0)):
        self.n_envs, self.space, self.ends = n_envs, space, ends
        self.random = np.random.default_rng(0)
        self.now = np.zeros(n_envs, int)
        self.history = [[] for _ in range(n_envs)]

    def rollout(self, steps):
        env, step = np.broadcast_arrays(np.arange(self.n_envs), self.now + np.arange(steps)[:, None])
        terminated = self.random.random(step.shape) < self.ends[0]
        truncated = ~terminated & (self.random.random(step.shape) < self.ends[1])
        final = observe(self.space, FINAL + env[truncated], step[truncated]) if truncated.any() else None
        record = Record(
            observations=observe(self.space, env, step),
            following=observe(self.space, env[0], self.now + steps),
            actions=self.random.integers(MOVES.n, size=(*step.shape, 1)),
            behaviour=self.random.random((*step.shape, MOVES.n)).astype(np.float32),
            rewards=self.random.random(step.shape).astype(np.float32),
            terminated=terminated,
            truncated=truncated,
            final_observations=final,
        )
        for i, rows in enumerate(self.history):
            for t in range(steps):
                row = {
                    name: getattr(record, name)[t, i]
                    for name in ("actions", "behaviour", "rewards", "terminated", "truncated")
                }
                rows.append({**row, "step": step[t, i], "final": (FINAL + i, step[t, i])})
        self.now += steps
        return record

    def interrupt(self, *envs):
        """Reset environments: their next observation is not the one that was due, and the row before it is the last."""
        for env in envs:
            last = self.history[env][-1]
            if not last["terminated"] and not last["truncated"]:
                last.update(truncated=np.True_, final=(env, self.now[env]))
            self.now[env] += 1000

    def segments(self, starts, length):
        """The segments that start at (environment, step), from the lists."""
        chosen = []
        for env, step in starts:
            (i,) = (i for i, row in enumerate(self.history[env]) if row["step"] == step)
            chosen.append((env, self.history[env][i : i + length + 1]))
        steps = [[row["step"] for row in rows] + [self.now[env]] * (length + 1 - len(rows)) for env, rows in chosen]
        rows = [[rows[t] for _, rows in chosen] for t in range(length)]
        finals = [row["final"] for at_t in rows for row in at_t if row["truncated"]]
        columns = {
            name: np.array([[r[name] for r in at_t] for at_t in rows]) for name in rows[0][0] if name not in ("step", "final")
        }
        return Sample(
            observations=observe(self.space, np.array([env for env, _ in chosen]), np.array(steps).T),
            final_observations=observe(self.space, *np.array(finals).T) if finals else None,
            **columns,
        )

    def starts(self, held, length):
        """All segments in the newest ``held`` steps."""
        return {(i, int(r["step"])) for i, rows in enumerate(self.history) for r in rows[-held:][: held - length + 1]}


def memory(world, max_steps, segment_length=3):
    return SegmentReplay(max_steps * world.n_envs, segment_length, world.space, MOVES, world.n_envs)


def filled(steps=25, max_steps=10, raw=True, **kwargs):
    world = World(ends=(0.1, 0.2), **kwargs)
    replay = memory(world, max_steps)
    replay.add(world.rollout(steps // 2), raw)
    replay.add(world.rollout(steps - steps // 2), raw)
    return world, replay


def first_of(sample):
    observations = sample.observations
    return origins({k: v[0] for k, v in observations.items()} if isinstance(observations, dict) else observations[0])


@pytest.mark.parametrize("space", [VECTOR, IMAGE, BOTH], ids=["vector", "image", "dict"])
@pytest.mark.parametrize("max_steps, segment_length", [(10, 3), (7, 7), (5, 1)])
def test_segments_are_what_happened_in_one_environment_through_many_wraps_and_interruptions(space, max_steps, segment_length):
    world, generator = World(space=space, ends=(0.1, 0.2)), np.random.default_rng(1)
    replay = memory(world, max_steps, segment_length)
    held = 0
    for steps in [2, 1, 4, 3, 1, 10, 9, 1, 5, 23, 2, 11, 7, 1, 1, 6] * 2:
        replay.add(world.rollout(steps), raw=True)
        held = min(held + steps, max_steps)
        assert replay.size == held * world.n_envs
        starts = world.starts(held, segment_length) if held >= segment_length else set()
        assert len(replay) == len(starts)
        if starts:
            sample = replay.sample(60, generator)
            assert set(first_of(sample)) <= starts
            assert_same_sample(sample, world.segments(first_of(sample), segment_length))
        world.interrupt(*generator.choice(3, size=generator.integers(3), replace=False))


@pytest.mark.parametrize("rollouts", [[3], [7], [10], [6, 6, 6, 5]])
def test_every_segment_is_drawn_equally_often(rollouts):
    world = World()
    replay = memory(world, 10)
    for steps in rollouts:
        replay.add(world.rollout(steps), raw=True)
    starts = world.starts(min(sum(rollouts), 10), 3)
    n = 1000 * len(starts)
    counts = Counter(first_of(replay.sample(n, np.random.default_rng(0))))
    assert set(counts) == starts
    # χ² of the counts has mean f = len(starts) - 1 and standard deviation √(2 f).
    freedom = len(starts) - 1
    assert sum((c - 1000) ** 2 / 1000 for c in counts.values()) < freedom + 4 * np.sqrt(2 * freedom)


def test_one_sample_holds_segments_of_all_environments_and_may_repeat_one():
    world = World()
    replay = memory(world, 3)
    replay.add(world.rollout(3), raw=True)
    drawn = first_of(replay.sample(50, np.random.default_rng(0)))
    assert set(drawn) == {(0, 0), (1, 0), (2, 0)}


def test_buffer_size_counts_transitions_of_all_environments():
    world = World(n_envs=4)
    replay = SegmentReplay(43, 3, VECTOR, MOVES, 4)
    replay.add(world.rollout(50), raw=True)
    assert replay.size == 40
    replay.add(world.rollout(1), raw=True)
    assert replay.size == 40


def test_the_newest_segment_ends_with_what_followed_the_newest_row():
    world = World(n_envs=2)
    replay = memory(world, 4, segment_length=4)
    for steps in (3, 3, 3):
        replay.add(world.rollout(steps), raw=True)
    sample = replay.sample(20, np.random.default_rng(0))
    assert set(origins(sample.observations[-1])) == {(0, 9), (1, 9)}
    assert sample.observations.shape == (5, 20, 2) and sample.rewards.shape == (4, 20)


def test_final_observations_are_forgotten_with_their_rows():
    world = World(space=IMAGE, ends=(0.0, 1.0))  # every row is truncated
    replay = memory(world, 10)
    replay.add(world.rollout(10), raw=True)
    size = len(pickle.dumps(replay))
    for steps in (1, 9, 10, 35, 4) * 4:
        replay.add(world.rollout(steps), raw=True)
    assert len(pickle.dumps(replay)) == pytest.approx(size, rel=0.02)
    world.ends = (0.0, 0.0)
    replay.add(world.rollout(10), raw=True)
    assert replay.sample(20, np.random.default_rng(0)).final_observations is None
    assert len(pickle.dumps(replay)) < size - 30 * IMAGE.sample().nbytes


def test_the_memory_shares_nothing_with_rollouts_and_samples():
    world = World(ends=(0.0, 0.5))
    replay = memory(world, 10)
    record = world.rollout(10)
    truth = copy.deepcopy(world)
    replay.add(record, raw=True)
    sample = replay.sample(30, np.random.default_rng(0))
    for written in (record, sample):
        for field in fields(written):
            getattr(written, field.name)[:] = 0
    sample = replay.sample(30, np.random.default_rng(0))
    assert_same_sample(sample, truth.segments(first_of(sample), 3))


@pytest.mark.parametrize("space", [VECTOR, BOTH], ids=["vector", "dict"])
def test_where_an_environment_did_not_go_on_its_newest_row_becomes_truncated(space):
    world = World(n_envs=4, space=space)
    replay = memory(world, 10, segment_length=4)
    first = world.rollout(4)
    first.terminated[-1, 2] = True
    first.truncated[-1, 3] = True
    first.final_observations = observe(space, np.array([77]), np.array([5]))
    replay.add(first, raw=True)
    world.now[1:] += 50  # all but the first were reset; two of them had ended an episode anyway
    replay.add(world.rollout(1), raw=True)
    sample = replay.sample(50, np.random.default_rng(0))
    from_start = {env: m for m, (env, step) in enumerate(first_of(sample)) if step == 0}
    assert sorted(from_start) == [0, 1, 2, 3]
    columns = [from_start[env] for env in range(4)]
    assert sample.truncated[:, columns].T.tolist() == [[False] * 4, [False] * 3 + [True], [False] * 4, [False] * 3 + [True]]
    assert sample.terminated[3, columns].tolist() == [False, False, True, False]
    final = dict(zip(np.argwhere(sample.truncated)[:, 1], origins(sample.final_observations), strict=True))
    assert final[from_start[1]] == (1, 4)  # what was due after its steps 0 to 3
    assert final[from_start[3]] == (77, 5)  # its own


@pytest.mark.parametrize("key", ["vec", "image"])
def test_a_break_is_seen_in_a_single_number_of_any_part_of_an_observation(key):
    world = World(n_envs=2, space=BOTH)
    replay = memory(world, 10)
    replay.add(world.rollout(3), raw=True)
    record = world.rollout(1)
    record.observations[key] = np.array(record.observations[key])
    record.observations[key][0, 1].flat[-1] += 1
    replay.add(record, raw=True)
    sample = replay.sample(20, np.random.default_rng(0))
    assert set(map(tuple, np.argwhere(sample.truncated).tolist())) == {
        (2 - step, m) for m, (env, step) in enumerate(first_of(sample)) if env == 1
    }


def test_a_memory_from_a_file_marks_the_break_before_the_first_rollout_of_the_next_training():
    world, replay = filled()
    replay = pickle.loads(pickle.dumps(replay))
    world.interrupt(0, 1, 2)
    replay.add(world.rollout(2), raw=True)
    sample = replay.sample(100, np.random.default_rng(0))
    assert_same_sample(sample, world.segments(first_of(sample), 3))


def test_observations_and_actions_keep_their_type():
    _, replay = filled(space=BOTH)
    sample = replay.sample(4, np.random.default_rng(0))
    assert sample.observations["image"].dtype == np.uint8 and sample.observations["vec"].dtype == np.float32
    assert sample.actions.dtype == np.int64 and sample.actions.shape == (3, 4, 1)
    assert sample.terminated.dtype == sample.truncated.dtype == bool
    assert sample.rewards.dtype == sample.behaviour.dtype == np.float32


def test_nothing_is_allocated_before_the_first_rollout_and_after_a_reset():
    world = World()
    tracemalloc.start()
    try:
        replay = SegmentReplay(3 * 10**6, 3, VECTOR, MOVES, 3)
        assert tracemalloc.get_traced_memory()[0] < 10**5
        replay.add(world.rollout(3), raw=True)
        assert tracemalloc.get_traced_memory()[0] > 3 * 10**6 * 8
        replay.reset()
        assert tracemalloc.get_traced_memory()[0] < 10**5
    finally:
        tracemalloc.stop()
    assert replay.size == 0 and len(replay) == 0


@pytest.mark.parametrize("raw", [True, False])
def test_raw_and_normalised_rollouts_are_not_mixed_and_nothing_is_lost(raw):
    world, replay = filled(raw=raw)
    before = copy.deepcopy(replay)
    kinds = ["as the environment gave them", "normalised"]
    held, new = kinds if raw else kinds[::-1]
    with pytest.raises(ValueError, match=rf"30 transitions {held}, and the new ones are {new}.*replay_buffer.reset\(\)"):
        replay.add(World().rollout(5), raw=not raw)
    assert_same_sample(*(r.sample(30, np.random.default_rng(0)) for r in (replay, before)))
    assert replay.raw is raw and replay.size == before.size
    replay.add(world.rollout(2), raw)
    replay.reset()
    assert replay.raw is None
    replay.add(world.rollout(5), raw=not raw)
    assert replay.raw is not raw
    sample = replay.sample(30, np.random.default_rng(0))
    assert_same_sample(sample, world.segments(first_of(sample), 3))


def test_sampling_before_there_is_a_segment_says_so():
    world = World()
    replay = memory(world, 10)
    for steps in (0, 2):
        if steps:
            replay.add(world.rollout(steps), raw=True)
        with pytest.raises(ValueError, match=f"holds {steps} steps of each environment, fewer than one segment of 3"):
            replay.sample(1, np.random.default_rng(0))
    replay.add(world.rollout(1), raw=True)
    assert first_of(replay.sample(1, np.random.default_rng(0)))[0][1] == 0


def test_a_ring_shorter_than_a_segment_names_the_size_that_is_enough():
    with pytest.raises(ValueError, match=r"buffer_size=19 holds 4 steps of each of 4 environments.* 5 steps: raise it to 20"):
        SegmentReplay(19, 5, VECTOR, MOVES, 4)
    SegmentReplay(20, 5, VECTOR, MOVES, 4)
    with pytest.raises(ValueError, match=r"buffer_size=1000\.0 must be a whole number"):
        SegmentReplay(1e3, 5, VECTOR, MOVES, 4)  # type: ignore[arg-type]


def test_a_memory_fits_a_model_of_the_same_spaces_and_environments_whose_segments_it_has_room_for():
    _, replay = filled()  # room for 10 steps of 3 environments
    replay.check_fits(spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Discrete(7), 3, segment_length=10)
    for arguments, message in [
        ((IMAGE, MOVES, 3, 3), r"observation space Box\(-inf.* and this model's is Box\(0, 255"),
        ((VECTOR, spaces.Discrete(8), 3, 3), r"action space Discrete\(7\), and this model's is Discrete\(8\)"),
        ((VECTOR, MOVES, 4, 3), "number of environments 3, and this model's is 4"),
        ((VECTOR, MOVES, 3, 11), "room for 10 steps of each environment, fewer than this model's segments of 11"),
    ]:
        with pytest.raises(ValueError, match=message):
            replay.check_fits(*arguments)


def test_the_length_of_segments_may_change_while_the_memory_is_full():
    world, replay = filled()
    for length in (1, 10, 4):
        replay.segment_length = length
        sample = replay.sample(40, np.random.default_rng(0))
        assert set(first_of(sample)) <= world.starts(10, length)
        assert_same_sample(sample, world.segments(first_of(sample), length))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda replay: pickle.loads(pickle.dumps(replay))])
def test_a_copy_gives_the_same_samples_and_goes_its_own_way(duplicate):
    world, replay = filled(space=BOTH)
    other = duplicate(replay)
    assert_same_sample(*(r.sample(30, np.random.default_rng(5)) for r in (replay, other)))
    before = replay.sample(30, np.random.default_rng(6))
    other.add(world.rollout(8), raw=True)
    assert_same_sample(replay.sample(30, np.random.default_rng(6)), before)


@pytest.mark.parametrize("space", [VECTOR, BOTH])
@pytest.mark.parametrize("ends", [(0.0, 0.0), (0.2, 0.4)])
def test_a_rollout_that_is_taken_out_again_leaves_the_memory_as_if_it_had_never_come(space, ends):
    """At any place of the ring, for rollouts of any length, after breaks, and the first one of all."""
    world, random = World(space=space, ends=ends), np.random.default_rng(1)
    replay = SegmentReplay(7 * world.n_envs, 3, space, MOVES, world.n_envs)

    def held():
        return copy.deepcopy({k: v for k, v in vars(replay).items() if not k.endswith("_space")})

    for length in (2, 9, *random.integers(1, 12, size=40)):
        if random.random() < 0.3 and world.history[0]:
            world.interrupt(*random.choice(world.n_envs, size=2, replace=False))
        before, record = held(), world.rollout(int(length))
        take_out = replay.add(record, raw=False)
        after = held()
        take_out()
        assert_same_state(held(), before)
        replay.add(record, raw=False)
        assert_same_state(held(), after)


def assert_same_state(actual, expected):
    """Of the arrays all of them, whatever is in use."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key in expected:
            assert_same_state(actual[key], expected[key])
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(actual, expected, strict=True)
    else:
        assert actual == expected
