"""Compare every metric with an independent computation on copies of the rollout and of the policy before and after it."""

import csv

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C as SB3A2C
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import DummyVecEnv
from support.dense_natural_gradient import Updates
from support.models import ACTION_SPACES, kl_of
from support.observers import logging_to
from support.small_environments import AnySpace, Scripted, vectorised
from support.witnessed_runs import MODELS, OBSERVATIONS, Witness, train

from sb3_pgx import A2C, PPO, REINFORCE
from sb3_pgx.diagnostics import METRICS, DiagnosticsCallback
from sb3_pgx.diagnostics.episodes import UNREAD_STEPS, WINDOW
from sb3_pgx.diagnostics.stopwatch import ACTING, MEASURING, UPDATE, RunTimer

CLIP_RANGE = 0.03
LIMIT = 6.0  # some gradients are longer, some are not


def expected_metrics(seen, action_space):
    """Compute the metrics of an update from copies, with torch's distributions and numpy's formulas in float64."""
    obs, actions = seen["observations"], seen["actions"]
    kind = type(action_space).__name__
    taken = actions.long() if kind in ("Discrete", "MultiDiscrete") else actions.float()
    taken = taken.flatten() if kind == "Discrete" else taken
    with th.no_grad():
        values, log_prob, entropy = seen["after"].evaluate_actions(obs, taken)
    kl = kl_of(seen["before"], seen["after"], obs).double().numpy()
    log_ratio = (log_prob.double() - seen["log_probs"].double()).numpy()
    ratio = np.exp(log_ratio)
    returns, old, new = (x.double().numpy().ravel() for x in (seen["returns"], seen["values"], values))
    advantages, rewards = seen["advantages"].double().numpy(), seen["given"]
    before, after = (
        np.concatenate([p.detach().double().numpy().ravel() for p in seen[k].parameters()]) for k in ("before", "after")
    )
    hidden = [m for m in seen["after"].modules() if isinstance(m, th.nn.Tanh)]
    outputs = []
    hooks = [m.register_forward_hook(lambda m, i, o: outputs.append(o.abs() > 0.99)) for m in hidden]
    with th.no_grad():
        seen["after"].evaluate_actions(obs, taken)
    for hook in hooks:
        hook.remove()
    expected = {
        "kl": kl.mean(),
        "kl_max": kl.max(),
        "approx_kl": np.mean(ratio - 1 - log_ratio),
        "approx_kl_k1": -np.mean(log_ratio),
        "approx_kl_k2": np.mean(log_ratio**2) / 2,
        "clip_fraction": np.mean((ratio > 1 + CLIP_RANGE) | (ratio < 1 - CLIP_RANGE)),
        "ratio_mean": ratio.mean(),
        "ratio_std": ratio.std(),
        "ratio_min": ratio.min(),
        "ratio_max": ratio.max(),
        "effective_sample_size": ratio.sum() ** 2 / (ratio**2).sum() / len(ratio),
        "entropy": entropy.mean().item(),
        "explained_variance": explained_variance(old, returns),
        "explained_variance_after": explained_variance(new, returns),
        "return_spread": returns.std() / np.sqrt(np.mean(returns**2)),
        "value_error": np.sqrt(np.mean((new - returns) ** 2)) / returns.std(),
        "value_lag": np.sqrt(np.mean((new - old) ** 2)) / returns.std(),
        "parameter_change": np.linalg.norm(after - before) / np.linalg.norm(before),
        "observation_max": obs.abs().max().item(),
        "saturated_units": th.cat([x.flatten() for x in outputs]).double().mean().item(),
    }
    for name, x in (("advantage", advantages), ("return", returns), ("reward", rewards)):
        expected |= {f"{name}_mean": x.mean(), f"{name}_std": x.std(), f"{name}_min": x.min(), f"{name}_max": x.max()}
    if kind == "Box":
        with th.no_grad():
            std = seen["after"].get_distribution(obs).distribution.stddev
        outside = (actions.numpy() < action_space.low) | (actions.numpy() > action_space.high)
        expected |= {"std_mean": std.mean().item(), "std_min": std.min().item(), "std_max": std.max().item()}
        expected["actions_clipped"] = outside.mean()
    else:
        most = {"Discrete": np.log(3), "MultiDiscrete": np.log(2) + np.log(3), "MultiBinary": 2 * np.log(2)}[kind]
        expected["relative_entropy"] = entropy.mean().item() / most
    return expected


