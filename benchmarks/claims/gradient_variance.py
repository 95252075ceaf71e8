"""The variance of the gradient with each baseline of REINFORCE, measured on the same policy and the same episodes."""

from collections.abc import Iterator, Mapping
from time import perf_counter

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy

from benchmarks.claims.draws import Draw, RunOptions, in_processes
from benchmarks.claims.protocol import Claim
from sb3_pgx.algorithms.reinforce import REINFORCE, REINFORCEBaseline
from sb3_pgx.algorithms.reinforce.reinforce import BASELINES

LEARNED = "learned V(s)"
N_ENVS, N_EPISODES = 4, 4  # a gradient is the mean over N_ENVS * N_EPISODES episodes


def measure_variances(claim: Claim, options: RunOptions) -> list[Draw]:
    """Measure every seed of a claim in a process of its own."""
    jobs = [
        (claim.algorithm, env_id, seed, steps, claim.gradients)
        for env_id, steps in claim.environments.items()
        for seed in claim.seeds
    ]
    return in_processes(draw_variances, jobs, options.workers)


def draw_variances(algorithm: str, env_id: str, seed: int, steps: int, gradients: int) -> Draw:
    """Return the relative variances of one seed; arguments as :func:`relative_variances`."""
    start = perf_counter()
    return Draw(
        algorithm, env_id, seed, relative_variances(env_id, steps, gradients, seed), None, steps, perf_counter() - start
    )


def relative_variances(env_id: str, timesteps: int, gradients: int, seed: int) -> dict[str, float]:
    """
    Return the trace of the gradient's covariance with each baseline, divided by that without a baseline.

    :param env_id: Gymnasium's name of the environment
    :param timesteps: environment steps for which ``REINFORCEBaseline`` trains the policy before it is measured
    :param gradients: number of gradients of the frozen policy from which the variance is computed
    :param seed: seed of the run
    """
    th.set_num_threads(1)
    measured = gradients_of_one_policy(env_id, timesteps, gradients, seed)
    return variances_of(measured)


def variances_of(gradients: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return variances relative to no baseline, from gradients by baseline, ``[gradients, parameters]``."""
    variances = {name: float(np.var(g, axis=0, ddof=1).sum()) for name, g in gradients.items()}
    return {name: v / variances["None"] for name, v in variances.items() if name != "None"}


def gradients_of_one_policy(env_id: str, timesteps: int, n_gradients: int, seed: int) -> dict[str, np.ndarray]:
    """Return gradients by baseline, ``[n_gradients, parameters]``, all from the same policy and the same episodes."""
    gradients: dict[str, list[np.ndarray]] = {str(name): [] for name in (*BASELINES, LEARNED)}
    for plain, learned in rollouts_of_one_policy(env_id, timesteps, n_gradients, seed):
        for baseline in BASELINES:
            plain.baseline = baseline
            gradients[str(baseline)].append(gradient(plain, learned))
        gradients[LEARNED].append(gradient(learned, learned))
    return {name: np.stack(g) for name, g in gradients.items()}


def rollouts_of_one_policy(env_id: str, timesteps: int, n: int, seed: int) -> Iterator[tuple[REINFORCE, REINFORCEBaseline]]:
    """Train a policy, then yield models of it without and with a critic after each of n rollouts, which the latter has."""
    env = make_vec_env(env_id, N_ENVS, seed=seed)
    learned = REINFORCEBaseline("MlpPolicy", env, n_episodes=N_EPISODES, seed=seed, device="cpu").learn(timesteps)
    plain = REINFORCE(ActorCriticPolicy, env, n_episodes=N_EPISODES, seed=seed, device="cpu")
    plain.policy.load_state_dict(learned.policy.state_dict())
    callback = CallbackList([])
    callback.init_callback(learned)
    for _ in range(n):
        learned.collect_rollouts(env, callback, learned.rollout_buffer, learned.n_steps)
        yield plain, learned


def gradient(model: REINFORCE | REINFORCEBaseline, collector: REINFORCEBaseline) -> np.ndarray:
    """Return the gradient of the policy that ``model`` computes from the rollout that ``collector`` has collected."""
    rollout = model.estimate(collector.last_rollout)
    model.accumulate_gradient(rollout)
    parts = {name: p.grad for name, p in model.policy.named_parameters() if p.grad is not None}
    model.policy.optimizer.zero_grad(set_to_none=True)
    return th.cat([parts[name].flatten() for name in sorted(parts)]).numpy()
