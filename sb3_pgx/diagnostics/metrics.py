"""The meaning of every metric that this package logs, for callbacks, error messages and the documentation's tables."""

from collections.abc import Sequence
from difflib import get_close_matches

# Without the prefix "diagnostics/". Notation: r = π_new(a|s) / π_old(a|s), R = the critic's target, V = the critic's value.
METRICS = {
    "kl": "exact KL(old‖new) of the action distributions, mean over the states of the rollout, in nats",
    "kl_max": "exact KL(old‖new), maximum over the states of the rollout, in nats",
    "approx_kl": "estimate k3 of KL(old‖new) from the sampled actions: mean of (r − 1) − log r",
    "approx_kl_k1": "estimate k1 of KL(old‖new): mean of −log r; it may be negative in a batch",
    "approx_kl_k2": "estimate k2 of KL(old‖new): mean of ½ (log r)²",
    "clip_fraction": "share of the samples whose ratio r is outside 1 ± ε after the update",
    "ratio_mean": "mean of r = π_new(a|s) / π_old(a|s) after the update; its expectation is 1",
    "ratio_std": "standard deviation of r after the update",
    "ratio_min": "smallest r after the update",
    "ratio_max": "largest r after the update",
    "effective_sample_size": "(Σ r)² / (B Σ r²): share of the B samples that still count for the new policy; 1 is best",
    "initial_ratio_error": "largest |r − 1| before the first gradient step; 0 except for rounding",
    "entropy": "entropy of the new policy, mean over the states, in nats; SAC: −log π(a|s) of sampled actions, scaled to "
    "[−1, 1], whose entropy is at most log 2 per component",
    "entropy_deficit": "`target_entropy` minus entropy, per action component, in nats; near 0 if the temperature is learned "
    "(SAC)",
    "temperature": "α, the weight of the entropy in the objective, in units of return per nat (SAC, SoftQLearning)",
    "relative_temperature": "α divided by the standard deviation of the critics' targets: how much a nat of entropy counts "
    "(SAC, SoftQLearning)",
    "relative_entropy": "entropy divided by its maximum, the mean entropy of uniform valid actions (discrete actions)",
    "valid_actions": "share of the actions that the environments' masks allow, of each choice's options on average",
    "std_mean": "standard deviation of the new policy's actions, mean over states and dimensions (Gaussian policies)",
    "std_min": "smallest standard deviation over states and dimensions (Gaussian policies)",
    "std_max": "largest standard deviation over states and dimensions (Gaussian policies)",
    "explained_variance": "1 − Var[R − V] / Var[R] of the values before the update: 1 is perfect, 0 is as good as a constant",
    "explained_variance_after": "1 − Var[R − V] / Var[R] of the values after the update",
    "value_error": "root mean square of V_new − R, divided by the standard deviation of R or by 1 % of R's root mean square, "
    "whichever is larger",
    "value_lag": "root mean square of V_new − V_old, with the same divisor as value_error; 0 if the critic did not change",
    "q_mean": "mean of Q(s, a), averaged over the critics, of transitions from the replay memory (SAC, TD3, DDPG, D4PG, "
    "SoftQLearning)",
    "q_std": "standard deviation of that Q(s, a)",
    "q_min": "smallest of that Q(s, a)",
    "q_max": "largest of that Q(s, a)",
    "q_excess": "largest |Q(s, a)| of any critic, divided by the largest return that the rewards so far allow, max |r| / "
    "(1 − γ) (SAC: with its bonus for entropy; SoftQLearning: with the largest one), or by 1 if that is smaller; only if "
    "γ < 1",
    "td_error": "root mean square of Q − y, divided by the standard deviation of the targets y or by 1 % of y's root mean "
    "square, whichever is larger (SAC, TD3, DDPG, D4PG, SoftQLearning)",
    "target_lag": "root mean square of Q − Q' of the target networks, with the same divisor, of Q instead of y",
    "clipped_returns": "mean probability, in the targets of the critic's distribution, of returns below v_min or above v_max, "
    "which are moved there (D4PG)",
    "value_samples": "effective number of the uniformly random actions in a soft value, mean over states: 1 if one of them "
    "has all of the weight, `n_value_samples` if all weigh the same (SoftQLearning with Box actions)",
    "samples_per_step": "transitions sampled from the replay memory per environment step since the first measurement: the "
    "replay ratio (gradient steps per environment step) times `batch_size` (SAC, TD3, DDPG, D4PG, SoftQLearning)",
    "memory_gain": "1 − mean (V_new − R)² / mean (V₀ − R)², where V₀ is V_new with zero states before each row: 0 if the "
    "critic's memory is not used, negative if it misleads (recurrent critics)",
    "advantage_mean": "mean of the advantages before normalisation",
    "advantage_std": "standard deviation of the advantages before normalisation",
    "advantage_min": "smallest advantage before normalisation",
    "advantage_max": "largest advantage before normalisation",
    "advantage_scale": "standard deviation of the advantages that the policy gradient uses; 1 if they are normalised",
    "normalised_rows": "number of rows over which advantages are normalised; only if they are",
    "return_mean": "mean of the critic's targets R",
    "return_std": "standard deviation of the critic's targets R",
    "return_min": "smallest critic target R",
    "return_max": "largest critic target R",
    "return_spread": "standard deviation of the critic's targets R divided by their root mean square",
    "reward_mean": "mean reward that the algorithm receives (after wrappers such as VecNormalize)",
    "reward_std": "standard deviation of the rewards",
    "reward_min": "smallest reward",
    "reward_max": "largest reward",
    "reward_size": "largest absolute value of the rewards",
    "grad_norm": "norm of the gradient before clipping, mean over minibatches; NPG and TRPO: of the critic's gradient",
    "grad_norm_max": "largest gradient norm among the measured minibatches (algorithms of SB3 and sb3-contrib)",
    "grad_clipped": "share of the minibatches whose gradient was clipped",
    "parameter_change": "‖θ_new − θ_old‖ / ‖θ_old‖ over all parameters of the policy",
    "actions_clipped": "share of the action components outside the bounds of the action space (Box actions)",
    "saturated_actions": "share of the components of the actions without exploration that are beyond ±0.99, scaled to [−1, 1] "
    "(SAC, TD3, DDPG, D4PG, SoftQLearning)",
    "saturated_units": "share of the outputs of tanh layers beyond ±0.99; SAC, TD3, DDPG, D4PG and SoftQLearning: of the "
    "critics",
    "dormant_units": "share of the rectified units whose mean activity is at most 0.025 times the mean of their layer; SAC, "
    "TD3, DDPG, D4PG and SoftQLearning: of the critics",
    "gradient_noise_scale": "number of rows at which noise and signal of the policy gradient are equally large; not measured "
    "for recurrent policies, whose gradient is no mean over independent rows",
    "noise_to_batch": "gradient_noise_scale divided by the number of rows in a gradient of the policy",
    "observation_max": "largest absolute value in the observations, images excluded",
    "constant_observations": "share of the observation entries that have never changed in this run, images excluded",
    "unflagged_time_limits": "share of the last 100 episodes that ended at the greatest length so far without being truncated",
    "true_return": "mean return in `eval_env`, the environment with the true objective (HealthCallback)",
    "training_return": "mean return of the last training episodes, the same number as rollout/ep_rew_mean",
    "time_environment": "share of the time spent in the environments' steps",
    "time_acting": "share of the time spent on acting, callbacks and bookkeeping",
    "time_update": "share of the time spent on updates",
}

