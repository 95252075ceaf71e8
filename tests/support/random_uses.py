"""
Random uses of the algorithms (arguments × spaces × policies × environments) and the outcome of each.

A draw trains for two updates or is refused before training. Only numbers that are not finite may be refused later; policy and
optimizer are then as they were before the rollout.
"""

import contextlib
import copy
import inspect
import io
import math
import re
import warnings
from dataclasses import dataclass, field
from traceback import walk_tb
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from hypothesis import strategies as st
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from support.capabilities import BOX, DICT, IMAGE, MIXED, QUICK
from support.models import assert_same, assert_same_optimizer, parameters
from support.small_environments import DEVICE, AnySpace, vectorised

from sb3_pgx.core.schedules import Cosine
from sb3_pgx.registry import ALGORITHMS

NAN, INF = math.nan, math.inf
TRAINED, REFUSED, SB3S, LATER = "trained", "refused before training", "refused by SB3", "refused for its numbers"

# ------------------------------------------------------------------------------------------------ what is drawn

FLAG = [True, False]
COEFFICIENT = [0, 0.01, 0.5, "0.1", "lin_0.1", Cosine(0.1, 0.01), 1e3, 1e30]
RATE = [3e-4, 1e-2, 0, "3e-4", "lin_1e-2", 1.0, 1e4, 1e10, 1e30]
COUNT = [1, 2, 3]
# Values that make sense of themselves, by argument.
SENSIBLE: dict[str, list[Any]] = {
    "learning_rate": RATE,
    "critic_learning_rate": RATE,
    **{n: COEFFICIENT for n in ("ent_coef", "vf_coef", "q_coef")},
    **{n: [0, 0.5, 0.99, 1, np.float32(0.9)] for n in ("gamma", "gae_lambda", "average_coef")},
    **{n: COUNT for n in ("n_epochs", "n_episodes", "n_critic_updates", "cg_max_steps", "line_search_max_iter")},
    **{n: COUNT for n in ("sub_sampling_factor", "n_dueling_samples", "replay_batch")},
    "n_steps": [1, 2, 5, np.int64(6)],
    **{n: [1, 2, 4, 7, 100] for n in ("batch_size", "critic_batch_size")},
    "clip_range": [0, 1e-6, 0.2, "lin_0.2", 10.0],
    "clip_range_vf": [None, 1e-6, 0.2, "lin_0.2"],
    "max_grad_norm": [None, 1e-6, 0.5, INF],
    "sde_sample_freq": [-1, 0, 1, 3],
    **{n: [None, 1e-6, 0.01, "lin_0.01", INF] for n in ("target_kl", "early_stop_kl")},
    **{n: [0, 0.5, 1.5, 1e6, INF] for n in ("kl_coef", "kl_tolerance", "kl_factor", "hinge_coef", "importance_clip")},
    **{n: [0, 1e-6, 1.0, 1e6, INF] for n in ("trust_region_delta", "step_size", "critic_epsilon")},
    **{n: [0, 1e-6, 0.5, 1.0] for n in ("cg_damping", "cg_tolerance", "line_search_shrinking_factor")},
    "max_episode_steps": [10, 1000],
    "buffer_size": [1, 20, 48],
    "replay_start": [0, 12, 100],
    "replay_ratio": [0, 0.5, 4],
    "stats_window_size": [None, 0, 1, 100],
    "seed": [None, 0, 2**32 - 1, np.int64(3)],
    "device": [DEVICE],
    "compile": [True, False, "auto"],
    "baseline": [None, "mean", "loo", "optimal", "optimal_per_parameter"],
    "step_rule": ["kl", "fixed"],
    "critic": ["sgd", "trust_region"],
    "trust_region_statistics": ["probs", "logits"],
    "on_policy_update": [None, True, False],
    "rollout_buffer_class": [None, RolloutBuffer],
    "rollout_buffer_kwargs": [None, {}],
    "verbose": [0],
    "tensorboard_log": [None],
}
# Values that make no sense of many arguments, and sense of some.
ODD: list[Any] = [True, False, None, "no", "0.5", "lin_0.1", "", NAN, INF, -INF, -1, 0, 1, 2, 0.5, 2.5, 1e-300, 1e30, 1e300]
ODD += [np.float32(0.5), np.int64(3), np.bool_(True), np.array(0.25), np.array(2), np.array([1.0, 2.0]), th.tensor(0.5)]
ODD += [[], {}, object(), 1j, b"1", lambda progress: 0.1, lambda progress: NAN, lambda progress: None]
POLICY_KWARGS: dict[str, list[Any]] = {
    "net_arch": [[], [4], [-1], [0], [2.5], ["4"], 4, None, dict(pi=[4], vf=[4]), dict(pi=[4]), [dict(pi=[4], vf=[0])]],
    "activation_fn": [th.nn.ReLU, th.nn.Tanh, "relu", None],
    "optimizer_class": [
        getattr(th.optim, name) for name in ("Adam", "AdamW", "SGD", "RMSprop", "NAdam", "LBFGS", "SparseAdam")
    ],
    "optimizer_kwargs": [{}, dict(weight_decay=0.1), dict(lr=0.1), [1]],
    "log_std_init": [-90.0, -20, -1.0, 0, 30.0, 80.0, NAN, "0", None],
    "ortho_init": FLAG,
    "share_features_extractor": FLAG,
    "log_std_bounds": [(-5, 2), (2, -5), (NAN, 1)],
    "state_dependent_std": FLAG,
    "squash_output": FLAG,
}
OBSERVATIONS = [BOX, IMAGE, DICT, spaces.Box(-1, 1, (2, 3)), spaces.Box(0, 9, (3,), np.int64), spaces.Box(-1, 1, ())]
OBSERVATIONS += [spaces.Box(-1, 1, (0,)), spaces.Box(-INF, INF, (2,)), spaces.Box(0, 255, (8, 8, 3), np.uint8)]
OBSERVATIONS += [spaces.Discrete(3), spaces.Discrete(3, start=2), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)]
OBSERVATIONS += [
    spaces.MultiDiscrete([2, 3], start=[1, -1]),
    spaces.MultiDiscrete([[2, 3], [2, 2]]),
    spaces.MultiBinary([2, 2]),
]
OBSERVATIONS += [spaces.Dict({}), spaces.Dict({"x.y": BOX}), spaces.Dict({"a": BOX, "b": spaces.Box(-1, 1, ())})]
ACTIONS = [
    spaces.Discrete(2),
    spaces.Discrete(1),
    spaces.Discrete(3, start=-1),
    BOX,
    spaces.Box(2, 5, (2,)),
    spaces.Box(-1, 1, ()),
]
ACTIONS += [spaces.Box(-1, 1, (0,)), spaces.Box(-1, 1, (2, 2)), spaces.Box(0, 5, (2,), np.int64), spaces.MultiDiscrete([2, 3])]
ACTIONS += [spaces.MultiDiscrete([2, 3], start=[1, 5]), spaces.MultiDiscrete([[2, 3], [2, 2]]), spaces.MultiBinary(2)]
ACTIONS += [spaces.MultiBinary([2, 2]), MIXED, spaces.Tuple([spaces.Discrete(3), BOX]), spaces.Tuple([])]
ACTIONS += [spaces.Dict(a=spaces.Dict(b=BOX)), spaces.Dict(a=BOX, b=spaces.MultiBinary([2, 2]))]
POLICIES = ["MlpPolicy", "CnnPolicy", "MultiInputPolicy", ActorCriticPolicy, "mlp", None, 3]
SCALES = [1.0, 1.0, 1.0, 1e-3, 1e6, 1e20, 1e30]  # of rewards


