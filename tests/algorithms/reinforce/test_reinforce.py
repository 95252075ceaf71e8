"""How the two algorithms behave around their gradient: the critic's part, bad arguments, whole episodes of a real problem."""

import numpy as np
import pytest
import torch as th
from selection import mostly_slow
from stable_baselines3.common.callbacks import BaseCallback
from support.capabilities import IMAGE, envs
from support.observers import Metrics
from support.small_environments import DEVICE, Scripted, vectorised

from sb3_pgx import REINFORCE, REINFORCEBaseline
from sb3_pgx.core.policies import split_parameters


def scripted(*lengths, truncates=None):
    return vectorised(*(Scripted([length], [truncates or False]) for length in lengths))


def snapshot(parameters):
    return {n: p.detach().clone() for n, p in parameters.items()}


# ----------------------------------------------------------------------------------------------------- returns by hand


@pytest.mark.parametrize("model_class", [REINFORCE, REINFORCEBaseline])
def test_returns_of_terminated_episodes_are_the_rewards_played(model_class):
    model = model_class("MlpPolicy", scripted(3), n_episodes=2, gamma=0.5, device=DEVICE).learn(6)
    assert model.rollout_buffer.returns[:, 0].tolist() == [2.75, 3.5, 3.0, 2.75, 3.5, 3.0]  # rewards 1, 2, 3


@pytest.mark.parametrize("bootstrap", [True, False])
def test_a_truncated_episode_is_completed_with_the_value_of_its_final_observation(bootstrap):
    env = scripted(3, truncates=True)
    model = REINFORCEBaseline(
        "MlpPolicy", env, n_episodes=1, gamma=0.5, bootstrap_truncated=bootstrap, learning_rate=0.0,
        critic_learning_rate=0.0, device=DEVICE, seed=0,
    ).learn(3)  # fmt: skip
    with th.no_grad():
        final = model.policy.predict_values(th.tensor([[0.0, 3.0]], device=DEVICE)).item()
    played = np.array([2.75, 3.5, 3.0])
    expected = played + (final * np.array([0.125, 0.25, 0.5]) if bootstrap else 0.0)
    np.testing.assert_allclose(model.rollout_buffer.returns[:, 0], expected, rtol=1e-5)


def test_reinforce_ends_a_truncated_episode_where_it_was_cut():
    model = REINFORCE("MlpPolicy", scripted(3, truncates=True), n_episodes=1, gamma=0.5, device=DEVICE).learn(3)
    assert model.rollout_buffer.returns[:, 0].tolist() == [2.75, 3.5, 3.0]


# ----------------------------------------------------------------------------------------------------- the critic


def test_the_policy_gradient_uses_the_value_before_it_is_fitted():
    model = REINFORCEBaseline("MlpPolicy", scripted(4, 5), n_episodes=1, critic_learning_rate=0.05, device=DEVICE, seed=0)
    used, fitted = [], []
    original = model.accumulate_gradient

    def spy(rollout, vf_coef=None):
        with th.no_grad():
            now = model.policy.predict_values(rollout.observations.flatten(end_dim=1)).view(rollout.shape)
        valid = rollout.valid
        th.testing.assert_close(rollout.advantages[valid], (rollout.returns - now)[valid], rtol=1e-4, atol=1e-5)
        used.append(rollout)
        return original(rollout, vf_coef)

    model.accumulate_gradient = spy  # type: ignore[method-assign]

    class After(BaseCallback):
        def _on_step(self):
            return True

        def on_update_end(self, metrics):
            rollout = self.model.last_rollout
            with th.no_grad():
                now = self.model.policy.predict_values(rollout.observations.flatten(end_dim=1)).view(rollout.shape)
            error = [(v - rollout.returns)[rollout.valid].square().mean().item() for v in (rollout.values, now)]
            fitted.append(error[1] < error[0])

    model.learn(20, callback=After())
    assert len(used) == 2 and fitted == [True, True]


