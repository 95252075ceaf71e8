"""
Should actor and critic share a trunk? tanh or ReLU? Orthogonal initialisation or the framework's own?

All eight combinations are trained with the same seeds. Separate networks are the default of SB3 and of this package for
vectors: two hidden layers of 64 units each. A shared trunk is a features extractor that contains these layers; SB3 passes its
output to both heads.
"""

from itertools import product

import numpy as np
import torch as th
from shared import arguments, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from sb3_pgx import PPO

CHOICES = {
    "trunk": ("separate", "shared"),
    "activation": ("tanh", "ReLU"),
    "initialisation": ("orthogonal", "default"),
}
ACTIVATIONS = {"tanh": nn.Tanh, "ReLU": nn.ReLU}


class Trunk(FlattenExtractor):
    """Two hidden layers that actor and critic share."""

    def __init__(self, observation_space, activation: type[nn.Module]):
        super().__init__(observation_space)
        sizes = (self.features_dim, 64, 64)
        layers = [layer for i in range(2) for layer in (nn.Linear(sizes[i], sizes[i + 1]), activation())]
        self.layers, self._features_dim = nn.Sequential(*layers), 64

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(super().forward(observations))


def policy_kwargs(trunk: str, activation: str, initialisation: str) -> dict:
    settings = dict(activation_fn=ACTIVATIONS[activation], ortho_init=initialisation == "orthogonal")
    if trunk == "shared":
        extractor = dict(features_extractor_class=Trunk, features_extractor_kwargs=dict(activation=ACTIVATIONS[activation]))
        return dict(net_arch=[], **extractor, **settings)
    return dict(net_arch=dict(pi=[64, 64], vf=[64, 64]), **settings)


def run(choice: tuple[str, str, str], seed: int, timesteps: int):
    env = make_vec_env("CartPole-v1", n_envs=8, seed=seed)
    settings = dict(n_steps=128, batch_size=256, learning_rate=1e-3, policy_kwargs=policy_kwargs(*choice))
    model = PPO("MlpPolicy", env, **settings, seed=seed, device="cpu")
    return train(model, timesteps, eval_episodes=0, variant=", ".join(choice))


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "Shared trunk or separate? tanh or ReLU? Which initialisation?", seeds=3, argv=argv)
    timesteps = args.steps(20_000, quick=1_024)
    runs = {choice: [run(choice, seed, timesteps) for seed in args.seeds] for choice in product(*CHOICES.values())}
    # The late return shows how fast a policy learns.
    returns = {choice: [r.late_return for r in of_choice] for choice, of_choice in runs.items()}

    rows = []
    for choice in runs:
        rows.append([*choice, with_interval(returns[choice])])
    print_table([*CHOICES, "late return"], rows)

    # Compare pairs of runs that differ in this choice only and have the same seed.
    effects: dict[str, tuple[list[float], list[float]]] = {}
    for i, (name, (first, second)) in enumerate(CHOICES.items()):
        with_first, with_second = (
            [x for c, of_c in returns.items() if c[i] == value for x in of_c] for value in (first, second)
        )
        effects[f"{first} or {second}"] = with_first, with_second
        gaps = [a - b for a, b in zip(with_first, with_second, strict=True)]
        print(f"{name}: late return with {first} minus that with {second}, {len(gaps)} pairs: {with_interval(gaps)}.")
    largest = max(effects, key=lambda name: abs(np.mean(effects[name][0]) - np.mean(effects[name][1])))
    print(f"The choice that matters most here: {largest}. Seeds {list(args.seeds)}, {timesteps:,} steps of CartPole-v1.")

    figure, (axes,) = new_figure()
    for i, groups in enumerate(effects.values()):
        for values, offset, color in zip(groups, (-0.12, 0.12), ("C0", "C1"), strict=True):
            axes.plot(np.full(len(values), i + offset), values, "o", color=color, alpha=0.5)
            axes.hlines(np.mean(values), i + offset - 0.1, i + offset + 0.1, color=color, linewidth=3)
    axes.set_xticks(range(len(effects)), list(effects))
    axes.set_xlim(-0.5, len(effects) - 0.5)
    axes.set(ylabel="late return", title="one point per run; blue: the first choice, orange: the second")
    save(figure, args)


if __name__ == "__main__":
    main()