# Logged by the algorithms themselves, under these full names.
TRAINING_METRICS = {
    "rollout/ep_rew_mean": "mean return of the last `stats_window_size` training episodes, exploration noise included; A3C: "
    "of the first worker, as all other metrics but the number of steps",
    "rollout/ep_len_mean": "mean length of the last `stats_window_size` training episodes, in steps",
    "rollout/success_rate": "share of the last episodes that the environment reports as a success (`is_success`), if it does",
    "rollout/discarded_steps": "steps so far of environments that waited for others to finish: counted, but not learned from",
    "time/fps": "environment steps per second since `learn` began, over all environments, with updates, without compiling",
    "time/compile_seconds": "seconds that compiling, or loading compiled graphs, took since `learn` began",
    "time/iterations": "rollouts since `learn` began",
    "time/episodes": "episodes so far, over all environments",
    "time/time_elapsed": "seconds since `learn` began",
    "time/total_timesteps": "environment steps so far, over all environments",
    "train/n_updates": "PPO and PPOPenalty: epochs so far; SAC, TD3, DDPG, D4PG and SoftQLearning: gradient steps so far; the "
    "others: updates so far, A3C: of the first worker",
    "train/learning_rate": "learning rate of this update; NPG and TRPO: of the critic",
    "train/critic_learning_rate": "learning rate of the critic, if it has its own",
    "train/loss": "total loss that the optimizer minimises; PPO and PPOPenalty: of the last minibatch. It need not fall, "
    "because the data change with the policy",
    "train/policy_loss": "policy loss, − mean of Ψ log π, where Ψ is the advantage or return; REINFORCE: summed over each "
    "episode. Only its gradient has a meaning",
    "train/policy_gradient_loss": "policy loss, − mean of r Â, clipped if the algorithm clips. It is near 0, because "
    "normalised advantages have mean 0",
    "train/value_loss": "mean squared error of V, in squared units of return; trust-region critic: before its step; ACER with "
    "Box actions: half of it. It grows with the returns, so explained_variance tells more",
    "train/q_loss": "half the mean squared error of Q(s, a) of the sampled actions with respect to Retrace's returns",
    "train/value": "mean of V(s) according to ACER's critic",
    "train/actor_loss": "SAC: mean of α log π(a|s) − min Q(s, a) over sampled actions a; TD3, DDPG and D4PG: −mean of "
    "Q(s, μ(s)); MADDPG: the mean of this over agents. It falls as the critics' values rise, so it says little about progress",
    "train/critic_loss": "mean squared error of Q with respect to its target, summed over the critics; SAC and "
    "SoftQLearning: half of it; MADDPG: the mean over agents; D4PG: cross-entropy of the distribution of the return and its "
    "target, in nats. It need not fall, because the targets change with the policy",
    "train/soft_value": "mean of the soft values α log ∫ exp(Q(s', a)/α) da in the critics' targets (SoftQLearning)",
    "train/stein_direction": "root mean square of the direction in which the sampler's actions, before tanh, come nearer to "
    "exp(Q/α) (SoftQLearning with Box actions). It falls as the sampler fits, but not to 0, because it is estimated from few "
    "particles",
    "train/ent_coef": "temperature α, the weight of the entropy, before the gradient step",
    "train/ent_coef_loss": "loss of the temperature, −mean of log α (log π(a|s) + target_entropy); 0 if the entropy is the "
    "wanted one or α = 1",
    "train/entropy_loss": "− mean entropy of the action distribution, in nats. The policy becomes deterministic as it rises "
    "to 0 (discrete actions) or above (Box actions)",
    "train/std": "standard deviation of the policy's actions, mean over the dimensions (Box actions)",
    "train/explained_variance": "1 − Var[R − V] / Var[R] of the values before the update: 1 is perfect, 0 is as good as a "
    "constant, negative is worse",
    "train/explained_variance_after": "1 − Var[R − V] / Var[R] of the values after the update",
    "train/grad_norm": "norm of the gradient before clipping, mean over the gradient steps",
    "train/grad_clipped": "share of the gradient steps whose gradient was longer than `max_grad_norm` and therefore clipped",
    "train/critic_grad_norm": "norm of the critic's gradient before clipping, mean over the critic's own gradient steps",
    "train/approx_kl": "estimate of KL(old‖new) from the sampled actions, mean of (r − 1) − log r over the minibatches of the "
    "last epoch, each at its own gradient step",
    "train/clip_fraction": "share of the ratios outside 1 ± ε, mean over all minibatches, each at its own gradient step",
    "train/clip_range": "clip range ε of this update",
    "train/clip_range_vf": "clip range of the value function in this update, if values are clipped",
    "train/kl": "exact KL(old‖new) after the update, mean over the states of the rollout, in nats",
    "train/kl_max": "exact KL(old‖new) after the update, maximum over the states of the rollout, in nats",
    "train/minibatch_kl": "exact KL(old‖new), mean over all minibatches, each at its own gradient step",
    "train/kl_coef": "penalty coefficient β of this update, before it is adapted",
    "train/kl_penalty": "the KL penalty's part of the loss, mean over all minibatches",
    "train/ratio": "mean importance weight π(a|s) / μ(a|s), where μ is the policy that acted",
    "train/ratio_mean": "mean of r = π_new(a|s) / π_old(a|s) after the update; its expectation is 1",
    "train/ratio_std": "standard deviation of r after the update",
    "train/ratio_min": "smallest r after the update",
    "train/ratio_max": "largest r after the update; ACER: largest importance weight",
    "train/policy_objective": "mean of r Â over the rollout after the step",
    "train/surrogate_improvement": "increase of the mean of r Â through the step",
    "train/predicted_improvement": "increase of the mean of r Â that the linear model predicts: gᵀ times the step",
    "train/kl_divergence_loss": "exact KL(old‖new) after the step, mean over the states of the rollout, in nats; at most "
    "`target_kl` for TRPO",
    "train/is_line_search_success": "1 if the line search accepted a step, 0 if the policy stayed as it was",
    "train/line_search_steps": "number of step lengths that the line search tried",
    "train/step_length": "factor of F⁻¹g in the step that was taken; 0 if none was; ACKTR: before momentum",
    "train/kl_predicted": "½ ΔᵀFΔ of the step Δ, damped: KL(old‖new) that the Kronecker-factored F predicts, at most "
    "`target_kl`; with the critic's part if actor and critic share layers",
    "train/damping": "λ of the damping that is added to F",
    "train/curvature": "sᵀFs for the search direction s = F⁻¹g, without damping",
    "train/cg_steps": "iterations of the conjugate gradient method",
    "train/cg_residual": "relative residual of the conjugate gradient method when it stopped, ‖g − (F + λI) s‖ / ‖g‖",
    "train/critic_constraint": "mean of (V − V_old)² / (2σ²) after the step of the trust-region critic or of ACKTR, where σ² "
    "is the mean squared error before it",
    "train/critic_constraint_predicted": "mean of (V − V_old)² / (2σ²) that the damped, Kronecker-factored F of the critic "
    "predicts, at most `critic_epsilon`; only if actor and critic share no layers",
    "train/critic_step_length": "factor of the search direction in the step of the trust-region critic; 0 if it took none; "
    "ACKTR: before momentum, only if actor and critic share no layers",
    "train/critic_cg_residual": "relative residual of the critic's conjugate gradient method when it stopped",
    "train/average_kl": "KL(average policy‖policy), mean over the states, in nats",
    "train/trust_region_fraction": "share of the transitions whose gradient the trust region reduces",
    "train/truncated_fraction": "share of the importance weights above `importance_clip`, which are truncated",
    "train/replay_updates": "updates from the replay memory after this rollout",
    "train/staleness": "updates by other workers since the first worker copied the parameters at which it took this gradient",
}

