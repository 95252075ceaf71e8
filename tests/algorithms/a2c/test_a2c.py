"""
A2C as one-step actor-critic against the exact gradient of an enumerated problem; its returns by hand; its steps against SB3's.
"""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from support.small_environments import DEVICE, DoubleFeatures, Scripted, vectorised

from sb3_pgx import A2C
from sb3_pgx.ops.returns import episode_ages

pytestmark = pytest.mark.usefixtures("on_the_tests_device")

GAMMA = 0.9
TERMINAL = None

# Five states; from each, two actions; for each, what may follow: (probability, reward, next state).
MDP = {
    0: [[(0.3, 1.0, 1), (0.7, -1.0, 2)], [(0.6, 0.5, 1), (0.4, 2.0, TERMINAL)]],
    1: [[(1.0, 0.0, 3)], [(0.5, 3.0, 3), (0.5, -2.0, 4)]],
    2: [[(0.2, 4.0, 3), (0.8, 0.5, 4)], [(1.0, -1.0, 4)]],
    3: [[(1.0, 5.0, TERMINAL)], [(0.9, 1.0, TERMINAL), (0.1, 7.0, 4)]],
    4: [[(1.0, -3.0, TERMINAL)], [(1.0, 2.0, TERMINAL)]],
}


WEIGHT = th.tensor([[0.2, -0.4, 0.9, 0.3, -0.8], [0.7, 0.1, -0.2, 0.6, 0.5]], dtype=th.float64, device=DEVICE)
BIAS = th.tensor([0.1, -0.1], dtype=th.float64, device=DEVICE)


class Plays(gym.Env):
    """Given episodes, one after the other, whatever the action: lists of (state, action, reward, next state)."""

    observation_space = spaces.Discrete(5)
    action_space = spaces.Discrete(2)

    def __init__(self, script):
        self.script, self.episode, self.t = script, -1, 0

    def reset(self, *, seed=None, options=None):
        self.episode, self.t = self.episode + 1, 0
        return 0, {}

    def step(self, action):
        *_, reward, following = self.script[self.episode % len(self.script)][self.t]
        self.t += 1
        return (0, reward, True, False, {}) if following is TERMINAL else (following, reward, False, False, {})


def tabular_model(script, **kwargs):
    """One-hot states, no hidden layer, plain gradient descent with a rate of 1 and no clipping, in float64."""
    policy_kwargs = dict(net_arch=[], ortho_init=False, features_extractor_class=DoubleFeatures)
    settings = dict(n_steps=1, gae_lambda=0.0, gamma=GAMMA, max_grad_norm=None, learning_rate=1.0, vf_coef=0.5)
    model = A2C(
        "MlpPolicy",
        vectorised(Plays(script)),
        policy_kwargs={**policy_kwargs, "optimizer_class": th.optim.SGD, "optimizer_kwargs": {}},
        seed=0,
        device=DEVICE,
        compile=False,
        **{**settings, "discount_state_weighting": True, **kwargs},
    )
    model.policy.double()
    with th.no_grad():
        model.policy.action_net.weight.copy_(WEIGHT)
        model.policy.action_net.bias.copy_(BIAS)
        model.policy.value_net.bias.zero_()
    return model


def table_of(weight, bias):
    """log π(a|s), ``[states, actions]``, from the parameters alone."""
    return (weight.T + bias).log_softmax(dim=1)


def state_values(table):
    """V^π by going backwards through the states, whose numbers only rise."""
    V = {TERMINAL: th.zeros((), dtype=th.float64)}
    for s in reversed(range(5)):
        V[s] = sum(table[s, a].exp() * sum(p * (r + GAMMA * V[following]) for p, r, following in MDP[s][a]) for a in range(2))
    return V


def episodes(table):
    """All of them from state 0: (probability, [(state, action, reward, next state)])."""

    def continuations(state):
        if state is TERMINAL:
            yield 1.0, []
            return
        for a, branches in enumerate(MDP[state]):
            for p, reward, following in branches:
                for q, rest in continuations(following):
                    yield table[state, a].exp().item() * p * q, [(state, a, reward, following), *rest]

    return list(continuations(0))