def test_separate_layers_take_separate_steps_with_their_own_learning_rates():
    model = REINFORCEBaseline("MlpPolicy", scripted(4), n_episodes=1, critic_learning_rate=0.0, device=DEVICE, seed=0)
    actor, critic = split_parameters(model.policy)
    before = snapshot(critic)
    model.learn(4)
    assert all(th.equal(before[n], p) for n, p in critic.items())

    model = REINFORCEBaseline("MlpPolicy", scripted(4), n_episodes=1, learning_rate=0.0, device=DEVICE, seed=0)
    actor, critic = split_parameters(model.policy)
    before, before_critic = snapshot(actor), snapshot(critic)
    model.learn(4)
    assert all(th.equal(before[n], p) for n, p in actor.items())
    assert any(not th.equal(before_critic[n], p) for n, p in critic.items())


def test_the_critic_makes_as_many_steps_as_it_has_minibatches():
    model = REINFORCEBaseline(
        "MlpPolicy", scripted(5, 6), n_episodes=1, n_critic_updates=3, critic_batch_size=4, device=DEVICE
    ).learn(6)
    _, critic = split_parameters(model.policy)
    steps = {int(model.policy.optimizer.state[p]["step"]) for p in critic.values()}
    assert steps == {3 * 3}  # three passes over 11 rows in batches of 4, 4 and 3
    assert model._n_updates == 1


def test_the_critic_learns_the_value_of_a_problem_that_it_can_represent():
    model = REINFORCEBaseline(
        "MlpPolicy",
        scripted(3),
        n_episodes=8,
        gamma=1.0,
        critic_learning_rate=0.01,
        n_critic_updates=50,
        device=DEVICE,
        seed=0,
    )
    model.env.envs[0].observe = lambda: np.array([0.0, model.env.envs[0].step_number], np.float32)
    model.learn(24 * 12)
    with th.no_grad():
        values = model.policy.predict_values(th.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]], device=DEVICE))
    np.testing.assert_allclose(values.flatten().cpu(), [6.0, 5.0, 3.0], atol=0.2)


@pytest.mark.parametrize("vf_coef", [0.0, 0.5])
def test_shared_layers_take_one_combined_step(vf_coef):
    model = REINFORCEBaseline("CnnPolicy", envs(IMAGE), n_episodes=1, vf_coef=vf_coef, device=DEVICE, seed=0)
    steps = []
    original = model.policy.optimizer.step
    model.policy.optimizer.step = lambda *a, **k: steps.append(1) or original(*a, **k)  # type: ignore[method-assign]
    _, critic = split_parameters(model.policy)
    own = {n: p for n, p in critic.items() if n.startswith("value_net")}
    before = snapshot(own)
    model.learn(10)
    assert len(steps) == 1
    assert all(th.equal(before[n], p) for n, p in own.items()) == (vf_coef == 0.0)


def test_the_combined_step_weighs_the_mean_squared_error_of_the_values():
    model = REINFORCEBaseline("CnnPolicy", envs(IMAGE), n_episodes=1, vf_coef=0.5, learning_rate=0.0, device=DEVICE, seed=0)
    callback = Metrics()
    model.learn(10, callback=callback)
    (metrics,) = callback.updates
    rollout = model.last_rollout
    error = (rollout.values - rollout.returns)[rollout.valid].square().mean().item()
    assert metrics["value_loss"] == pytest.approx(error, rel=1e-4)
    assert metrics["loss"] == pytest.approx(metrics["policy_loss"] + 0.5 * error, rel=1e-4)


def test_equal_returns_are_standardised_to_nothing_and_not_to_amplified_rounding():
    class Constant(Scripted):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, 3.3, *rest

    model = REINFORCE("MlpPolicy", vectorised(Constant([1])), n_episodes=7, normalize_returns=True, device=DEVICE).learn(7)
    assert np.abs(model.rollout_buffer.advantages).max() < 1e-6


def test_the_advantage_is_standardised_over_the_rows_that_count():
    env = scripted(3, 7)
    model = REINFORCEBaseline("MlpPolicy", env, n_episodes=1, normalize_advantage=True, device=DEVICE).learn(7)
    counted = model.rollout_buffer.advantages[model.rollout_buffer.valid]
    assert len(counted) == 10 and abs(counted.mean()) < 1e-5 and counted.std() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("model_class, part", [(REINFORCE, 0), (REINFORCEBaseline, 0), (REINFORCEBaseline, 1)])
