"""Alarms, warnings, scores and reports, with rules that fire at known updates."""

import csv
import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from PIL import Image
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from support.models import ACTION_SPACES
from support.observers import logging_to
from support.packages import without
from support.small_environments import Scripted, vectorised
from support.witnessed_runs import train

from sb3_pgx import PPO
from sb3_pgx.core.optional_packages import install_command
from sb3_pgx.diagnostics import (
    DEFAULT_RULES,
    METRICS,
    Above,
    HealthCallback,
    HealthError,
    HealthWarning,
    RoseWhileOtherFell,
    Rule,
    Source,
)

SURE = Rule(
    "sure", "entropy", Above(0.0), "there is entropy", "do nothing", (Source("0", "A"), Source("1 to 2", "B")), patience=2
)
NEVER = Rule("never", "entropy", Above(1e9), "too much of it", "do something", healthy=(0.0, 2.0))
ABSENT = Rule("absent", "dormant_units", Above(0.0), "x", "y")
EARLY = Rule("early", "entropy", Above(0.0), "x", "y", warm_up=9)


@pytest.mark.filterwarnings("ignore::sb3_pgx.diagnostics.HealthWarning")
def test_the_score_is_the_share_of_judged_rules_without_an_alarm(tmp_path):
    health = HealthCallback(rules=[SURE, NEVER, ABSENT])
    model = SB3PPO("MlpPolicy", vectorised(Scripted([4])), n_steps=16, batch_size=8, n_epochs=1, device="cpu")
    with logging_to(tmp_path, model):
        model.learn(48, callback=health)
    with open(tmp_path / "progress.csv") as file:
        rows = [row for row in csv.DictReader(file) if row.get("health/score")]
    assert [float(row["health/score"]) for row in rows] == [1.0, 0.5, 0.5]
    assert [float(row["health/alarms"]) for row in rows] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["PPO", "sb3 PPO"])
def test_a_warning_has_meaning_value_threshold_and_remedy_and_is_not_repeated_too_soon(name):
    health = HealthCallback(rules=[SURE], quiet=3)
    with pytest.warns(HealthWarning) as caught:
        train(name, ACTION_SPACES["Discrete"], health, n_updates=8)
    updates = [int(re.match(r"update (\d+): sure: there is entropy\. entropy is", str(w.message)).group(1)) for w in caught]
    assert updates == [2, 5, 8]
    value = health.history[1]["entropy"]
    assert str(caught[0].message).endswith(f"entropy is {value:.3g}, above 0 (A: 0). Try this: do nothing.")


@pytest.mark.filterwarnings("ignore::sb3_pgx.diagnostics.HealthWarning")
@pytest.mark.parametrize("model_class", [PPO, SB3PPO])
def test_the_last_update_counts_although_its_rollout_exceeds_total_timesteps(model_class):
    health = HealthCallback(rules=[SURE])
    model = model_class("MlpPolicy", vectorised(Scripted([4])), n_steps=16, batch_size=8, n_epochs=1, device="cpu")
    model.learn(40, callback=health, log_interval=1)
    assert model.num_timesteps == 48 and len(health.history) == 3
    assert (health.rule_states[0].judged, health.rule_states[0].alarms) == (3, 2) and health.rule_states[0].in_alarm


@pytest.mark.filterwarnings("ignore::sb3_pgx.diagnostics.HealthWarning")
@pytest.mark.parametrize("name", ["PPO", "sb3 PPO"])
def test_an_alarm_can_stop_the_run(name):
    health = HealthCallback(rules=[SURE], on_alarm="stop")
    model, _ = train(name, ACTION_SPACES["Discrete"], health, n_updates=8)
    assert model.num_timesteps == 2 * 32 + 2, "two updates, and the step at which the callback stops the run"
    before = model.num_timesteps
    model.learn(64, reset_num_timesteps=False)
    assert model.num_timesteps >= before + 64


@pytest.mark.parametrize("name", ["PPO", "sb3 PPO"])
def test_an_alarm_can_be_an_error(name, tmp_path):
    health = HealthCallback(rules=[SURE], on_alarm="raise", report_folder=tmp_path)
    with pytest.raises(HealthError, match="update 2: sure: there is entropy"):
        train(name, ACTION_SPACES["Discrete"], health, n_updates=8)
    assert not {"step_async", "step_wait"} & vars(health.training_env).keys()
    assert "| sure | **alarm**" in (tmp_path / "health.md").read_text()


@pytest.mark.filterwarnings("ignore::sb3_pgx.diagnostics.HealthWarning")
def test_the_report_has_a_verdict_and_the_sources_of_every_rule(tmp_path):
    health = HealthCallback(rules=[SURE, NEVER, ABSENT, EARLY], report_folder=tmp_path / "new")
    train("sb3 PPO", ACTION_SPACES["Discrete"], health, n_updates=4)
    text = (tmp_path / "new" / "health.md").read_text()
    entropies = [numbers["entropy"] for numbers in health.history]
    numbers = f"{entropies[-1]:.3g} | {min(entropies):.3g} | {max(entropies):.3g}"
    assert text.startswith("# Health report: PPO\n\n1 of 2 rules was in alarm, 1 of them at the end of the run.\n")
    assert (
        f"| sure | **alarm** at 3 of 4 updates | entropy | {numbers} | above 0 for 2 updates in a row | 0 (A); 1 to 2 (B) |"
        in text
    )
    assert f"| never | healthy | entropy | {numbers} | above 1e+09 |  |" in text
    assert "| absent | not measured | dormant_units |  |  |  | above 0 |  |" in text
    assert f"| early | too few updates | entropy | {numbers} | above 0 |  |" in text
    assert "- **sure**: there is entropy. Try this: do nothing." in text and health.warnings[0] in text
    assert "![metrics over the run, healthy ranges shaded](health.png)" in text
    # One of four columns holds a plot: a blue line on a green healthy range.
    pixels = np.asarray(Image.open(tmp_path / "new" / "health.png").convert("RGB")).reshape(-1, 3)
    assert ((pixels == (0x00, 0x72, 0xB2)).all(axis=1)).sum() > 20
    assert ((abs(pixels.astype(int) - (222, 241, 222)) <= 3).all(axis=1)).mean() > 0.02


