"""RecurrentPPO against sb3-contrib's on the same seed: actions, parameters, random numbers and log."""

import inspect

import numpy as np
import pytest
import sb3_contrib
import torch as th
from selection import mostly_slow
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize
from support.capabilities import BOX, DICT, envs
from support.recurrent import LAYOUTS, policy_kwargs
from support.small_environments import DEVICE, Scripted, vectorised

import sb3_pgx


class Actions(BaseCallback):
    def __init__(self):
        super().__init__()
        self.actions = []

    def _on_step(self):
        self.actions.append(self.locals["actions"].copy())
        return True


class Quiet(Actions):
    """Our model computes no values while it acts if it knows that the callback only reads."""

    only_reads = True


def scripted():
    return vectorised(Scripted([3, 2, 7], [True, False, True]), Scripted([4, 9], [False, True]), Scripted([50]))


CASES = {
    **{layout: ("MlpLstmPolicy", scripted, {}, policy_kwargs(layout)) for layout in LAYOUTS},
    "two layers": ("MlpLstmPolicy", scripted, {}, policy_kwargs(n_lstm_layers=2)),
    "gSDE": ("MlpLstmPolicy", envs, dict(use_sde=True, sde_sample_freq=3), policy_kwargs()),
    "normalised": ("MlpLstmPolicy", lambda: VecNormalize(envs()), {}, policy_kwargs()),
    "Dict": ("MultiInputLstmPolicy", lambda: envs(DICT, BOX), {}, policy_kwargs()),
    "all options": (
        "MlpLstmPolicy",
        scripted,
        dict(clip_range_vf=0.1, target_kl=0.002, ent_coef=0.1, vf_coef=0.2, max_grad_norm=0.1, normalize_advantage=False),
        policy_kwargs(share_features_extractor=False),
    ),
}


def trained(model_class, case, n_rollouts, callback):
    policy, make, options, kwargs = CASES[case]
    env, settings = make(), dict(learning_rate=3e-3, n_steps=12, batch_size=9, n_epochs=3, seed=3, device=DEVICE)
    model = model_class(policy, env, policy_kwargs=kwargs, **settings, **options)
    model.set_logger(configure(None, []))
    model.learn(n_rollouts * 12 * env.num_envs, callback=callback, log_interval=None)
    return model


# Differences are those of float32 sums in another order, as between SB3's PPO and ours. Adam divides by the gradient's
# size, so parameters whose gradient is nearly 0 amplify them.
@pytest.mark.filterwarnings("ignore:.*truncated mini-batch:UserWarning")
@pytest.mark.parametrize(
    "case, n_rollouts, tolerance",
    mostly_slow(
        [(case, *run) for case in CASES for run in ((1, 1e-5), (8, 1e-3))],
        lambda case, n_rollouts, tolerance: (n_rollouts == 8) == (case == "separate") and case != "two layers",
    ),
)
def test_the_same_seed_gives_contribs_training(case, n_rollouts, tolerance):
    results = []
    for model_class, callback in ((sb3_contrib.RecurrentPPO, Actions()), (sb3_pgx.RecurrentPPO, Quiet())):
        model = trained(model_class, case, n_rollouts, callback)
        parameters = th.nn.utils.parameters_to_vector(model.policy.parameters()).detach()
        results.append((np.stack(callback.actions), parameters, np.random.rand(), th.rand(1).item(), model))
    theirs, ours = results
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-3, atol=1e-3)
    th.testing.assert_close(ours[1], theirs[1], rtol=0, atol=tolerance)
    assert ours[2:4] == theirs[2:4] and ours[4]._n_updates == theirs[4]._n_updates
    logged = theirs[4].logger.name_to_value
    for key in ("train/value_loss", "train/entropy_loss", "train/policy_gradient_loss", "train/explained_variance"):
        assert ours[4].logger.name_to_value[key] == pytest.approx(logged[key], rel=1e-2, abs=1e-4), key


def test_ppo_with_the_same_settings_is_recurrent_ppo():
    models = [trained(cls, "separate", 3, Quiet()) for cls in (sb3_pgx.PPO, sb3_pgx.RecurrentPPO)]
    left, right = (model.policy.state_dict() for model in models)
    assert all(th.equal(left[name], right[name]) for name in right)


def test_defaults_are_those_of_contrib():
    theirs = inspect.signature(sb3_contrib.RecurrentPPO).parameters
    ours = inspect.signature(sb3_pgx.RecurrentPPO).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    assert {name: ours[name].default for name in theirs} == {name: p.default for name, p in theirs.items()}