def flat(module):
    return th.cat([p.detach().flatten() for p in module.parameters()])


def expected_changes(values, **kwargs):
    """
    What all updates during one episode add to the actor's and to the critic's parameters, in expectation: every episode is
    played, with its actions in place of those drawn, and after each update the parameters are put back.
    """
    probabilities, script = zip(*episodes(table_of(WEIGHT, BIAS)), strict=True)
    assert sum(probabilities) == pytest.approx(1.0, abs=1e-12)
    model = tabular_model(script, **kwargs)
    with th.no_grad():
        model.policy.value_net.weight.copy_(th.stack([values[s] for s in range(5)])[None])
    before = {name: p.clone() for name, p in model.policy.state_dict().items()}
    actor, critic = flat(model.policy.action_net), flat(model.policy.value_net)
    changes = [th.zeros_like(actor), th.zeros_like(critic)]
    plan = ((p, step) for p, steps in zip(probabilities, script, strict=True) for step in steps)
    original = model.update

    def update(rollout):
        probability, (state, action, reward, _) = next(plan)
        assert rollout.observations.item() == state and rollout.rewards.item() == reward
        rollout.actions.fill_(action)
        metrics = original(rollout)
        changes[0] += probability * (flat(model.policy.action_net) - actor)
        changes[1] += probability * (flat(model.policy.value_net) - critic)
        model.policy.load_state_dict(before)
        return metrics

    model.update = update
    model.learn(sum(map(len, script)))
    assert next(plan, None) is None
    return changes


def own_values():
    return state_values(table_of(WEIGHT, BIAS))


def exact_gradient():
    parameters = WEIGHT.clone().requires_grad_(True), BIAS.clone().requires_grad_(True)
    J = state_values(table_of(*parameters))[0]
    return th.cat([g.flatten() for g in th.autograd.grad(J, parameters)])


def assert_equal(result, expected, rel=1e-10):
    assert (result - expected).norm() <= rel * expected.norm()


# ------------------------------------------------------------------------------------------------------- one-step actor-critic


def test_at_the_policys_own_values_the_expected_updates_are_the_exact_gradient_and_nothing():
    """Sutton & Barto, §13.5: E Σ_t γ^t δ_t ∇log π = ∇J for the actor, and E[δ | s] = 0 for the critic."""
    actor, critic = expected_changes(own_values())
    assert exact_gradient().norm() > 0.1
    assert_equal(actor, exact_gradient())
    assert critic.norm() < 1e-12


def test_without_state_weighting_the_expected_update_of_the_actor_is_not_the_gradient():
    actor, critic = expected_changes(own_values(), discount_state_weighting=False)
    assert (actor - exact_gradient()).norm() > 0.02 * actor.norm()
    assert critic.norm() < 1e-12


def test_at_other_values_the_critic_is_drawn_to_the_bellman_target():
    """E[r + γ V(s') − V(s)] at each state, times how often it is visited: the semi-gradient, not weighted with γ^t."""
    V = {**{s: th.tensor(float(s - 2), dtype=th.float64) for s in range(5)}, TERMINAL: th.zeros((), dtype=th.float64)}
    table = table_of(WEIGHT, BIAS)
    visits = th.zeros(5, dtype=th.float64)
    for probability, steps in episodes(table):
        for state, *_ in steps:
            visits[state] += probability
    error = th.stack(
        [
            sum(table[s, a].exp() * sum(p * (r + GAMMA * V[f] - V[s]) for p, r, f in MDP[s][a]) for a in range(2))
            for s in range(5)
        ]
    )
    _, critic = expected_changes(V)
    th.testing.assert_close(critic[:5], visits * error, rtol=1e-10, atol=1e-12)


# ------------------------------------------------------------------------------------------------------- ages


def test_ages_count_the_steps_since_the_last_start_and_go_on_from_those_before():
    starts = th.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]]).bool()
    assert episode_ages(starts, [9, 9, 9]).T.tolist() == [[0, 1, 2, 0], [10, 0, 1, 2], [10, 11, 12, 13]]


