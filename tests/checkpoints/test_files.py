"""A checkpoint is written completely or not at all; the newest complete one is found; bad ones get one sentence."""

import copy
import json
import multiprocessing as mp
import os
import zipfile

import numpy as np
import pytest
import stable_baselines3 as sb3
from stable_baselines3.common.callbacks import CheckpointCallback as SB3CheckpointCallback
from stable_baselines3.common.callbacks import ConvertCallback, EveryNTimesteps
from stable_baselines3.common.vec_env import VecNormalize
from support.capabilities import BOX, envs
from support.models import assert_same, make, parameters
from support.small_environments import DEVICE

from sb3_pgx import A2C, PPO
from sb3_pgx.checkpoints import CheckpointCallback, newest_checkpoint
from sb3_pgx.checkpoints.folder import FolderLock


@pytest.fixture
def model():
    return make("ppo").learn(12)


def saved(model, folder, timesteps):
    """Save a checkpoint as if the model had taken so many steps."""
    model.num_timesteps = timesteps
    model.save_checkpoint(folder)
    return folder / f"rl_model_{timesteps}_steps.zip"


def test_the_newest_is_the_one_that_was_written_last(model, tmp_path):
    """A run that began again has taken fewer steps than the checkpoints of the run before."""
    saved(model, tmp_path, 900)
    last = saved(model, tmp_path, 30)
    assert newest_checkpoint(tmp_path) == last
    assert newest_checkpoint(tmp_path / "nothing") is None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_torn_checkpoint_is_skipped(share, model, tmp_path):
    good, torn = saved(model, tmp_path, 10), saved(model, tmp_path, 20)
    content = torn.read_bytes()
    torn.write_bytes(content[: int(share * len(content))])
    with pytest.warns(UserWarning, match=r"rl_model_20_steps.zip is incomplete or damaged .*: it is skipped"):
        assert newest_checkpoint(tmp_path) == good
    with pytest.raises(ValueError, match=r"rl_model_20_steps.zip is incomplete or damaged"):
        PPO.resume(torn, envs())
    assert torn.exists()


