"""Whole runs with kept graphs: whatever happens to the folder, they train to the parameters of an undisturbed run."""

import copy
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cloudpickle
import pytest
from gymnasium import spaces
from support.capabilities import DICT, IMAGE
from support.eager_and_compiled import envs, make, trained
from support.models import assert_same, parameters

from sb3_pgx.engine.kept_graphs import VARIABLE, graphs
from sb3_pgx.registry import ALGORITHMS

pytestmark = [pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"), pytest.mark.slow]
WAITS = "another process compiles the same graphs; this run waits for it"
COMPILES = "which takes about"  # in the sentence that announces it

START = """
import hashlib, json, os, signal, sys, warnings
import torch as th
from stable_baselines3.common.logger import Logger
from support.eager_and_compiled import Sentences, make, trained
th.set_num_threads(1)

class Printed(Sentences):
    def write_sequence(self, sequence):
        print(*sequence, flush=True)

def finish(model):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.set_logger(Logger(None, [Printed()]))
        trained(model, 96)
    values = b"".join(value.numpy().tobytes() for value in model.policy.state_dict().values())
    told = [str(w.message) for w in caught if "compiled" in str(w.message)]
    imported = "torch._inductor.compile_fx" in sys.modules
    print(json.dumps(dict(parameters=hashlib.sha256(values).hexdigest(), warnings=told, compiled=imported)))
"""
TRAIN = START + "finish(make('a2c', compile=True))"
# Kills the process when it gives the second graph its name.
KILLED_TRAIN = f"""{START}
renamed = []
def kill(name, arguments):
    if name == "os.rename" and {os.sep!r} + "graphs" in str(arguments):
        renamed.append(arguments)
        if len(renamed) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill)
finish(make('a2c', compile=True))"""


class Run:
    """A process that trains A2C, or executes another script, with kept graphs."""

    def __init__(self, folder, inductor, script=TRAIN, prefix=(), **environment):
        root = Path(__file__).parents[2]
        env = {**os.environ, VARIABLE: str(folder), "TORCHINDUCTOR_CACHE_DIR": str(inductor), **environment}
        env["PYTHONPATH"] = os.pathsep.join([str(root), str(root / "tests")])
        command = [*prefix, sys.executable, "-c", script]
        self._process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.log = []

    def until(self, sentence):
        """Wait for a sentence of the log."""
        for line in self._process.stdout:
            self.log.append(line.strip())
            if sentence in line:
                return
        raise AssertionError(f"ended without {sentence!r}: {self.log}")

    def status(self):
        """Return the exit status when the process has ended."""
        return self._process.communicate() and self._process.returncode

    def result(self):
        """Return the hash of the parameters, the warnings about compiling, and whether TorchInductor was imported."""
        output, errors = self._process.communicate()
        assert self._process.returncode == 0, errors
        lines = output.splitlines()
        self.log += lines[:-1]
        return json.loads(lines[-1])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The parameters of an undisturbed run, its folder of graphs, and TorchInductor's folder."""
    folder, inductor = tmp_path_factory.mktemp("kept") / "graphs", tmp_path_factory.mktemp("inductor")
    run = Run(folder, inductor)
    result = run.result()
    assert result["compiled"] and result["warnings"] == [] and any(COMPILES in line for line in run.log)
    assert sorted(os.listdir(folder)) == sorted(graph.file.name for graph in graphs(folder)) and len(graphs(folder)) == 3
    return result["parameters"], folder, inductor


@pytest.fixture
def warm(undisturbed, tmp_path):
    """A copy of the folder of graphs."""
    shutil.copytree(undisturbed[1], tmp_path / "graphs")
    (tmp_path / "graphs").chmod(0o700)
    return tmp_path / "graphs"


def test_a_process_without_a_compiler_trains_to_the_same_parameters_with_kept_graphs(undisturbed, tmp_path):
    parameters, folder, _ = undisturbed
    result = Run(folder, tmp_path / "inductor", PATH="/no/path").result()
    assert result == dict(parameters=parameters, warnings=[], compiled=False)


def test_a_run_that_keeps_no_graphs_trains_to_the_same_parameters(undisturbed):
    parameters, _, inductor = undisturbed
    assert Run("", inductor).result() == dict(parameters=parameters, warnings=[], compiled=True)


# ------------------------------------------------------------------------------------------------------- several processes


@pytest.fixture
def compiler(tmp_path):
    """Return a function that makes a folder with a C++ compiler before which a shell runs commands, for each graph."""

    def make(commands):
        path, real = tmp_path / "bin" / "g++", shutil.which("g++")
        path.parent.mkdir()
        path.write_text(f'#!/bin/sh\ncase "$*" in *.main.cpp*) {commands};; esac\nexec {real} "$@"\n')
        path.chmod(0o755)
        return f"{path.parent}{os.pathsep}{os.environ['PATH']}"

    return make


def test_of_two_runs_at_once_one_compiles_and_the_other_waits_and_loads(undisturbed, compiler, tmp_path):
    finish = tmp_path / "finish"
    path = compiler(f"while ! [ -e {finish} ]; do sleep 0.05; done")
    first = Run(tmp_path / "graphs", tmp_path / "inductor", PATH=path)
    first.until(COMPILES)
    second = Run(tmp_path / "graphs", tmp_path / "inductor", PATH=path)
    second.until(WAITS)
    finish.touch()
    for run in (first, second):
        result = run.result()
        assert result["parameters"] == undisturbed[0] and result["warnings"] == []
    assert second.log.count(WAITS) == 1 and WAITS not in first.log + second.log[second.log.index(WAITS) + 1 :]
    keys = [graph.file.name.partition("-")[0] for graph in graphs(tmp_path / "graphs")]
    assert len(keys) == len(set(keys)) == 3 == len(os.listdir(tmp_path / "graphs"))


@pytest.mark.parametrize("kill", ["compiles", "writes"])
def test_the_run_after_one_that_was_killed_is_undisturbed(kill, undisturbed, compiler, tmp_path):
    parameters, _, inductor = undisturbed
    folder = tmp_path / "graphs"
    if kill == "compiles":
        places = f"{tmp_path}/first", f"{tmp_path}/second"
        path = compiler("[ -e {1} ] && kill -9 $PPID; [ -e {0} ] && touch {1}; touch {0}".format(*places))
        killed = Run(folder, tmp_path / "inductor", PATH=path)
    else:
        killed = Run(folder, inductor, KILLED_TRAIN)
    assert killed.status() == -signal.SIGKILL
    finished = 2 if kill == "compiles" else 1  # acting and the step are compiled side by side
    assert len(graphs(folder)) == finished < len(os.listdir(folder)), "and a lock"
    again = Run(folder, inductor)
    assert again.result() == dict(parameters=parameters, warnings=[], compiled=True)
    assert WAITS not in again.log and len(graphs(folder)) == 3 == len(os.listdir(folder))


# ------------------------------------------------------------------------------------------------------- disks and folders


def _read_only(folder):
    folder.chmod(0o500)


def _of_another_user(folder):
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(folder, 12345, -1)


def _for_all(folder):
    folder.chmod(0o777)


def without_privileges():
    """Return how to start a command that must keep to permissions: root's need not."""
    if os.getuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root ignores permissions, and there is no setpriv to start a process that does not")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def test_a_folder_that_is_only_read_is_loaded_from_without_a_word(warm, undisturbed):
    _read_only(warm)
    run = Run(warm, undisturbed[2], prefix=without_privileges())
    assert run.result() == dict(parameters=undisturbed[0], warnings=[], compiled=False)


PLACES = {
    "not written": (_read_only, False, "not kept for later runs: .* cannot be written: Permission denied"),
    "of another user": (_of_another_user, True, "belongs to another user"),
    "for all": (_for_all, True, "other users can write"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_folder_that_must_not_or_cannot_be_used_costs_one_sentence(place, undisturbed, warm):
    spoil, has_graphs, sentence = PLACES[place]
    if not has_graphs:
        for graph in graphs(warm):
            graph.file.unlink()
    spoil(warm)
    before = sorted(os.listdir(warm))
    result = Run(warm, undisturbed[2], prefix=without_privileges()).result()
    (told,) = result.pop("warnings")
    assert result == dict(parameters=undisturbed[0], compiled=True)
    assert re.search(sentence, told), told
    assert sorted(os.listdir(warm)) == before


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own, with room for half a graph."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=16k,mode=700", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(["mount", *options], capture_output=True).returncode != 0:
        pytest.skip("only root can mount a disk, and not in every container")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_one_sentence(small_disk, undisturbed):
    result = Run(small_disk, undisturbed[2]).result()
    (told,) = result.pop("warnings")
    assert result == dict(parameters=undisturbed[0], compiled=True)
    assert "not kept for later runs" in told and "No space left on device" in told and os.listdir(small_disk) == []


# ------------------------------------------------------------------------------------------------------- copies of models


def test_copies_of_a_model_with_loaded_graphs_train_on_as_the_model_does(warm, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(warm))
    model = make("a2c", compile=True).learn(48)
    assert not any(COMPILES in sentence for sentence in model.log.sentences)
    (tmp_path / "model").write_bytes(cloudpickle.dumps(model))
    load = f"\nimport cloudpickle\nfinish(cloudpickle.load(open({str(tmp_path / 'model')!r}, 'rb')))"
    spawned = Run(warm, tmp_path / "inductor", START + load, PATH="/no/path")
    copies = {
        "deep copy": copy.deepcopy(model),
        "pickled": cloudpickle.loads(cloudpickle.dumps(model)),
        "in a thread": copy.deepcopy(model),
    }
    trained(model, 96)
    for way, duplicate in copies.items():
        if way == "in a thread":
            thread = threading.Thread(target=trained, args=(duplicate, 96))
            thread.start()
            thread.join()
        else:
            trained(duplicate, 96)
        assert not any(COMPILES in sentence for sentence in duplicate.log.sentences), way
        assert_same(parameters(duplicate), parameters(model))
    values = b"".join(value.numpy().tobytes() for value in model.policy.state_dict().values())
    assert spawned.result() == dict(parameters=hashlib.sha256(values).hexdigest(), warnings=[], compiled=False)


# ------------------------------------------------------------------------------------------------------- bit for bit

POLICIES = {
    "MlpPolicy": lambda: {},
    "gSDE": lambda: dict(use_sde=True, sde_sample_freq=2),
    "Dict observations": lambda: dict(policy="MultiInputPolicy", env=envs(DICT)),
    "MultiDiscrete actions": lambda: dict(env=envs(action_space=spaces.MultiDiscrete([2, 3]))),
    "CnnPolicy": lambda: dict(policy="CnnPolicy", env=envs(IMAGE, spaces.Discrete(3))),
}
CASES = [*((name, "MlpPolicy") for name in ALGORITHMS), *(("ppo", policy) for policy in POLICIES if policy != "MlpPolicy")]
CASES += [("trpo", "gSDE"), ("acer", "Dict observations")]


@pytest.mark.parametrize("name, policy", CASES)
def test_loaded_graphs_compute_what_fresh_ones_do_bit_for_bit(name, policy, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    fresh, kept = (make(name, compile=True, **POLICIES[policy]()) for _ in range(2))
    for model in (fresh, kept):
        trained(model, 48)
    n_compiled = [sum(COMPILES in sentence for sentence in model.log.sentences) for model in (fresh, kept)]
    assert n_compiled == [len(graphs(tmp_path)), 0] and n_compiled[0] > 0
    assert_same(parameters(kept), parameters(fresh))
