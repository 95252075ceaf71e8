"""The rules that come with this package: the classic failures, their thresholds and where these come from."""

from sb3_pgx.diagnostics.conditions import Above, Below, Fell, Grew, Outside, Parted, Rule, Source, Spiked

SCHULMAN = "Schulman, 2016, Nuts and bolts of deep RL experimentation"
SPINNING_UP = "OpenAI, 2018, Spinning Up, PPO"
JONES = "Jones, 2021, Debugging reinforcement learning systems"
SAMPLE_FACTORY = "Sample Factory, metrics reference"
TORCHRL = "TorchRL, ClipPPOLoss"
TRL = "TRL, PPO logging"
RSL_RL = "rsl_rl, adaptive learning rate"
SB3 = "Stable-Baselines3, logger reference"
SOKAR = "Sokar et al., 2023, The dormant neuron phenomenon"
MCCANDLISH = "McCandlish et al., 2018, An empirical model of large-batch training"
PARDO = "Pardo et al., 2018, Time limits in reinforcement learning"
AHMED = "Ahmed et al., 2019, Understanding the impact of entropy on policy optimization"
AMODEI = "Amodei et al., 2016, Concrete problems in AI safety"
RULE_OF_THUMB = "a rule of thumb of tutorials"
HEURISTIC = "this package: beyond what healthy trainings with tuned settings show"