def test_a_damaged_checkpoint_is_skipped(model, tmp_path):
    good, damaged = saved(model, tmp_path, 10), saved(model, tmp_path, 20)
    content, member = bytearray(damaged.read_bytes()), zipfile.ZipFile(damaged).getinfo("checkpoint.pkl")
    content[member.header_offset + member.file_size // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.warns(UserWarning, match="rl_model_20_steps.zip .*damaged"):
        assert newest_checkpoint(tmp_path) == good


def test_foreign_files_are_ignored_and_stay(model, tmp_path):
    good = saved(model, tmp_path, 10)
    (tmp_path / "notes.zip").write_text("no archive")
    (tmp_path / "rl_model_99_steps.txt").write_text("no checkpoint")
    model.save(tmp_path / "rl_model_99_steps.zip")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert newest_checkpoint(tmp_path) == good
    model.num_timesteps = 20
    model.save_checkpoint(tmp_path, keep=1)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after.keys() == before.keys() - {good.name} | {"rl_model_20_steps.zip"}
    assert all(after[name] == before[name] for name in before.keys() & after.keys())
    with pytest.raises(ValueError, match=r"rl_model_99_steps.zip is no checkpoint: load a model .* with load\(\)"):
        PPO.resume(tmp_path / "rl_model_99_steps.zip", envs())


def test_only_the_newest_of_a_name_stay(tmp_path):
    callbacks = [
        CheckpointCallback(3, str(tmp_path), keep=2),
        CheckpointCallback(6, str(tmp_path), name_prefix="other", keep=1),
    ]
    make("ppo").learn(72, callback=callbacks)
    assert sorted(path.name for path in tmp_path.glob("*.zip")) == [
        "other_72_steps.zip",
        "rl_model_60_steps.zip",
        "rl_model_72_steps.zip",
    ]


def test_a_checkpoint_is_a_model_that_sb3_loads(model, tmp_path):
    path = saved(model, tmp_path, 10)
    assert_same(parameters(model), parameters(PPO.load(path, device=DEVICE)))
    assert_same(parameters(model), parameters(sb3.PPO.load(path, device=DEVICE)))


def test_a_process_that_dies_while_writing_leaves_the_old_one(model, tmp_path):
    good = saved(model, tmp_path, 10)
    content = good.read_bytes()

    class Deadly:
        def __reduce__(self):
            os._exit(9)

    model.ep_info_buffer.append(Deadly())
    process = mp.get_context("fork").Process(target=model.save_checkpoint, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert good.read_bytes() == content and newest_checkpoint(tmp_path) == good
    assert [path.name for path in tmp_path.glob("*.zip")] == [good.name]


# ------------------------------------------------------------------------------------------------------- refusals


def rewritten(path, **changes):
    """Change entries of a checkpoint's manifest."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members["checkpoint.json"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, "checkpoint.json": json.dumps({**manifest, **changes})}.items():
            archive.writestr(name, content)
    return path


def test_another_algorithm_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"is a checkpoint of PPO: resume it with PPO\.resume"):
        A2C.resume(saved(model, tmp_path, 10), envs())


@pytest.mark.parametrize("changes", [{"sb3_pgx": "0.0.1"}, {"format": 0}])
def test_another_version_is_refused(changes, model, tmp_path):
    path = rewritten(saved(model, tmp_path, 10), **changes)
    with pytest.raises(ValueError, match=r"was written by sb3_pgx .*, and this is .*: resume it with that version"):
        PPO.resume(path, envs())


def test_other_versions_of_the_packages_give_a_warning(model, tmp_path):
    path = rewritten(saved(model, tmp_path, 10), versions={"torch": "1.0", "numpy": np.__version__})
    with pytest.warns(UserWarning, match=r"was written with torch 1\.0 \(now .*\): the resumed run may differ in rounding"):
        PPO.resume(path, envs())


@pytest.mark.parametrize(
    "env, message",
    [
        (lambda: envs(n=3), "has 2 environments, and the given one has 3"),
        (
            lambda: VecNormalize(envs()),
            "has stable_baselines3.*DummyVecEnv at env, and the given environment has .*VecNormalize",
        ),
        (lambda: None, "env=None: a run continues in its environments"),
    ],
)
def test_other_environments_are_refused(env, message, model, tmp_path):
    with pytest.raises(ValueError, match=message):
        PPO.resume(saved(model, tmp_path, 10), env())


def test_missing_checkpoints_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no complete checkpoint in"):
        PPO.resume(tmp_path, envs())
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*missing"):
        PPO.resume(tmp_path / "missing", envs())


def test_a_folder_into_which_another_process_writes_is_refused(model, tmp_path):
    path = saved(model, tmp_path, 10)
    ours, theirs = mp.get_context("fork").Pipe()

    def write():
        lock = FolderLock(tmp_path)
        lock.acquire()
        theirs.send("locked")
        theirs.recv()

    other = mp.get_context("fork").Process(target=write)
    other.start()
    try:
        assert ours.recv() == "locked"
        for attempt in (
            lambda: PPO.resume(path, envs()),
            lambda: model.save_checkpoint(tmp_path),
            lambda: model.learn(12, callback=CheckpointCallback(1, str(tmp_path))),
        ):
            with pytest.raises(RuntimeError, match="another process is writing checkpoints into"):
                attempt()
    finally:
        other.kill()
        other.join()
    model.save_checkpoint(tmp_path)


def test_a_resumed_run_is_not_saved_before_it_continues(tmp_path):
    make("ppo").learn(24, callback=CheckpointCallback(1, str(tmp_path)))
    resumed = PPO.resume(tmp_path, envs(), device=DEVICE)
    with pytest.raises(ValueError, match="call learn first"):
        resumed.save_checkpoint(tmp_path)
    resumed.learn(36).save_checkpoint(tmp_path)
    assert newest_checkpoint(tmp_path).name == "rl_model_36_steps.zip"


def test_a_model_that_is_training_can_be_copied(tmp_path):
    model, copies = make("ppo"), []
    keep = ConvertCallback(lambda *_: copies.append(copy.deepcopy(model)) or True)
    model.learn(12, callback=[CheckpointCallback(1, str(tmp_path)), keep])
    assert_same(parameters(copies[0]), parameters(make("ppo")))


def test_bad_arguments_are_refused(model, tmp_path):
    for arguments in (dict(save_freq=0), dict(save_freq=1, keep=0), dict(save_freq=1.5)):
        with pytest.raises(ValueError, match="must be a whole number, at least 1"):
            CheckpointCallback(save_path=str(tmp_path), **arguments)
    with pytest.raises(ValueError, match="keep=0"):
        model.save_checkpoint(tmp_path, keep=0)
    with pytest.raises(TypeError, match=r"needs an algorithm of sb3_pgx, and stable_baselines3.*PPO is none"):
        sb3.PPO("MlpPolicy", envs(), n_steps=8, batch_size=8).learn(16, callback=CheckpointCallback(1, str(tmp_path)))


# ------------------------------------------------------------------------------------------------------- the callback


def test_the_callback_writes_when_sb3s_does_at_the_end_of_the_iteration(tmp_path):
    env = VecNormalize(envs(BOX))
    callback = CheckpointCallback(4, str(tmp_path), "name", save_vecnormalize=True)
    model = make("ppo", env).learn(48, callback=EveryNTimesteps(2, callback))  # a call of each step
    assert isinstance(callback, SB3CheckpointCallback)
    expected = [12 * i for i in range(1, 5)]  # an iteration has 6 steps of 2 environments
    assert sorted(int(path.stem.split("_")[1]) for path in tmp_path.glob("name_*_steps.zip")) == expected
    statistics = VecNormalize.load(str(tmp_path / "name_vecnormalize_48_steps.pkl"), envs(BOX))
    np.testing.assert_array_equal(statistics.obs_rms.mean, model.get_vec_normalize_env().obs_rms.mean)


def test_a_request_in_the_middle_of_a_rollout_is_met_at_its_end(tmp_path):
    model = make("ppo")
    seen = []

    def ask(locals_, globals_):
        if model.num_timesteps == 8:
            model.save_checkpoint(tmp_path)
        seen.append(len(list(tmp_path.glob("*.zip"))))
        return True

    model.learn(24, callback=ask)
    assert seen == [0] * 6 + [1] * 6
    assert newest_checkpoint(tmp_path).name == "rl_model_12_steps.zip"