def test_a_step_of_gradient_descent_is_as_long_as_max_grad_norm_allows_and_in_the_same_direction(model_class, part):
    """Of the actor (part 0) and of the critic (part 1)."""
    critic = dict(critic_learning_rate=1.0, n_critic_updates=1) if model_class is REINFORCEBaseline else {}
    policy_kwargs, steps = dict(optimizer_class=th.optim.SGD, net_arch=[8]), []
    for max_grad_norm in (None, 0.01):
        settings = dict(n_episodes=2, learning_rate=1.0, max_grad_norm=max_grad_norm, seed=0, device=DEVICE, **critic)
        model = model_class("MlpPolicy", scripted(3, 5), policy_kwargs=policy_kwargs, **settings)
        chosen = split_parameters(model.policy)[part]
        before = snapshot(chosen)
        model.learn(8)
        steps.append(th.cat([(p.detach() - before[n]).flatten() for n, p in chosen.items()]))
    whole, clipped = steps
    assert whole.norm() > 0.1 and clipped.norm().item() == pytest.approx(0.01, rel=1e-3)
    th.testing.assert_close(clipped, 0.01 * whole / whole.norm(), rtol=1e-3, atol=1e-6)


# ----------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize("model_class", [REINFORCE, REINFORCEBaseline])
@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(n_episodes=1.5), "n_episodes=1.5 must be a whole number"),
        (dict(n_episodes=0), "n_episodes=0 must be a whole number"),
        (dict(max_episode_steps=0), "max_episode_steps=0 must be a whole number"),
        (dict(max_grad_norm=0.0), "max_grad_norm=0.0 must be positive"),
        (dict(ent_coef="much"), "ent_coef"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(model_class, kwargs, message):
    with pytest.raises(ValueError, match=message):
        model_class("MlpPolicy", scripted(3), device=DEVICE, **kwargs)


def test_an_unknown_baseline_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"baseline='median' is unknown; choose one of None, 'mean', 'loo', 'optimal'"):
        REINFORCE("MlpPolicy", scripted(3), baseline="median", device=DEVICE)


@pytest.mark.parametrize("baseline", ["loo", "optimal", "optimal_per_parameter"])
def test_leaving_one_out_of_one_episode_is_refused(baseline):
    with pytest.raises(ValueError, match=r"there is only one: raise n_episodes"):
        REINFORCE("MlpPolicy", scripted(3), n_episodes=1, baseline=baseline, device=DEVICE)
    REINFORCE("MlpPolicy", scripted(3, 3), n_episodes=1, baseline=baseline, device=DEVICE).learn(3)


def test_a_loaded_model_is_checked_against_its_new_environment(tmp_path):
    REINFORCE("MlpPolicy", scripted(3, 3), n_episodes=1, baseline="loo", device=DEVICE).save(tmp_path / "model")
    with pytest.raises(ValueError, match="there is only one"):
        REINFORCE.load(tmp_path / "model", env=scripted(3), device=DEVICE)


@pytest.mark.parametrize("kwargs", [dict(n_critic_updates=0), dict(critic_batch_size=0), dict(vf_coef=-1.0)])
def test_the_critics_arguments_are_checked(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        REINFORCEBaseline("MlpPolicy", scripted(3), device=DEVICE, **kwargs)


# ----------------------------------------------------------------------------------------------------- all together


@pytest.mark.parametrize(
    "baseline", mostly_slow([None, "mean", "loo", "optimal", "optimal_per_parameter"], [None, "optimal_per_parameter"])
)
def test_reinforce_learns_to_press_the_better_button(baseline):
    class Buttons(Scripted):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, float(action == 1), *rest

    model = REINFORCE(
        "MlpPolicy", vectorised(Buttons([4]), Buttons([6])), n_episodes=4, baseline=baseline, learning_rate=0.02,
        seed=0, device=DEVICE, policy_kwargs=dict(net_arch=[8]),
    )  # fmt: skip
    model.env.envs[0].observe = model.env.envs[1].observe = lambda: np.zeros(2, np.float32)
    model.learn(3000)
    with th.no_grad():
        distribution = model.policy.get_distribution(th.zeros(1, 2, device=DEVICE)).distribution
    assert distribution.probs[0, 1] > 0.9