@dataclass
class Draw:
    """One use of an algorithm: its name, spaces, arguments and environment."""

    name: str
    policy: Any
    observations: spaces.Space
    actions: spaces.Space
    n_envs: int
    normalised: bool
    scale: float
    arguments: dict[str, Any] = field(default_factory=dict)


def is_taken(space: spaces.Space) -> bool:
    """Return whether policies take the space."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return space in (DICT, MIXED)
    flat = not isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary) or len(space.shape) == 1
    return flat and 0 not in space.shape and (space.shape != () or isinstance(space, spaces.Discrete))


def arguments_of(name: str) -> list[str]:
    """Return the arguments of an algorithm's constructor that may be drawn."""
    parameters = inspect.signature(ALGORITHMS[name].__init__).parameters
    return [argument for argument in parameters if argument not in ("self", "policy", "env", "_init_setup_model")]


@st.composite
def draws(draw: Any, names: tuple[str, ...] = tuple(ALGORITHMS)) -> Draw:
    """A Hypothesis strategy of draws: most arguments are sensible, some are odd."""
    name = draw(st.sampled_from(names))
    odd_space = st.integers(0, 7).map(lambda n: n == 7)
    observations = draw(st.sampled_from(OBSERVATIONS if draw(odd_space) else [x for x in OBSERVATIONS if is_taken(x)]))
    actions = draw(st.sampled_from(ACTIONS if draw(odd_space) else [x for x in ACTIONS if is_taken(x)]))
    fitting = "MultiInputPolicy" if isinstance(observations, spaces.Dict) else "MlpPolicy"
    policy = draw(st.sampled_from([fitting] * 40 + POLICIES))
    known = arguments_of(name)
    arguments = dict(QUICK[name])
    for argument in draw(st.lists(st.sampled_from(known), max_size=5, unique=True)):
        if argument == "policy_kwargs":
            keys = draw(st.lists(st.sampled_from(list(POLICY_KWARGS)), max_size=3, unique=True))
            arguments[argument] = {key: draw(st.sampled_from(POLICY_KWARGS[key])) for key in keys}
        else:
            arguments[argument] = draw(st.sampled_from(SENSIBLE.get(argument, FLAG)))
    odd = [n for n in known if n != "tensorboard_log"]  # a string is a folder
    for argument in draw(st.lists(st.sampled_from(odd), max_size=1)) if draw(st.booleans()) else []:
        arguments[argument] = draw(st.sampled_from(ODD))
    n_envs, normalised = draw(st.integers(1, 3)), draw(st.sampled_from([False, False, False, True]))
    return Draw(name, policy, observations, actions, n_envs, normalised, draw(st.sampled_from(SCALES)), arguments)


