"""A replay memory on disk: under the names that SB3 chooses, whole or not at all."""

import io
import os
import pickle

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.save_util import save_to_pkl

from sb3_pgx.algorithms.acer.replay import Record, SegmentReplay
from sb3_pgx.algorithms.acer.replay_files import load_replay, save_replay


@pytest.fixture
def replay():
    memory = SegmentReplay(20, 3, spaces.Box(-1, 1, (4,), np.float32), spaces.Discrete(2), 2)
    random = np.random.default_rng(0)
    observations = random.random((9, 2, 4)).astype(np.float32)
    ends = np.zeros((8, 2), bool)
    actions, behaviour = np.zeros((8, 2, 1), int), random.random((8, 2, 2)).astype(np.float32)
    memory.add(Record(observations[:-1], observations[-1], actions, behaviour, ends + 1.0, ends, ends, None), raw=True)
    return memory


def drawn(memory):
    return memory.sample(10, np.random.default_rng(0)).observations.tolist()


def everything_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize("as_type", [str, lambda path: path], ids=["str", "Path"])
@pytest.mark.parametrize("name", ["memory", "memory.pkl", "memory.v2", "new/folder/memory", "taken.pkl"])
@pytest.mark.filterwarnings("ignore:Path '.*' (does not exist|is a folder)")  # SB3's
@pytest.mark.filterwarnings("ignore:.* is a folder. saving to")
def test_a_memory_comes_back_from_the_file_that_sb3_would_have_written(name, as_type, replay, tmp_path):
    for folder in ("ours", "sb3"):
        (tmp_path / folder / "taken.pkl").mkdir(parents=True)
    save_replay(as_type(tmp_path / "ours" / name), replay)
    save_to_pkl(as_type(tmp_path / "sb3" / name), replay)
    assert everything_in(tmp_path / "ours") == everything_in(tmp_path / "sb3")
    read = name if name != "taken.pkl" else "taken.pkl_2"
    for folder in ("ours", "sb3"):
        assert drawn(load_replay(as_type(tmp_path / folder / read))) == drawn(replay)


def test_a_memory_goes_through_an_open_file(replay):
    file = io.BytesIO()
    save_replay(file, replay)
    file.seek(0)
    assert drawn(load_replay(file)) == drawn(replay)


def test_a_failing_save_leaves_the_old_file_and_no_other(replay, tmp_path):
    save_replay(tmp_path / "memory", replay)
    expected = drawn(replay)
    replay.reset()
    replay.last = lambda: None  # cannot be pickled, and is met when the rest is written
    with pytest.raises((pickle.PicklingError, AttributeError)):
        save_replay(tmp_path / "memory", replay)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        save_replay(tmp_path / "another", replay)
    assert everything_in(tmp_path) == ["memory.pkl"]
    assert drawn(load_replay(tmp_path / "memory")) == expected


def test_the_old_file_is_there_until_the_new_one_is_complete(replay, tmp_path, monkeypatch):
    save_replay(tmp_path / "memory", replay)
    expected = drawn(replay)

    def crash(source, target):
        assert drawn(load_replay(target)) == drawn(load_replay(source)) == expected
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        save_replay(tmp_path / "memory", replay)
    assert everything_in(tmp_path) == ["memory.pkl"]


def test_a_file_that_holds_something_else_is_refused(replay, tmp_path):
    path = tmp_path / "file.pkl"
    save_to_pkl(path, {"observations": []})
    with pytest.raises(ValueError, match=r"file\.pkl holds a dict, not a SegmentReplay: choose a file that save"):
        load_replay(path)
    save_replay(path, replay)
    for content in (b"", b"hello, world", b"PK\x03\x04 as a model's zip", path.read_bytes()[:-100]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"file\.pkl is not a replay memory, or is damaged: choose a file"):
            load_replay(path)
    with pytest.raises(FileNotFoundError, match=r"missing\.pkl"):
        load_replay(tmp_path / "missing")
