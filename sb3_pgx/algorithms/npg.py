"""NPG: one policy step along the natural gradient, of a fixed length or up to a KL divergence; then the critic's steps."""

import math
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from sb3_pgx.algorithms.trust_region_problems import CRITIC, POLICY
from sb3_pgx.core.checks import (
    as_flag,
    check_choice,
    check_counts,
    check_finite_not_negative,
    check_positive,
    warn_of_uneven_batches,
)
from sb3_pgx.core.distributions import family_of
from sb3_pgx.core.errors import first_line, is_torchs, warn
from sb3_pgx.core.examination import Examination
from sb3_pgx.core.policies import split_parameters
from sb3_pgx.core.recurrent_evaluation import is_recurrent
from sb3_pgx.core.rollout import Batch, PolicyInputs, Rollout, map_tensors
from sb3_pgx.core.search_space import NATURAL, Dimension
from sb3_pgx.engine import Objective
from sb3_pgx.engine.refusals import not_finite, step_refusal
from sb3_pgx.ops.metrics import explained_variance
from sb3_pgx.ops.natural_gradient import (
    LineSearch,
    Solution,
    capped_step_length,
    conjugate_gradient,
    damped,
    kl_step_length,
)
from sb3_pgx.ops.objectives import standardized
from sb3_pgx.stages.algorithm import PolicyGradientAlgorithm, ceil_div
from sb3_pgx.stages.critic import CRITIC_OBJECTIVE, fit_critic
from sb3_pgx.stages.evaluate import values_of
from sb3_pgx.stages.report import Metrics
from sb3_pgx.stages.trust_region import TrustRegion, TrustRegionStep, named

StepRule = Literal["kl", "fixed"]
CriticUpdate = Literal["sgd", "trust_region"]
# Parts of torch's error messages for layers whose gradient cannot be differentiated.
ONCE_DIFFERENTIABLE = ("once_differentiable", "derivative for", "does not require grad")
# Likely causes of a refused step, for the error message.
CAUSES = (
    "target_kl or step_size too large, or cg_damping too small, rewards or observations of huge size (wrap the environment in "
    "VecNormalize), a collapsed standard deviation (policy_kwargs=dict(log_std_bounds=(-20, 2)))"
)


