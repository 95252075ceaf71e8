"""
PPOPenalty's β against a script and against divergences recomputed from copies of the policy; when an update ends; arguments.
"""

import copy
import math

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import FlattenExtractor
from support.models import ACTION_SPACES, kl_of
from support.observers import Spy
from support.small_environments import DEVICE, AnySpace, Scripted, vectorised

from sb3_pgx import PPO, PPOPenalty
from sb3_pgx.core.controllers import KL_COEF_BOUNDS, adapted_kl_coef

pytestmark = pytest.mark.usefixtures("on_the_tests_device")

BOX = spaces.Box(-1, 1, (3,), np.float32)
QUICK = dict(n_steps=16, batch_size=16, n_epochs=2, device=DEVICE, seed=0)


# ------------------------------------------------------------------------------------------------------- β


LOW, HIGH = KL_COEF_BOUNDS
# Divergence of an iteration, and β after it: from 1, for a target of 1 and a tolerance of 2, so that both edges are exact.
SCRIPT = [
    (0.0, 0.5),
    (0.4999, 0.25),
    (0.5, 0.25),  # the lower edge itself is close enough
    (1.0, 0.25),
    (2.0, 0.25),  # and so is the upper one
    (2.0001, 0.5),
    (math.nan, 0.5),
    (1e9, 1.0),
    (math.inf, 2.0),
    (5.0, 4.0),
    (0.1, 2.0),
]


def test_beta_halves_or_doubles_outside_both_edges_and_stays_on_them():
    beta = 1.0
    for kl, expected in SCRIPT:
        beta = adapted_kl_coef(beta, kl, target_kl=1.0, tolerance=2.0, factor=2.0)
        assert beta == expected


def test_the_papers_edges_are_the_target_over_and_times_one_and_a_half():
    def after(kl):
        return adapted_kl_coef(1.0, kl, target_kl=0.03, tolerance=1.5, factor=2.0)

    assert [after(kl) for kl in (0.0199, 0.0201, 0.03, 0.0449, 0.0451)] == [0.5, 1.0, 1.0, 1.0, 2.0]


def test_beta_changes_by_its_factor_and_stays_within_its_bounds():
    assert adapted_kl_coef(1.0, 9.0, 1.0, 1.5, 3.0) == 3.0 and adapted_kl_coef(9.0, 0.0, 1.0, 1.5, 3.0) == 3.0
    for kl, bound in ((0.0, LOW), (9.0, HIGH)):
        beta = 1.0
        for _ in range(20):
            beta = adapted_kl_coef(beta, kl, 1.0, 1.5, 2.0)
        assert beta == bound
        assert adapted_kl_coef(beta, 9.0 - kl, 1.0, 1.5, 2.0) == bound * (2.0 if bound == LOW else 0.5)  # and back at once


class Updates(BaseCallback):
    """Keeps what each update measured, and the policy before and after it."""

    def __init__(self):
        super().__init__()
        self.metrics, self.before, self.after, self.observations, self.actions = [], [], [], [], []
        self.betas, self._seen = [], []

    def _on_step(self):
        self._seen.append((self.locals["obs_tensor"].clone(), th.as_tensor(self.locals["actions"])))
        return True

    def _on_rollout_end(self):
        observations, actions = zip(*self._seen, strict=True)
        self.observations.append(th.cat(observations))
        self.actions.append(th.cat(actions))
        self._seen.clear()
        self.before.append(copy.deepcopy(self.model.policy))

    def on_update_end(self, metrics):
        self.metrics.append(metrics)
        self.after.append(copy.deepcopy(self.model.policy))
        self.betas.append(self.model.kl_coef)


def test_a_scripted_divergence_moves_beta_once_an_iteration_and_the_one_used_is_logged():
    script = iter([kl for kl, _ in SCRIPT])
    model = PPOPenalty("MlpPolicy", vectorised(Scripted([3])), **QUICK, target_kl=1.0, kl_tolerance=2.0)
    model.policy_change = lambda rollout: {"kl": next(script)}
    callback = Updates()
    model.learn(16 * len(SCRIPT), callback=callback)
    expected = [beta for _, beta in SCRIPT]
    assert callback.betas == expected
    assert [metrics["kl_coef"] for metrics in callback.metrics] == [1.0, *expected[:-1]]


def moved_model(action_space=ACTION_SPACES["Box"], **kwargs):
    env = vectorised(*(AnySpace(BOX, action_space) for _ in range(3)))
    settings = dict(QUICK, n_steps=10, batch_size=8, n_epochs=3, learning_rate=0.02, compile=False)
    return PPOPenalty("MlpPolicy", env, **{**settings, **kwargs})


