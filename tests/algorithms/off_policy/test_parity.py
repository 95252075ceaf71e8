"""SAC, TD3 and DDPG against SB3's: the same numbers after gradient steps on one memory, and after steps in an environment."""

import copy
from itertools import product

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from selection import mostly_slow
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from support.off_policy import NAMES, assert_equal, both, fill, make, tensors
from support.small_environments import AnySpace

import sb3_pgx

CASES = {
    "SAC": ("SAC", {}),
    "SAC, fixed temperature": ("SAC", dict(ent_coef=0.1)),
    "SAC, temperature from 0.2": ("SAC", dict(ent_coef="auto_0.2", target_entropy=-0.5)),
    "SAC, three critics": ("SAC", dict(policy_kwargs=dict(n_critics=3))),
    "SAC, rare targets": ("SAC", dict(target_update_interval=3, tau=0.5)),
    "SAC, gSDE": ("SAC", dict(use_sde=True, sde_sample_freq=4)),
    "SAC, shared extractor": ("SAC", dict(policy_kwargs=dict(share_features_extractor=True))),
    "SAC, AdamW": ("SAC", dict(policy_kwargs=dict(optimizer_class=th.optim.AdamW))),
    "SAC, AMSGrad": ("SAC", dict(policy_kwargs=dict(optimizer_kwargs=dict(amsgrad=True)))),
    "TD3": ("TD3", {}),
    "TD3, other delay and noise": ("TD3", dict(policy_delay=3, target_policy_noise=0.4, target_noise_clip=0.1)),
    "TD3, one critic": ("TD3", dict(policy_kwargs=dict(n_critics=1))),
    "DDPG": ("DDPG", {}),
}
EACH = pytest.mark.parametrize("case", mostly_slow(CASES, ["SAC", "SAC, gSDE", "TD3", "DDPG"]))


def trained(model, steps, seed=7):
    """Take gradient steps on the same memory, from the same random numbers."""
    th.manual_seed(seed)
    np.random.seed(seed)
    model.train(steps, batch_size=model.batch_size)
    return model


def learned(model, steps, **kwargs):
    """Train from the same random numbers and the same state of the environments, whatever was drawn before."""
    model.set_random_seed(0)
    return model.learn(steps, **kwargs)


LARGE = dict(learning_rate=3e-4, batch_size=256, policy_kwargs=dict(net_arch=[256, 256]))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_large_networks_are_sb3s_after_a_thousand_gradient_steps(name):
    theirs, ours = (trained(fill(model, 5000), 1000) for model in both(name, **LARGE))
    assert_equal(theirs, ours)


@EACH
def test_gradient_steps_are_sb3s(case):
    name, settings = CASES[case]
    theirs, ours = (trained(fill(model), 20) for model in both(name, **settings))
    assert_equal(theirs, ours)
    logged = {key: value for key, value in ours.logger.name_to_value.items()}
    assert logged == pytest.approx(dict(theirs.logger.name_to_value), rel=1e-4)


@EACH
def test_a_traced_step_is_that_of_sb3(case, graphs):
    name, settings = CASES[case]
    theirs, ours = (fill(model) for model in both(name, **settings, compile=True))
    ours.compiled = True
    for seed in range(6):
        assert_equal(trained(theirs, 1, seed), trained(ours, 1, seed))
    assert len(graphs) == (0 if "AMSGrad" in case else 2 if name == "TD3" else 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("settings", [{}, LARGE], ids=["small", "large"])
def test_a_compiled_step_is_that_of_sb3(name, settings):
    theirs, ours = (fill(model, 1000) for model in both(name, **settings, compile=True))
    ours.compiled = True
    for seed in range(6):
        theirs.set_parameters(copy.deepcopy(ours.get_parameters()))  # which are views of what our step changes
        if name == "SAC":
            theirs.log_ent_coef.data.copy_(ours.log_ent_coef)
        assert_equal(trained(theirs, 1, seed), trained(ours, 1, seed))


def noise():
    return NormalActionNoise(np.zeros(1), np.full(1, 0.3))


LOOPS = {
    "SAC": ("SAC", {}),
    "SAC, gSDE from the start": ("SAC", dict(use_sde=True, sde_sample_freq=3, use_sde_at_warmup=True)),
    "SAC, two environments": ("SAC", dict(env=lambda: make_vec_env("Pendulum-v1", 2, seed=0), gradient_steps=-1)),
    "SAC, VecNormalize": ("SAC", dict(env=lambda: VecNormalize(make_vec_env("Pendulum-v1", 1, seed=0)))),
    "SAC, n-step returns": ("SAC", dict(n_steps=3)),
    "SAC, little memory": (
        "SAC",
        dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False)),
    ),
    "TD3, noise": ("TD3", dict(action_noise=noise())),
    "TD3, noise in two environments": ("TD3", dict(action_noise=noise(), env=lambda: make_vec_env("Pendulum-v1", 2, seed=0))),
    "TD3, four steps per update": ("TD3", dict(train_freq=4, gradient_steps=2)),
    "DDPG, noise": ("DDPG", dict(action_noise=noise(), learning_rate="lin_0.001")),
}


