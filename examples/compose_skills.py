"""
What do two soft Q functions do together that were trained apart?

A point in the plane learns two tasks: to go to a vertical line, and to go to a horizontal one. Soft Q-learning keeps every way
to do a task, so the first policy does not care about the other coordinate. The mean of the two Q functions is small only for
actions that are bad for one of them, so a policy made of it goes to where the lines cross, without a further step in the
environment (Haarnoja et al., 2018, "Composable Deep Reinforcement Learning for Robotic Manipulation"). Only its sampler has to
be trained, at states that were seen before.
"""

from functools import partial

import gymnasium as gym
import numpy as np
from shared import Arguments, arguments, difference, new_figure, print_table, save, with_interval

from sb3_pgx import SoftQLearning
from sb3_pgx.pages.looks import COLORS

LINE, SIDE, STEPS = 3.0, 5.0, 20  # coordinate of both lines, half of the plane's side, length of an episode
TASKS = {"to the vertical line": 0, "to the horizontal line": 1}
TOGETHER = "both, composed"


class ToALine(gym.Env):
    """
    Moves a point to a line, where one of its coordinates is 3.

    :param axis: that coordinate: 0 or 1
    """

    observation_space = gym.spaces.Box(-SIDE, SIDE, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, axis: int):
        self.axis = axis

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-SIDE, SIDE, 2) if options is None else np.zeros(2)
        return self.place.astype(np.float32), {}

    def step(self, action):
        self.place = np.clip(self.place + action, -SIDE, SIDE)
        return self.place.astype(np.float32), -abs(self.place[self.axis] - LINE), False, False, {}


def model_of(axis: int, seed: int, **policy_kwargs) -> SoftQLearning:
    return SoftQLearning(
        "MlpPolicy",
        gym.wrappers.TimeLimit(ToALine(axis), STEPS),
        learning_rate=1e-3,
        batch_size=64,
        gamma=0.9,
        tau=0.02,
        ent_coef=0.3,
        n_particles=16,
        policy_kwargs=dict(net_arch=[64, 64], **policy_kwargs),
        seed=seed,
        device="cpu",
    )


def composed(parts: list[SoftQLearning], seed: int, gradient_steps: int) -> SoftQLearning:
    """Return a policy in proportion to exp of the mean of the critics, over α."""
    model = model_of(0, seed, n_critics=len(parts), mean_of_critics=True)
    for network, part in zip(model.critic.q_networks, parts, strict=True):
        network.load_state_dict(part.critic.q_networks[0].state_dict())
    model.replay_buffer = parts[0].replay_buffer  # the states at which the sampler learns
    model.train_sampler(gradient_steps)
    return model


def walk(model: SoftQLearning) -> np.ndarray:
    """Return the places of an episode from the middle, ``[STEPS + 1, 2]``."""
    env = ToALine(0)
    places = [env.reset(options={"start": "middle"})[0]]
    for _ in range(STEPS):
        places.append(env.step(model.predict(places[-1])[0])[0])
    return np.array(places)


def trained(seed: int, args: Arguments) -> dict[str, SoftQLearning]:
    parts = {label: model_of(axis, seed).learn(args.steps(4_000, quick=150)) for label, axis in TASKS.items()}
    return {**parts, TOGETHER: composed([*parts.values()], seed, args.steps(2_000, quick=30))}


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "What do two soft Q functions do together that were trained apart?", seeds=3, argv=argv)
    policies = [trained(seed, args) for seed in args.seeds]
    walks = {label: [[walk(each[label]) for _ in range(30)] for each in policies] for label in policies[0]}

    def away(label: str, axis: int) -> list[float]:
        """The mean distance from a line in the last five steps, seed by seed."""
        return [float(np.abs(np.array(of_seed)[:, -5:, axis] - LINE).mean()) for of_seed in walks[label]]

    rows = [[label, *(with_interval(away(label, axis), 2) for axis in (0, 1))] for label in walks]
    print_table(["policy", "distance from the vertical line", "distance from the horizontal line"], rows)
    for label, axis in TASKS.items():
        far = difference(away(TOGETHER, 1 - axis), away(label, 1 - axis), 2)
        print(f"From the other line than that of the policy {label!r}, composed against alone: {far} ({args.n_seeds}).")

    figure, panels = new_figure(len(walks))
    for axes, (label, of_label) in zip(panels, walks.items(), strict=True):
        for places in of_label[0]:
            axes.plot(*places.T, color=COLORS[0], alpha=0.3, linewidth=1)
        for line in (partial(axes.axvline, linestyle=":"), partial(axes.axhline, linestyle="--")):
            line(LINE, color=COLORS[1])
        axes.set(title=label, xlim=(-SIDE, SIDE), ylim=(-SIDE, SIDE), aspect="equal")
    save(figure, args)


if __name__ == "__main__":
    main()
