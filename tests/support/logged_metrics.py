"""What each algorithm logs, found by training it, and what each number means: the README's table of them."""

from typing import Any

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from support.capabilities import QUICK
from support.models import make
from support.small_environments import AnySpace, vectorised

from sb3_pgx.registry import ALGORITHMS

MEANING = {
    "rollout/ep_rew_mean": "mean return of the last episodes (`stats_window_size` of them), as they were played, with noise",
    "rollout/ep_len_mean": "their mean length in steps",
    "rollout/success_rate": "share of them that the environment calls a success (`is_success`), where it does",
    "rollout/discarded_steps": "steps so far of environments that waited for others: counted, and never learned from",
    "time/fps": "environment steps a second since `learn` began, over all environments, updates included",
    "time/iterations": "rollouts since `learn` began",
    "time/time_elapsed": "seconds since `learn` began",
    "time/total_timesteps": "environment steps so far, over all environments",
    "train/n_updates": "passes over a rollout so far with PPO and PPOPenalty, updates with the others",
    "train/learning_rate": "the policy's learning rate in this update; of NPG and TRPO the critic's",
    "train/critic_learning_rate": "that of the critic where it has its own",
    "train/loss": "what the optimizer descends on, all parts together; PPO and PPOPenalty: of the last minibatch. It need not "
    "fall: the data change with the policy",
    "train/policy_loss": "the policy's part of it, − mean of Ψ log π, Ψ the advantage or return; REINFORCE: a sum over each "
    "episode. Only its gradient means something",
    "train/policy_gradient_loss": "the policy's part of it, − mean of r Â, clipped where the algorithm clips; near 0, for "
    "normalised advantages have mean 0",
    "train/value_loss": "mean squared error of V, in squared units of return (with the trust-region critic before its step; "
    "ACER: half of it, with Box actions). It grows when returns do: look at explained_variance",
    "train/q_loss": "half the mean squared error of Q of the actions taken, against Retrace's returns",
    "train/value": "mean of V, as ACER's critic has it",
    "train/entropy_loss": "− mean entropy of the action distribution, in nats: towards 0, or far above it with Box actions, "
    "the policy becomes deterministic",
    "train/std": "standard deviation of the policy's actions, mean over the dimensions (Box actions)",
    "train/explained_variance": "1 − Var[R − V] / Var[R] of the values before the update: 1 perfect, 0 as good as a constant, "
    "negative worse",
    "train/explained_variance_after": "the same of the values after it",
    "train/grad_norm": "norm of the gradient before clipping, mean over the steps",
    "train/grad_clipped": "share of the steps whose gradient was longer than `max_grad_norm`, and was cut",
    "train/critic_grad_norm": "the same norm in the critic's own steps",
    "train/approx_kl": "estimate of KL(old‖new) from the actions taken, (r − 1) − log r, mean over the last epoch's "
    "minibatches as they come",
    "train/clip_fraction": "share of the ratios outside 1 ± ε, mean over all minibatches",
    "train/clip_range": "ε in this update",
    "train/clip_range_vf": "how far V may move in this update, where that is limited",
    "train/kl": "exact KL(old‖new) after the update, mean over the rollout's states, in nats",
    "train/kl_max": "its maximum over the states",
    "train/minibatch_kl": "the same divergence, mean over all minibatches as they come",
    "train/kl_coef": "β in this update; it adapts after it",
    "train/kl_penalty": "the penalty's part of the loss, mean over all minibatches",
    "train/ratio": "mean importance weight π(a&#124;s) / μ(a&#124;s), μ the policy that acted",
    "train/ratio_mean": "mean of r = π_new(a&#124;s) / π_old(a&#124;s) after the update; 1 but for noise",
    "train/ratio_std": "its standard deviation",
    "train/ratio_min": "the smallest ratio",
    "train/ratio_max": "the largest ratio (ACER: importance weight)",
    "train/policy_objective": "mean of r Â over the rollout after the step",
    "train/surrogate_improvement": "by how much the step raised it",
    "train/predicted_improvement": "by how much it would, were it linear: gᵀ times the step",
    "train/kl_divergence_loss": "exact KL(old‖new) after the step, mean over the rollout's states, in nats; TRPO: never above "
    "`target_kl`",
    "train/is_line_search_success": "1 where the line search accepted a step, 0 where the policy stayed",
    "train/line_search_steps": "lengths that it tried",
    "train/step_length": "factor of F⁻¹g in the step that was taken; 0: none",
    "train/curvature": "sᵀFs, s = F⁻¹g, without damping",
    "train/cg_steps": "steps of the conjugate gradients",
    "train/cg_residual": "‖g − (F + λI) s‖ / ‖g‖ where they stopped",
    "train/critic_constraint": "mean (V − V_old)² / (2σ²) of the critic's step, σ² its mean squared error before it",
    "train/critic_step_length": "factor in the trust-region critic's step",
    "train/critic_cg_residual": "residual of its conjugate gradients, likewise",
    "train/average_kl": "KL(average‖policy), mean over the states",
    "train/trust_region_fraction": "share of the transitions whose gradient the trust region holds back",
    "train/truncated_fraction": "share of the importance weights above `importance_clip`",
    "train/replay_updates": "updates from the memory after this rollout",
}
# Arguments with which an algorithm logs more than without.
OPTIONS: dict[str, dict[str, Any]] = {
    "npg": dict(critic="trust_region"),
    "ppo": dict(clip_range_vf=0.2),
    "ppo_penalty": dict(clip_range=0.2),
    "trpo": dict(critic="trust_region"),
}


class Succeeds(gym.Wrapper):
    """An environment that says at its end whether it was a success."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, {**info, "is_success": True} if truncated or terminated else info


class Keys(KVWriter):
    """Remembers what was logged, and not the numbers."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.seen |= key_values.keys()

    def close(self) -> None:
        pass


def logged_by(name: str) -> set[str]:
    """Every key that an algorithm logs, with Discrete and Box actions and with its options."""
    box = spaces.Box(-1, 1, (3,), "float32")
    keys = Keys()
    for actions, options in ((spaces.Discrete(3), {}), (box, {}), (box, OPTIONS.get(name, {}))):
        envs = vectorised(*(Monitor(Succeeds(AnySpace(box, actions))) for _ in range(2)))
        model = make(name, envs, policy_kwargs=dict(net_arch=[4]), **options)
        model.set_logger(Logger(None, [keys]))
        model.learn(24, log_interval=1)
        model.logger.dump()  # of the last update
        envs.close()
    return keys.seen


def table() -> str:
    """The README's table: each key, its meaning, and which algorithms log it."""
    assert set(QUICK) == set(ALGORITHMS)
    logged = {cls.__name__: logged_by(name) for name, cls in ALGORITHMS.items()}
    unknown = set().union(*logged.values()) - MEANING.keys()
    assert not unknown, f"tests/support/logged_metrics.py does not say what {sorted(unknown)} mean"
    rows = [f"| `{key}` | {meaning} | {_whose(key, logged)} |" for key, meaning in MEANING.items()]
    return "\n".join(["| metric | meaning | logged by |", "|---|---|---|", *rows])


def _whose(key: str, logged: dict[str, set[str]]) -> str:
    names = [name for name, keys in logged.items() if key in keys]
    assert names, f"no algorithm logs {key}, which tests/support/logged_metrics.py explains"
    others = [name for name in logged if name not in names]
    if len(others) > 2:
        return ", ".join(f"`{name}`" for name in names)
    return "all" + (" but " + " and ".join(f"`{name}`" for name in others) if others else "")