def test_without_a_row_before_the_first_row_is_the_first_of_its_episode():
    assert episode_ages(th.zeros(3, 2).bool()).T.tolist() == [[0, 1, 2]] * 2
    assert episode_ages(th.tensor([[0], [1], [0]]).bool()).T.tolist() == [[0, 0, 1]]


class Ages(BaseCallback):
    """The weights with which an update uses δ, beside the steps that the environment has counted itself."""

    def __init__(self):
        super().__init__()
        self.weights, self.counted = [], []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        r = self.model.last_rollout
        delta = r.rewards + GAMMA * r.next_values - r.values
        self.weights += (r.advantages / delta).T.flatten().tolist()
        self.counted += r.observations[..., 1].T.flatten().tolist()


def ageing_model(*envs, **kwargs):
    settings = dict(gae_lambda=0.0, gamma=GAMMA, seed=0, device=DEVICE, discount_state_weighting=True, compile=False)
    return A2C("MlpPolicy", vectorised(*envs), **{**settings, **kwargs})


def assert_weighted_by_age(callback):
    assert max(callback.counted) >= 4
    np.testing.assert_allclose(callback.weights, GAMMA ** np.array(callback.counted), rtol=1e-3)


@pytest.mark.parametrize("n_steps", [1, 3, 7])
def test_ages_are_carried_across_rollouts_and_start_anew_with_each_episode(n_steps):
    model, callback = ageing_model(Scripted([6, 2]), Scripted([5, 1, 4], [True, False, True]), n_steps=n_steps), Ages()
    model.learn(84, callback=callback)
    assert_weighted_by_age(callback)


def test_ages_go_on_in_a_second_call_of_learn_and_start_anew_where_it_resets():
    model, callback = ageing_model(Scripted([50]), n_steps=3), Ages()
    model.learn(6, callback=callback).learn(6, callback=callback, reset_num_timesteps=False)
    assert callback.counted == list(range(12))
    model.learn(6, callback=callback)
    assert callback.counted[12:] == list(range(6))
    assert_weighted_by_age(callback)


def test_ages_go_on_after_a_callback_has_stopped_in_the_middle_of_a_rollout():
    model, callback = ageing_model(Scripted([50]), n_steps=4), Ages()
    model.learn(100, callback=lambda locals_, globals_: model.num_timesteps < 6)
    model.learn(8, callback=callback, reset_num_timesteps=False)
    assert callback.counted == list(range(6, 14))
    assert_weighted_by_age(callback)


def test_ages_are_saved_with_the_model(tmp_path):
    env = vectorised(Scripted([50]))
    model = A2C("MlpPolicy", env, n_steps=3, gae_lambda=0.0, gamma=GAMMA, discount_state_weighting=True, device=DEVICE)
    model.learn(6).save(tmp_path / "model.zip")
    loaded, callback = A2C.load(tmp_path / "model.zip", device=DEVICE), Ages()
    loaded.set_env(env, force_reset=False)
    loaded.learn(6, callback=callback, reset_num_timesteps=False)
    assert callback.counted == list(range(6, 12))
    assert_weighted_by_age(callback)


def test_a_loaded_model_trains_with_another_number_of_environments(tmp_path):
    model = ageing_model(Scripted([5]), Scripted([5]), n_steps=3).learn(6)
    model.save(tmp_path / "model.zip")
    callback = Ages()
    loaded = A2C.load(tmp_path / "model.zip", env=vectorised(*(Scripted([5]) for _ in range(3))), device=DEVICE)
    loaded.learn(45, callback=callback)
    assert_weighted_by_age(callback)


@pytest.mark.parametrize("other", [dict(normalize_advantage=True), dict(rollout_buffer_class="own")])
def test_state_weighting_is_refused_where_it_would_be_lost(other):
    class OwnBuffer(sb3.common.buffers.RolloutBuffer):
        pass

    if "rollout_buffer_class" in other:
        other = dict(rollout_buffer_class=OwnBuffer)
    with pytest.raises(
        ValueError, match=r"discount_state_weighting=True.*(rollout_buffer_class=OwnBuffer|normalize_advantage)"
    ):
        ageing_model(Scripted([3]), n_steps=4, **other)