class NPG(PolicyGradientAlgorithm):
    """
    Natural policy gradient (Kakade, 2001).

    Each update takes one step along F⁻¹g. g is the gradient of the mean of A π(a|s) / π_old(a|s). F is the Fisher matrix of
    the action distribution, averaged over the states, in the parameters that the distribution depends on. F is never formed:
    its products with vectors are exact, and conjugate gradients solve the system.

    Then the critic is fitted to the returns. It does not change the action distribution: layers shared with the actor are
    trained by the actor alone. Dropout and BatchNorm run in evaluation mode, as in acting.

    With gSDE, SB3's policies stop the gradient from the standard deviations into the layers below, so F leaves that path out
    and δ is met less closely.

    :param policy: ``"MlpPolicy"`` (vectors), ``"CnnPolicy"`` (images), ``"MultiInputPolicy"`` (dictionaries), or a policy
        class
    :param env: an environment, a ``VecEnv`` or the id of a registered environment
    :param learning_rate: step size of the critic's optimizer, for ``critic="sgd"``. Typical: 3e-4 to 3e-3. Larger values learn
        faster until updates become unstable. A number, a function of the remaining progress (1 to 0) or a string such as
        ``"lin_1e-3"``
    :param n_steps: steps per environment and rollout; the batch of an update has n_steps · n_envs rows. Typical: 512 to 5000.
        Larger values give better gradients and fewer updates per environment step
    :param batch_size: rows of a minibatch of the critic, for ``critic="sgd"``. Typical: 64 to 512. Larger values take fewer,
        less noisy steps
    :param gamma: γ, discount factor per step, in [0, 1]. Typical: 0.98 to 0.999; rewards count over about 1/(1 − γ) steps.
        Larger values look further ahead, with more variance
    :param cg_max_steps: largest number of conjugate gradient iterations; each costs one product with F. Typical: 10 to 25.
        Larger values solve for the step more exactly (Schulman et al., 2015, app. C)
    :param cg_damping: λ in (F + λI)⁻¹g. Typical: 1e-3 to 0.1. Larger values move closer to the plain gradient, with shorter,
        safer steps
    :param n_critic_updates: passes over the rollout per update, for ``critic="sgd"``. Typical: 5 to 20. Larger values fit V
        better and may overfit it
    :param gae_lambda: λ of generalised advantage estimation, in [0, 1]. Typical: 0.9 to 0.98. 0 gives one-step advantages, 1
        Monte-Carlo returns minus V(s). Larger values bring less bias from the critic and more variance (Schulman et al., 2016,
        eq. 16)
    :param use_sde: use generalised state-dependent exploration (Raffin et al., 2022): smooth exploration noise, Box actions
        only
    :param sde_sample_freq: steps between two draws of the noise of ``use_sde``. Typical: 4 to 64, or −1, once per rollout.
        Larger values explore more smoothly
    :param rollout_buffer_class: your own class with the interface of SB3's ``RolloutBuffer``, filled after collection;
        ``None``: SB3's interface to the rollout
    :param rollout_buffer_kwargs: further arguments of ``rollout_buffer_class``
    :param normalize_advantage: standardise the advantages over the batch to mean 0 and standard deviation 1, so that the step
        does not depend on the scale of the rewards
    :param target_kl: δ of ``step_rule="kl"``: mean KL(π_old‖π) over the states, in nats, summed over action dimensions.
        Typical: 0.001 to 0.05. Larger values take longer steps. A number, a schedule or a string such as ``"lin_0.06"``
    :param sub_sampling_factor: k: products with F use a random 1/k of the states, drawn per update; everything else uses the
        whole batch. Typical: 1 to 10. Larger values are faster, with a noisier step (Schulman et al., 2015, app. C)
    :param stats_window_size: number of recent episodes that ``rollout/ep_rew_mean`` averages over. Typical: 100. Larger values
        give smoother curves that lag more; training does not depend on it
    :param tensorboard_log: folder for TensorBoard logs; ``None`` writes none
    :param policy_kwargs: arguments of the policy's constructor, such as ``dict(net_arch=[64, 64])``
    :param verbose: 0 prints nothing, 1 prints messages and the log, 2 adds debug messages
    :param seed: seed of weights, actions, minibatches and environments; ``None``: not seeded
    :param device: ``"cpu"``, ``"cuda"`` or ``"auto"`` (CUDA if available)
    :param _init_setup_model: build the networks at once; SB3 passes ``False`` while loading
    :param compile: compile acting, products with F and the critic's steps: ``True``, ``False``, or ``"auto"``, which compiles
        if the run is long enough to repay it (:data:`sb3_pgx.engine.compiler.COMPILE_AFTER`)
    :param step_rule: length of the step along s = (F + λI)⁻¹g: ``"kl"`` takes √(2δ / sᵀFs) s, whose divergence is δ to second
        order; ``"fixed"`` takes ``step_size`` · s
    :param step_size: α of ``step_rule="fixed"``. Typical: 0.01 to 0.5. Larger values take longer steps (Kakade, 2001, §2)
    :param cg_tolerance: relative residual ‖g − (F + λI)s‖ / ‖g‖ at which conjugate gradients stop, in [0, 1). Typical: 1e-10
        to 1e-3. Larger values stop earlier, with a less exact step
    :param critic: how V is fitted to the returns: ``"sgd"`` in minibatches with the policy's optimizer, as sb3-contrib does,
        or ``"trust_region"`` with one Gauss-Newton step by conjugate gradients subject to mean (V − V_old)² / (2σ²) ≤
        ``critic_epsilon``, σ² = mean (V_old − returns)² (Schulman et al., 2016, eq. 29)
    :param critic_epsilon: ε of ``critic="trust_region"``, kept to one part in a thousand; relative, so that it does not depend
        on the scale of the rewards. Typical: 0.01 to 0.1. Larger values let V change more per update
    :raises ValueError: an argument is invalid, or the action distribution has no KL divergence in closed form
    """

    objective: Objective | None = CRITIC_OBJECTIVE
    # Line search of the critic, whose step can break the constraint because V is not linear; the tolerance covers rounding.
    critic_shrinking_factor, critic_max_tries, critic_tolerance = 0.8, 15, 1e-3

    refuses_all_reduce: ClassVar[str | None] = (
        "a natural gradient is one step per rollout, and each product with the Fisher matrix and each try of the line search "
        "would be a message"
    )
    search_space: ClassVar[tuple[Dimension, ...]] = NATURAL
    # A step of fixed KL divergence never gets shorter, and so leaves a problem again that it has solved.
    examination: ClassVar[Examination] = Examination(
        2048,
        0.02,
        dict(n_steps=8, batch_size=128, n_critic_updates=5, cg_max_steps=5, step_rule="fixed", step_size=0.3),
        bound="trust region without search",
    )

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | str | Schedule = 1e-3,
        n_steps: int = 2048,
        batch_size: int = 128,
        gamma: float = 0.99,
        cg_max_steps: int = 15,
        cg_damping: float = 0.1,
        n_critic_updates: int = 10,
        gae_lambda: float = 0.95,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = True,
        target_kl: float | str | Schedule = 0.01,
        sub_sampling_factor: int = 1,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        compile: bool | Literal["auto"] = "auto",
        step_rule: StepRule = "kl",
        step_size: float = 0.1,
        cg_tolerance: float = 1e-6,
        critic: CriticUpdate = "sgd",
        critic_epsilon: float = 0.01,
    ):
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=0.0,
            vf_coef=0.0,
            max_grad_norm=None,
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
        self.batch_size = batch_size
        self.cg_max_steps = cg_max_steps
        self.cg_damping = cg_damping
        self.n_critic_updates = n_critic_updates
        self.normalize_advantage = normalize_advantage
        self.target_kl = target_kl
        self.sub_sampling_factor = sub_sampling_factor
        self.step_rule = step_rule
        self.step_size = step_size
        self.cg_tolerance = cg_tolerance
        self.critic = critic
        self.critic_epsilon = critic_epsilon
        if _init_setup_model:
            self._setup_model()

    # ------------------------------------------------------------------------------------------------ set up

    def check_arguments(self) -> None:
        """
        Check the arguments.

        :raises ValueError: an argument is invalid
        """
        if self.max_grad_norm == 0:  # files of sb3-contrib's TRPO have 0, which disables clipping there
            self.max_grad_norm = None  # type: ignore[assignment]
            self._warn_of_contribs_target()
        super().check_arguments()
        self.check_numbers()
        if self.sub_sampling_factor > 1 and is_recurrent(self.policy_class):
            raise ValueError(
                f"sub_sampling_factor={self.sub_sampling_factor} draws single states, but {self.policy_class.__name__} is "
                "recurrent, and needs those before them: set sub_sampling_factor=1"
            )
        if self.env is None:
            return
        rows = self.n_steps * self.n_envs
        # SB3 raises an AssertionError here, which scripts may catch.
        assert rows > 1 or not self.normalize_advantage, (
            f"normalize_advantage=True needs more than one row: n_steps * n_envs = {rows}"
        )
        if self.critic == "sgd":
            warn_of_uneven_batches(self.batch_size, self.n_steps, self.n_envs)

    def _warn_of_contribs_target(self) -> None:
        if isinstance(self.action_space, spaces.Box | spaces.MultiBinary) and (n := get_action_dim(self.action_space)) > 1:
            warn(
                f"this model was saved by sb3-contrib, which bounds the mean over the {n} dimensions of an action, whereas "
                f"{type(self).__name__} bounds their sum. To take the same steps, multiply target_kl and cg_damping by {n}: "
                f"load(path, target_kl={n} * {self.target_kl}, cg_damping={n} * {self.cg_damping})"
            )

    def check_numbers(self) -> None:
        """
        Check the numbers, which a callback may change at any time.

        :raises ValueError: an argument is invalid
        """
        check_counts(
            n_steps=self.n_steps,
            batch_size=self.batch_size,
            cg_max_steps=self.cg_max_steps,
            n_critic_updates=self.n_critic_updates,
            sub_sampling_factor=self.sub_sampling_factor,
        )
        check_positive(step_size=self.step_size, critic_epsilon=self.critic_epsilon)
        if not isinstance(self.target_kl, str) and not callable(self.target_kl):  # a schedule may end at 0
            check_positive(target_kl=self.target_kl)
        self.coefficient("target_kl")
        check_finite_not_negative(cg_damping=self.cg_damping, cg_tolerance=self.cg_tolerance)
        if self.cg_tolerance >= 1:
            raise ValueError(f"cg_tolerance={self.cg_tolerance} must be below 1: the policy would never move")
        self.normalize_advantage = as_flag("normalize_advantage", self.normalize_advantage)
        check_choice(get_args(StepRule), step_rule=self.step_rule)
        check_choice(get_args(CriticUpdate), critic=self.critic)

    def _setup_model(self) -> None:
        super()._setup_model()
        name = type(self).__name__
        try:
            family_of(self.policy.action_dist)
        except ValueError as error:
            raise ValueError(
                f"{name} needs the KL divergence and the Fisher matrix in closed form, but {error}. Use a policy with one of "
                "SB3's distributions, or PPO, which needs neither."
            ) from None
        if not split_parameters(self.policy)[1]:
            raise ValueError(
                f"{self.policy_class.__name__} has no trainable critic, but {name} needs one: use REINFORCE, or a "
                "policy with a critic."
            )
        space = self.observation_space
        self._policy_region = TrustRegion(POLICY, space, self._compile_log, "the policy")
        self._critic_region = TrustRegion(CRITIC, space, self._compile_log, "the critic")

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_policy_region", "_critic_region"]

    def planned_gradient_steps(self, timesteps: int) -> int:
        """Return the number of conjugate gradient iterations and of the critic's steps in a run."""
        rows = self.n_steps * self.n_envs
        by_sgd = self.n_critic_updates * ceil_div(rows, self.batch_size)
        return ceil_div(timesteps, rows) * (self.cg_max_steps + (by_sgd if self.critic == "sgd" else self.cg_max_steps))

    # ------------------------------------------------------------------------------------------------ the update

    def update(self, rollout: Rollout) -> Metrics:
        """
        Take one step of the policy along the natural gradient, then fit the critic.

        :param rollout: rollout with advantages and returns
        :return: metrics to log, without the prefix ``train/``
        """
        self.check_numbers()  # a callback may have changed them
        self._modules.train(self.policy, False)
        actor, critic = split_parameters(self.policy)
        own = [name for name in critic if name not in actor]
        batch = next(iter(self.minibatches(rollout, None))).for_graph()
        metrics = self._policy_step(batch, list(actor)) if actor else {}  # a frozen actor: only the critic learns
        if own:
            metrics |= self._sgd_critic(rollout) if self.critic == "sgd" else self._trust_region_critic(batch, own)
            metrics |= self._critic_change(batch)
        self._n_updates += 1
        return {**metrics, "explained_variance": self.explained_variance(), **self.spread()}

    def _policy_step(self, batch: Batch, moved: list[str]) -> Metrics:
        scaled = self.normalize_advantage and len(batch) > 1  # a single row has no standard deviation
        advantages = standardized(batch.advantages) if scaled else batch.advantages
        data = [advantages, batch.actions, batch.log_prob]
        here = self._start_step(self._policy_region, moved, data, batch.inputs, self._sampled(batch))
        solution = self._search_direction(here)
        length = self.step_length(solution)
        search = self.search(here, length * solution.x)
        return {
            "policy_objective": here.now.gain,
            "surrogate_improvement": here.now.gain - here.start.gain,
            "predicted_improvement": search.scale * length * (here.gradient @ solution.x),
            "kl_divergence_loss": here.now.divergence,
            "kl_max": here.now.max_divergence,
            **self.searched(search),
            "step_length": search.scale * length,
            "curvature": self._undamped(solution),
            "cg_steps": float(solution.steps),
            "cg_residual": solution.residual,
        }

    def _start_step(
        self,
        region: TrustRegion,
        moved: list[str],
        data: list[Tensor],
        inputs: PolicyInputs,
        sample: PolicyInputs | None,
    ) -> TrustRegionStep:
        """
        Compute objective and gradient at the current parameters.

        :param region: trust region of the policy or of the critic
        :param moved: names of the parameters to move
        :param data: tensors that the problem needs, one row per state
        :param inputs: what the policy acted on in the batch
        :param sample: inputs for products with F; ``None``: all
        :raises ValueError: the gradient is not finite; the parameters are unchanged
        """
        here = TrustRegionStep(region, self.policy, self._modules, moved, data, inputs, sample, self.compiled)
        if not (math.isfinite(here.start.gain) and th.isfinite(here.gradient).all()):
            pieces = named(here.gradient, self._modules.parameters, moved)
            gradients = {f"gradient of {name}": piece for name, piece in pieces.items()}
            quantities = {"returns": data[0]} if region is self._critic_region else {"advantages": data[0]}
            raise not_finite({**quantities, **gradients}, self._n_updates, CAUSES)
        return here

    def _sampled(self, batch: Batch) -> PolicyInputs | None:
        """Draw the inputs from which products with F are computed; ``None``: all."""
        if self.sub_sampling_factor == 1:
            return None
        chosen = np.random.permutation(len(batch))[: ceil_div(len(batch), self.sub_sampling_factor)]
        rows = th.as_tensor(chosen, device=batch.actions.device)
        return map_tensors(lambda x: x[rows], batch.inputs)

    def _search_direction(self, here: TrustRegionStep) -> Solution:
        try:
            product = damped(here.product(), self.cg_damping)
            solution = conjugate_gradient(product, here.gradient, self.cg_max_steps, self.cg_tolerance)
        except RuntimeError as error:
            if not (is_torchs(error) and any(sign in str(error) for sign in ONCE_DIFFERENTIABLE)):
                raise
            raise ValueError(
                f"{type(self).__name__} needs second derivatives of the policy, and one of its layers has none "
                f"({first_line(error)}). Replace the layer, or use PPO, which needs first derivatives only."
            ) from error
        self.n_gradient_steps += solution.steps
        if solution.stopped_by == "curvature":
            warn(
                f"conjugate gradients found no positive curvature after {solution.steps} steps in update "
                f"{self._n_updates + 1} and stopped there; raise cg_damping={self.cg_damping}"
            )
        return solution

    def _undamped(self, solution: Solution) -> float:
        """Return sᵀFs, the curvature without damping."""
        return max(0.0, solution.curvature - self.cg_damping * solution.x.square().sum().item())

    def step_length(self, solution: Solution) -> float:
        """
        Return the factor by which s is multiplied for the full step.

        :param solution: s = (F + λI)⁻¹g and its curvature
        """
        if self.step_rule == "fixed":
            return self.step_size
        return kl_step_length(self._undamped(solution), self.coefficient("target_kl"))

    def search(self, here: TrustRegionStep, step: Tensor) -> LineSearch:
        """
        Move the policy by the step, or by a part of it. If the step is rejected, the policy stays exactly as it was.

        :param here: objective and divergence around the current parameters
        :param step: the full step, ``[P]``
        :return: which part was taken, and what it achieved
        :raises ValueError: objective or divergence is not finite after the step
        """
        if not step.any():
            return LineSearch(0.0, 0.0, 0.0, 0)
        now = here.take(step)
        if not (math.isfinite(now.gain) and math.isfinite(now.divergence)):
            here.move(None)
            raise step_refusal(f"the full step leads to a KL divergence of {now.divergence}", self._n_updates, CAUSES)
        return LineSearch(1.0, now.gain - here.start.gain, now.divergence, 1)

    def searched(self, search: LineSearch) -> Metrics:
        """Return what to log about the search."""
        return {}

    # ------------------------------------------------------------------------------------------------ the critic

    def _sgd_critic(self, rollout: Rollout) -> Metrics:
        return {**fit_critic(self, rollout, self.batch_size, self.n_critic_updates)}

    def _trust_region_critic(self, batch: Batch, moved: list[str]) -> Metrics:
        here = self._start_step(self._critic_region, moved, [batch.returns], batch.inputs._replace(action_masks=None), None)
        variance = -here.start.gain  # σ², and the mean squared error
        metrics: Metrics = {"value_loss": variance}
        if variance == 0:
            return metrics
        solution = self._search_direction(here)
        length = capped_step_length(solution.curvature, self.critic_epsilon, variance)
        limit = self.critic_epsilon * (1 + self.critic_tolerance)
        shrink, tries = self.critic_shrinking_factor, self.critic_max_tries
        search = here.search(length * solution.x, shrink, tries, limit, unit=2 * variance)
        return {**metrics, "critic_cg_residual": solution.residual, "critic_step_length": search.scale * length}

    def _critic_change(self, batch: Batch) -> Metrics:
        """Return how far the critic's steps have moved V, and how much of the returns V explains now."""
        with th.no_grad():
            values = values_of(self.policy, batch.inputs._replace(action_masks=None), len(batch))
        variance, change = (batch.values - batch.returns).square().mean(), (values - batch.values).square().mean()
        return {
            "critic_constraint": th.where(change > 0, change / (2 * variance), 0.0),
            "explained_variance_after": explained_variance(values, batch.returns),
        }
