"""A compiled model is saved, copied and pickled as an eager one, and goes on from there."""

import copy
import io
import pickle
import zipfile

import cloudpickle
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from support.eager_and_compiled import MOSTLY_PPO, ON_POLICY, envs, make, trained
from support.models import assert_same, assert_same_optimizer, parameters
from support.small_environments import DEVICE

from sb3_pgx.registry import ALGORITHMS


@ON_POLICY
def test_a_compiled_model_is_saved_as_plain_tensors_that_sb3_loads(name, graphs, tmp_path):
    model = make(name)
    model.compile = True
    model.learn(24)
    model.save(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as file:
        weights, moments = (
            th.load(io.BytesIO(file.read(n)), weights_only=True) for n in ("policy.pth", "policy.optimizer.pth")
        )
    saved = [*weights.values(), *(x for s in moments["state"].values() for x in s.values() if isinstance(x, th.Tensor))]
    assert all(type(x) is th.Tensor and x.is_contiguous() for x in saved)
    assert all(x.untyped_storage().nbytes() == x.numel() * x.element_size() for x in saved), "a view of something larger"
    assert len({x.untyped_storage().data_ptr() for x in saved}) == len(saved)
    loaded = ALGORITHMS[name].load(tmp_path / "model.zip", env=envs(), device=DEVICE).learn(12)
    assert loaded.compile is True
    if name != "ppo_penalty":
        theirs = {"a2c": sb3.A2C, "ppo": sb3.PPO}[name].load(tmp_path / "model.zip", env=envs(), device=DEVICE)
        for key, value in model.policy.state_dict().items():
            assert th.equal(theirs.policy.state_dict()[key], value)
        theirs.learn(12)


@pytest.mark.parametrize("use_sde", [False, True])
@MOSTLY_PPO
def test_a_compiled_model_is_copied_and_pickled(name, use_sde, graphs):
    model = make(name, use_sde=use_sde, compile=True).learn(24)
    duplicates = [copy.deepcopy(model.policy), pickle.loads(pickle.dumps(model.policy))]
    duplicates.append(cloudpickle.loads(cloudpickle.dumps(model.policy)))
    for duplicate in duplicates:
        for key, value in model.policy.state_dict().items():
            assert th.equal(duplicate.state_dict()[key], value)
    count, twin = len(graphs), copy.deepcopy(model)
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    results = []
    for m in (model, twin):
        results.append(trained(m))
    assert results[0] == results[1] and len(graphs) > count, "a copy has graphs of its own"
    for key, value in twin.policy.state_dict().items():
        assert th.equal(value, model.policy.state_dict()[key])
    assert any(not th.equal(value, before[key]) for key, value in model.policy.state_dict().items())


@pytest.mark.parametrize("use_sde", [False, True])
@MOSTLY_PPO
def test_a_compiled_training_that_was_saved_goes_on_bit_for_bit(name, use_sde, graphs, tmp_path):
    def environment():
        return make_vec_env("Pendulum-v1", 2, seed=1)

    kwargs = dict(learning_rate="lin_0.01", ent_coef="lin_0.1", use_sde=use_sde, compile=True)
    model = make(name, environment(), **kwargs).learn(48)
    model.save(tmp_path / "model.zip")
    loaded = ALGORITHMS[name].load(tmp_path / "model.zip", device=DEVICE)
    for m in (model, loaded):
        m.set_env(environment())
        np.random.seed(2)
        th.manual_seed(2)
        m.learn(48, reset_num_timesteps=False)
    assert_same(parameters(model), parameters(loaded))
    assert_same_optimizer(*(m.policy.optimizer.state_dict() for m in (model, loaded)))
    assert model.n_gradient_steps == loaded.n_gradient_steps