@pytest.mark.parametrize(
    "name, space",
    [
        *((name, space) for name in MODELS for space in ("Discrete", "Box")),
        *((name, space) for name in ("PPO", "sb3 PPO") for space in ("MultiDiscrete", "MultiBinary")),
    ],
)
def test_each_metric_equals_the_independent_computation(name, space):
    diagnostics = DiagnosticsCallback(clip_range=CLIP_RANGE, costly_every=1)
    _, witness = train(name, ACTION_SPACES[space], diagnostics, learning_rate=3e-3)
    assert len(diagnostics.history) == len(witness.seen) == 2
    for numbers, seen in zip(diagnostics.history, witness.seen, strict=True):
        expected = expected_metrics(seen, ACTION_SPACES[space])
        assert expected.keys() <= numbers.keys()
        for metric, value in expected.items():
            assert numbers[metric] == pytest.approx(value, rel=1e-5, abs=1e-5), metric
        assert numbers["initial_ratio_error"] < 1e-5
    assert max(numbers["kl"] for numbers in diagnostics.history) > 1e-5, "the policy did not change, so the case tests nothing"


@pytest.mark.parametrize("name", ["sb3 PPO", "sb3 A2C", "contrib TRPO"])
def test_gradient_norms_of_sb3s_algorithms_are_those_before_clipping(name, monkeypatch):
    norms, clip = [], th.nn.utils.clip_grad_norm_

    def spy(parameters, max_norm, *args, **kwargs):
        norms.append(clip(parameters := list(parameters), max_norm, *args, **kwargs).item())
        return th.tensor(norms[-1])

    monkeypatch.setattr(th.nn.utils, "clip_grad_norm_", spy)
    if name == "contrib TRPO":  # it does not clip the critic's gradient, so the spy above sees no norms
        step = th.optim.Adam.step

        def stepping(optimizer, *args, **kwargs):
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norms.append(th.cat([g.flatten() for g in gradients]).norm().item())
            return step(optimizer, *args, **kwargs)

        monkeypatch.setattr(th.optim.Adam, "step", stepping)
    diagnostics = DiagnosticsCallback()
    kwargs = {} if name == "contrib TRPO" else dict(max_grad_norm=LIMIT)
    train(name, ACTION_SPACES["Discrete"], diagnostics, n_updates=1, **kwargs)
    numbers = diagnostics.history[0]
    assert len(norms) == {"sb3 PPO": 12, "sb3 A2C": 1, "contrib TRPO": 8}[name]
    assert numbers["grad_norm"] == pytest.approx(np.mean(norms), rel=1e-5)
    assert numbers["grad_norm_max"] == pytest.approx(max(norms), rel=1e-5)
    share = 0.0 if name == "contrib TRPO" else np.mean(np.array(norms) > LIMIT)
    assert numbers["grad_clipped"] == share and (name != "sb3 PPO" or 0 < share < 1)


