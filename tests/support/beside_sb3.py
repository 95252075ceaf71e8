"""Run one user script with SB3's class and with ours; both must end with the same parameters."""

import inspect
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import sb3_contrib.trpo.trpo as contrib_trpo
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from support.small_environments import DEVICE, vectorised

import sb3_pgx

SETTINGS: dict[str, dict[str, Any]] = {
    "PPO": dict(n_steps=8, batch_size=8, n_epochs=2, learning_rate=2e-3),
    "A2C": dict(n_steps=8),
    # As many steps of conjugate gradients as it takes to solve the system: sb3-contrib starts them at random.
    "RecurrentPPO": dict(n_steps=8, batch_size=8, n_epochs=2, learning_rate=2e-3),
    "TRPO": dict(n_steps=8, batch_size=8, n_critic_updates=2, cg_max_steps=25, cg_damping=0.5, learning_rate=2e-3),
}
CLASSES = {
    "PPO": (sb3.PPO, sb3_pgx.PPO),
    "A2C": (sb3.A2C, sb3_pgx.A2C),
    "TRPO": (sb3_contrib.TRPO, sb3_pgx.TRPO),
    "RecurrentPPO": (sb3_contrib.RecurrentPPO, sb3_pgx.RecurrentPPO),  # for scripts that name it
}
STEPS = 48  # three updates


class Drift(gym.Env):
    """
    A point in the plane that an action pushes. An episode ends where the point is too far out, or is cut after seven steps.

    :param action_space: three pushes, or two numbers from −1 to 1 each
    """

    observation_space: spaces.Space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, action_space: spaces.Space | None = None, max_steps: int = 7):
        self.action_space = action_space or spaces.Discrete(3)
        self.max_steps, self.wind = max_steps, 0.1
        self.state, self.steps = np.zeros(2), 0

    def observe(self) -> Any:
        return self.state.astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.state, self.steps = self.np_random.uniform(-0.5, 0.5, 2), 0
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        push = np.resize(np.asarray(action, float), 2) - (1.0 if isinstance(self.action_space, spaces.Discrete) else 0.0)
        self.state = 0.9 * self.state + 0.4 * push + self.np_random.normal(self.wind, 0.2, 2)
        self.steps += 1
        far = bool(np.abs(self.state).max() > 1.2)
        cut = self.steps >= self.max_steps and not far
        return self.observe(), float(1 - np.square(self.state).sum()), far, cut, {"distance": float(np.abs(self.state).max())}

    def set_wind(self, wind: float) -> None:
        self.wind = wind


BOX = spaces.Box(-1, 1, (2,), np.float32)


def drifting(action_space: spaces.Space | None = None, n: int = 2, **kwargs: Any) -> Any:
    """Vectorised environments."""
    return vectorised(*(Drift(action_space, **kwargs) for _ in range(n)))


class Make:
    """
    Makes the models of one side.

    :param algorithm: a key of :data:`CLASSES`
    :param ours: whether the class is ours
    :param compile: for ours
    """

    def __init__(self, algorithm: str, ours: bool, compile: bool = False):
        self.algorithm = algorithm
        self.theirs, our_class = CLASSES[algorithm]
        self.cls: Any = our_class if ours else self.theirs
        self.own = dict(compile=compile) if ours else {}

    def __call__(self, policy: Any = "MlpPolicy", env: Any = None, cls: Any = None, **kwargs: Any) -> Any:
        """Make a small model, of the side's class or of a subclass of it. That of RecurrentPPO has an LSTM."""
        policy_kwargs = kwargs.pop("policy_kwargs", dict(net_arch=[8]))
        if self.algorithm == "RecurrentPPO":
            policy, policy_kwargs = policy.replace("Policy", "LstmPolicy"), {**policy_kwargs, "lstm_hidden_size": 8}
        settings = {**SETTINGS[self.algorithm], "seed": 0, "device": DEVICE, "policy_kwargs": policy_kwargs, **kwargs}
        return (cls or self.cls)(policy, drifting() if env is None else env, **settings, **self.own)

    def load(self, path: Any, **kwargs: Any) -> Any:
        """Load a model that SB3 or this package has saved."""
        model = self.cls.load(path, device=DEVICE, **kwargs)
        vars(model).update(self.own)
        return model


