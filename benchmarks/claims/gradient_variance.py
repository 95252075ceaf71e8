"""How much each baseline of REINFORCE lowers the variance of the gradient, measured on one and the same policy."""

import copy
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy

from benchmarks.claims.verdict import Settings, Verdict, provenance
from sb3_pgx.algorithms.reinforce import REINFORCE, REINFORCEBaseline
from sb3_pgx.algorithms.reinforce.reinforce import BASELINES
from sb3_pgx.experiments.statistics import bootstrap_interval

LEARNED = "learned V(s)"
N_ENVS, N_EPISODES = 4, 4


@dataclass(frozen=True)
class GradientVarianceClaim:
    """
    Every baseline lowers the variance of the gradient below that of no baseline, for every seed.

    For each seed, a policy with a critic is trained for ``timesteps`` steps by ``REINFORCEBaseline``. Then it stays as it
    is, ``batches`` updates' worth of episodes are played, and each baseline gives its gradient from the same episodes. The
    variance is the trace of the gradients' covariance, divided by that without a baseline.
    """

    env_id: str = "CartPole-v1"
    timesteps: int = 20_000
    batches: int = 60
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    @property
    def statement(self) -> str:
        """The claim in words."""
        return f"every baseline of reinforce lowers the variance of the gradient on {self.env_id}"

    @property
    def trains(self) -> tuple[tuple[str, str], ...]:
        """The algorithm that has the baselines, in the environment."""
        return (("reinforce", self.env_id),)

    def __call__(self, settings: Settings) -> Verdict:
        """Measures every seed in a process of its own."""
        with ProcessPoolExecutor(settings.workers or 2, mp_context=get_context("spawn")) as pool:
            ratios = list(pool.map(relative_variances, [self] * len(self.seeds), self.seeds))
        lines = []
        record: dict[str, object] = {}
        for name in ratios[0]:
            per_seed = [r[name] for r in ratios]
            low, high = bootstrap_interval(per_seed, np.mean)
            lines.append(f"{name}: {np.mean(per_seed):.3f} of the variance without a baseline, 95 % [{low:.3f}, {high:.3f}]")
            record[name] = {"mean": float(np.mean(per_seed)), "interval_95": [float(low), float(high)], "per_seed": per_seed}
        passed = all(ratio < 1 for r in ratios for ratio in r.values())
        kept = {
            "claim": self.statement,
            "passed": passed,
            "variance_relative_to_no_baseline": record,
            "episodes_a_gradient": N_ENVS * N_EPISODES,
            "gradients": self.batches,
            "timesteps_before": self.timesteps,
            "seeds": list(self.seeds),
            **provenance(self, settings.command),
        }
        return Verdict(f"gradient variance, {self.env_id}", self.statement, passed, tuple(lines), kept)


def relative_variances(claim: GradientVarianceClaim, seed: int) -> dict[str, float]:
    """Trace of the gradient's covariance with each baseline, divided by that without one."""
    th.set_num_threads(1)
    gradients = gradients_of_one_policy(claim, seed)
    variances = {name: float(np.var(g, axis=0, ddof=1).sum()) for name, g in gradients.items()}
    return {name: v / variances["None"] for name, v in variances.items() if name != "None"}


def gradients_of_one_policy(claim: GradientVarianceClaim, seed: int) -> dict[str, np.ndarray]:
    """Gradients by baseline, ``[batches, parameters]``, all from the same policy and the same episodes."""
    env = make_vec_env(claim.env_id, N_ENVS, seed=seed)
    learned = REINFORCEBaseline("MlpPolicy", env, n_episodes=N_EPISODES, seed=seed, device="cpu").learn(claim.timesteps)
    plain = REINFORCE(ActorCriticPolicy, env, n_episodes=N_EPISODES, seed=seed, device="cpu")
    plain.policy.load_state_dict(learned.policy.state_dict())
    callback = CallbackList([])
    callback.init_callback(learned)
    gradients: dict[str, list[np.ndarray]] = {str(name): [] for name in (*BASELINES, LEARNED)}
    for _ in range(claim.batches):
        learned.collect_rollouts(env, callback, learned.rollout_buffer, learned.n_steps)
        for baseline in BASELINES:
            plain.baseline = baseline
            gradients[str(baseline)].append(gradient(plain, learned))
        gradients[LEARNED].append(gradient(learned, learned))
    return {name: np.stack(g) for name, g in gradients.items()}


def gradient(model: REINFORCE | REINFORCEBaseline, collector: REINFORCEBaseline) -> np.ndarray:
    """The policy's gradient that ``model`` computes from the rollout that ``collector`` has collected."""
    rollout = copy.copy(collector.last_rollout)
    model.estimate(rollout)
    model.accumulate_gradient(rollout)
    parts = {name: p.grad for name, p in model.policy.named_parameters() if p.grad is not None}
    model.policy.optimizer.zero_grad(set_to_none=True)
    return th.cat([parts[name].flatten() for name in sorted(parts)]).numpy()
