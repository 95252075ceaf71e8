"""
The table of capabilities: each cell is a short run that trains or is refused. Also: quick settings per algorithm.

``make table`` runs them all and rewrites the table.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack, VecNormalize
from support.masked_environments import Masked
from support.small_environments import DEVICE, AnySpace, vectorised

from sb3_pgx.registry import ALGORITHMS, EVERY_ALGORITHM

BOX = spaces.Box(-1, 1, (3,), np.float32)
FAR = spaces.Box(2, 5, (2,), np.float32)  # an action that is not rescaled is outside
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
MIXED = spaces.Dict(
    {
        "move": spaces.Box(-1, 1, (2, 2), np.float32),
        "kind": spaces.Discrete(3, start=1),
        "switches": spaces.MultiBinary(2),
        "levels": spaces.MultiDiscrete([2, 3], start=[0, 5]),
        "number": spaces.Box(0, 9, (1,), np.int64),
    }
)
DICT = spaces.Dict({"vector": BOX, "number": spaces.Discrete(3), "picture": IMAGE})

SMALL_LSTM = {"net_arch": [8], "lstm_hidden_size": 8}

# Values with which a model trains within a few steps, by the constructor's argument.
SMALLEST: dict[str, Any] = dict(
    n_steps=6,
    n_episodes=1,
    batch_size=4,
    n_epochs=2,
    n_critic_updates=2,
    cg_max_steps=3,
    buffer_size=48,
    learning_starts=6,
    replay_start=12,
)


def smallest(cls: type) -> dict[str, Any]:
    """Return those values of ``SMALLEST`` that a class's constructor takes."""
    return {name: SMALLEST[name] for name in inspect.signature(cls).parameters if name in SMALLEST}


QUICK: dict[str, dict[str, Any]] = {name: smallest(cls) for name, cls in EVERY_ALGORITHM.items()}

PPOS = ("ppo", "ppo_penalty")
WITHOUT_MEMORY = ("acer", "acktr")  # which refuse recurrent policies
MIXED_ALGORITHMS = [name for name in ALGORITHMS if name != "acer"]  # which act in Dict and Tuple spaces


class OwnExtractor(FlattenExtractor):
    """A user's feature extractor with a layer to train."""

    def __init__(self, observation_space: spaces.Space):
        super().__init__(observation_space)
        self.layer = th.nn.Linear(self.features_dim, self.features_dim)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layer(super().forward(observations))


def train(name: str, policy: str, env: Any, **kwargs: Any) -> Any:
    """Train for about two updates, check that the actor moved and all parameters are finite, and return the model."""
    policy_kwargs = {**({} if policy != "MlpPolicy" else {"net_arch": [8]}), **kwargs.pop("policy_kwargs", {})}
    model = ALGORITHMS[name](policy, env, seed=0, device=DEVICE, policy_kwargs=policy_kwargs, **QUICK[name], **kwargs)
    before = {n: p.detach().clone() for n, p in model.policy.named_parameters()}
    model.learn(24)
    parameters = dict(model.policy.named_parameters())
    assert all(th.isfinite(p).all() for p in parameters.values())
    moved = [n for n, p in parameters.items() if not th.equal(p, before[n])]
    assert any("action_net" in n for n in moved), f"the actor did not learn: only {moved} moved"
    action, _ = model.predict(env.observation_space.sample())
    is_one_choice = isinstance(action, np.ndarray) and not action.ndim
    assert model.action_space.contains(int(action) if is_one_choice else action)
    env.close()
    return model


def envs(observation_space: spaces.Space = BOX, action_space: spaces.Space = BOX, n: int = 2) -> Any:
    return vectorised(*(AnySpace(observation_space, action_space) for _ in range(n)))


def masked() -> Any:
    return vectorised(*(Masked() for _ in range(2)))


def _subprocess() -> Any:
    return SubprocVecEnv([lambda: AnySpace(BOX, BOX)] * 2, start_method="fork")


