"""What each metric means, in one place: for the callback, for its errors, and for the reader."""

from collections.abc import Sequence
from difflib import get_close_matches

METRICS = {
    "kl": "exact KL(old‖new) of the action distributions, mean over the rollout's states, in nats",
    "kl_max": "its maximum over the states",
    "approx_kl": "estimate of it from the actions taken, k3: mean of (r − 1) − log r",
    "approx_kl_k1": "estimate k1: mean of −log r; may be negative in one batch",
    "approx_kl_k2": "estimate k2: mean of ½ (log r)²",
    "clip_fraction": "share of the ratios outside 1 ± ε after the update",
    "ratio_mean": "mean of r = π_new(a|s) / π_old(a|s); 1 but for noise",
    "ratio_std": "its standard deviation",
    "ratio_min": "the smallest ratio",
    "ratio_max": "the largest ratio",
    "effective_sample_size": "(Σ r)² / (B Σ r²): the share of the samples that is still worth something to the new policy",
    "initial_ratio_error": "largest |r − 1| before the first step; 0 but for rounding",
    "entropy": "of the new policy, mean over the states, in nats",
    "relative_entropy": "entropy divided by the largest possible one (discrete actions)",
    "std_mean": "standard deviation of the new policy, mean over states and dimensions (continuous actions)",
    "std_min": "the smallest of them",
    "std_max": "the largest of them",
    "explained_variance": "1 − Var[R − V] / Var[R] of the values before the update",
    "explained_variance_after": "the same of the values after it",
    "value_error": "root mean square of V_new − R by the standard deviation of the returns R, or by 1 % of their size",
    "value_lag": "root mean square of V_new − V_old, likewise",
    "advantage_mean": "of the advantages before normalisation",
    "advantage_std": "their standard deviation",
    "advantage_min": "the smallest",
    "advantage_max": "the largest",
    "advantage_scale": "standard deviation of the advantages as the gradient takes them: 1 where they are normalised",
    "normalised_rows": "rows over which the advantages are normalised, where they are",
    "return_mean": "of the targets of the critic",
    "return_std": "their standard deviation",
    "return_min": "the smallest",
    "return_max": "the largest",
    "return_spread": "standard deviation of the critic's targets by their root mean square",
    "reward_mean": "of the rewards as the algorithm gets them",
    "reward_std": "their standard deviation",
    "reward_min": "the smallest",
    "reward_max": "the largest",
    "reward_size": "the largest without its sign",
    "grad_norm": "norm of the gradient before clipping, mean over minibatches; of NPG and TRPO that of the critic's steps",
    "grad_norm_max": "the largest of those measured",
    "grad_clipped": "share of the minibatches whose gradient was clipped",
    "parameter_change": "‖θ_new − θ_old‖ / ‖θ_old‖",
    "actions_clipped": "share of the numbers in the actions that lie outside the action space's bounds",
    "saturated_units": "share of outputs of tanh layers beyond ±0.99",
    "dormant_units": "share of rectified units with at most 0.025 of their layer's mean activity",
    "gradient_noise_scale": "rows that a minibatch needs before its gradient is more signal than noise",
    "noise_to_batch": "the same divided by batch_size",
    "observation_max": "the largest number among the observations, without images",
    "constant_observations": "share of the entries of the observations that have never changed so far",
    "unflagged_time_limits": "share of the last 100 episodes that ended at the greatest length seen, not flagged as truncated",
    "true_return": "mean return in the evaluation environments",
    "training_return": "mean return of the last training episodes, as SB3's rollout/ep_rew_mean",
    "time_environment": "share of the time that environments take",
    "time_acting": "share of acting, callbacks and bookkeeping",
    "time_update": "share of the updates",
}


def check_metrics(names: Sequence[str]) -> None:
    """:raises ValueError: there is no metric of that name; gives the nearest ones"""
    if isinstance(names, str):
        raise ValueError(f"metrics={names!r} must be a sequence of names, such as ({names!r},)")
    for name in names:
        if name not in METRICS:
            near = get_close_matches(name, METRICS, n=3) or METRICS
            raise ValueError(f"metric {name!r} is unknown; choose {' or '.join(near)}")
