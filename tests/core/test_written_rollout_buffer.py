"""What stands in the rollout buffer is learned from, whoever wrote it, or refused."""

from functools import cache
from itertools import product

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from selection import mostly_slow
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from support.small_environments import DEVICE, Scripted, vectorised
from support.torch_versions import mse_loss_mixes_types

import sb3_pgx
from sb3_pgx import A2C, ACER, REINFORCE, PPOPenalty, REINFORCEBaseline
from sb3_pgx.core import rollout_buffer


@pytest.fixture(params=["shared", "separate"])
def memory(request, monkeypatch):
    """The arrays of the buffer are views of the model's tensors as on the CPU, or copies as on CUDA."""
    if request.param == "separate":
        monkeypatch.setattr(rollout_buffer, "to_numpy", lambda x: x.numpy(force=True).copy())
    return request.param


WRITES = {
    "in place": lambda b, name: np.multiply(getattr(b, name), 0.5, out=getattr(b, name)),
    "assigned": lambda b, name: setattr(b, name, getattr(b, name) * np.float32(0.5)),
    "assigned, float64": lambda b, name: setattr(b, name, getattr(b, name).astype(np.float64) / 2),
    "one row": lambda b, name: getattr(b, name).__setitem__(1, 0.25),
    "after get": lambda b, name: (list(b.get(4)), np.multiply(getattr(b, name), 0.5, out=getattr(b, name))),
}


def trained(library, algorithm, callback):
    kwargs = dict(batch_size=5, n_epochs=2, clip_range_vf=0.1, normalize_advantage=False) if algorithm == "PPO" else {}
    env = vectorised(Scripted([3, 2], [True, False]), Scripted([2], [True]))
    model = getattr(library, algorithm)(
        "MlpPolicy", env, n_steps=5, seed=0, learning_rate=1e-2, policy_kwargs=dict(net_arch=[8]), device=DEVICE, **kwargs
    )
    return list(model.learn(30, callback=callback).policy.parameters())