def test_an_earlier_report_is_kept_and_without_matplotlib_the_report_has_no_plots(tmp_path, monkeypatch):
    (tmp_path / "health.md").write_text("mine")
    without(monkeypatch, "matplotlib")
    train("PPO", ACTION_SPACES["Discrete"], HealthCallback(rules=[NEVER], report_folder=tmp_path))
    assert (tmp_path / "health.md").read_text() == "mine"
    assert f"Plots need matplotlib: `{install_command('plots')}`." in (tmp_path / "health-2.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["health-2.html", "health-2.md", "health.md"]


def test_the_report_goes_to_the_folder_of_the_logger_if_there_is_one(tmp_path):
    for formats, written in ((["csv"], True), ([], False)):
        folder = tmp_path / str(written)
        model = PPO("MlpPolicy", vectorised(Scripted([4])), n_steps=16, batch_size=8, n_epochs=1, device="cpu")
        with logging_to(folder, model, formats):
            model.learn(16, callback=HealthCallback(rules=[NEVER]))
        assert (folder / "health.md").exists() == written


def test_rules_use_metrics_that_are_not_logged(tmp_path):
    health = HealthCallback(rules=[NEVER], metrics=("kl",))
    model = PPO("MlpPolicy", vectorised(Scripted([4])), n_steps=16, batch_size=8, n_epochs=1, device="cpu")
    with logging_to(tmp_path, model):
        model.learn(32, callback=health)
    header = (tmp_path / "progress.csv").read_text().splitlines()[0]
    assert "diagnostics/kl" in header and "diagnostics/entropy" not in header
    assert health.rule_states[0].judged == 2


def test_evaluating_the_true_objective_uses_the_training_normalisation_and_changes_nothing():
    class Counts(Scripted):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, 2.0, *rest

    trained = []
    for watched in (False, True):
        env = VecNormalize(vectorised(Scripted([3, 4])))
        true = VecNormalize(DummyVecEnv([lambda: Counts([3, 4])]), training=False, norm_reward=False)
        model = PPO("MlpPolicy", env, n_steps=16, batch_size=8, n_epochs=1, seed=0, device="cpu")
        health = HealthCallback(rules=[NEVER], eval_env=true, eval_every=2, n_eval_episodes=2)
        model.learn(64, callback=health if watched else None)
        trained.append(th.cat([p.flatten() for p in model.policy.parameters()]))
    assert th.equal(*trained)
    assert [n.get("true_return") for n in health.history] == [7.0, None, 7.0, None]  # episodes of 3 and 4 steps
    assert true.obs_rms.count == 48 + env.num_envs + 1e-4, (
        "the statistics at the third update, the last one with an evaluation"
    )


def test_environments_with_different_normalisation_are_refused_before_training():
    health = HealthCallback(eval_env=vectorised(Scripted([4])))
    model = PPO("MlpPolicy", VecNormalize(vectorised(Scripted([4]))), n_steps=16, batch_size=8, device="cpu")
    with pytest.raises(
        ValueError, match="only one of the training environment and eval_env is wrapped in VecNormalize: wrap both"
    ):
        model.learn(16, callback=health)


@pytest.mark.parametrize("rules, stop", [([], False), ([NEVER], True)])
def test_a_report_says_if_no_rule_could_be_applied(rules, stop, tmp_path):
    class Stops(BaseCallback):
        def _on_step(self):
            return not stop

    model = PPO("MlpPolicy", vectorised(Scripted([4])), n_steps=16, batch_size=8, n_epochs=1, device="cpu")
    model.learn(16, callback=[HealthCallback(rules=rules, report_folder=tmp_path), Stops()])
    assert "No rule could be applied" in (tmp_path / "health.md").read_text()
    assert not (tmp_path / "health.png").exists()


@pytest.mark.parametrize(
    "kwargs, sentence",
    [
        (dict(on_alarm="panic"), "on_alarm='panic' is unknown; choose one of 'warn', 'stop', 'raise'"),
        (dict(rules=[SURE, SURE]), "two rules have the name 'sure'"),
        (dict(rules=[Rule("r", "entropi", Above(0), "s", "m")]), "metric 'entropi' is unknown; choose entropy"),
        (dict(rules=[Rule("r", "kl", RoseWhileOtherFell("kll", 4, 0.1), "s", "m")]), "metric 'kll' is unknown; choose kl"),
        (dict(quiet=0), "quiet=0 must be a whole number"),
        (dict(eval_every=0), "eval_every=0 must be a whole number"),
    ],
)
def test_bad_arguments_are_refused(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        HealthCallback(**kwargs)


def test_every_default_rule_has_a_source_and_a_known_metric():
    for rule in DEFAULT_RULES:
        assert rule.sources and rule.metric in METRICS, rule.name
        assert rule.meaning[0].islower() and not rule.meaning.endswith(".") and not rule.remedy.endswith(".")


def test_eval_env_may_be_a_gymnasium_environment():
    health = HealthCallback(rules=[NEVER], eval_env=gym.make("CartPole-v1"), n_eval_episodes=1)
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=8, n_epochs=1, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(16, callback=health)
    assert health.history[0]["true_return"] >= 8
