"""
The rules that come with this package: common failures of runs, with thresholds and their sources.

``meaning`` completes the sentence that users read: "<name>: <meaning>. <metric> is <value>, <condition>. Try this: <remedy>."
"""

from sb3_pgx.diagnostics.conditions import Above, Below, Fell, Grew, Outside, RoseWhileOtherFell, Spiked
from sb3_pgx.diagnostics.rules import Rule, Source

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
HAARNOJA = "Haarnoja et al., 2018b, Soft actor-critic algorithms and applications"
HASSELT = "van Hasselt et al., 2018, Deep reinforcement learning and the deadly triad"
CHEN = "Chen et al., 2021, Randomized ensembled double Q-learning"
NIKISHIN = "Nikishin et al., 2022, The primacy bias in deep reinforcement learning"
BELLEMARE = "Bellemare et al., 2017, A distributional perspective on reinforcement learning"
KONG = "Kong, 1992, A note on importance sampling using standardized weights"
LILLICRAP = "Lillicrap et al., 2016, Continuous control with deep reinforcement learning"
RULE_OF_THUMB = "rule of thumb in tutorials"
EXPERIENCE = "sb3_pgx, healthy runs with tuned settings"

POLICY_STEP_RULES = (
    Rule(
        name="steps too large",
        metric="approx_kl",
        condition=Above(0.1),
        meaning="each update changes the policy so much that the rollout no longer describes it",
        remedy="lower learning_rate to a third, or set target_kl=0.02",
        sources=(
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
        name="steps too small",
        metric="approx_kl",
        condition=Below(1e-6),
        meaning="updates hardly change the policy, so it learns very slowly or not at all",
        remedy="raise learning_rate by a factor of ten, and check that its schedule has not ended and no layers are frozen",
        sources=(Source("above 1e-4 with several epochs per update; less with one gradient step per update", EXPERIENCE),),
        patience=10,
        until=0.5,
    ),
    Rule(
        name="too much clipping",
        metric="clip_fraction",
        condition=Above(0.5),
        meaning="after the update most samples are outside the clip range, where many of them have no gradient",
        remedy="lower learning_rate or n_epochs",
        sources=(
            Source("0.1 to 0.2", RULE_OF_THUMB),
            Source("0.1 to 0.3", RULE_OF_THUMB),
            Source("growing large: the learning rate is too high", SAMPLE_FACTORY),
        ),
        patience=5,
        healthy=(0.02, 0.3),
    ),
    Rule(
        name="ratios explode",
        metric="ratio_mean",
        condition=Outside(0.8, 1.2),
        meaning="the mean ratio of new to old action probabilities is far from its expectation, 1",
        remedy="lower clip_range to 0.2, and lower learning_rate",
        sources=(Source("0.8 to 1.2", RULE_OF_THUMB), Source("drastic above 2 or below 0.1", TRL)),
        patience=2,
        healthy=(0.8, 1.2),
    ),
    Rule(
        name="effective sample size too small",
        metric="effective_sample_size",
        condition=Below(0.5),
        meaning="the new policy differs so much that the rollout is worth less than half of its samples to it",
        remedy="lower n_epochs",
        sources=(
            Source("a drop shows an update that is too large, or policies that differ between modes", TORCHRL),
            Source("above 0.7", EXPERIENCE),
        ),
        patience=2,
        healthy=(0.7, 1.0),
    ),
    Rule(
        name="ratio differs from 1 before the first step",
        metric="initial_ratio_error",
        condition=Above(1e-3),
        meaning="the update starts from a policy that differs from the one that acted, although no parameter has changed",
        remedy="remove Dropout, BatchNorm and anything else from the policy whose output differs between two calls",
        sources=(Source("1 ± 1e-4", SB3), Source("an effective sample size below 1 at the start shows it", TORCHRL)),
        healthy=(0.0, 1e-4),
    ),
)

EXPLORATION_RULES = (
    Rule(
        name="entropy collapse",
        metric="relative_entropy",
        condition=Fell(high=0.5, low=0.1, within=5),
        meaning="the policy stopped exploring within a few updates",
        remedy="lower learning_rate to a third",
        sources=(Source("falls slowly, then flattens", JONES), Source("watch for premature drops", SCHULMAN)),
        healthy=(0.1, 1.0),
    ),
    Rule(
        name="premature determinism",
        metric="relative_entropy",
        condition=Below(0.02),
        meaning="in the first half of the run the policy is already nearly deterministic, so it no longer explores",
        remedy="raise ent_coef to 0.01",
        sources=(Source("entropy keeps the landscape smooth while there is something to find", AHMED),),
        patience=3,
        until=0.5,
    ),
    Rule(
        name="Gaussian policy nearly deterministic",
        metric="std_max",
        condition=Below(0.01),
        meaning="all standard deviations of the actions are tiny, and the gradient of a Gaussian policy grows as 1/σ",
        remedy="pass policy_kwargs=dict(log_std_bounds=(-3, 2)), or raise ent_coef",
        sources=(Source("the score of a Gaussian is (a − μ)/σ²", "Williams, 1992"),),
        patience=3,
    ),
    Rule(
        name="action noise grows",
        metric="std_mean",
        condition=Grew(factor=5.0, floor=2.0),
        meaning="the standard deviation of the actions has grown since the start, so noise hides what the policy learned",
        remedy="lower ent_coef",
        sources=(Source("falls as the policy learns", SCHULMAN),),
        patience=3,
    ),
    Rule(
        name="actions out of bounds",
        metric="actions_clipped",
        condition=Above(0.95),
        meaning="nearly all actions are outside the bounds and get clipped, so the environment cannot tell them apart",
        remedy="rescale the action space to [-1, 1], or squash the actions: use_sde=True with "
        "policy_kwargs=dict(squash_output=True)",
        sources=(Source("below 0.1", EXPERIENCE),),
        patience=10,
        healthy=(0.0, 0.5),
    ),
)

CRITIC_RULES = (
    Rule(
        name="critic worse than the mean",
        metric="explained_variance",
        condition=Below(-0.2, other="return_spread", floor=0.01),
        meaning="the critic's values predict the returns worse than a constant, the mean return, would",
        remedy="raise vf_coef, or give the critic its own network: policy_kwargs=dict(share_features_extractor=False)",
        sources=(
            Source("above 0", SB3),
            Source("above 0.5", RULE_OF_THUMB),
            Source("above 0.8 once trained", RULE_OF_THUMB),
        ),
        patience=10,
        warm_up=10,
        healthy=(0.5, 1.0),
    ),
    Rule(
        name="critic does not move",
        metric="value_lag",
        condition=Below(1e-6),
        meaning="updates do not change the critic's values",
        remedy="set vf_coef=0.5, and check that the optimizer holds the critic's parameters and that they are not frozen",
        sources=(Source("small compared with the spread of the targets, but not 0", SAMPLE_FACTORY),),
        patience=3,
    ),
    Rule(
        name="critic lags behind",
        metric="value_error",
        condition=Above(3.0),
        meaning="even after the update the critic's values miss the returns by several standard deviations",
        remedy="raise n_epochs or vf_coef so that the critic learns faster, or use VecNormalize(norm_reward=True)",
        sources=(Source("below 1", SAMPLE_FACTORY),),
        patience=10,
        warm_up=20,
        healthy=(0.0, 1.0),
    ),
)

SCALE_RULES = (
    Rule(
        name="returns too large",
        metric="return_std",
        condition=Above(1e3),
        meaning="returns vary by thousands, which a critic fits slowly and which makes gradients large",
        remedy="wrap the environment in VecNormalize(norm_reward=True)",
        sources=(Source("within −10 to 10, best −3 to 3", JONES), Source("rescale rewards, do not shift them", SCHULMAN)),
        patience=2,
        healthy=(0.1, 10.0),
    ),
    Rule(
        name="rewards too small",
        metric="reward_size",
        condition=Below(1e-4),
        meaning="all rewards are 0 or tiny, so the errors of the critic hide them",
        remedy="multiply the rewards by a constant, and check whether random actions ever solve the task",
        sources=(Source("returns within −10 to 10, and standard deviation of the advantages not near 0", JONES),),
        patience=5,
    ),
    Rule(
        name="advantages not normalised",
        metric="advantage_scale",
        condition=Above(1e3),
        meaning="the gradient uses advantages that are large and not normalised, so steps grow with the rewards",
        remedy="set normalize_advantage=True, or wrap the environment in VecNormalize(norm_reward=True)",
        sources=(Source("standard deviation 0.1 to 10", RULE_OF_THUMB), Source("not near 0", JONES)),
        patience=2,
        healthy=(0.1, 10.0),
    ),
)

GRADIENT_RULES = (
    Rule(
        name="gradients vanish",
        metric="grad_norm",
        condition=Below(1e-5),
        meaning="the gradient is practically zero, so the policy cannot learn",
        remedy="check that no layers are frozen, that units are not saturated, and that the rewards vary",
        sources=(Source("1e-5 to 10", RULE_OF_THUMB), Source("the softmax of a certain choice has no gradient", AHMED)),
        patience=3,
        until=0.5,
    ),
    Rule(
        name="gradients explode",
        metric="grad_norm",
        condition=Above(1e5),
        meaning="the gradient is huge before it is clipped, and clipping leaves only its direction",
        remedy="normalise the rewards: VecNormalize(norm_reward=True)",
        sources=(Source("1e-5 to 10", RULE_OF_THUMB),),
        patience=2,
        healthy=(1e-5, 10.0),
    ),
    Rule(
        name="gradients jump",
        metric="grad_norm",
        condition=Spiked(factor=50.0, window=20, floor=10.0),
        meaning="the gradient suddenly became many times larger than before",
        remedy="lower max_grad_norm, and check the rewards of this rollout",
        sources=(Source("spikes above 10 times the median", EXPERIENCE),),
    ),
    Rule(
        name="minibatches too small",
        metric="normalised_rows",
        condition=Below(16),
        meaning="advantages are normalised over so few rows that their mean and standard deviation are mostly chance; over 4 "
        "rows the standard deviation is off by 40 %",
        remedy="raise batch_size to 64",
        sources=(
            Source("a standard deviation from B samples is off by 1/√(2 (B − 1))", "statistics"),
            Source("diagnostics/noise_to_batch near 1; far above, a larger batch learns in fewer steps", MCCANDLISH),
        ),
    ),
    Rule(
        name="units saturated",
        metric="saturated_units",
        condition=Above(0.5),
        meaning="most tanh units are saturated, so hardly any gradient passes through them",
        remedy="normalise the observations: VecNormalize(norm_obs=True)",
        sources=(Source("few; beyond ±0.99 the derivative is below 0.02", EXPERIENCE),),
        patience=2,
        healthy=(0.0, 0.2),
    ),
    Rule(
        name="units dormant",
        metric="dormant_units",
        condition=Above(0.5),
        meaning="most rectified units are practically always off, so the network has lost capacity",
        remedy="lower learning_rate",
        sources=(Source("a few per cent; a rising share costs plasticity", SOKAR),),
        patience=2,
        healthy=(0.0, 0.25),
    ),
)

ENVIRONMENT_RULES = (
    Rule(
        name="observations constant",
        metric="constant_observations",
        condition=Above(0.5),
        meaning="most entries of the observations have never changed, so the policy cannot learn from them",
        remedy="check how the environment fills its observations, and leave out entries that do not vary",
        sources=(Source("none", JONES),),
        warm_up=3,
    ),
    Rule(
        name="observations too large",
        metric="observation_max",
        condition=Above(1e3),
        meaning="observations hold numbers that are far too large for a neural network",
        remedy="normalise the observations: VecNormalize(norm_obs=True)",
        sources=(Source("within −10 to 10", JONES), Source("running mean 0 and standard deviation 1", SCHULMAN)),
        patience=2,
        healthy=(0.0, 10.0),
    ),
    Rule(
        name="time limit not flagged",
        metric="unflagged_time_limits",
        condition=Above(0.5),
        meaning="most episodes end after exactly the same, greatest number of steps and are not truncated. It looks like a "
        "time limit reported as a termination, from which the critic learns that no reward follows",
        remedy="return truncated=True at the time limit, or use gymnasium.wrappers.TimeLimit",
        sources=(Source("bootstrap if only time ran out", PARDO),),
        patience=2,
    ),
    Rule(
        name="reward hacked",
        metric="training_return",
        condition=RoseWhileOtherFell(other="true_return", window=10, share=0.2),
        meaning="the training return rises while the return of the true objective falls: the policy exploits the reward",
        remedy="stop the run and correct the reward",
        sources=(Source("a reward that is a proxy gets exploited", AMODEI),),
    ),
)

OFF_POLICY_RULES = (
    Rule(
        name="critics diverge",
        metric="q_excess",
        condition=Above(1.5),
        meaning="the critics predict returns that are larger than the rewards allow, so their errors feed on themselves",
        remedy="lower learning_rate to a third, and tau to 0.005",
        sources=(Source("values beyond the largest possible return are a sign of divergence", HASSELT),),
        patience=2,
        healthy=(0.0, 1.0),
    ),
    Rule(
        name="returns beyond the support",
        metric="clipped_returns",
        condition=Above(0.1),
        meaning="the critic's distribution ends where returns do not, so that it cannot tell good actions from better ones",
        remedy="lower v_min and raise v_max until they are a little beyond the smallest and the largest discounted return, or "
        "use VecNormalize(norm_reward=True)",
        sources=(Source("values outside of the support are moved to its ends", BELLEMARE),),
        patience=3,
        healthy=(0.0, 0.02),
    ),
    Rule(
        name="soft values from too few actions",
        metric="value_samples",
        condition=Below(1.5),
        meaning="one of the random actions has nearly all of the weight in a soft value, so that it is little more than the "
        "largest of a few values, too small and noisy",
        remedy="raise n_value_samples to four times its value, or ent_coef to ten times",
        sources=(Source("the effective sample size measures how much importance sampling can be trusted", KONG),),
        patience=3,
    ),
    Rule(
        name="temperature collapsed",
        metric="relative_temperature",
        condition=Below(1e-5, other="entropy_deficit", floor=1.0),
        meaning="in the first half of the run the policy is far less random than target_entropy, and the temperature is so "
        "small that the entropy does not count",
        remedy='set ent_coef="auto", or "auto_0.1" if it was learned',
        sources=(Source("a learned temperature keeps the entropy at its target", HAARNOJA),),
        patience=3,
        until=0.5,
    ),
    Rule(
        name="actions saturated",
        metric="saturated_actions",
        condition=Above(0.95),
        meaning="nearly all actions are at their bounds, where tanh is flat and hardly any gradient reaches the policy",
        remedy="lower learning_rate to a third, and divide the rewards by a constant or use VecNormalize(norm_reward=True)",
        sources=(
            Source("below 0.02 of its maximum, the derivative of tanh beyond ±0.99", "calculus"),
            Source("small final weights keep the first actions away from the bounds", LILLICRAP),
        ),
        patience=5,
        healthy=(0.0, 0.5),
    ),
    Rule(
        name="replay ratio too low",
        metric="samples_per_step",
        condition=Below(1.0),
        meaning="fewer transitions are sampled than collected, so most of them are never learned from",
        remedy="set gradient_steps=-1, which takes as many gradient steps as environment steps",
        sources=(Source("one gradient step of 256 transitions per environment step", HAARNOJA),),
        patience=3,
        healthy=(16.0, 2048.0),
    ),
    Rule(
        name="replay ratio too high",
        metric="samples_per_step",
        condition=Above(4096.0),
        meaning="each transition is replayed so often that the critics overfit the first ones",
        remedy="lower gradient_steps to train_freq times the number of environments",
        sources=(
            Source("20 gradient steps of 256 transitions per environment step need ensembles", CHEN),
            Source("many replays of early transitions harm all later learning", NIKISHIN),
        ),
        patience=3,
        healthy=(16.0, 2048.0),
    ),
)

DEFAULT_RULES = (
    *POLICY_STEP_RULES,
    *EXPLORATION_RULES,
    *CRITIC_RULES,
    *SCALE_RULES,
    *GRADIENT_RULES,
    *ENVIRONMENT_RULES,
    *OFF_POLICY_RULES,
)
