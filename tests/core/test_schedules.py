"""Coefficients: numbers, functions and strings."""

import base64
import json
import pickle
import zipfile

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from support.small_environments import DEVICE, Scripted, vectorised

from sb3_pgx import A2C, PPO, REINFORCE
from sb3_pgx.core.schedules import Cosine, Exponential, Piecewise, as_schedule, evaluate_coefficient


@pytest.mark.parametrize(
    "value, expected",
    [
        (0.3, 0.3),
        (2, 2.0),
        (np.float32(0.25), 0.25),
        ("lin_0.01", 0.0025),
        ("0.01", 0.01),
        ("3e-4", 3e-4),
        (lambda p: p * p, 0.0625),
    ],
)
def test_a_coefficient_is_a_number_a_function_or_a_string(value, expected):
    result = evaluate_coefficient(value, 0.25, "ent_coef")
    assert type(result) is float and result == pytest.approx(expected)


@pytest.mark.parametrize("value", ["tan_1", "1_0", "nan", "", True, None, [1.0], -0.1, float("nan"), lambda p: -p])
def test_anything_else_is_an_error_that_names_it(value):
    with pytest.raises(ValueError, match="ent_coef"):
        evaluate_coefficient(value, 0.5, "ent_coef")


@pytest.mark.parametrize(
    ("text", "values"),  # after 0, 1/4, 1/3, 1/2 and all of training
    [
        ("lin_0.12", [0.12, 0.09, 0.08, 0.06, 0.0]),
        ("lin_0.12_0.24", [0.12, 0.15, 0.16, 0.18, 0.24]),
        ("cos_0.4", [0.4, 0.2 + 0.2 * 0.5**0.5, 0.3, 0.2, 0.0]),  # cos π/4 = √½, cos π/3 = ½
        ("cos_0.5_0.1", [0.5, 0.3 + 0.2 * 0.5**0.5, 0.4, 0.3, 0.1]),
        ("exp_1e-2_1e-4", [0.01, 0.01 / 10**0.5, 0.01 / 100 ** (1 / 3), 0.001, 0.0001]),
        ("piecewise_0:0.8_0.5:0.4_1:0", [0.8, 0.6, 1.6 / 3, 0.4, 0.0]),
        ("piecewise_0:0.1_0.25:0.5_1:0.2", [0.1, 0.5, 0.5 - 0.3 / 9, 0.4, 0.2]),
    ],
)
def test_a_string_stands_for_its_closed_form_and_stays_at_its_ends(text, values):
    schedule = as_schedule(text, "ent_coef")
    done = [0.0, 0.25, 1 / 3, 0.5, 1.0]
    np.testing.assert_allclose([schedule(1 - p) for p in done], values, rtol=1e-12, atol=1e-15)
    assert schedule(-0.1) == pytest.approx(values[-1], abs=1e-15)  # SB3's last rollout overshoots
    assert evaluate_coefficient(text, 0.0, "ent_coef") == pytest.approx(values[-1], abs=1e-15)  # not below 0 by rounding


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("cos_0.4_0.1", Cosine(0.4, 0.1)),
        ("cos_0.4", Cosine(0.4)),
        ("exp_0.4_0.1", Exponential(0.4, 0.1)),
        ("piecewise_0:0.4_0.3:0.1_1:0.2", Piecewise([(0, 0.4), (0.3, 0.1), (1, 0.2)])),
    ],
)
def test_a_class_can_stand_for_its_string_and_can_be_pickled(text, schedule):
    assert as_schedule(text, "ent_coef").value_schedule == schedule == pickle.loads(pickle.dumps(schedule))
    assert evaluate_coefficient(schedule, 0.25, "ent_coef") == evaluate_coefficient(text, 0.25, "ent_coef") > 0.0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("lin_", "could not convert"),
        ("lin_x", "could not convert string to float: 'x'"),
        ("lin", "lin takes a start, or a start and an end"),
        ("lin_1_2_3", "lin takes a start, or a start and an end"),
        ("lin_-1", "start is -1.0; it must be finite and >= 0"),
        ("lin_0.1_inf", "end is inf; it must be finite"),
        ("tan_1", "'tan' is not a kind of schedule"),
        ("cos_nan", "start is nan"),
        ("exp_0.1", "exp takes a start and an end"),
        ("exp_0.1_0", "an exponential never reaches 0"),
        ("exp_0_0.1", "an exponential never reaches 0"),
        ("exp_-0.1_0.1", "start is -0.1"),
        ("piecewise", "must start at 0 and end at 1"),
        ("piecewise_0:0.1", "must start at 0 and end at 1"),
        ("piecewise_0.1:0.1_1:0", "must start at 0 and end at 1"),
        ("piecewise_0:0.1_0.9:0", "must start at 0 and end at 1"),
        ("piecewise_0:0.1_0.5:0.2_0.4:0.2_1:0", "must rise from each point"),
        ("piecewise_0:0.1_0.5:0.2_0.5:0.1_1:0", "must rise from each point"),
        ("piecewise_0:0.1_nan:0.2_1:0", "must rise from each point"),
        ("piecewise_0:0.1_0.5:-0.2_1:0", "value 1 is -0.2"),
        ("piecewise_0.1_0", "could not convert"),
    ],
)
def test_a_broken_string_is_told_with_its_name_the_problem_and_what_is_possible(text, problem):
    with pytest.raises(ValueError, match=f'^clip_range="{text}" is not a schedule: .*{problem}.*; give a number, a function'):
        as_schedule(text, "clip_range")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Cosine(-1.0), "Cosine: start is -1.0"),
        (lambda: Exponential(1.0, 0.0), r"Exponential\(start=1.0, end=0.0\): an exponential never reaches 0"),
        (lambda: Piecewise({0.0: 1.0, 1.0: 0.0}), "each point must be a pair"),
        (lambda: Piecewise([(0.0, 1.0, 2.0)]), "each point must be a pair"),
        (lambda: Piecewise([]), "must start at 0"),
    ],
)
def test_a_broken_schedule_is_an_error_where_it_is_made(make, problem):
    with pytest.raises(ValueError, match=problem):
        make()


def saved_data(path):
    """What a zip holds beside the tensors, with what it pickles."""
    data = json.loads(zipfile.ZipFile(path).read("data"))
    pickles = [base64.b64decode(v[":serialized:"]) for v in data.values() if isinstance(v, dict) and ":serialized:" in v]
    return json.dumps(data).encode() + b"".join(pickles)


@pytest.mark.parametrize(("text", "own"), [("lin_0.1", False), ("lin_0.1_0.02", False), ("cos_0.1_0.02", True)])
def test_only_what_is_no_line_puts_an_object_of_this_package_into_the_zip(text, own, tmp_path):
    model = PPO(
        "MlpPolicy", vectorised(Scripted([4])), n_steps=8, batch_size=8, device=DEVICE, learning_rate=text, clip_range=text
    )
    model.save(tmp_path / "model.zip")
    assert (b"sb3_pgx" in saved_data(tmp_path / "model.zip")) == own
    assert model.learning_rate == text
    loaded = PPO.load(tmp_path / "model.zip", device=DEVICE)
    for schedule in (loaded.learning_rate, loaded.clip_range):
        assert isinstance(schedule.value_schedule, Cosine if own else LinearSchedule)
        assert schedule(0.5) == as_schedule(text, "")(0.5) > 0


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