@pytest.mark.parametrize("pair", [("PPO", "sb3 PPO"), ("A2C", "sb3 A2C")])
def test_this_package_and_sb3_give_the_same_metrics_with_the_same_seed(pair):
    histories = []
    for name in pair:
        diagnostics = DiagnosticsCallback(costly_every=1)
        train(name, ACTION_SPACES["Box"], diagnostics, max_grad_norm=0.9)
        histories.append(diagnostics.history)
    for ours, theirs in zip(*histories, strict=True):
        # All metrics but the times must agree; truncated episodes are bootstrapped in both.
        for metric in ours.keys() & theirs.keys() - {"time_environment", "time_acting", "time_update"}:
            assert ours[metric] == pytest.approx(theirs[metric], rel=2e-3, abs=1e-5), metric
        assert theirs.keys() - ours.keys() == {"grad_norm_max"} and ours.keys() <= theirs.keys()


def test_the_noise_scale_agrees_with_gradients_of_separate_groups():
    diagnostics = DiagnosticsCallback(costly_every=1)
    model, witness = train("sb3 PPO", ACTION_SPACES["Discrete"], diagnostics, n_updates=1, ent_coef=0.1)
    seen = witness.seen[0]
    policy, advantages = seen["before"], seen["advantages"]
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    gradients = []
    for part in np.split(np.random.RandomState(0).permutation(32), 16):  # 16 pieces of 2 rows
        policy.zero_grad()
        values, log_prob, entropy = policy.evaluate_actions(seen["observations"][part], seen["actions"][part].long().flatten())
        loss = -(advantages[part] * log_prob).mean() - 0.1 * entropy.mean() + 0.0 * values.sum()
        loss.backward()
        gradients.append(th.cat([p.grad.flatten() for p in policy.parameters()]).double().numpy())
    gradients = np.array(gradients)
    whole = gradients.mean(axis=0)
    # Unbiased: E‖g_small‖² = ‖G‖² + tr(Σ)/2, E‖g_big‖² = ‖G‖² + tr(Σ)/32, solved for both.
    matrix = np.array([[1, 1 / 2], [1, 1 / 32]])
    signal, noise = np.linalg.solve(matrix, [np.mean((gradients**2).sum(axis=1)), (whole**2).sum()])
    expected = noise / signal if signal > 0 else np.inf
    assert diagnostics.history[0]["gradient_noise_scale"] == pytest.approx(expected, rel=1e-4)
    assert diagnostics.history[0]["noise_to_batch"] == pytest.approx(expected / model.batch_size, rel=1e-4)


def test_dormant_units_are_weak_compared_with_their_layer():
    diagnostics = DiagnosticsCallback(costly_every=1)
    model_class, settings = MODELS["sb3 PPO"]
    env = DummyVecEnv([lambda: AnySpace(OBSERVATIONS, ACTION_SPACES["Discrete"])])
    policy_kwargs = dict(activation_fn=th.nn.ReLU, net_arch=[8])
    model = model_class("MlpPolicy", env, **settings, learning_rate=0.0, policy_kwargs=policy_kwargs)
    layer = model.policy.mlp_extractor.policy_net[0]
    with th.no_grad():
        layer.bias[:3] = -100.0  # three of the actor's eight units are always off, and one is nearly off
        layer.bias[3], layer.weight[3] = 1e-3, 0.0
        layer.bias[4:], layer.weight[4:] = 1.0, 0.0
        critic = model.policy.mlp_extractor.value_net[0]
        critic.bias[:], critic.weight[:] = 1e-3, 0.0  # all units of this layer are equally weak, so none is dormant
    model.learn(16, callback=diagnostics)
    assert diagnostics.history[0]["dormant_units"] == 4 / 16


def test_a_policy_that_differs_in_training_mode_is_detected():
    diagnostics = DiagnosticsCallback()
    env = DummyVecEnv([lambda: AnySpace(OBSERVATIONS, ACTION_SPACES["Discrete"])])
    model = SB3PPO("MlpPolicy", env, n_steps=16, batch_size=8, n_epochs=1, seed=0, device="cpu")
    model.policy.mlp_extractor.policy_net.append(th.nn.Dropout(0.5))
    model.learn(16, callback=diagnostics)
    assert diagnostics.history[0]["initial_ratio_error"] > 1e-3


