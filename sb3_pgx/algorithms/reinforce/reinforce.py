"""REINFORCE: the gradient of whole episodes, without a critic."""

import copy
from typing import Any, ClassVar, Literal, get_args

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from sb3_pgx.algorithms.reinforce.episodes import Episodes
from sb3_pgx.algorithms.reinforce.episodic import EpisodicAlgorithm
from sb3_pgx.core.checks import as_flag, check_choice
from sb3_pgx.core.examination import Examination
from sb3_pgx.core.policies import (
    ActorCnnPolicy,
    ActorMultiInputPolicy,
    ActorPolicy,
    leave_out,
    split_parameters,
)
from sb3_pgx.core.recurrent_evaluation import is_recurrent
from sb3_pgx.core.rollout import EvaluatedRollout, Rollout, map_tensors
from sb3_pgx.core.search_space import EPISODES, Categorical, Dimension
from sb3_pgx.engine import accumulated_step
from sb3_pgx.ops.baselines import leave_one_out, mean_baseline, mean_of_others
from sb3_pgx.ops.per_sample import MAX_NUMBERS
from sb3_pgx.ops.returns import monte_carlo, standardize
from sb3_pgx.stages.report import Metrics
from sb3_pgx.stages.score_gradients import map_scores

Baseline = Literal["mean", "loo", "optimal", "optimal_per_parameter"]
BASELINES = (None, *get_args(Baseline))