# ------------------------------------------------------------------------------------------------------- returns and steps


class Returns(BaseCallback):
    """n-step returns from what the environments gave, row by row, with the values of the policy that acted."""

    def __init__(self):
        super().__init__()
        self.rows, self.checked = [], 0

    def _on_step(self):
        self.rows.append({k: self.locals[k] for k in ("rewards", "dones", "infos", "new_obs")})
        return True

    def value(self, observation):
        with th.no_grad():
            return self.model.policy.predict_values(th.as_tensor(observation)[None]).item()

    def _on_rollout_end(self):
        for t, n in itertools.product(range(len(self.rows)), range(self.model.n_envs)):
            total, factor = 0.0, 1.0
            for row in self.rows[t:]:
                total += factor * row["rewards"][n]
                factor *= GAMMA
                if row["dones"][n]:
                    break
            info = row["infos"][n]
            if not row["dones"][n]:
                total += factor * self.value(row["new_obs"][n])
            elif info.get("TimeLimit.truncated"):
                total += factor * self.value(info["terminal_observation"])
            assert self.model.rollout_buffer.returns[t, n] == pytest.approx(total, rel=1e-4)
            self.checked += 1
        self.rows.clear()


def test_returns_are_n_step_returns_completed_by_the_value_of_the_right_observation():
    """λ = 1: discounted rewards up to the end of the rollout or of the episode, by hand."""
    env = vectorised(Scripted([2, 3, 4], [True, False, True]), Scripted([3]))
    model, callback = A2C("MlpPolicy", env, n_steps=5, gamma=GAMMA, device=DEVICE, seed=0), Returns()
    model.learn(40, callback=callback)
    assert callback.checked == 40


OPTIMIZERS = {
    "RMSprop": {},
    "Adam": dict(use_rms_prop=False),
    "TensorFlow's RMSprop": dict(policy_kwargs=dict(optimizer_class=RMSpropTFLike, optimizer_kwargs=dict(eps=1e-5))),
}
OPTIONS = {
    "default": {},
    "all options": dict(gae_lambda=0.9, ent_coef=0.01, vf_coef=0.25, max_grad_norm=0.1, normalize_advantage=True, gamma=0.95),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("options", OPTIONS)
def test_after_three_updates_the_parameters_and_moments_are_sb3s(optimizer, options):
    models = []
    for model_class, compiled in ((sb3.A2C, {}), (A2C, dict(compile=False))):
        kwargs = {**OPTIMIZERS[optimizer], **OPTIONS[options], **compiled}
        model = model_class("MlpPolicy", make_vec_env("CartPole-v1", 4, seed=0), seed=0, device=DEVICE, **kwargs)
        models.append(model.learn(60))
        assert model._n_updates == 3
    theirs, ours = (dict(m.policy.named_parameters()) for m in models)
    for name, expected in theirs.items():
        th.testing.assert_close(ours[name], expected, rtol=0, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")
        moments = [m.policy.optimizer.state[p] for m, p in zip(models, (expected, ours[name]), strict=True)]
        assert moments[0].keys() == moments[1].keys()
        for key, moment in moments[0].items():
            th.testing.assert_close(th.as_tensor(moments[1][key]), th.as_tensor(moment), rtol=1e-3, atol=1e-6)


def test_rms_prop_eps_reaches_the_optimizer_and_the_first_step_is_rmsprops():
    """θ − lr g / (√(0.01 g²) + ε), which is close to 10 lr sign(g); an ε of 10 makes it close to lr g / 10."""
    for eps in (1e-5, 10.0):
        model = A2C("MlpPolicy", vectorised(Scripted([3])), device=DEVICE, seed=0, rms_prop_eps=eps, max_grad_norm=None)
        before = {name: p.detach().clone() for name, p in model.policy.named_parameters()}
        model.learn(5)
        for name, p in model.policy.named_parameters():
            square = model.policy.optimizer.state[p]["square_avg"].double()
            size = (before[name] - p.detach()).abs().double()
            g = (square / 0.01).sqrt()
            th.testing.assert_close(size, 7e-4 * g / (square.sqrt() + eps), rtol=1e-2, atol=1e-7)
