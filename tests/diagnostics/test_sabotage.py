"""Runs with a planted fault: a certain rule must fire soon enough. In healthy runs of the same length no rule may fire."""

import warnings

import pytest
from sb3_contrib import TRPO as ContribTRPO
from selection import mostly_slow
from stable_baselines3 import A2C as SB3A2C
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3 import SAC as SB3SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from support.planted_faults import EPISODE, FAULTS, Fault, is_off_policy, settings_of, steps_per_update

from sb3_pgx import A2C, D4PG, DDPG, PPO, SAC, TD3, SoftQLearning
from sb3_pgx.diagnostics import DEFAULT_RULES, HealthCallback, HealthWarning


def updates_until_it_fires(fault: Fault) -> tuple[int | None, HealthCallback]:
    """Train for as long as the rule may take. Return the update at which it fired, or ``None``, and the callback."""
    fired: dict[str, int] = {}

    class Noted(HealthCallback):
        def on_measured(self) -> None:
            super().on_measured()
            for state in self.rule_states:
                if state.in_alarm:
                    fired.setdefault(state.rule.name, len(self.history))

    health = Noted(costly_every=1, **fault.health)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HealthWarning)
        model, rule = fault.model(), next(rule for rule in DEFAULT_RULES if rule.name == fault.rule)
        model.learn(int(fault.within / rule.until) * steps_per_update(model), callback=health, log_interval=1)
    return fired.get(fault.rule), health


@pytest.mark.parametrize("name", mostly_slow(FAULTS, [*FAULTS][::5]))
def test_a_planted_fault_is_found_in_time(name):
    fault = FAULTS[name]
    when, health = updates_until_it_fires(fault)
    assert when is not None and when <= fault.within, [s.rule.name for s in health.rule_states if s.alarms]
    state = next(s for s in health.rule_states if s.rule.name == fault.rule)
    assert f"| {fault.rule} | **alarm** at {state.alarms} of {state.judged} updates |" in health.report()
    assert any(fault.rule in warning and state.rule.remedy in warning for warning in health.warnings)


@pytest.mark.parametrize(
    "algorithm, env",
    mostly_slow(
        [
            (PPO, "CartPole-v1"),
            (SB3PPO, "Pendulum-v1"),
            (A2C, "Pendulum-v1"),
            (SB3A2C, "CartPole-v1"),
            (ContribTRPO, "CartPole-v1"),
            (ContribTRPO, "Pendulum-v1"),
            (SAC, "Pendulum-v1"),
            (TD3, "Pendulum-v1"),
            (DDPG, "Pendulum-v1"),
            (D4PG, "Pendulum-v1"),
            (SoftQLearning, "Pendulum-v1"),
            (SB3SAC, "Pendulum-v1"),
        ],
        quick=[(PPO, "CartPole-v1"), (TD3, "Pendulum-v1")],
    ),
)
def test_no_rule_fires_in_a_healthy_run_of_the_same_length(algorithm, env):
    limit = dict(max_episode_steps=EPISODE) if is_off_policy(algorithm) else {}
    made = make_vec_env(env, 4, seed=0, env_kwargs=limit)
    venv = VecNormalize(made, gamma=0.95) if env == "Pendulum-v1" else made
    model = algorithm("MlpPolicy", venv, gamma=0.95, **settings_of(algorithm))
    health = HealthCallback(costly_every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", HealthWarning)
        model.learn(30 * steps_per_update(model), callback=health, log_interval=1)
    assert len(health.history) == 30 and not any(state.alarms for state in health.rule_states)
    assert health.report().splitlines()[2].startswith("Healthy: none of ")


def test_every_rule_has_a_fault_that_it_must_find():
    assert {fault.rule for fault in FAULTS.values()} == {rule.name for rule in DEFAULT_RULES}
