"""Whose fault an exception is: the user's passes through as it is, and only NaN and infinity get advice on learning rates."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from support.capabilities import BOX, OwnExtractor, envs
from support.models import make, takes
from support.small_environments import AnySpace, vectorised
from torch.distributions import Categorical, Normal

from sb3_pgx import PPO, TRPO
from sb3_pgx.diagnostics import HealthCallback, HealthWarning, Rule
from sb3_pgx.diagnostics.conditions import Above

HAS_NOTES = sys.version_info >= (3, 11)


class OwnError(Exception):
    """Of a user's."""


# Texts such as torch and functorch would give, and errors of torch's that no learning rate mends.
ERRORS = [
    lambda: ValueError("Expected parameter loc to satisfy the constraint Real(), but found invalid values: nan"),
    lambda: RuntimeError("no forward AD for this, says functorch"),
    lambda: th.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    lambda: OwnError(),
]


class FailsAtCall(OwnExtractor):
    """Raises a given error at a given call."""

    calls, fails_at, error = 0, None, None

    def forward(self, observations):
        type(self).calls += 1
        if self.calls == self.fails_at:
            raise self.error
        return super().forward(observations)


def fails_at(call, name, error):
    """What a training ends with; and how many calls there were."""

    class Fails(FailsAtCall):
        fails_at = None

    baseline = dict(baseline="optimal") if takes(name, "baseline") else {}
    model = make(name, policy_kwargs=dict(features_extractor_class=Fails, net_arch=[4]), **baseline)
    Fails.calls, Fails.fails_at, Fails.error = 0, call, error
    try:
        model.learn(24)
    except BaseException as raised:
        return raised, Fails.calls
    return None, Fails.calls