CELLS: dict[str, Callable[[str], Any]] = {
    "Discrete actions": lambda a: train(a, "MlpPolicy", envs(action_space=spaces.Discrete(3))),
    "Box actions": lambda a: train(a, "MlpPolicy", envs()),
    "MultiDiscrete actions": lambda a: train(a, "MlpPolicy", envs(action_space=spaces.MultiDiscrete([2, 3]))),
    "MultiBinary actions": lambda a: train(a, "MlpPolicy", envs(action_space=spaces.MultiBinary(3))),
    "Dict and Tuple actions": lambda a: [
        train(a, "MlpPolicy", envs(action_space=space)) for space in (MIXED, spaces.Tuple(MIXED.values()))
    ],
    "action masks": lambda a: train(a, "MlpPolicy", masked()),
    "recurrent policies (MlpLstmPolicy, MlpGruPolicy)": lambda a: [
        train(a, policy, envs(), policy_kwargs=SMALL_LSTM) for policy in ("MlpLstmPolicy", "MlpGruPolicy")
    ],
    "masks and memory": lambda a: train(a, "MlpLstmPolicy", masked(), policy_kwargs=SMALL_LSTM),
    "memory and mixed actions": lambda a: train(a, "MlpLstmPolicy", envs(action_space=MIXED), policy_kwargs=SMALL_LSTM),
    "Discrete observations": lambda a: train(a, "MlpPolicy", envs(spaces.Discrete(4))),
    "MultiDiscrete observations": lambda a: train(a, "MlpPolicy", envs(spaces.MultiDiscrete([2, 3]))),
    "images (CnnPolicy)": lambda a: train(a, "CnnPolicy", envs(IMAGE)),
    "Dict observations (MultiInputPolicy)": lambda a: train(a, "MultiInputPolicy", envs(DICT)),
    "gSDE": lambda a: train(a, "MlpPolicy", envs(), use_sde=True, sde_sample_freq=2),
    "gSDE, squashed": lambda a: train(
        a, "MlpPolicy", envs(action_space=FAR), use_sde=True, policy_kwargs=dict(squash_output=True)
    ),
    "bounded, state-dependent std": lambda a: train(
        a, "MlpPolicy", envs(), policy_kwargs=dict(log_std_bounds=(-5, 2), state_dependent_std=True)
    ),
    "own feature extractor": lambda a: train(
        a, "MlpPolicy", envs(), policy_kwargs=dict(features_extractor_class=OwnExtractor)
    ),
    "separate feature extractors": lambda a: train(
        a, "CnnPolicy", envs(IMAGE), policy_kwargs=dict(share_features_extractor=False)
    ),
    "any first-order optimizer class": lambda a: train(
        a, "MlpPolicy", envs(), policy_kwargs=dict(optimizer_class=th.optim.SGD, optimizer_kwargs=dict(momentum=0.9))
    ),
    "VecNormalize": lambda a: train(a, "MlpPolicy", VecNormalize(envs())),
    "VecFrameStack": lambda a: train(a, "MlpPolicy", VecFrameStack(envs(), 2)),
    "SubprocVecEnv": lambda a: train(a, "MlpPolicy", _subprocess()),
    "one environment": lambda a: train(a, "MlpPolicy", envs(n=1)),
    "own rollout buffer class": lambda a: train(a, "MlpPolicy", envs(), rollout_buffer_class=_own_buffer()),
}


def _own_buffer() -> type:
    from stable_baselines3.common.buffers import RolloutBuffer

    class OwnBuffer(RolloutBuffer):
        """A user's class."""

    return OwnBuffer


def supported(algorithm: str, cell: str) -> bool:
    """Return whether a cell trains. A refusal must name the algorithm, or an argument that it does not have."""
    try:
        CELLS[cell](algorithm)
    except (ValueError, TypeError) as error:
        assert ALGORITHMS[algorithm].__name__ in str(error), error
        assert isinstance(error, ValueError) or "unexpected keyword argument" in str(error), error
        return False
    return True


def table() -> str:
    """Return the table after training every cell."""
    names = [cls.__name__ for cls in ALGORITHMS.values()]
    lines = ["| | " + " | ".join(f"`{n}`" for n in names) + " |", "|---|" + ":-:|" * len(names)]
    for cell in CELLS:
        marks = ["✓" if supported(algorithm, cell) else "–" for algorithm in ALGORITHMS]
        lines.append(f"| {cell} | " + " | ".join(marks) + " |")
    return "\n".join(lines)
