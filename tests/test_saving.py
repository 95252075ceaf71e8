"""Every algorithm of the registry is saved, loaded, copied and pickled as SB3's are, and goes on where it was."""

import base64
import copy
import io
import json
import pickle
import random
import subprocess
import sys
import zipfile
from itertools import product

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from selection import RELATIVES, mostly_slow
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from support.capabilities import BOX, DICT, IMAGE, envs
from support.models import assert_same, assert_same_optimizer, make, parameters, takes, with_sde
from support.small_environments import DEVICE
from support.variants import VARIANTS, each_variant
from support.variants import is_quick as is_quick_variant

from sb3_pgx.registry import ALGORITHMS

OWN = {"acer": ["average_policy"], "acktr": ["curvature"]}  # state dictionaries of algorithms, in addition to SB3's
GAUSSIAN = ("plain", "LSTM", "GRU")  # kinds with Box actions, for gSDE

# ------------------------------------------------------------------------------------------------------- going on


class Snapshot:
    """All that decides how a training goes on, besides what a saved model holds."""

    def __init__(self, env):
        self.env = copy.deepcopy(env)
        if isinstance(env, VecNormalize):  # it leaves these two out of a copy
            self.env.set_venv(copy.deepcopy(env.venv))
            self.env.returns = env.returns.copy()
        self.states = (random.getstate(), np.random.get_state(), th.random.get_rng_state())

    def restore(self):
        random.setstate(self.states[0])
        np.random.set_state(self.states[1])
        th.random.set_rng_state(self.states[2])
        return self.env


CASES = [(variant, sde) for variant in VARIANTS for sde in (False, True) if not sde or variant.kind in GAUSSIAN]


def is_quick(variant, sde):
    return is_quick_variant(variant) and not (sde and variant.kind != "plain")


maybe_with_gsde = pytest.mark.parametrize("variant, use_sde", mostly_slow(CASES, is_quick), ids=str)


@pytest.mark.parametrize(
    "variant, use_sde, normalize",
    mostly_slow(
        [(*case, normalize) for case in CASES for normalize in (False, True)],
        lambda variant, sde, normalize: is_quick(variant, sde) and normalize == sde,
    ),
    ids=str,
)
def test_save_load_continue_equals_uninterrupted_bit_for_bit(variant, use_sde, normalize, tmp_path):
    """A file has no recurrent states, as sb3-contrib's have none: rollouts of policies with memory end with an episode."""
    name = variant.name

    def environment():
        env = variant.envs()
        return VecNormalize(env) if normalize else env

    coefficient = dict(ent_coef="lin_0.1") if takes(name, "ent_coef") else {}
    kwargs = dict(learning_rate="lin_0.01", **with_sde(name, use_sde), **coefficient)
    kwargs |= dict(n_steps=35) if variant.has_memory and takes(name, "n_steps") else {}  # episodes have 5 or 7 steps
    model = variant.make(environment(), **kwargs).learn(48)
    snapshot = Snapshot(model.env)
    model.save(tmp_path / "model.zip")
    if hasattr(model, "replay_buffer"):
        model.save_replay_buffer(tmp_path / "replay.pkl")
    model.learn(48, reset_num_timesteps=False)

    loaded = ALGORITHMS[name].load(tmp_path / "model.zip", device=DEVICE)
    loaded.set_env(snapshot.env, force_reset=False)
    if hasattr(model, "replay_buffer"):
        loaded.load_replay_buffer(tmp_path / "replay.pkl")
    snapshot.restore()
    loaded.learn(48, reset_num_timesteps=False)

    assert_same(parameters(model), parameters(loaded))
    assert model.num_timesteps == loaded.num_timesteps and model._n_updates == loaded._n_updates
    assert_same_optimizer(*(m.policy.optimizer.state_dict() for m in (model, loaded)))
    # A learning rate given as a string is saved as the schedule that it stands for.
    simple, differ = (int, float, str, bool), ("start_time", "learning_rate")
    numbers = [{k: v for k, v in vars(m).items() if isinstance(v, simple) and not k.endswith(differ)} for m in (model, loaded)]
    assert numbers[0] == numbers[1]