QUICK = [("SAC", True), ("SAC, two environments", False), ("TD3, noise", True)]


@pytest.mark.parametrize("case, traced", mostly_slow(product(LOOPS, [False, True]), QUICK))
def test_a_run_is_that_of_sb3(case, traced, graphs):
    name, settings = LOOPS[case]
    theirs, ours = both(name, **{**settings, "compile": traced, "learning_rate": 1e-3})
    for model in (theirs, ours):
        learned(model, 50)
    assert_equal(theirs, ours)
    assert theirs.num_timesteps == ours.num_timesteps and theirs._n_updates == ours._n_updates > 0
    assert np.allclose(theirs._last_obs, ours._last_obs, rtol=0, atol=1e-5)
    assert bool(graphs) == traced


class Locals(BaseCallback):
    """Keeps what the locals hold at each step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_step(self):
        kept = ("num_collected_steps", "num_collected_episodes", "actions", "buffer_actions", "new_obs", "rewards", "dones")
        self.seen.append((sorted(set(self.locals) - {"traced"}), [np.copy(self.locals[name]) for name in kept]))
        return True


@pytest.mark.parametrize("name", NAMES)
def test_callbacks_see_sb3s_locals(name):
    seen = []
    for model in both(name):
        seen.append(Locals())
        learned(model, 20, callback=seen[-1])
    theirs, ours = (callback.seen for callback in seen)
    assert [names for names, _ in theirs] == [names for names, _ in ours]
    for (_, one), (_, other) in zip(theirs, ours, strict=True):
        assert all(np.allclose(a, b, rtol=0, atol=1e-5) for a, b in zip(one, other, strict=True))


def test_dictionaries_and_hindsight_are_sb3s(graphs):
    def env():
        return DummyVecEnv([lambda: BitFlippingEnv(n_bits=4, continuous=True, max_steps=4)])

    settings = dict(
        policy="MultiInputPolicy", replay_buffer_class=HerReplayBuffer, replay_buffer_kwargs=dict(n_sampled_goal=2)
    )
    theirs, ours = both("SAC", env, compile=True, learning_starts=12, **settings)
    for model in (theirs, ours):
        learned(model, 40)
    assert_equal(theirs, ours)
    assert len(graphs) == 2  # acting and the gradient step


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_images_are_sb3s(name, graphs):
    def env():
        image = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        return DummyVecEnv([lambda: AnySpace(image, spaces.Box(-1, 1, (2,), np.float32))])

    theirs, ours = both(name, env, compile=True, policy="CnnPolicy", policy_kwargs=dict(net_arch=[8]))
    for model in (theirs, ours):
        learned(model, 16)
    assert_equal(theirs, ours, tolerance=1e-4)  # gradients of convolutions are near 0, where rounding counts


def test_batch_normalisation_runs_uncompiled_as_sb3s():
    class Normalised(th.nn.Sequential):
        def __init__(self):
            super().__init__(th.nn.Tanh(), th.nn.BatchNorm1d(16))

    theirs, ours = both("TD3", policy_kwargs=dict(activation_fn=Normalised), compile="auto")
    ours.compiled = True
    for model in (theirs, ours):
        trained(fill(model), 3)  # later, gradients near 0 make rounding visible
    assert_equal(theirs, ours)


def test_a_changed_layer_takes_effect_at_once(graphs):
    """A graph of the old layers would move the parameters of the new ones, and differ from SB3's steps."""
    theirs, ours = (fill(model) for model in both("SAC", compile=True))
    ours.compiled = True
    for model in (theirs, ours):
        trained(model, 2)
        th.manual_seed(0)
        model.actor.latent_pi[1] = th.nn.Tanh()
        trained(model, 2)
    assert_equal(theirs, ours)
    assert len(graphs) == 2


def test_moments_that_are_loaded_in_between_are_used(tmp_path):
    model = trained(fill(make(sb3_pgx, "DDPG")), 3)
    model.save(tmp_path / "model.zip")
    before = {name: value.clone() for name, value in tensors(model).items()}
    trained(model, 3)
    model.set_parameters(str(tmp_path / "model.zip"))
    again = trained(model, 3, seed=9)
    other = fill(sb3_pgx.DDPG.load(tmp_path / "model.zip", env=model.get_env()))
    assert_equal(again, trained(other, 3, seed=9), tolerance=0)
    assert before.keys() == tensors(model).keys()