@pytest.mark.filterwarnings("ignore:.*truncated mini-batch:UserWarning")
@pytest.mark.parametrize("kind", ACTION_SPACES)
def test_beta_adapts_once_an_iteration_to_the_divergence_over_the_whole_batch(kind):
    model, callback = moved_model(ACTION_SPACES[kind]), Updates()
    model.learn(30 * 4, callback=callback)
    assert len(callback.metrics) == 4
    recomputed = [kl_of(*each) for each in zip(callback.before, callback.after, callback.observations, strict=True)]
    assert all(len(kl) == 30 and kl.mean() > 1e-3 for kl in recomputed)
    np.testing.assert_allclose([m["kl"] for m in callback.metrics], [kl.mean().item() for kl in recomputed], rtol=1e-4)
    np.testing.assert_allclose([m["kl_max"] for m in callback.metrics], [kl.max().item() for kl in recomputed], rtol=1e-4)
    assert [m["kl_coef"] for m in callback.metrics] == [1.0, *callback.betas[:-1]]
    beta, expected = 1.0, []
    for kl in recomputed:
        beta = 2 * beta if kl.mean() > 0.015 else beta / 2 if kl.mean() < 0.01 / 1.5 else beta
        expected.append(beta)
    assert callback.betas == expected and model.kl_coef == expected[-1]


def test_the_logged_divergence_is_not_that_of_the_last_minibatches():
    """A policy that moves in every step: the last epoch's minibatches were measured before the last steps."""
    model, callback = moved_model(batch_size=15, n_epochs=1), Updates()
    model.learn(30, callback=callback)
    (metrics,) = callback.metrics
    assert metrics["kl"] > 1.5 * metrics["minibatch_kl"]


def test_ratio_statistics_are_those_of_all_rows_after_the_update():
    model, callback = moved_model(batch_size=15), Updates()
    model.learn(60, callback=callback)
    for i, metrics in enumerate(callback.metrics):
        with th.no_grad():
            old, new = (
                p.get_distribution(callback.observations[i]).log_prob(callback.actions[i])
                for p in (callback.before[i], callback.after[i])
            )
        ratio = (new - old).exp().double().cpu().numpy()
        assert len(ratio) == 30 and ratio.std() > 0.01
        result = [metrics[f"ratio_{name}"] for name in ("mean", "std", "min", "max")]
        np.testing.assert_allclose(result, [ratio.mean(), ratio.std(), ratio.min(), ratio.max()], rtol=1e-4)


def test_the_measurement_of_the_divergence_draws_no_random_numbers():
    """Nor does it change the policy: with β held fixed, a training without it goes the same way."""
    results = []
    for measured in (True, False):
        model = moved_model(batch_size=15, kl_tolerance=1e9)  # which no divergence leaves
        if not measured:
            model.policy_change = lambda rollout: {"kl": 0.01}
        model.learn(90)
        assert model.kl_coef == 1.0
        results.append((th.nn.utils.parameters_to_vector(model.policy.parameters()), th.rand(1), np.random.rand()))
    assert th.equal(results[0][0], results[1][0]) and results[0][1:] == results[1][1:]


