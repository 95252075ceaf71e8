"""Examine the logs of healthy and unhealthy runs from the command line."""

from contextlib import suppress

import pytest
from selection import each_value
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.env_util import make_vec_env
from support.observers import logging_to
from support.packages import without

from sb3_pgx import PPO
from sb3_pgx.cli import main
from sb3_pgx.diagnostics import DiagnosticsCallback, HealthCallback, HealthError
from sb3_pgx.doctor.log import examine_log


def cartpole(model_class, **settings):
    envs = make_vec_env("CartPole-v1", 4, seed=0)
    return model_class("MlpPolicy", envs, n_steps=32, n_epochs=4, seed=0, device="cpu", **settings)


def log(folder, callback, **settings):
    model = cartpole(SB3PPO, **settings)
    with logging_to(folder, model):
        model.learn(6 * 128, callback=callback)


@pytest.mark.parametrize("with_diagnostics", [True, False])
def test_the_log_of_an_unhealthy_run_gives_an_alarm_and_a_remedy(with_diagnostics, tmp_path, capsys):
    log(tmp_path, DiagnosticsCallback() if with_diagnostics else None, batch_size=32, learning_rate=0.1)
    assert main(["doctor", "log", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "alarm    steps too large: each update changes the policy so much" in text
    assert "→ lower learning_rate to a third, or set target_kl=0.02" in text
    assert "approx_kl above 0.1 at " in text
    assert ("entropy collapse" in text.partition("not measured: ")[2]) == (not with_diagnostics)


def test_the_log_of_a_healthy_run_passes(tmp_path, capsys):
    log(tmp_path, DiagnosticsCallback(), batch_size=32)
    assert main(["doctor", "log", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("Healthy: none of ")


@pytest.mark.filterwarnings("ignore::sb3_pgx.diagnostics.HealthWarning")
@pytest.mark.parametrize(
    "arguments, model_class",
    each_value(
        [
            ({}, {}),
            ({}, {"log_interval": 2}),
            ({"every": 2}, {}),
            ({"on_alarm": "stop"}, {}),
            ({"on_alarm": "raise"}, {}),
            ({}, {"reset_num_timesteps": False}),
        ],
        [PPO, SB3PPO],
    ),
)
def test_the_log_the_callback_and_its_report_agree_on_what_fired(arguments, model_class, tmp_path, monkeypatch):
    without(monkeypatch, "matplotlib")  # drawing takes longer than training
    settings, learn = arguments
    health = HealthCallback(**settings)
    model = cartpole(model_class, batch_size=32, learning_rate=0.05)
    with logging_to(tmp_path, model), suppress(HealthError):
        for _ in range(2 if "reset_num_timesteps" in learn else 1):
            model.learn(6 * 128, callback=health, **learn)
    during = [(s.rule.name, s.measured, s.judged, s.alarms, s.in_alarm) for s in health.rule_states]
    afterwards = [(s.rule.name, s.measured, s.judged, s.alarms, s.in_alarm) for s in examine_log(tmp_path).states]
    assert afterwards == during and any(alarms for *_, alarms, _ in during)
    report = max(tmp_path.glob("health*.md"), key=lambda path: len(path.name)).read_text()
    for name, _, judged, alarms, _ in during:
        assert not alarms or f"| {name} | **alarm** at {alarms} of {judged} updates |" in report
    assert (tmp_path / "health.html").exists()


def test_the_log_does_not_judge_what_the_callback_left_out(tmp_path):
    """SB3's own approx_kl is that of the last epoch: the verdict would differ from that of the run."""
    log(tmp_path, DiagnosticsCallback(metrics=("entropy",)), batch_size=32, learning_rate=0.1)
    states = {state.rule.name: state for state in examine_log(tmp_path).states}
    assert states["steps too large"].measured == 0


def test_a_folder_without_a_log_is_reported_in_one_sentence(tmp_path, capsys):
    assert main(["doctor", "log", str(tmp_path)]) == 2
    assert "progress.csv does not exist; pass a folder to which a run logged" in capsys.readouterr().err