@pytest.mark.parametrize("name", ["PPO", "sb3 PPO"])
@pytest.mark.parametrize("log_interval, measured", [(1, [1, 2, 3, 4, 5]), (3, [2, 5]), (4, [3, 5]), (None, [1, 2, 3, 4, 5])])
def test_the_logged_updates_and_the_last_one_are_measured(name, log_interval, measured, tmp_path):
    diagnostics = DiagnosticsCallback(metrics=("kl", "entropy"))
    model_class, settings = MODELS[name]
    env = DummyVecEnv([lambda: Monitor(AnySpace(OBSERVATIONS, ACTION_SPACES["Discrete"]))])
    model = model_class("MlpPolicy", env, **settings)
    with logging_to(tmp_path, model):
        model.learn(80, callback=diagnostics, log_interval=log_interval)
    assert [numbers["update"] for numbers in diagnostics.history] == measured
    with open(tmp_path / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    logged = [float(row["diagnostics/kl"]) for row in rows if row.get("diagnostics/kl")]
    expected = [numbers["kl"] for numbers in diagnostics.history if log_interval is not None]
    assert logged == pytest.approx(expected, rel=1e-4)
    known = {f"diagnostics/{key}" for key in ("kl", "entropy", "update", "timesteps", "progress")}
    assert {key for row in rows for key in row if key.startswith("diagnostics/")} <= known
    if log_interval is not None:
        assert model.logger.name_to_value["train/n_updates"] == model._n_updates  # as SB3 leaves it


def test_every_and_costly_every_reduce_the_measurements():
    diagnostics = DiagnosticsCallback(every=2, costly_every=3)
    train("PPO", ACTION_SPACES["Discrete"], diagnostics, n_updates=8)
    assert [numbers["update"] for numbers in diagnostics.history] == [1, 3, 5, 7, 8], "and the last update"
    assert ["saturated_units" in numbers for numbers in diagnostics.history] == [True, False, False, True, False]
    assert ["gradient_noise_scale" in numbers for numbers in diagnostics.history] == [True, False, False, True, False]


@pytest.mark.parametrize("flagged", [True, False])
@pytest.mark.parametrize("n_steps, total", [(100, 100), (5, 100), (20, UNREAD_STEPS + 100), (UNREAD_STEPS, UNREAD_STEPS)])
def test_a_time_limit_without_truncation_is_detected(flagged, n_steps, total):
    """The result does not depend on how many rollouts are read together."""
    diagnostics = DiagnosticsCallback()
    lengths = [3, 5, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8]
    model = A2C("MlpPolicy", vectorised(Scripted(lengths, [flagged] * 12)), n_steps=n_steps, device="cpu")
    model.learn(total, callback=diagnostics, log_interval=1000)
    rewards = model.last_rollout.rewards.numpy()  # the last rollout, without bootstrapped values
    assert diagnostics.history[-1]["reward_mean"] == pytest.approx(rewards.mean(), abs=1e-6)
    assert diagnostics.history[-1]["reward_std"] == pytest.approx(rewards.std(), abs=1e-6)
    ends = np.cumsum(lengths * total)
    ended = (lengths * total)[: np.sum(ends <= total)][-WINDOW:]
    share = 0.0 if flagged else ended.count(8) / len(ended)
    assert len(diagnostics.history) == 1
    assert diagnostics.history[0]["unflagged_time_limits"] == pytest.approx(share, abs=0.01)


def test_constant_entries_are_counted_over_the_whole_run():
    class HalfDead(AnySpace):
        def step(self, action):
            obs, *rest = super().step(action)
            return np.array([obs[0], 0.0, -float(self.steps == 4)], np.float32), *rest

        def reset(self, **kwargs):
            super().reset(**kwargs)
            return np.zeros(3, np.float32), {}

    diagnostics = DiagnosticsCallback()
    model = A2C("MlpPolicy", vectorised(HalfDead(OBSERVATIONS, ACTION_SPACES["Discrete"])), n_steps=4, device="cpu")
    model.learn(24, callback=diagnostics, log_interval=1)  # entry 2 changes in the second rollout but not in the last
    assert [n["constant_observations"] for n in diagnostics.history] == pytest.approx([2 / 3, *[1 / 3] * 5])


def test_nearly_constant_returns_do_not_make_the_value_error_large():
    class Constant(Scripted):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, 1.0, *rest

    diagnostics = DiagnosticsCallback()
    model = SB3A2C("MlpPolicy", vectorised(Constant([1]), Constant([1])), n_steps=1, seed=0, device="cpu")
    model.learn(4, callback=diagnostics, log_interval=1)
    with th.no_grad():
        values = model.policy.predict_values(th.as_tensor(model.rollout_buffer.observations).flatten(end_dim=-2))
    seen = diagnostics.history[-1]
    assert seen["return_std"] == 0 and seen["return_mean"] == 1
    assert seen["value_error"] == pytest.approx((values - 1).square().mean().sqrt().item() / 0.01, rel=1e-4)


def test_squashed_actions_are_not_out_of_bounds():
    diagnostics = DiagnosticsCallback()
    far = spaces.Box(5.0, 10.0, (2,), np.float32)
    env = DummyVecEnv([lambda: AnySpace(OBSERVATIONS, far)])
    settings = dict(use_sde=True, policy_kwargs=dict(squash_output=True), seed=0, device="cpu")
    SB3A2C("MlpPolicy", env, **settings).learn(10, callback=diagnostics, log_interval=1)
    assert diagnostics.history and "actions_clipped" not in diagnostics.history[0]


def test_the_last_update_is_logged_when_a_callback_stops_the_run(tmp_path):
    class Stops(BaseCallback):
        def _on_step(self):
            return self.num_timesteps < 40

    env = DummyVecEnv([lambda: AnySpace(OBSERVATIONS, ACTION_SPACES["Box"])])
    model = SB3PPO("MlpPolicy", env, n_steps=16, batch_size=8, n_epochs=1, seed=0, device="cpu")
    diagnostics = DiagnosticsCallback(metrics=("kl",))
    with logging_to(tmp_path, model):
        model.learn(1000, callback=[diagnostics, Stops()])
    with open(tmp_path / "progress.csv") as file:
        logged = [float(row["diagnostics/kl"]) for row in csv.DictReader(file) if row.get("diagnostics/kl")]
    assert len(diagnostics.history) == 2 and logged == pytest.approx([n["kl"] for n in diagnostics.history], rel=1e-4)


def test_a_buffer_that_overwrites_its_arrays_is_read_in_time():
    class InPlace(RolloutBuffer):
        def reset(self):
            if not hasattr(self, "kept"):
                super().reset()
                self.kept = {name: x for name, x in vars(self).items() if isinstance(x, np.ndarray)}
            for name, x in self.kept.items():
                x.fill(0)
                setattr(self, name, x)
            self.pos, self.full, self.generator_ready = 0, False, False

    histories = []
    for buffer in (RolloutBuffer, InPlace):
        diagnostics = DiagnosticsCallback()
        env = DummyVecEnv([lambda: AnySpace(OBSERVATIONS, ACTION_SPACES["Box"])])
        model = SB3A2C("MlpPolicy", env, rollout_buffer_class=buffer, n_steps=8, seed=0, device="cpu")
        model.learn(16, callback=diagnostics, log_interval=1)
        histories.append(diagnostics.history[0])
    for name in ("ratio_mean", "return_mean", "value_lag"):
        assert histories[0][name] == pytest.approx(histories[1][name]) and histories[1][name] != 0


def test_an_algorithm_without_a_critic_has_no_critic_metrics():
    diagnostics = DiagnosticsCallback()
    model = REINFORCE("MlpPolicy", vectorised(Scripted([4])), n_episodes=1, device="cpu")
    model.learn(8, callback=diagnostics)
    assert diagnostics.history and not {"explained_variance", "value_error", "value_lag"} & diagnostics.history[0].keys()


def test_invalid_rows_are_ignored():
    diagnostics, updates = DiagnosticsCallback(), Updates()
    env = vectorised(Scripted([3]), Scripted([5]))
    model = REINFORCE("MlpPolicy", env, n_episodes=1, learning_rate=0.05, seed=0, device="cpu")
    model.learn(20, callback=[diagnostics, updates], log_interval=1)
    assert len(diagnostics.history) == 2
    for numbers, rollout, old, new in zip(diagnostics.history, updates.rollouts, updates.before, updates.after, strict=True):
        assert rollout.n_valid == 8 and not rollout.complete
        kl = kl_of(old, new, rollout.observations[rollout.valid])
        assert numbers["kl"] == pytest.approx(kl.mean().item(), rel=1e-4) and numbers["kl_max"] > 1e-4
        assert numbers["reward_mean"] == (1 + 2 + 3 + 1 + 2 + 3 + 4 + 5) / 8


def test_the_timer_returns_shares_without_the_time_of_measuring():
    now = [0]
    env = vectorised(Scripted([4]))
    waits = env.step_wait

    class Slow:
        def __call__(self):
            now[0] += 3  # in the environment
            return waits()

    env.step_wait = Slow()
    timer = RunTimer(clock=lambda: now[0])
    timer.attach(env)
    env.reset()
    timer.switch(ACTING)
    for _ in range(2):
        now[0] += 1  # acting
        env.step(np.zeros(1, int))
    timer.switch(MEASURING)
    now[0] += 100
    timer.switch(UPDATE)
    now[0] += 8
    timer.switch(MEASURING)
    shares = {"time_environment": 6 / 16, "time_acting": 2 / 16, "time_update": 8 / 16}
    assert timer.read() == pytest.approx(shares)
    assert timer.read() == {}


@pytest.mark.parametrize(
    "kwargs, sentence",
    [
        (dict(metrics=("entropi",)), "metric 'entropi' is unknown; choose entropy"),
        (dict(metrics="kl"), "metrics='kl' must be a sequence of names"),
        (dict(clip_range=0.0), "clip_range=0.0 must be positive"),
        (dict(every=0), "every=0 must be a whole number"),
        (dict(costly_every=1.5), "costly_every=1.5 must be a whole number"),
    ],
)
def test_bad_arguments_are_refused(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        DiagnosticsCallback(**kwargs)


def test_every_measured_metric_is_documented():
    diagnostics = DiagnosticsCallback(costly_every=1)
    train("sb3 PPO", ACTION_SPACES["Box"], diagnostics)
    assert {name for numbers in diagnostics.history for name in numbers} - {"timesteps", "update"} <= METRICS.keys()


@pytest.mark.parametrize("model_class", [PPO, SB3PPO])
def test_a_schedule_of_the_clip_range_is_followed(model_class):
    diagnostics = DiagnosticsCallback(costly_every=1)
    env = DummyVecEnv([lambda: AnySpace(OBSERVATIONS, ACTION_SPACES["Box"])])
    model = model_class(
        "MlpPolicy",
        env,
        n_steps=16,
        batch_size=8,
        learning_rate=0.01,
        clip_range=lambda left: 0.5 * left,
        device="cpu",
        seed=0,
    )
    witness = Witness()
    model.learn(32, callback=[diagnostics, witness])
    seen = witness.seen[0]
    with th.no_grad():
        _, log_prob, _ = seen["after"].evaluate_actions(seen["observations"], seen["actions"])
    ratio = (log_prob - seen["log_probs"]).exp()
    assert diagnostics.history[0]["clip_fraction"] == ((ratio - 1).abs() > 0.25).float().mean().item() > 0