def with_writes(library, algorithm, column, how):
    class Writes(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            WRITES[how](self.model.rollout_buffer, column)

    return trained(library, algorithm, Writes())


@cache
def sb3s_with_writes(algorithm, column, how):
    return with_writes(sb3, algorithm, column, how)


@cache
def without_writes(algorithm, memory):
    return trained(sb3_pgx, algorithm, None)


COLUMNS = ["advantages", "returns", "log_probs", "values", "observations"]


def is_quick(algorithm, column, how):
    """Each algorithm learns from each column, and from each way to write."""
    return COLUMNS.index(column) == ([*WRITES].index(how) + (algorithm == "A2C")) % len(WRITES)


@pytest.mark.parametrize("algorithm, column, how", mostly_slow(product(["A2C", "PPO"], COLUMNS, WRITES), is_quick))
def test_what_stands_in_the_buffer_is_learned_from_whoever_wrote_it(algorithm, column, how, memory):
    if "float64" in how and not mse_loss_mixes_types():
        pytest.skip("with this torch, SB3 cannot learn from double precision")

    ours, theirs = with_writes(sb3_pgx, algorithm, column, how), sb3s_with_writes(algorithm, column, how)
    unwritten = without_writes(algorithm, memory)
    for p, q in zip(ours, theirs, strict=True):
        th.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    ignored = {"A2C": ("log_probs", "values"), "PPO": ()}[algorithm]  # by the loss
    assert all(map(th.equal, ours, unwritten)) == (column in ignored)


@pytest.mark.parametrize("column", ["advantages", "rewards", "observations", "actions", "values", "episode_starts"])
@pytest.mark.parametrize("when", ["step", "end"])
@pytest.mark.parametrize("how", ["in place", "assigned"])
def test_a_write_that_cannot_be_learned_from_is_refused(column, when, how):
    class Writes(BaseCallback):
        def _on_step(self):
            return when != "step" or self.num_timesteps != 4 or self.write()

        def _on_rollout_end(self):
            if when == "end":
                self.write()

        def write(self):
            buffer = self.model.rollout_buffer
            if how == "in place":
                getattr(buffer, column)[0] += 1
            else:
                setattr(buffer, column, getattr(buffer, column) + 1)
            return True

    model = ACER("MlpPolicy", vectorised(Scripted([5])), n_steps=8, replay_start=8, device=DEVICE)
    before = [p.clone() for p in model.policy.parameters()]
    with pytest.raises(
        ValueError, match=rf"rollout_buffer.{column} was written to, and this algorithm does not learn from it"
    ):
        model.learn(16, callback=Writes())
    assert all(map(th.equal, before, model.policy.parameters()))


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("algorithm", [REINFORCE, REINFORCEBaseline, ACER])
def test_an_algorithm_that_needs_more_of_a_row_refuses_added_ones(algorithm, learned):
    model = algorithm("MlpPolicy", vectorised(Scripted([5])), device=DEVICE)
    if learned:
        model.learn(5)
        model.rollout_buffer.reset()
    with pytest.raises(ValueError, match=rf"rollout_buffer.add: {algorithm.__name__} learns from"):
        model.rollout_buffer.add(np.zeros((1, 2)), np.zeros(1), np.zeros(1), np.ones(1), th.zeros(1), th.zeros(1))


def test_a_penalty_is_measured_from_the_distributions_of_the_observations_that_stand_in_the_buffer():
    """At the first step of an update KL(old‖new) is 0, whatever was written into the observations."""

    class Writes(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            self.model.rollout_buffer.observations += 3.0

    env = vectorised(Scripted([5]))
    model = PPOPenalty("MlpPolicy", env, n_steps=8, batch_size=8, n_epochs=1, learning_rate=0.0, seed=0, device=DEVICE)
    model.learn(8, callback=Writes())
    assert abs(model.logger.name_to_value["train/kl"]) < 1e-9


def test_a_buffer_that_is_not_full_is_not_learned_from():
    model = A2C("MlpPolicy", vectorised(Scripted([5])), device=DEVICE)
    model.set_logger(configure(None, []))
    with pytest.raises(ValueError, match=r"the rollout buffer holds 0 of 5 steps: call learn\(\), or fill it with add\(\)"):
        model.train()


def test_an_array_of_another_shape_is_named():
    class Writes(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            self.model.rollout_buffer.advantages = np.zeros(3)

    model = A2C("MlpPolicy", vectorised(Scripted([5])), device=DEVICE)
    with pytest.raises(ValueError, match=r"rollout_buffer.advantages has the shape \(3,\), and the rollout has 5 steps of 1"):
        model.learn(5, callback=Writes())


@pytest.mark.parametrize("name", ["gamma", "gae_lambda"])
@pytest.mark.parametrize("owner", ["model", "buffer"])
def test_a_discount_that_is_changed_in_model_or_buffer_does_what_it_does_in_sb3(name, owner):
    class Changes(BaseCallback):
        def _on_step(self):
            setattr(self.model if owner == "model" else self.model.rollout_buffer, name, 0.3)
            return True

    def advantages(model_class):
        env = vectorised(Scripted([3, 2], [True, False]))
        model = model_class("MlpPolicy", env, n_steps=6, seed=0, gae_lambda=0.9, device=DEVICE)
        return model.learn(12, callback=Changes()).rollout_buffer.advantages.reshape(-1)

    np.testing.assert_allclose(advantages(A2C), advantages(sb3.A2C), rtol=1e-4, atol=1e-5)


class Shapes(BaseCallback):
    """Adds 1 to all rewards of the buffer and has returns and advantages computed again, as SB3's users do."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        buffer.rewards += 1
        buffer.compute_returns_and_advantage(self.locals["values"], self.locals["dones"])
        self.arrays = buffer.advantages.copy(), buffer.returns.copy()


def test_estimates_that_are_computed_again_keep_the_bootstraps_of_truncated_episodes():
    """Episodes that are truncated or terminated in the middle and at the end of a rollout, and one that goes on."""
    computed = []
    for model_class in (sb3.A2C, A2C):
        env = vectorised(Scripted([2, 3, 4], [True, False, True]), Scripted([3, 6], [True, True]), Scripted([7]))
        callback = Shapes()
        model_class("MlpPolicy", env, n_steps=9, gae_lambda=0.8, seed=0, device=DEVICE).learn(27, callback=callback)
        computed.append(callback.arrays)
    for theirs, ours in zip(*computed, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
