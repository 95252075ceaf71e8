"""Files are replaced whole or not at all, whatever ends the process that writes them."""

import multiprocessing as mp
import os
import pickle
import random
import stat
import time
import zipfile

import pytest
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.save_util import load_from_zip_file
from support.full_disk import full_disk
from support.models import make

from sb3_pgx.core.files import new_folder, replacing, write_text
from sb3_pgx.diagnostics import HealthCallback
from sb3_pgx.diagnostics.plots import plot_folder
from sb3_pgx.registry import ALGORITHMS


@pytest.fixture(params=["nameless", "named"])
def system(request, monkeypatch):
    """With files that have no name until they are complete, and as on systems that have none."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)


def everything_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def kill_while(function, seconds):
    """Calls the function again and again in another process, which is killed (SIGKILL) after a while."""

    def forever():
        while True:
            function()

    process = mp.get_context("fork").Process(target=forever)
    process.start()
    time.sleep(seconds)
    process.kill()
    process.join()


def saves_that_are_killed(folder, kills):
    """Two models in turn into one file, and the memory of each into another; killed at random moments."""
    models = [make("acer", seed=seed).learn(48) for seed in (0, 1)]
    wanted = [{name: p.clone() for name, p in model.policy.state_dict().items()} for model in models]
    memories = []
    for model in models:
        model.save_replay_buffer(folder / "memory")
        memories.append((folder / "memory.pkl").read_bytes())
    assert memories[0] != memories[1]

    def save(model):
        model.save(folder / "model")
        model.save_replay_buffer(folder / "memory")

    def check():
        _, found, _ = load_from_zip_file(folder / "model.zip", device="cpu")
        assert any(all(th.equal(found["policy"][name], p) for name, p in params.items()) for params in wanted)
        assert (folder / "memory.pkl").read_bytes() in memories
        with zipfile.ZipFile(folder / "model.zip") as archive:
            assert archive.testzip() is None

    save(models[0])
    for _ in range(kills):
        kill_while(lambda: [save(model) for model in models], random.uniform(0.0, 0.15))
        check()
    save(models[0])
    assert everything_in(folder) == ["memory.pkl", "model.zip"], "nothing of the dead processes is left"
    check()


def test_a_save_that_is_killed_leaves_the_old_file_or_the_new_one(system, tmp_path):
    saves_that_are_killed(tmp_path, kills=8)


@pytest.mark.slow
def test_a_save_that_is_killed_leaves_the_old_file_or_the_new_one_many_times(system, tmp_path):
    saves_that_are_killed(tmp_path, kills=300)


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="only Linux has files without a name")
def test_a_write_that_is_killed_leaves_nothing_at_all(tmp_path):
    """Where the system has files without a name, not even until the next write."""
    write_text(tmp_path / "file", "old")

    def hang():
        with replacing(tmp_path / "file") as file:
            file.write(b"new" * 100_000)
            time.sleep(60)

    kill_while(hang, 0.1)
    assert everything_in(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "old"


def test_what_somebody_alive_is_writing_is_not_swept_away(system, tmp_path):
    with replacing(tmp_path / "slow") as file:
        file.write(b"slow")
        write_text(tmp_path / "fast", "fast")
    with new_folder(tmp_path / "folder") as folder:
        (folder / "inside").touch()
        write_text(tmp_path / "fast", "faster")
    assert everything_in(tmp_path) == ["fast", "folder", "folder/inside", "slow"]
    assert (tmp_path / "slow").read_text() == "slow" and (tmp_path / "fast").read_text() == "faster"


def test_a_folder_that_was_being_filled_by_a_process_that_died_is_swept_away(tmp_path):
    def hang():
        with new_folder(tmp_path / "one") as folder:
            (folder / "half").touch()
            time.sleep(60)

    kill_while(hang, 0.1)
    assert not (tmp_path / "one").exists()
    with new_folder(tmp_path / "two"):
        pass
    assert everything_in(tmp_path) == ["two"]


@pytest.mark.parametrize("bytes_that_fit", [0, 10_000, 30_000])
def test_a_full_disk_is_one_sentence_and_the_old_file_stays(name, bytes_that_fit, system, tmp_path):
    model = make(name).learn(12)
    model.save(tmp_path / "model")
    old = (tmp_path / "model.zip").read_bytes()
    assert len(old) > 30_000
    with pytest.raises(OSError) as error, full_disk(bytes_that_fit):
        model.save(tmp_path / "model")
    assert str(error.value) == f"{tmp_path}/model.zip cannot be written: File too large; the existing file is unchanged"
    assert (tmp_path / "model.zip").read_bytes() == old and everything_in(tmp_path) == ["model.zip"]
    model.learn(12)  # what was computed is still there


def test_pictures_and_pages_on_a_full_disk_keep_the_old_ones_and_name_the_path(tmp_path):
    (tmp_path / "progress.csv").write_text("time/total_timesteps,train/approx_kl\n1,2.0\n2,1.0\n")
    pictures = plot_folder(tmp_path)
    old = [path.read_bytes() for path in pictures]
    sentence = r"diagnostics\.png cannot be written: File too large; the existing file is unchanged$"
    with pytest.raises(OSError, match=sentence), full_disk(1000):
        plot_folder(tmp_path, force=True)
    assert [path.read_bytes() for path in pictures] == old
    assert everything_in(tmp_path) == ["diagnostics.html", "diagnostics.png", "progress.csv"]


def test_a_report_that_cannot_be_written_does_not_end_the_run_in_an_error(tmp_path):
    model = make("ppo")
    with full_disk(10):
        model.learn(24, callback=HealthCallback(report_folder=tmp_path))
    assert model.num_timesteps >= 24 and everything_in(tmp_path) == []


def test_a_device_is_written_to_and_not_replaced():
    write_text("/dev/null", "text")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(OSError, match=r"^/dev/full cannot be written: No space left on device; free some space there$"):
        write_text("/dev/full", "text")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_links_are_followed_and_permissions_kept(system, tmp_path):
    (tmp_path / "kept").mkdir()
    write_text(tmp_path / "kept" / "file", "old")
    (tmp_path / "kept" / "file").chmod(0o640)
    (tmp_path / "link").symlink_to("kept/file")
    (tmp_path / "dangling").symlink_to("kept/other")
    for link in ("link", "dangling"):
        write_text(tmp_path / link, "new")
        assert (tmp_path / link).is_symlink() and (tmp_path / link).read_text() == "new"
    assert stat.S_IMODE((tmp_path / "kept" / "file").stat().st_mode) == 0o640
    plain = tmp_path / "plain"
    plain.touch()  # what the process's mask makes of a new file
    assert (tmp_path / "kept" / "other").stat().st_mode == plain.stat().st_mode
    assert everything_in(tmp_path) == ["dangling", "kept", "kept/file", "kept/other", "link", "plain"]


def test_an_error_of_the_writer_comes_through_as_it_is(tmp_path):
    write_text(tmp_path / "file", "old")
    with pytest.raises(FileNotFoundError, match="somewhere else"), replacing(tmp_path / "file") as file:
        file.write(b"new")
        raise FileNotFoundError("somewhere else")
    assert (tmp_path / "file").read_text() == "old" and everything_in(tmp_path) == ["file"]


@pytest.mark.parametrize("as_type", [str, lambda path: path], ids=["str", "Path"])
@pytest.mark.parametrize("file", ["model", "model.zip", "model.v2", "new/folder/model", "taken.zip", "a" * 240, "ß" * 120])
@pytest.mark.filterwarnings("ignore:Path '.*' (does not exist|is a folder)")
def test_a_model_has_the_name_that_sb3_gives_it(file, as_type, tmp_path):
    for folder, model in (("ours", make("a2c")), ("sb3", sb3.A2C("MlpPolicy", "CartPole-v1"))):
        (tmp_path / folder / "taken.zip").mkdir(parents=True)
        model.save(as_type(tmp_path / folder / file))
    assert everything_in(tmp_path / "ours") == everything_in(tmp_path / "sb3")


def test_many_processes_that_write_one_file_leave_one_of_theirs(system, tmp_path):
    texts = [f"{i}" * 50_000 for i in range(4)]

    def write(text):
        for _ in range(20):
            write_text(tmp_path / "file", text)

    processes = [mp.get_context("fork").Process(target=write, args=(text,)) for text in texts]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "file").read_text() in texts and everything_in(tmp_path) == ["file"]


# --------------------------------------------------------------------------------------------- what loading runs


class Spy:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_parameters_are_read_from_a_strangers_file_without_running_it(name, tmp_path):
    model, other = make(name).learn(12), make(name, seed=1)
    model.spy = Spy(tmp_path / "ran")
    model.save(tmp_path / "model")
    other.set_parameters(str(tmp_path / "model.zip"), device="cpu")
    assert not (tmp_path / "ran").exists()
    for (n, p), q in zip(model.policy.named_parameters(), other.policy.parameters(), strict=True):
        assert th.equal(p.cpu(), q.cpu()), n
    ALGORITHMS[name].load(tmp_path / "model.zip", device="cpu")
    assert (tmp_path / "ran").exists(), "load runs it, and says so"
    assert "whatever code" in ALGORITHMS[name].load.__doc__ and "set_parameters" in ALGORITHMS[name].load.__doc__


def test_parameters_that_are_code_are_refused(tmp_path):
    make("ppo").save(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        for part, content in parts.items():
            if part == "policy.pth":
                with archive.open(part, "w") as file:
                    th.save({"weight": Spy(tmp_path / "ran")}, file)
            else:
                archive.writestr(part, content)
    with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights"):
        make("ppo").set_parameters(str(tmp_path / "model.zip"))
    assert not (tmp_path / "ran").exists()