class REINFORCE(EpisodicAlgorithm):
    """
    REINFORCE with rewards-to-go (Williams, 1992; Sutton & Barto, 2018, §13.3).

    One gradient step per update, on the mean over episodes of −Σ_t w_t log π(a_t|s_t) Ψ_t with Ψ_t = G_t − b_t and G_t = Σ_k
    γ^k r_{t+k}. No critic is built; a custom policy's critic gets no gradient and is left out of the optimizer. A truncated
    episode counts as finished: its return is that of a finite horizon (``REINFORCEBaseline`` can bootstrap).

    Every update uses exactly ``n_episodes`` whole episodes **from each environment**, so that no episode length is favoured.
    Steps of environments that wait for the others are masked. If an environment is in the middle of an episode when a rollout
    starts, all are reset; a ``Monitor`` with ``allow_early_resets=False`` does not allow that.

    :param policy: ``"MlpPolicy"`` (vectors), ``"CnnPolicy"`` (images), ``"MultiInputPolicy"`` (dictionaries), or a policy
        class
    :param env: an environment, a ``VecEnv`` or the id of a registered environment
    :param learning_rate: step size of the optimizer (Adam). The loss sums over an episode's steps, so long episodes need a
        smaller one. Typical: 1e-4 to 1e-2. Larger values learn faster until updates become unstable. A number, a function of
        the remaining progress (1 to 0) or a string such as ``"lin_0.01"``
    :param n_episodes: whole episodes per environment and update. Typical: 1 to 20. Larger values give less variance and fewer
        updates
    :param gamma: γ, discount factor per step, in [0, 1]. Typical: 0.98 to 0.999; rewards count over about 1/(1 − γ) steps.
        Larger values look further ahead, with more variance
    :param baseline: b_t, subtracted from the return at step t; the same for all states (see :mod:`sb3_pgx.ops.baselines`):

        - ``None``: no baseline; unbiased, largest variance
        - ``"mean"``: mean over the episodes alive at t; biased: with E of them the expected gradient is (1 − 1/E) of the true
          one
        - ``"loo"``: mean over the *other* episodes alive at t (leave one out); unbiased
        - ``"optimal"``: as ``"loo"``, weighted by ‖∇log π‖²: estimates the baseline of least variance; unbiased
        - ``"optimal_per_parameter"``: as ``"optimal"``, for each parameter separately; unbiased. The buffer's ``advantages``
          are then the plain returns

    :param normalize_returns: standardise the returns over the batch before the baseline is subtracted. The step size becomes
        steadier, but the **direction** of the expected gradient changes, too, because mean and deviation come from the same
        batch
    :param discount_state_weighting: weight the policy's gradient at step t of an episode with γ^t, which makes it the exact
        gradient of the discounted objective. The default ``False`` is common practice; for γ < 1 it is in general the gradient
        of no function (Nota & Thomas, 2020)
    :param ent_coef: reward per nat of entropy and step. Typical: 0 to 0.01. Larger values keep the policy more random. A
        number, a schedule or a string
    :param max_grad_norm: largest L2 norm of the gradient, scaled down to it; ``None`` disables clipping. Typical: ``None``, or
        0.5 to 10. Smaller values damp outliers
    :param max_episode_steps: steps after which an unfinished episode is an error, because it may never end. Typical: well
        above the environment's time limit. Larger values only delay the error
    :param use_sde: use generalised state-dependent exploration (Raffin et al., 2022): smooth exploration noise, Box actions
        only
    :param sde_sample_freq: steps between two draws of the noise of ``use_sde``. Typical: 4 to 64, or −1, once per rollout.
        Larger values explore more smoothly
    :param rollout_buffer_class: for compatibility with SB3; only ``None`` and SB3's own classes, since others cannot
        hold whole episodes
    :param rollout_buffer_kwargs: further arguments of ``rollout_buffer_class``
    :param stats_window_size: number of recent episodes that ``rollout/ep_rew_mean`` averages over. Typical: 100. Larger values
        give smoother curves that lag more; training does not depend on it
    :param tensorboard_log: folder for TensorBoard logs; ``None`` writes none
    :param policy_kwargs: arguments of the policy's constructor, such as ``dict(net_arch=[64, 64])``; also ``log_std_bounds``
        and ``state_dependent_std`` (:class:`sb3_pgx.core.policies.GaussianStdMixin`)
    :param verbose: 0 prints nothing, 1 prints messages and the log, 2 adds debug messages
    :param seed: seed of weights, actions, minibatches and environments; ``None``: not seeded
    :param device: ``"cpu"``, ``"cuda"`` or ``"auto"`` (CUDA if available)
    :param _init_setup_model: build the networks at once; SB3 passes ``False`` while loading
    :param compile: compile acting if ``True``; ``"auto"`` does not. The gradient step always runs uncompiled, because rollouts
        differ in length
    :raises ValueError: an argument is invalid, or a leave-one-out baseline gets a single episode per update
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorPolicy,
        "CnnPolicy": ActorCnnPolicy,
        "MultiInputPolicy": ActorMultiInputPolicy,
    }

    trains_critic = False
    max_numbers = MAX_NUMBERS  # of per-step gradients, which variance-optimal baselines hold at once
    search_space: ClassVar[tuple[Dimension, ...]] = (
        *EPISODES,
        Categorical("baseline", (None, "mean", "loo", "optimal")),
        Categorical("normalize_returns", (False, True)),
    )
    examination: ClassVar[Examination] = Examination(3072, 0.05, dict(n_episodes=4, baseline="loo"))

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | str | Schedule = 1e-3,
        n_episodes: int = 4,
        gamma: float = 0.99,
        baseline: Baseline | None = None,
        normalize_returns: bool = False,
        discount_state_weighting: bool = False,
        ent_coef: float | str | Schedule = 0.0,
        max_grad_norm: float | None = None,
        max_episode_steps: int = 100_000,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        compile: bool | Literal["auto"] = "auto",
    ):
        super().__init__(
            policy,
            env,
            n_episodes=n_episodes,
            discount_state_weighting=discount_state_weighting,
            max_episode_steps=max_episode_steps,
            learning_rate=learning_rate,
            gamma=gamma,
            ent_coef=ent_coef,
            vf_coef=0.0,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            compile=compile,
        )
        self.baseline = baseline
        self.normalize_returns = normalize_returns
        if _init_setup_model:
            self._setup_model()

    def check_arguments(self) -> None:
        """
        Check the arguments.

        :raises ValueError: an argument is invalid
        """
        super().check_arguments()
        check_choice(BASELINES, baseline=self.baseline)
        self.normalize_returns = as_flag("normalize_returns", self.normalize_returns)
        if self.baseline in ("optimal", "optimal_per_parameter") and is_recurrent(self.policy_class):
            raise ValueError(
                f'baseline="{self.baseline}" needs the gradient of each step on its own, but {self.policy_class.__name__} is '
                'recurrent, and its gradient goes through whole episodes: use baseline="loo"'
            )
        leaves_one_out = self.baseline not in (None, "mean")
        if leaves_one_out and self.env is not None and self.n_episodes * self.n_envs < 2:
            raise ValueError(
                f'baseline="{self.baseline}" compares an episode with the others of the same update, but there is only one: '
                "raise n_episodes, or use more environments."
            )

    @property
    def unlearned(self) -> tuple[str, ...]:
        """Arrays of the rollout buffer that the algorithm does not learn from; writing into them is refused."""
        # There is no critic, hence no values; per-parameter baselines use the returns instead of the advantages.
        return (*super().unlearned, "values", *(["advantages"] if self.baseline == "optimal_per_parameter" else []))

    def _setup_model(self) -> None:
        super()._setup_model()
        actor, critic = split_parameters(self.policy)
        leave_out(self.policy.optimizer, {name: p for name, p in critic.items() if name not in actor})

    def estimate(self, rollout: EvaluatedRollout) -> Rollout:
        """
        Return the rollout with the returns G_t, and Ψ_t = G_t − b_t as the advantages.

        :param rollout: evaluated rollout of whole episodes
        """
        no_bootstrap = th.zeros_like(rollout.rewards)
        returns = monte_carlo(rollout.rewards, no_bootstrap, rollout.ends, self.gamma, rollout.valid)
        signal = self._signal(returns, rollout.valid)
        episodes = Episodes.of(rollout)
        columns, alive = episodes.columns(signal), episodes.columns(rollout.valid)
        if self.baseline == "mean":
            signal = signal - episodes.back(mean_baseline(columns, alive))
        elif self.baseline == "loo":
            signal = signal - episodes.back(leave_one_out(columns, alive))
        elif self.baseline == "optimal":
            weights = masked_place(rollout.valid, self._squared_scores(rollout))
            signal = signal - episodes.back(leave_one_out(columns, alive, episodes.columns(weights)))
        return rollout.estimated(signal, returns)

    def accumulate_gradient(self, rollout: Rollout, vf_coef: float | None = None) -> Metrics:
        """
        Accumulate the gradient in ``.grad``. Arguments are those of the base class. With one baseline per parameter, each
        parameter has its own loss, so the policy's part is computed from the scores.
        """
        if self.baseline != "optimal_per_parameter":
            return super().accumulate_gradient(rollout, vf_coef)
        actor, _ = split_parameters(self.policy)
        gradient = self._per_parameter_gradient(rollout, actor)
        entropy_alone = copy.copy(rollout)
        entropy_alone.advantages = th.zeros_like(rollout.advantages)
        metrics = super().accumulate_gradient(entropy_alone, vf_coef)
        for p, g in zip(actor.values(), gradient.split([p.numel() for p in actor.values()]), strict=True):
            p.grad = g.view_as(p) if p.grad is None else p.grad + g.view_as(p)
        return metrics

    def update(self, rollout: Rollout) -> Metrics:
        """
        Take one gradient step on all episodes of the rollout.

        :param rollout: rollout with Ψ in ``advantages``
        :return: metrics to log, without the prefix ``train/``
        """
        actor, _ = split_parameters(self.policy)
        metrics = self.accumulate_gradient(rollout)
        loss = metrics["loss"]
        assert isinstance(loss, Tensor)
        stepped = accumulated_step(self.policy.optimizer, actor, self.max_grad_norm, loss, self._n_updates)
        self._n_updates += 1
        if self.baseline == "optimal_per_parameter":  # each parameter has its own loss
            del metrics["loss"], metrics["policy_loss"]
        return {**metrics, **self.spread(), **stepped}

    def _signal(self, returns: Tensor, valid: Tensor) -> Tensor:
        """Return the returns, standardised over the batch if asked for, with zeros in rows that are not valid."""
        return standardize(returns, valid) if self.normalize_returns else returns

    def _squared_scores(self, rollout: EvaluatedRollout) -> Tensor:
        """Return ‖∇_θ log π‖² for each valid row, in the order of ``valid.nonzero()``."""
        actor, _ = split_parameters(self.policy)
        inputs = map_tensors(lambda x: x[rollout.valid], rollout.inputs)
        actions = rollout.actions[rollout.valid]
        return map_scores(lambda g: g.square().sum(dim=1), self.policy, actor, inputs, actions, self.action_space)

    def _per_parameter_gradient(self, rollout: Rollout, actor: dict[str, th.nn.Parameter]) -> Tensor:
        """
        Return −(1/E) Σ_i Σ_t w_t ∇log π(a_it|s_it) ∘ (G_it − b_it), where b_it differs between parameters, ``[P]``.

        Works in blocks of steps, because the scores of all episodes at the same step are needed together.
        """
        self.policy.set_training_mode(False)
        episodes = Episodes.of(rollout)
        signal, alive = episodes.columns(self._signal(rollout.returns, rollout.valid)), episodes.columns(rollout.valid)
        discounts = episodes.columns(
            episodes.discounts(self.gamma if self.discount_state_weighting else 1.0, rollout.rewards.dtype)
        )
        size = sum(p.numel() for p in actor.values())
        total = th.zeros(size, dtype=signal.dtype, device=self.device)
        fallback = mean_of_others(signal, alive)
        block = max(1, self.max_numbers // (len(episodes) * size))
        row_of = th.full(alive.shape, -1, device=self.device)
        row_of[episodes.step, episodes.number] = th.arange(len(episodes.step), device=self.device)
        inputs = map_tensors(lambda x: x[rollout.valid], rollout.inputs)
        actions = rollout.actions[rollout.valid]
        for start in range(0, len(alive), block):
            b = slice(start, start + block)
            rows = row_of[b][alive[b]]
            picked = map_tensors(lambda x, rows=rows: x[rows], inputs)
            scores = map_scores(lambda g: g, self.policy, actor, picked, actions[rows], self.action_space)
            score = masked_place(alive[b], scores)  # [block, E, P]
            baseline = leave_one_out(signal[b], alive[b], score.square(), fallback)
            total += (discounts[b, :, None] * score * (signal[b, :, None] - baseline)).sum(dim=(0, 1))
        self.policy.set_training_mode(True)
        return -total / len(episodes)


def masked_place(where: Tensor, values: Tensor) -> Tensor:
    """
    Return ``values`` at the true entries of a mask, and zeros elsewhere.

    :param where: mask, any shape
    :param values: one entry per true entry of the mask, ``[R, ...]``
    :return: shape of the mask, followed by the trailing shape of ``values``
    """
    result = values.new_zeros(*where.shape, *values.shape[1:])
    result[where] = values
    return result