# ------------------------------------------------------------------------------------------------ what becomes of it

# What SB3 says in a sentence of its own.
SB3_SAYS = (
    "squash_output=True is only available when using gSDE",
    "gSDE) can only be used with continuous actions",
    "You must use `MultiInputPolicy`",
)
OF_NUMBERS = re.compile(r"finite|\bnan\b|\binf\b|KL divergence|to satisfy the constraint")


class Scaled(AnySpace):
    """An environment whose rewards are multiplied by ``scale``."""

    scale = 1.0

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, reward * self.scale, *rest


class Before(BaseCallback):
    """A callback that keeps the policy at the start of each rollout, and counts updates."""

    updates, steps = 0, 0
    kept: Any = None

    def _on_rollout_start(self) -> None:
        policy = self.model.policy
        self.kept = parameters(self.model), copy.deepcopy(policy.optimizer.state_dict())

    def _on_step(self) -> bool:
        self.steps += 1
        return self.updates < 2

    def on_update_end(self, metrics: dict[str, float]) -> None:
        self.updates += 1


def environment(draw: Draw) -> Any:
    """Return the environments in which a draw trains."""
    envs = []
    for _ in range(draw.n_envs):
        env = Scaled(copy.deepcopy(draw.observations), copy.deepcopy(draw.actions))
        env.scale = draw.scale
        envs.append(env)
    env = vectorised(*envs)
    boxes = draw.observations.values() if isinstance(draw.observations, spaces.Dict) else [draw.observations]
    normalised = draw.normalised and all(isinstance(box, spaces.Box) for box in boxes)  # as VecNormalize wants it
    return VecNormalize(env) if normalised else env


def outcome(draw: Draw) -> str:
    """
    Use an algorithm as drawn.

    :return: what became of it
    :raises AssertionError: it is none of what may
    """
    callback, model = Before(), None
    arguments = {"seed": 0, "device": DEVICE, **draw.arguments}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            env = environment(draw)
            model = ALGORITHMS[draw.name](draw.policy, env, **arguments)
            model.learn(1000, callback=callback)
        except Exception as error:
            return refusal(draw, error, model, callback)
    assert callback.updates >= 2, f"{callback.updates} updates"
    assert all(th.isfinite(p).all() for p in model.policy.parameters()), "a parameter is not finite"
    return TRAINED


def refusal(draw: Draw, error: Exception, model: Any, callback: Before) -> str:
    """Return the kind of a refusal, after checking that it is a sentence of its own and changed nothing."""
    text, where = str(error), innermost(error)
    if callback.steps == 0 and any(sentence in text for sentence in SB3_SAYS):
        return SB3S
    if not where.startswith("sb3_pgx.") or "\n" in text or len(text) < 20:
        raise AssertionError(f"{type(error).__name__} from {where}, no sentence of ours") from error
    if callback.steps == 0:
        assert isinstance(error, ValueError | TypeError | AssertionError)  # the last one where SB3 has it, too
        return REFUSED
    assert isinstance(error, ValueError)
    if "has not ended its episode" in text:
        return REFUSED
    assert OF_NUMBERS.search(text), f"refused in training, and not for its numbers: {text}"
    before, optimizer = callback.kept
    assert_same(parameters(model), before)
    assert_same_optimizer(model.policy.optimizer.state_dict(), optimizer)
    return LATER


def innermost(error: BaseException) -> str:
    """Return the module of the line that raised."""
    *_, (frame, _) = walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "")
