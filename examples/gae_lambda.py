"""
Which λ for generalised advantage estimation?

λ balances two errors. λ = 0 relies on the critic, whose errors cause bias. λ = 1 (Monte-Carlo) uses the sampled returns, whose
variance grows with the horizon. This script measures both errors with critics that are wrong on purpose. In a small corridor,
V and the advantages A(s, a) of a policy are known exactly by linear algebra. Averaging over more data lowers the variance but
not the bias, so the best λ depends on the amount of data. A bias that is the same for both actions of a state is left out,
since it does not change the policy's gradient.
"""

import numpy as np
import torch as th
from shared import announce, arguments, new_figure, print_table, save, with_interval

from sb3_pgx.ops.returns import gae

STATES, GAMMA, SLIP = 10, 0.99, 0.1  # the last state is the goal: reward 1, then back to the first state
POLICY = np.array([0.3, 0.7])  # left, right
LAMBDAS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 1.0)
# Error of the critic relative to the standard deviation of V.
CRITICS = {"exact critic": 0.0, "critic wrong by 10 %": 0.1, "critic wrong by 50 %": 0.5}
VISITS = (1, 100, 10_000)  # number of visits of each state and action to average over


def step(states: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the states after a step, and the rewards."""
    moved = np.clip(states + np.where(right, 1, -1), 0, STATES - 1)
    at_goal = moved == STATES - 1
    return np.where(at_goal, 0, moved), at_goal.astype(float)


def model() -> tuple[np.ndarray, np.ndarray]:
    """Return P(s' | s, a) as ``[a, s, s']`` and the expected reward ``[a, s]``. A slip moves in the other direction."""
    outcomes = [step(np.arange(STATES), np.full(STATES, right)) for right in (False, True)]
    P, r = np.array([np.eye(STATES)[after] for after, _ in outcomes]), np.array([reward for _, reward in outcomes])
    return (1 - SLIP) * P + SLIP * P[::-1], (1 - SLIP) * r + SLIP * r[::-1]


def expected_gae(critic: np.ndarray, gae_lambda: float) -> np.ndarray:
    """Return E[Â | s, a] exactly, ``[a, s]``. With the true V it is the advantage, for every λ."""
    P, r = model()
    deltas = r + GAMMA * P @ critic - critic
    later = np.linalg.solve(np.eye(STATES) - GAMMA * gae_lambda * np.tensordot(POLICY, P, 1), POLICY @ deltas)
    return deltas + GAMMA * gae_lambda * P @ later


def true_values() -> np.ndarray:
    """Return V = (I − γP)⁻¹ r of the policy."""
    P, r = model()
    return np.linalg.solve(np.eye(STATES) - GAMMA * np.tensordot(POLICY, P, 1), POLICY @ r)


def walk(rng: np.random.Generator, steps: int, n_envs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the states ``[T + 1, N]``, actions and rewards ``[T, N]`` of a rollout."""
    states, actions, rewards = [rng.integers(0, STATES - 1, n_envs)], [], []
    for _ in range(steps):
        actions.append(rng.random(n_envs) < POLICY[1])
        state, reward = step(states[-1], actions[-1] ^ (rng.random(n_envs) < SLIP))
        states.append(state)
        rewards.append(reward)
    return np.array(states), np.array(actions).astype(int), np.array(rewards)


def bias_and_variance(seed: int, wrong_by: float, steps: int) -> np.ndarray:
    """Return squared bias and variance for each λ, relative to the mean square of the advantages, ``[2, λ]``."""
    rng = np.random.default_rng(seed)
    V = true_values()
    critic = V + wrong_by * V.std() * rng.standard_normal(STATES)
    states, actions, rewards = walk(
        rng, steps + 700, n_envs=100
    )  # 700 steps more, so that returns are complete: γ^700 < 0.001
    values, r = th.as_tensor(critic[states]), th.as_tensor(rewards)
    visited = (actions[:steps], states[:steps])
    advantages, result = expected_gae(V, 0.0)[visited], []
    for gae_lambda in LAMBDAS:
        estimate = gae(r, values[:-1], values[1:], th.zeros_like(r, dtype=th.bool), GAMMA, gae_lambda)[:steps].numpy()
        expected = expected_gae(critic, gae_lambda)
        preferred = (expected - POLICY @ expected)[visited]
        result.append([((preferred - advantages) ** 2).mean(), ((estimate - expected[visited]) ** 2).mean()])
    return np.array(result).T / (advantages**2).mean()


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "Which λ for generalised advantage estimation?", seeds=10, argv=argv)
    measured = {}
    for critic, by in CRITICS.items():
        announce(critic, args.seeds)
        measured[critic] = np.array([bias_and_variance(seed, by, args.steps(1_000, 50)) for seed in args.seeds])

    visits = VISITS[1]
    error = {c: m[:, 0] + m[:, 1] / visits for c, m in measured.items()}  # [seeds, λ]
    rows = [[f"{lam:g}", *[with_interval(e[:, i], 3) for e in error.values()]] for i, lam in enumerate(LAMBDAS)]
    print(f"Mean squared error of advantages averaged over {visits} visits; 1 is the error of predicting 0.\n")
    print_table(["λ", *CRITICS], rows)
    for critic, m in measured.items():
        bias, variance = m.mean(axis=0)
        best = [f"{LAMBDAS[int((bias + variance / n).argmin())]:g} with {n:,}" for n in VISITS]
        print(f"{critic}: the best λ is {', '.join(best)} visits.")
    noise = measured["exact critic"].mean(axis=0)[1]
    print(f"Even with the exact critic, Monte-Carlo (λ = 1) has {noise[-1] / noise[0]:.0f} times the variance of λ = 0.")

    figure, panels = new_figure(len(CRITICS))
    for axes, (critic, m) in zip(panels, measured.items(), strict=True):
        (bias, variance), x = m.mean(axis=0), range(len(LAMBDAS))
        axes.plot(x, bias, marker="o", label="bias²")
        axes.plot(x, variance / visits, marker="o", label=f"variance / {visits}")
        axes.plot(x, bias + variance / visits, color="0.3", linestyle="--", label="mean squared error")
        axes.set_xticks(x, [f"{lam:g}" for lam in LAMBDAS])
        axes.set_ylim(-0.02, 1.2)
        axes.set(xlabel="λ", ylabel="error; 1 is that of predicting 0")
        axes.set_title(critic)
        axes.legend(frameon=False, fontsize="small")
    save(figure, args)


if __name__ == "__main__":
    main()