# Logged by HealthCallback, under these full names.
HEALTH_METRICS = {
    "health/score": "share of the rules that are not in alarm, among those with enough data",
    "health/alarms": "number of rules that are in alarm",
}

# Logged by DiagnosticsCallback with the metrics: which update they belong to. SB3 logs an update after the next rollout.
UPDATE_KEYS = {
    "timesteps": "environment steps at which this update took place",
    "update": "number of this update, from 1; SAC, TD3, DDPG, D4PG and SoftQLearning: gradient steps so far",
    "progress": "share of the run that was done at this update",
}

# Every key in the logger with its meaning.
LOGGED_KEYS = {
    **TRAINING_METRICS,
    **{f"diagnostics/{name}": meaning for name, meaning in METRICS.items()},
    **{f"diagnostics/{name}": meaning for name, meaning in UPDATE_KEYS.items()},
    **HEALTH_METRICS,
}


def check_metrics(names: Sequence[str]) -> None:
    """
    Check that each name is one of :data:`METRICS`.

    :param names: metrics without the prefix ``diagnostics/``
    :raises ValueError: a name is unknown; the message suggests the most similar ones
    """
    if isinstance(names, str):
        raise ValueError(f"metrics={names!r} must be a sequence of names, such as ({names!r},)")
    for name in names:
        if name not in METRICS:
            near = get_close_matches(name, METRICS, n=3) or METRICS
            raise ValueError(f"metric {name!r} is unknown; choose {' or '.join(near)}")
