"""Coefficients: numbers, functions and strings."""

import numpy as np
import pytest
from problems import DEVICE, Scripted, vectorised
from stable_baselines3.common.callbacks import BaseCallback

from sb3_pgx import A2C, REINFORCE
from sb3_pgx.common.schedules import evaluate_coefficient


@pytest.mark.parametrize(
    "value, expected",
    [(0.3, 0.3), (2, 2.0), (np.float32(0.25), 0.25), ("lin_0.01", 0.0025), (lambda p: p * p, 0.0625)],
)
def test_a_coefficient_is_a_number_a_function_or_a_string(value, expected):
    result = evaluate_coefficient(value, 0.25, "ent_coef")
    assert type(result) is float and result == pytest.approx(expected)


@pytest.mark.parametrize("value", ["cos_1", "lin_", "lin_x", True, None, [1.0], -0.1, float("nan"), lambda p: -p])
def test_anything_else_is_an_error_that_names_it(value):
    with pytest.raises(ValueError, match="ent_coef"):
        evaluate_coefficient(value, 0.5, "ent_coef")


class SetAt(BaseCallback):
    def __init__(self, update, value):
        super().__init__()
        self.update, self.value, self.losses = update, value, []

    def _on_step(self):
        return True

    def on_update_end(self, metrics):
        self.losses.append(metrics["loss"] - metrics["policy_loss"])
        if len(self.losses) == self.update:
            self.model.ent_coef = self.value


def test_the_attribute_keeps_what_the_user_gave_and_setting_it_takes_effect_at_the_next_update():
    model = REINFORCE("MlpPolicy", vectorised(Scripted([4])), n_episodes=1, ent_coef="lin_0.5", device=DEVICE)
    callback = SetAt(2, 0.0)
    model.learn(16, callback=callback)
    assert [loss < -0.01 for loss in callback.losses] == [True, True, False, False] and callback.losses[2:] == [0.0, 0.0]
    assert REINFORCE("MlpPolicy", vectorised(Scripted([4])), ent_coef="lin_0.5", device=DEVICE).ent_coef == "lin_0.5"


def learning_rates(model, timesteps, change=lambda model: None):
    """Of every update."""
    rates = []

    class Keep(BaseCallback):
        def _on_step(self):
            return True

        def on_update_end(self, metrics):
            rates.append(self.model.policy.optimizer.param_groups[0]["lr"])
            change(self.model)

    model.learn(timesteps, callback=Keep())
    return rates


def a2c(learning_rate):
    return A2C("MlpPolicy", vectorised(Scripted([4])), n_steps=5, learning_rate=learning_rate, device=DEVICE)


def test_setting_the_learning_rate_takes_effect_at_the_next_update():
    model = a2c(0.1)
    assert learning_rates(model, 15, lambda m: setattr(m, "learning_rate", 0.05)) == [0.1, 0.05, 0.05]
    assert learning_rates(model, 10, lambda m: setattr(m, "lr_schedule", lambda _: 0.02)) == [0.05, 0.02]  # SB3's way


def test_a_learning_rate_that_turns_negative_is_refused_before_the_step():
    model = a2c(lambda p: p - 0.5)
    with pytest.raises(ValueError, match="learning_rate is -0"):
        model.learn(20)
    assert model._n_updates == 2


def test_progress_never_falls_below_zero_where_the_last_rollout_overshoots():
    assert learning_rates(a2c(lambda p: p), 7)[-1] == 0.0


def test_a_learning_rate_string_falls_linearly_to_zero_and_no_further():
    model = a2c("lin_0.1")
    rates = learning_rates(model, 18)  # the last rollout overshoots
    np.testing.assert_allclose(rates, [0.1 * (1 - 5 / 18), 0.1 * (1 - 10 / 18), 0.1 * (1 - 15 / 18), 0.0], atol=1e-12)
    assert model.learning_rate == "lin_0.1"