class Dropout(FlattenExtractor):
    """Features a half of which is left out at random while the policy is in training mode."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.dropout = th.nn.Dropout(0.5)

    def forward(self, observations):
        return self.dropout(super().forward(observations))


def test_the_divergence_is_that_of_the_policies_as_they_act():
    model, callback = moved_model(policy_kwargs=dict(features_extractor_class=Dropout), batch_size=15), Updates()
    model.learn(30, callback=callback)
    (old,), (new,) = callback.before, callback.after
    kl = kl_of(old, new.train(False), callback.observations[0])
    assert callback.metrics[0]["kl"] == pytest.approx(kl.mean().item(), rel=1e-4)
    new.train(True)
    assert abs(kl_of(old, new, callback.observations[0]).mean() / kl.mean() - 1) > 0.1, "dropout makes a difference"


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(normalize_advantage=False),
        dict(ent_coef=0.5),
        dict(clip_range_vf=0.05, vf_coef=2.0),
        dict(ent_coef=0.1, vf_coef=0.3, clip_range=0.05, max_grad_norm=0.1),
    ],
    ids=str,
)
def test_with_a_clip_and_hardly_any_penalty_the_update_is_that_of_sb3s_ppo(settings):
    """Everything but the penalty means what it means there."""
    reached = []
    for model_class, own in ((sb3.PPO, {}), (PPOPenalty, dict(kl_coef=1e-30, compile=False))):
        settings = dict(QUICK, n_epochs=4, learning_rate=0.02, clip_range=0.2) | settings
        env = vectorised(*(AnySpace(copy.deepcopy(BOX), copy.deepcopy(ACTION_SPACES["Discrete"])) for _ in range(2)))
        model = model_class("MlpPolicy", env, policy_kwargs=dict(net_arch=[8]), **settings, **own).learn(32)
        reached.append(th.nn.utils.parameters_to_vector(model.policy.parameters()).detach())
    th.testing.assert_close(reached[1], reached[0], rtol=0, atol=1e-5)


def test_beta_is_saved_and_training_goes_on_with_it(tmp_path):
    model = moved_model(batch_size=15, kl_coef=0.7).learn(90)
    assert model.kl_coef == 0.7 * 2 ** round(math.log2(model.kl_coef / 0.7)) != 0.7
    model.save(tmp_path / "model.zip")
    loaded = PPOPenalty.load(tmp_path / "model.zip", env=model.env, device=DEVICE)
    assert loaded.kl_coef == model.kl_coef
    callback = Updates()
    loaded.learn(30, callback=callback)
    assert callback.metrics[0]["kl_coef"] == model.kl_coef


def test_two_models_have_their_own_beta():
    first, second = moved_model(batch_size=15), moved_model(batch_size=15)
    first.learn(30)
    assert first.kl_coef != 1.0 and second.kl_coef == 1.0


# ------------------------------------------------------------------------------------------------------- when it ends


def scripted_update(kls, **kwargs):
    settings = dict(QUICK, n_steps=8, batch_size=4, n_epochs=3, compile=False)
    model = PPOPenalty("MlpPolicy", vectorised(Scripted([3])), **settings, **kwargs)
    spy = Spy(model, kls)
    model.learn(8)
    return model, spy.minibatches


def test_the_update_ends_before_the_step_of_a_minibatch_beyond_four_targets():
    model, minibatches = scripted_update([0.0, 0.039, 0.011, 0.041], early_stop_kl=4, target_kl=0.01)
    reached = th.nn.utils.parameters_to_vector(model.policy.parameters())
    assert len(minibatches) == 4 and model.n_gradient_steps == 3 and model._n_updates == 2
    assert th.equal(reached, minibatches[3].theta) and not th.equal(reached, minibatches[2].theta)


def test_four_targets_themselves_are_not_beyond():
    model, minibatches = scripted_update([1.0] * 6, early_stop_kl=4, target_kl=0.25)
    assert len(minibatches) == model.n_gradient_steps == 6


def test_beta_still_adapts_after_an_early_stop():
    model = moved_model(batch_size=15, early_stop_kl=0.1, target_kl=1e-4, n_epochs=5)
    model.learn(30)
    assert model.n_gradient_steps < 10 and model.kl_coef == 2.0


def test_the_target_alone_stops_nothing_unlike_ppos():
    kls = [100.0] * 6
    model, minibatches = scripted_update(kls, target_kl=0.01)
    assert len(minibatches) == model.n_gradient_steps == 6
    ppo = PPO("MlpPolicy", vectorised(Scripted([3])), **dict(QUICK, n_steps=8, batch_size=4, n_epochs=3), target_kl=1e-9)
    ppo.learn(8)
    assert ppo.n_gradient_steps < 6
    assert "unlike PPO's" in " ".join(PPOPenalty.__doc__.split()), "the difference is not documented"


# ------------------------------------------------------------------------------------------------------- arguments


def test_a_rollout_buffer_of_ones_own_is_refused_by_name():
    class OwnBuffer(RolloutBuffer):
        pass

    with pytest.raises(ValueError, match=r"PPOPenalty needs the action distributions.*rollout_buffer_class=OwnBuffer"):
        PPOPenalty("MlpPolicy", vectorised(Scripted([3])), **QUICK, rollout_buffer_class=OwnBuffer)
    PPOPenalty("MlpPolicy", vectorised(Scripted([3])), **QUICK, rollout_buffer_class=RolloutBuffer).learn(16)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(kl_factor=1.0), "kl_factor=1.0 must be greater than 1"),
        (dict(kl_factor=0.5), "kl_factor=0.5"),
        (dict(kl_factor=math.nan), "kl_factor=nan"),
        (dict(kl_tolerance=1.0), "kl_tolerance=1.0 must be greater than 1"),
        (dict(kl_tolerance=math.nan), "kl_tolerance=nan"),
        (dict(kl_coef=0.0), "kl_coef=0.0 must be positive"),
        (dict(kl_coef=-1.0), "kl_coef=-1.0 must be positive"),
        (dict(kl_coef=math.nan), "kl_coef=nan"),
        (dict(hinge_coef=-1.0), "hinge_coef=-1.0 must be finite and not negative"),
        (dict(hinge_coef=float("inf")), "hinge_coef=inf must be finite"),
        (dict(kl_coef="lin_1"), "kl_coef='lin_1' must be positive and finite"),
        (dict(kl_coef=float("inf")), "kl_coef=inf must be positive and finite"),
        (dict(hinge_coef=math.nan), "hinge_coef=nan"),
        (dict(early_stop_kl=0.0), "early_stop_kl=0.0 must be positive"),
        (dict(early_stop_kl=-4.0), "early_stop_kl=-4.0 must be positive"),
        (dict(target_kl=None), "target_kl=None.*or use PPO"),
        (dict(target_kl=0.0), "target_kl=0.0 must be positive"),
        (dict(target_kl=-0.01), "target_kl=-0.01 must be positive"),
        (dict(clip_range=-0.1), "clip_range is -0.1"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        PPOPenalty("MlpPolicy", vectorised(Scripted([3])), **QUICK, **arguments)