def test_an_exception_of_the_users_comes_as_it_is_from_wherever_the_policy_is_called(name):
    """From acting, the evaluation of rollouts, gradients and what they are looked at with, at any call of a layer."""
    _, n_calls = fails_at(None, name, None)
    for call in [*range(1, 4), *range(4, n_calls, max(1, n_calls // 12)), n_calls]:
        error = ERRORS[call % len(ERRORS)]()
        text = str(error)
        raised, calls = fails_at(call, name, error)
        assert calls == call
        assert raised is error and str(raised) == text, f"call {call} of {n_calls} ended in {raised!r}"


@pytest.mark.skipif(not HAS_NOTES, reason="notes came with Python 3.11")
def test_a_note_says_where_it_was_raised():
    notes = {}
    for call in range(1, 40):
        error, _ = fails_at(call, "ppo", OwnError())
        for note in getattr(error, "__notes__", []):
            notes.setdefault(note, call)
    assert list(notes) == [
        "raised while the policy acted after update 0",
        "raised while the policy evaluated a rollout",
        "raised while the policy learned, in update 1",
        "raised while the policy acted after update 2",
        "raised while the policy learned, in update 3",
    ]


@pytest.mark.parametrize("compile", [False, True])
def test_a_layer_of_the_wrong_size_is_no_matter_of_learning_rates(compile, graphs, name):
    class WrongSize(OwnExtractor):
        def forward(self, observations):
            return super().forward(observations)[:, :-1]

    with warnings.catch_warnings(), pytest.raises(RuntimeError, match=r"^(addmm: )?mat1 and mat2 shapes cannot be multiplied"):
        warnings.simplefilter("ignore")  # that it runs uncompiled
        make(name, policy_kwargs=dict(features_extractor_class=WrongSize), compile=compile).learn(24)


class Spoils(BaseCallback):
    """Makes a parameter NaN, infinite or huge before a given step."""

    def __init__(self, parameter, value, step):
        super().__init__()
        self.parameter, self.value, self.at = parameter, value, step

    def _on_step(self):
        if self.n_calls == self.at:
            with th.no_grad():
                self.model.policy.get_parameter(self.parameter).fill_(self.value)
        return True


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize(
    "value, what",
    [(np.nan, "the parameter action_net.weight is not finite"), (3e38, "(Expected param|its action is nan)")],
)
def test_numbers_that_are_not_finite_are_refused_with_advice(value, what, compile, graphs, name):
    """Also where every parameter is finite, and what is computed from them is not: inf − inf."""
    observations = spaces.Box(np.float32([50, -100]), np.float32([100, -50]))
    model = make(name, envs(observations, BOX), compile=compile, policy_kwargs=dict(net_arch=[]))
    with pytest.raises(ValueError, match=rf"^the policy cannot act after update 0: {what}.*Load .*lower learning_rate"):
        model.learn(24, callback=Spoils("action_net.weight", value, 2))


def test_a_parameter_that_is_not_finite_does_not_make_the_users_own_error_ours():
    class Guards(OwnExtractor):
        def forward(self, observations):
            if not th.isfinite(self.layer.weight).all():
                raise OwnError("a weight of mine is NaN")
            return super().forward(observations)

    model = make("ppo", policy_kwargs=dict(features_extractor_class=Guards))
    with pytest.raises(OwnError, match=r"^a weight of mine is NaN"):
        model.learn(24, callback=Spoils("features_extractor.layer.weight", np.nan, 2))


@pytest.mark.parametrize(
    "misuse", [lambda: Categorical(probs=th.tensor([-1.0, 2.0])), lambda: Normal(th.zeros(2), -th.ones(2))]
)
def test_a_distribution_that_the_user_misuses_with_finite_numbers_is_the_users(misuse):
    class Misuses(OwnExtractor):
        def forward(self, observations):
            misuse()

    with pytest.raises(ValueError, match=r"^Expected parameter (probs|scale) .*to satisfy the constraint"):
        make("a2c", policy_kwargs=dict(features_extractor_class=Misuses)).learn(24)


def test_an_environments_exception_comes_as_it_is(name):
    class Breaks(AnySpace):
        def step(self, action):
            raise error

    error = ValueError("learning_rate, loc, nan: texts that look like ours")
    with pytest.raises(ValueError) as raised:
        make(name, vectorised(Breaks(BOX, BOX))).learn(24)
    assert raised.value is error


def test_a_callback_that_fails_on_an_error_does_not_hide_it():
    class Fails(BaseCallback):
        def _on_step(self):
            raise OwnError("the first")

        def on_training_error(self, error):
            raise KeyError("the second")

    with pytest.warns(UserWarning, match="on_training_error of a callback failed with KeyError: 'the second'"):
        with pytest.raises(OwnError, match=r"^the first$"):
            make("ppo").learn(24, callback=Fails())


# ------------------------------------------------------------------------------------------------------- warnings


def where(warned, category, text):
    (found,) = {(w.filename, w.lineno) for w in warned if issubclass(w.category, category) and text in str(w.message)}
    return found


def test_warnings_point_at_the_users_line():
    """That of the constructor, or of ``learn``."""
    rule = Rule("always", "approx_kl", Above(-1.0), "it is", "nothing", ())
    hooked = make("ppo", compile=True)
    hooked.policy.action_net.register_forward_hook(lambda *arguments: None)
    line = sys._getframe().f_lineno
    with pytest.warns() as warned:
        PPO("MlpPolicy", envs(), n_steps=5, batch_size=4, device="cpu")
        TRPO("MlpPolicy", envs(), n_steps=5, batch_size=4, device="cpu")
        make("ppo").learn(24, callback=HealthCallback([rule]))
        hooked.learn(24)
    truncated = {(w.filename, w.lineno) for w in warned if "truncated mini-batch" in str(w.message)}
    assert truncated == {(__file__, line + 2), (__file__, line + 3)}
    assert where(warned, HealthWarning, "always") == (__file__, line + 4)
    assert where(warned, UserWarning, "compile=True: ") == (__file__, line + 5)


TRAINS = """
import warnings
warnings.simplefilter("error", DeprecationWarning)
from sb3_pgx import TRPO
for critic in ("sgd", "trust_region"):
    TRPO("MlpPolicy", "Pendulum-v1", n_steps=16, batch_size=16, critic=critic, device="cpu").learn(32)
"""


def test_nothing_deprecated_is_used():
    """In a process of its own: torch warns of ``torch.jit.script`` once, where forward mode is first used."""
    result = subprocess.run([sys.executable, "-c", TRAINS], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "DeprecationWarning" not in result.stderr