DEFAULT_RULES = (
    # ------------------------------------------------------------------------------------------- the step of the policy
    Rule(
        "steps too large",
        "approx_kl",
        Above(0.1),
        "an update moves the policy so far that what it learned from no longer describes it",
        "lower learning_rate to a third, or set target_kl=0.02",
        (
            Source("0.003 to 0.02", RULE_OF_THUMB),
            Source("0.01 to 0.05; an update ends at 1.5 times the target", SPINNING_UP),
            Source("0.005 to 0.02, between half and twice the target", RSL_RL),
            Source("bad above 0.1", RULE_OF_THUMB),
            Source("a spike means a drastic loss of performance", SCHULMAN),
        ),
        patience=2,
        healthy=(0.003, 0.02),
    ),
    Rule(
        "steps too small",
        "approx_kl",
        Below(1e-6),
        "updates hardly change the policy",
        "raise learning_rate by a factor of ten, and look whether its schedule has ended or the layers are frozen",
        (Source("above 1e-4 with several epochs an update; one step an update stays below that", HEURISTIC),),
        patience=10,
        until=0.5,
    ),
    Rule(
        "much clipping",
        "clip_fraction",
        Above(0.5),
        "most samples are beyond the clip range after the update, where they have no gradient",
        "lower learning_rate or n_epochs",
        (
            Source("0.1 to 0.2", RULE_OF_THUMB),
            Source("0.1 to 0.3", RULE_OF_THUMB),
            Source("growing large: the learning rate is too high", SAMPLE_FACTORY),
        ),
        patience=5,
        healthy=(0.02, 0.3),
    ),
    Rule(
        "ratios explode",
        "ratio_mean",
        Outside(0.8, 1.2),
        "the mean of the ratios of new to old probabilities is far from 1, its expectation",
        "lower clip_range to 0.2, and learning_rate",
        (Source("0.8 to 1.2", RULE_OF_THUMB), Source("drastic above 2 or below 0.1", TRL)),
        patience=2,
        healthy=(0.8, 1.2),
    ),
    Rule(
        "samples used up",
        "effective_sample_size",
        Below(0.5),
        "to the new policy the rollout is worth less than half of its samples",
        "lower n_epochs",
        (Source("a drop shows too large an update, or modes that differ", TORCHRL), Source("above 0.7", HEURISTIC)),
        patience=2,
        healthy=(0.7, 1.0),
    ),
    Rule(
        "ratio before the first step",
        "initial_ratio_error",
        Above(1e-3),
        "before anything has moved, the policy already disagrees with the one that acted",
        "take Dropout and BatchNorm out of the policy, or whatever else makes it say something new when asked twice",
        (Source("1 ± 1e-4", SB3), Source("an effective sample size below 1 at the start shows it", TORCHRL)),
        healthy=(0.0, 1e-4),
    ),
    # ------------------------------------------------------------------------------------------- exploration
    Rule(
        "entropy collapse",
        "relative_entropy",
        Fell(high=0.5, low=0.1, within=5),
        "the policy stopped exploring within a few updates",
        "lower learning_rate to a third",
        (Source("falls slowly, then flattens", JONES), Source("watch for premature drops", SCHULMAN)),
        healthy=(0.1, 1.0),
    ),
    Rule(
        "premature determinism",
        "relative_entropy",
        Below(0.02),
        "the policy hardly chooses any more, in the first half of the training",
        "raise ent_coef to 0.01",
        (Source("entropy keeps the landscape smooth while there is something to find", AHMED),),
        patience=3,
        until=0.5,
    ),
    Rule(
        "premature determinism of a Gaussian",
        "std_max",
        Below(0.01),
        "every action is nearly certain, and the gradient of a Gaussian grows as 1/σ",
        "give the policy policy_kwargs=dict(log_std_bounds=(-3, 2)) or raise ent_coef",
        (Source("the score of a Gaussian is (a − μ)/σ²", "Williams, 1992"),),
        patience=3,
    ),
    Rule(
        "noise takes over",
        "std_mean",
        Grew(factor=5.0, floor=2.0),
        "the standard deviation of the actions has grown since the beginning: the policy drowns in its noise",
        "lower ent_coef",
        (Source("falls as the policy learns", SCHULMAN),),
        patience=3,
    ),
    Rule(
        "actions out of bounds",
        "actions_clipped",
        Above(0.95),
        "nearly every action lies outside the bounds, where the environment does not notice differences",
        "rescale the actions to [-1, 1], or squash them: use_sde=True with policy_kwargs=dict(squash_output=True)",
        (Source("below 0.1", HEURISTIC),),
        patience=10,
        healthy=(0.0, 0.5),
    ),
    # ------------------------------------------------------------------------------------------- the critic
    Rule(
        "critic worse than the mean",
        "explained_variance",
        Below(-0.2, other="return_spread", floor=0.01),
        "the values describe the returns worse than their mean would",
        "raise vf_coef, or give the critic its own network: policy_kwargs=dict(share_features_extractor=False)",
        (Source("above 0", SB3), Source("above 0.5", RULE_OF_THUMB), Source("above 0.8 once trained", RULE_OF_THUMB)),
        patience=10,
        warm_up=10,
        healthy=(0.5, 1.0),
    ),
    Rule(
        "critic does not move",
        "value_lag",
        Below(1e-6),
        "updates leave the values as they are",
        "set vf_coef=0.5, and look whether the critic's layers are in the optimizer",
        (Source("small beside the spread of the targets, but not 0", SAMPLE_FACTORY),),
        patience=3,
    ),
    Rule(
        "critic lags behind",
        "value_error",
        Above(3.0),
        "after the update the values are still several standard deviations away from the returns",
        "raise the critic's learning: n_epochs or vf_coef, or normalise rewards with VecNormalize(norm_reward=True)",
        (Source("below 1", SAMPLE_FACTORY),),
        patience=10,
        warm_up=20,
        healthy=(0.0, 1.0),
    ),
    # ------------------------------------------------------------------------------------------- scales
    Rule(
        "returns of huge size",
        "return_std",
        Above(1e3),
        "the critic has to fit numbers that vary by thousands",
        "wrap the environment in VecNormalize(norm_reward=True)",
        (Source("within −10 to 10, best −3 to 3", JONES), Source("rescale rewards, do not shift them", SCHULMAN)),
        patience=2,
        healthy=(0.1, 10.0),
    ),
    Rule(
        "rewards of tiny size",
        "reward_size",
        Below(1e-4),
        "there is no reward at all, or it is too small beside the noise of the values",
        "multiply the rewards, or look whether the task is ever solved by chance",
        (Source("returns within −10 to 10, and standard deviation of the advantages not near 0", JONES),),
        patience=5,
    ),
    Rule(
        "advantages not normalised",
        "advantage_scale",
        Above(1e3),
        "the gradient takes advantages as they are, and they are large: steps are as large as the rewards",
        "set normalize_advantage=True, or wrap the environment in VecNormalize(norm_reward=True)",
        (Source("standard deviation 0.1 to 10", RULE_OF_THUMB), Source("not near 0", JONES)),
        patience=2,
        healthy=(0.1, 10.0),
    ),
    # ------------------------------------------------------------------------------------------- gradients
    Rule(
        "gradients vanish",
        "grad_norm",
        Below(1e-5),
        "there is no gradient",
        "look whether layers are frozen or units saturated, and whether the rewards vary at all",
        (Source("1e-5 to 10", RULE_OF_THUMB), Source("the softmax of a certain choice has none", AHMED)),
        patience=3,
        until=0.5,
    ),
    Rule(
        "gradients explode",
        "grad_norm",
        Above(1e5),
        "the gradient is huge before it is clipped: only its direction is left",
        "normalise the rewards: VecNormalize(norm_reward=True)",
        (Source("1e-5 to 10", RULE_OF_THUMB),),
        patience=2,
        healthy=(1e-5, 10.0),
    ),
    Rule(
        "gradients jump",
        "grad_norm",
        Spiked(factor=50.0, window=20, floor=10.0),
        "the gradient is many times what it was",
        "lower max_grad_norm, or look at the rewards of that rollout",
        (Source("spikes above 10 times the median", HEURISTIC),),
    ),
    Rule(
        "minibatches too small",
        "normalised_rows",
        Below(16),
        "advantages are standardised over so few rows that mean and standard deviation are mostly chance: over 4, the latter "
        "is off by 40 %",
        "raise batch_size to 64",
        (
            Source("a standard deviation from B samples is off by 1/√(2 (B − 1))", "statistics"),
            Source("diagnostics/noise_to_batch near 1; far above, a larger batch learns in fewer steps", MCCANDLISH),
        ),
    ),
    Rule(
        "units saturated",
        "saturated_units",
        Above(0.5),
        "most hidden units sit where tanh is flat and pass hardly any gradient on",
        "normalise the observations: VecNormalize(norm_obs=True)",
        (Source("few; beyond ±0.99 the derivative is below 0.02", HEURISTIC),),
        patience=2,
        healthy=(0.0, 0.2),
    ),
    Rule(
        "units dormant",
        "dormant_units",
        Above(0.5),
        "most hidden units no longer take part",
        "lower learning_rate",
        (Source("few per cent; a rising share costs plasticity", SOKAR),),
        patience=2,
        healthy=(0.0, 0.25),
    ),
    # ------------------------------------------------------------------------------------------- the environment
    Rule(
        "observations constant",
        "constant_observations",
        Above(0.5),
        "most entries of the observations have never changed",
        "look at the environment's observation function; leave out what does not vary",
        (Source("none", JONES),),
        warm_up=3,
    ),
    Rule(
        "observations enormous",
        "observation_max",
        Above(1e3),
        "an observation holds numbers far beyond what a network is made for",
        "normalise the observations: VecNormalize(norm_obs=True)",
        (Source("within −10 to 10", JONES), Source("running mean 0 and standard deviation 1", SCHULMAN)),
        patience=2,
        healthy=(0.0, 10.0),
    ),
    Rule(
        "time limit not flagged",
        "unflagged_time_limits",
        Above(0.5),
        "most episodes end at exactly the same, greatest length as if something had happened there: a time limit that the "
        "environment reports as a termination, so that the critic learns that nothing comes after it",
        "return truncated=True at the time limit, or leave it to gymnasium.wrappers.TimeLimit",
        (Source("bootstrap where only time ran out", PARDO),),
        patience=2,
    ),
    Rule(
        "reward hacked",
        "training_return",
        Parted(other="true_return", window=10, share=0.2),
        "the training's return rises while that of the true objective falls: the policy exploits the reward",
        "stop here, and change the reward before training on",
        (Source("a reward that is a proxy gets exploited", AMODEI),),
    ),
)