@pytest.mark.filterwarnings("ignore:.*truncated mini-batch:UserWarning")
def test_a_model_loads_with_fewer_environments_than_its_batches_need_and_trains_there_on_whole_rollouts(tmp_path):
    make("ppo", n_steps=6, batch_size=12).save(tmp_path / "model.zip")
    with pytest.warns(UserWarning, match=r"batch_size=12 is larger than a rollout \(n_steps=6, n_envs=1\)"):
        model = ALGORITHMS["ppo"].load(tmp_path / "model.zip", env=envs(n=1), device=DEVICE)
    model.predict(model.observation_space.sample())
    assert model.learn(12)._n_updates == 4


# ------------------------------------------------------------------------------------------------------- files


OBSERVATIONS = {"MlpPolicy": BOX, "CnnPolicy": IMAGE, "MultiInputPolicy": DICT}


@pytest.mark.parametrize(
    "name, policy",
    mostly_slow(
        product(ALGORITHMS, OBSERVATIONS),
        lambda name, policy: name in ("acer", "ppo") or (policy == "MlpPolicy" and name not in RELATIVES),
    ),
)
def test_a_loaded_model_predicts_as_the_saved_one_with_and_without_env(name, policy, tmp_path):
    env = OBSERVATIONS[policy]
    model = make(name, envs(env), policy).learn(12)
    model.save(tmp_path / "model.zip")
    observation = env.sample()
    expected = model.predict(observation, deterministic=True)[0]
    for other_env in (None, envs(env), envs(env, n=3)):
        loaded = ALGORITHMS[name].load(tmp_path / "model.zip", env=other_env, device=DEVICE)
        assert_same(parameters(model), parameters(loaded))
        np.testing.assert_allclose(loaded.predict(observation, deterministic=True)[0], expected, rtol=1e-5)
        if other_env is not None:
            loaded.learn(18)


@each_variant()
def test_parameters_are_set_exactly_or_not_at_all(variant, tmp_path):
    model, other = variant.make().learn(12), variant.make(seed=1)
    model.save(tmp_path / "model.zip")
    other.set_parameters(str(tmp_path / "model.zip"), device=DEVICE)
    assert_same(parameters(model), parameters(other))
    given = model.get_parameters()
    assert set(given) == {"policy", "policy.optimizer", *OWN.get(variant.name, [])}
    with pytest.raises(ValueError):
        other.set_parameters({**given, "unknown": {}})
    with pytest.raises(ValueError):
        other.set_parameters({"policy": given["policy"]})
    with pytest.raises(RuntimeError):
        other.set_parameters({**given, "policy": {k: v for k, v in list(given["policy"].items())[1:]}})
    other.set_parameters({"policy": given["policy"]}, exact_match=False)


def test_excluded_and_included_attributes(name, tmp_path):
    model = make(name).learn(12)
    model.save(tmp_path / "model.zip", exclude=["gamma"], include=["_custom_logger"])
    loaded = ALGORITHMS[name].load(tmp_path / "model.zip", device=DEVICE, gamma=0.5)
    assert loaded.gamma == 0.5 and loaded._custom_logger is False


def test_a_saved_file_does_not_hold_the_rollout(name):
    small, large = io.BytesIO(), io.BytesIO()
    model = make(name, envs(IMAGE), "CnnPolicy")
    model.save(small)
    model.learn(12)
    assert model.last_rollout is not None
    model.save(large)
    pixels = 36 * 36 * 12
    moments = 2 * sum(p.numel() * 4 for p in model.policy.parameters())
    assert large.tell() - small.tell() < moments + pixels


# SB3 in a process where this package is not installed: loads, trains on, saves.
CONTINUE = """
import sys
sys.modules["sb3_pgx"] = None
import stable_baselines3 as sb3
from stable_baselines3.common.env_util import make_vec_env
name, ours, theirs, device = sys.argv[1:]
model = getattr(sb3, name).load(ours, env=make_vec_env("CartPole-v1", 2), device=device)
model.set_random_seed(7)
model.learn(72, reset_num_timesteps=False)
model.save(theirs)
try:
    import sb3_pgx
except ImportError:
    print("not installed")
"""