class Outcome:
    """
    What a script has come to.

    :param result: of the script: a model, or a model and whatever else has to be the same
    """

    def __init__(self, result: Any):
        model, *others = result if isinstance(result, tuple) else (result,)
        self.parameters = {name: p.detach().cpu().clone() for name, p in model.policy.state_dict().items()}
        self.others = [np.asarray(x, float) for x in others]

    def assert_equals(self, other: "Outcome") -> None:
        assert self.parameters.keys() == other.parameters.keys()
        for name, p in other.parameters.items():
            th.testing.assert_close(self.parameters[name], p, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        for ours, theirs in zip(self.others, other.others, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def solve_without_random_numbers(*args: Any, **kwargs: Any) -> Any:
    """Run sb3-contrib's conjugate gradients without using up random numbers, so that later actions equal ours."""
    with th.random.fork_rng():
        return solve(*args, **kwargs)


solve = contrib_trpo.conjugate_gradient_solver
_theirs: dict[str, Outcome] = {}


def outcome(script: Callable[..., Any], make: Make, **fixtures: Any) -> Outcome:
    """Run a script with the random generators seeded as for every other script."""
    np.random.seed(0)
    th.manual_seed(0)
    return Outcome(script(make, **fixtures))


def idiom(*algorithms: str, quick: bool = False) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """
    Make a test of a script: our class has to end where SB3's does, uncompiled and, for the first algorithm, compiled, too.

    The quick suite runs it with the first algorithm, and with the last one if that is not A2C or PPO again.

    A script takes ``make`` and fixtures, and returns a model, or a tuple of a model and numbers.

    :param algorithms: keys of :data:`CLASSES`; none: all but ``RecurrentPPO``
    :param quick: run it compiled in the quick suite, too, where graphs may make a difference
    """
    names = algorithms or ("PPO", "A2C", "TRPO")
    compiled = pytest.param(names[0], True, id=f"{names[0]}, compiled", marks=[] if quick else pytest.mark.slow)
    in_quick = {names[0], *({names[-1]} - {"A2C", "PPO"})}
    cases = [pytest.param(name, False, id=name, marks=[] if name in in_quick else pytest.mark.slow) for name in names]
    cases.append(compiled)

    def decorate(script: Callable[..., Any]) -> Callable[..., None]:
        arguments = list(inspect.signature(script).parameters.values())[1:]

        @pytest.mark.parametrize("algorithm, compile", cases)
        @pytest.mark.usefixtures("graphs")
        @pytest.mark.filterwarnings("ignore:compile=True:UserWarning")
        def test(algorithm: str, compile: bool, request: Any, monkeypatch: Any, **given: Any) -> None:
            key = script, algorithm, *(request.node.callspec.params.get(argument.name) for argument in arguments)
            if str(key) not in _theirs:
                monkeypatch.setattr(contrib_trpo, "conjugate_gradient_solver", solve_without_random_numbers)
                _theirs[str(key)] = outcome(script, Make(algorithm, ours=False), **given)
            ours = outcome(script, Make(algorithm, ours=True, compile=compile), **given)
            ours.assert_equals(_theirs[str(key)])

        own = list(inspect.signature(test).parameters.values())[:-1]
        marked: Any = test
        marked.__signature__ = inspect.Signature([*own, *arguments])
        marked.__name__, marked.__doc__ = script.__name__, script.__doc__
        marked.pytestmark += getattr(script, "pytestmark", [])
        return test

    return decorate


class OnStep(BaseCallback):
    """A callback that calls a function with itself at every step."""

    def __init__(self, function: Callable[[Any], Any]):
        super().__init__()
        self.function = function

    def _on_step(self) -> bool:
        return self.function(self) is not False


class OnRolloutEnd(OnStep):
    """A callback that calls a function with itself at the end of every rollout."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.function(self)