@pytest.mark.parametrize(
    "name, reference, compiled",
    [
        ("a2c", sb3.A2C, False),
        ("ppo", sb3.PPO, False),
        pytest.param("a2c", sb3.A2C, True, marks=pytest.mark.slow),
        pytest.param("ppo", sb3.PPO, True, marks=pytest.mark.slow),
    ],
)
def test_a_saved_drop_in_holds_nothing_of_this_package_and_sb3_trains_on_as_ours_does(
    name, reference, compiled, tmp_path, graphs
):
    kwargs = dict(learning_rate="lin_0.001", compile=compiled, verbose=1)
    kwargs |= dict(clip_range="lin_0.2", n_epochs=3) if name == "ppo" else dict(discount_state_weighting=True)
    model = make(name, make_vec_env("CartPole-v1", 2, seed=0), **kwargs).learn(96)
    assert bool(graphs) == compiled, "nothing was compiled"
    model.discount_state_weighting = False  # SB3 has no such thing
    model.save(tmp_path / "ours.zip")
    assert model.learning_rate == "lin_0.001"
    assert_holds_nothing_of_this_package(tmp_path / "ours.zip")
    if not compiled:
        return  # the files differ in one word

    arguments = [reference.__name__, tmp_path / "ours.zip", tmp_path / "theirs.zip", DEVICE]
    done = subprocess.run([sys.executable, "-c", CONTINUE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0 and "not installed" in done.stdout, done.stderr
    assert "Could not deserialize" not in done.stderr + done.stdout

    continued = ALGORITHMS[name].load(tmp_path / "ours.zip", env=make_vec_env("CartPole-v1", 2), device=DEVICE)
    assert_same(parameters(continued), parameters(model))
    continued.set_random_seed(7)
    continued.learn(72, reset_num_timesteps=False)
    theirs = ALGORITHMS[name].load(tmp_path / "theirs.zip", env=make_vec_env("CartPole-v1", 2), device=DEVICE)
    assert theirs.num_timesteps == continued.num_timesteps and theirs._n_updates == continued._n_updates
    for (n, p), q in zip(continued.policy.named_parameters(), theirs.policy.parameters(), strict=True):
        th.testing.assert_close(p, q, rtol=0, atol=1e-5, msg=lambda text, n=n: f"{n}: {text}")
    moved = [not th.equal(p, parameters(model)[n]) for n, p in parameters(theirs).items()]
    assert any(moved)
    before = parameters(theirs)
    theirs.learn(24)
    assert any(not th.equal(p, before[n]) for n, p in parameters(theirs).items())


def assert_holds_nothing_of_this_package(path):
    """Neither in plain text nor in what is pickled within the JSON."""
    with zipfile.ZipFile(path) as archive:
        files = {file: archive.read(file) for file in archive.namelist()}
    assert {"data", "policy.pth", "policy.optimizer.pth"} <= files.keys()
    for key, value in json.loads(files["data"]).items():
        text = json.dumps(value)
        if isinstance(value, dict) and ":serialized:" in value:
            text += base64.b64decode(value[":serialized:"]).decode("latin-1")
        assert "sb3_pgx" not in text, key
    assert all(b"sb3_pgx" not in content for file, content in files.items() if file != "data")


@maybe_with_gsde
def test_policies_are_copied_and_pickled_before_and_after_training(variant, use_sde):
    model = variant.make(**with_sde(variant.name, use_sde))
    for steps in (0, 24):
        model.learn(steps) if steps else None
        for duplicate in (copy.deepcopy(model.policy), pickle.loads(pickle.dumps(model.policy))):
            assert_same(dict(duplicate.state_dict()), parameters(model))
    duplicate = copy.deepcopy(model)
    duplicate.learn(12)
    assert any(not th.equal(p, q) for p, q in zip(model.policy.parameters(), duplicate.policy.parameters(), strict=True))


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device to save on and the CPU to load on")
def test_saved_on_one_device_and_loaded_on_the_other(name, tmp_path):
    for here, there in (("cuda", "cpu"), ("cpu", "cuda")):
        model = make(name, device=here).learn(24)
        model.save(tmp_path / "model.zip")
        loaded = ALGORITHMS[name].load(tmp_path / "model.zip", env=envs(), device=there)
        assert_same({n: p.cpu() for n, p in parameters(model).items()}, {n: p.cpu() for n, p in parameters(loaded).items()})
        loaded.learn(24)


@pytest.mark.usefixtures("validation_stays_on")
@pytest.mark.parametrize("name", mostly_slow(ALGORITHMS, ["a2c", "acer"]))
def test_a_compiled_policy_trains_and_is_saved_as_the_original(name, tmp_path):
    model = make(name)
    model.policy = th.compile(model.policy, backend="eager")
    model.learn(12)
    model.save(tmp_path / "model.zip")
    loaded = ALGORITHMS[name].load(tmp_path / "model.zip", device=DEVICE)
    assert_same(parameters(loaded), {n.removeprefix("_orig_mod."): p for n, p in parameters(model).items()})
