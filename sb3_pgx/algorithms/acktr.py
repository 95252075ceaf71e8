"""ACKTR: the step of A2C along the natural gradient, with a Kronecker-factored Fisher matrix, within a trust region."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from sb3_pgx.algorithms.a2c import A2C, Coefficients, actor_critic_objective
from sb3_pgx.core.arguments import check_mapping
from sb3_pgx.core.checks import as_flag, check_counts, check_positive, is_number
from sb3_pgx.core.distributions import family_of, noise_source, samples_as_sb3
from sb3_pgx.core.evaluation import Evaluation, evaluate_actions, evaluate_and_sample
from sb3_pgx.core.examination import Examination
from sb3_pgx.core.layer_calls import LayerCalls
from sb3_pgx.core.rollout import Batch, Rollout
from sb3_pgx.core.search_space import ENTROPY, GAE_LAMBDA, GAMMA, Categorical, Dimension, Real, Scheduled, Whole
from sb3_pgx.core.tensors import flatten
from sb3_pgx.core.undo import attributes_of
from sb3_pgx.engine import Objective
from sb3_pgx.engine.policy_function import PolicyFunction
from sb3_pgx.engine.policy_graphs import CompiledPass, as_inputs
from sb3_pgx.engine.refusals import check_state, led_astray, not_finite, step_refusal
from sb3_pgx.ops.kronecker import fraction_within
from sb3_pgx.ops.objectives import standardized
from sb3_pgx.stages.curvature import Curvature, FactorPairs, Parts, observed_factors, parts_of
from sb3_pgx.stages.report import Metrics
from sb3_pgx.stages.trust_region import Derivative, named

# What the statistics measure, in their order.
LOSSES = ("policy_loss", "value_loss", "entropy_loss", "explained_variance")
# Names of the metrics for the predicted change, by the part of the policy that a trust region is for: "" for the actor, or for
# the whole policy if actor and critic share layers.
PREDICTED = {"": "kl_predicted", "critic_": "critic_constraint_predicted"}
# Likely causes of a refused step, for the error message.
CAUSES = (
    "learning_rate or target_kl too large, damping too small, rewards or observations of huge size (wrap the environment in "
    "VecNormalize), a collapsed standard deviation (policy_kwargs=dict(log_std_bounds=(-20, 2)))"
)


class Statistics(NamedTuple):
    """What one batch says at the current parameters."""

    gradient: dict[str, Tensor]  # of the loss, by name
    losses: dict[str, Tensor]
    values: Tensor  # [B]
    distribution: Tensor  # packed parameters of the action distributions, [B, K]
    factors: FactorPairs


class Region(NamedTuple):
    """A part of the parameters whose step is bounded on its own."""

    names: frozenset[str]
    bound: float  # largest ½ ΔᵀFΔ, in multiples of the unit
    unit: float = 1.0


class Step(NamedTuple):
    """The step of a region."""

    length: float  # factor of F⁻¹g before momentum
    predicted: float  # ½ ΔᵀFΔ, in multiples of the unit


def with_momentum(policy_kwargs: dict[str, Any] | None, momentum: float) -> dict[str, Any]:
    """
    Return the policy's arguments with a running average of steps as the optimizer, unless they name another one.

    :param policy_kwargs: arguments of the policy, as the user gave them
    :param momentum: weight of the average so far
    :raises ValueError: ``momentum`` is not in [0, 1)
    :raises TypeError: ``policy_kwargs`` is not a dictionary
    """
    check_mapping(policy_kwargs=policy_kwargs)
    if not (is_number(momentum) and 0 <= momentum < 1):
        raise ValueError(f"momentum={momentum!r} must be a number in [0, 1)")
    policy_kwargs = dict(policy_kwargs or {})
    if "optimizer_class" not in policy_kwargs:
        policy_kwargs["optimizer_class"], given = th.optim.SGD, policy_kwargs.get("optimizer_kwargs", {})
        if isinstance(given, dict):  # anything else is refused with the other arguments of the policy
            policy_kwargs["optimizer_kwargs"] = dict(momentum=momentum, dampening=momentum) | given
    return policy_kwargs


class ACKTR(A2C):
    """
    Actor-critic using Kronecker-factored trust region (Wu et al., 2017).

    Each update takes one step along F⁻¹g, where g is the gradient of A2C's loss and F a block-diagonal approximation of the
    Fisher matrix: for each layer, a Kronecker product of the second moments of its inputs and of the gradients in its outputs
    (K-FAC; Martens & Grosse, 2015, and for convolutions Grosse & Martens, 2016). These are running averages. The policy's
    gradients are those of log π of actions that are sampled from the policy for this purpose; the critic's Fisher matrix is
    its Gauss-Newton matrix.

    The step is min(η_max, √(2δ / ΔᵀFΔ)) Δ with Δ = F⁻¹g, where η_max is ``learning_rate`` and δ is ``target_kl``: the KL
    divergence is at most δ to second order. A running average of the steps is taken, and shortened once more if it leaves the
    trust region. If actor and critic share no layers, each has a trust region of its own.

    Policies may consist of ``Linear`` and ``Conv2d`` layers without groups, each called once per forward pass, and of
    ``log_std``; activation functions are free. Policies with memory and gSDE are refused. Dropout and BatchNorm run in
    evaluation mode, as in acting.

    :param policy: ``"MlpPolicy"`` (vectors), ``"CnnPolicy"`` (images), ``"MultiInputPolicy"`` (dictionaries), or a policy
        class
    :param env: an environment, a ``VecEnv`` or the id of a registered environment
    :param learning_rate: η_max, largest factor of F⁻¹g. Typical: 0.05 to 0.5. Larger values let the trust region decide about
        the length of steps. A number, a function of the remaining progress (1 to 0) or a string such as ``"lin_0.25"``
    :param n_steps: steps per environment and rollout; the batch of an update has n_steps · n_envs rows. Typical: 16 to 128.
        Larger values give better gradients and fewer updates per environment step
    :param gamma: γ, discount factor per step, in [0, 1]. Typical: 0.98 to 0.999; rewards count over about 1/(1 − γ) steps.
        Larger values look further ahead, with more variance
    :param gae_lambda: λ of generalised advantage estimation, in [0, 1]. Typical: 0.9 to 1. 0 gives the one-step actor-critic,
        1 n-step returns minus V(s). Larger values bring less bias from the critic and more variance (Schulman et al., 2016,
        eq. 16)
    :param ent_coef: weight of the entropy (in nats) in the loss. Typical: 0 to 0.01. Larger values keep the policy more
        random. A number, a schedule or a string
    :param vf_coef: weight of the mean squared value error in the loss. Typical: 0.5, with which the critic's step is that of
        Gauss-Newton. Larger values train the critic harder, within its trust region. A number, a schedule or a string
    :param max_grad_norm: largest L2 norm of the gradient g, which is scaled down to it. Typical: ``None``, which disables
        clipping, since the trust region bounds the step. Smaller values damp outliers
    :param rollout_buffer_class: your own class with the interface of SB3's ``RolloutBuffer``, filled after collection;
        ``None``: SB3's interface to the rollout
    :param rollout_buffer_kwargs: further arguments of ``rollout_buffer_class``
    :param normalize_advantage: standardise the advantages over the batch to mean 0 and standard deviation 1, so that the step
        does not depend on the scale of the rewards
    :param target_kl: δ, bound on ½ ΔᵀFΔ, in nats, summed over action dimensions. Typical: 0.001 to 0.02. Larger values take
        longer steps. A number, a schedule or a string such as ``"lin_0.002"`` (Wu et al., 2017, §3.3)
    :param damping: λ > 0, added to F by factored Tikhonov damping. Typical: 1e-3 to 0.1. Larger values move closer to the
        plain gradient, with shorter, safer steps. A number, a schedule or a string (Martens & Grosse, 2015, §6.3)
    :param stats_decay: weight of the past in the running averages of the factors, in [0, 1). Typical: 0.95 to 0.99. Larger
        values give less noisy factors that lag more (Martens & Grosse, 2015, §5)
    :param momentum: weight of the past in the running average of steps, in [0, 1). Typical: 0 to 0.9. Larger values give
        smoother, later steps. Without effect if ``policy_kwargs`` name an optimizer, which then takes the natural gradient
        instead of the gradient; the trust region bounds what it makes of it
    :param inverse_update_interval: k: the inverses of the factors are computed in each of the first k updates, and then in
        every k-th one. Typical: 1 to 20. Larger values save time, with older inverses
    :param vf_fisher_coef: weight of the critic's Fisher matrix, the inverse of the variance of the critic's Gaussian. Typical:
        1, or about one over the variance of the returns if actor and critic share layers. Larger values shorten the
        critic's steps
    :param critic_epsilon: ε, bound on mean (V − V_old)² / (2σ²) to second order, σ² = mean (V_old − returns)², if actor and
        critic share no layers. Relative, so that it does not depend on the scale of the rewards. Typical: 0.01 to 0.1. Larger
        values let V change more per update
    :param stats_window_size: number of recent episodes that ``rollout/ep_rew_mean`` averages over. Typical: 100. Larger values
        give smoother curves that lag more; training does not depend on it
    :param tensorboard_log: folder for TensorBoard logs; ``None`` writes none
    :param policy_kwargs: arguments of the policy's constructor, such as ``dict(net_arch=[64, 64])``
    :param verbose: 0 prints nothing, 1 prints messages and the log, 2 adds debug messages
    :param seed: seed of weights, actions, minibatches and environments; ``None``: not seeded
    :param device: ``"cpu"``, ``"cuda"`` or ``"auto"`` (CUDA if available)
    :param _init_setup_model: build the networks at once; SB3 passes ``False`` while loading
    :param compile: compile acting, the gradient and the factors: ``True``, ``False``, or ``"auto"``, which compiles if the run
        is long enough to repay it (:data:`sb3_pgx.engine.compiler.COMPILE_AFTER`)
    :raises ValueError: an argument is invalid, or the policy has a trainable layer whose curvature K-FAC does not know
    """

    objective: Objective | None = None  # the step is taken here
    refuses_memory: ClassVar[str | None] = "ACKTR knows no Kronecker factors of recurrent layers"
    refuses_all_reduce: ClassVar[str | None] = (
        "ACKTR's processes would have to average the factors of the Fisher matrix in addition to the gradients"
    )
    search_space: ClassVar[tuple[Dimension, ...]] = (
        Scheduled("learning_rate", 0.01, 1.0),
        Whole("n_steps", 8, 128, log=True),
        GAMMA,
        GAE_LAMBDA,
        ENTROPY,
        Real("target_kl", 1e-4, 0.05),
        Real("damping", 1e-3, 0.3),
        Real("critic_epsilon", 1e-3, 0.3),
        Categorical("momentum", (0.0, 0.5, 0.9)),
        Categorical("normalize_advantage", (False, True)),
    )
    examination: ClassVar[Examination] = Examination(
        3072, 0.3, dict(n_steps=4, target_kl=0.05), bound="Kronecker-factored trust region"
    )
    curvature: Curvature
    _parts: Parts

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | str | Schedule = 0.25,
        n_steps: int = 20,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: float | str | Schedule = 0.0,
        vf_coef: float | str | Schedule = 0.5,
        max_grad_norm: float | None = None,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = False,
        target_kl: float | str | Schedule = 0.002,
        damping: float | str | Schedule = 0.01,
        stats_decay: float = 0.99,
        momentum: float = 0.9,
        inverse_update_interval: int = 10,
        vf_fisher_coef: float = 1.0,
        critic_epsilon: float = 0.05,
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
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_rms_prop=False,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            normalize_advantage=normalize_advantage,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=with_momentum(policy_kwargs, momentum),
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
            compile=compile,
        )
        self.target_kl = target_kl
        self.damping = damping
        self.stats_decay = stats_decay
        self.momentum = momentum
        self.inverse_update_interval = inverse_update_interval
        self.vf_fisher_coef = vf_fisher_coef
        self.critic_epsilon = critic_epsilon
        if _init_setup_model:
            self._setup_model()

    # ------------------------------------------------------------------------------------------------ set up

    def check_arguments(self) -> None:
        """
        Check the arguments.

        :raises ValueError: an argument is invalid
        """
        super().check_arguments()
        if self.policy_kwargs.get("use_sde"):
            raise ValueError(
                "ACKTR knows no Kronecker factors of gSDE's standard deviations: remove use_sde, or use A2C or TRPO"
            )
        self.check_numbers()

    def check_numbers(self) -> None:
        """
        Check the numbers, which a callback may change at any time.

        :raises ValueError: an argument is invalid
        """
        check_counts(inverse_update_interval=self.inverse_update_interval)
        check_positive(critic_epsilon=self.critic_epsilon, vf_fisher_coef=self.vf_fisher_coef)
        if not (is_number(self.stats_decay) and 0 <= self.stats_decay < 1):
            raise ValueError(f"stats_decay={self.stats_decay!r} must be a number in [0, 1)")
        if not isinstance(self.target_kl, str) and not callable(self.target_kl):  # a schedule may end at 0
            check_positive(target_kl=self.target_kl)
        self.coefficient("target_kl")
        if not self.coefficient("damping") > 0:
            raise ValueError(
                f"damping is 0 at remaining progress {self._current_progress_remaining:.3f}; it must be positive, since the "
                "factors of the Fisher matrix may have no inverse"
            )
        self.normalize_advantage = as_flag("normalize_advantage", self.normalize_advantage)

    def _setup_model(self) -> None:
        super()._setup_model()
        name = type(self).__name__
        try:
            family_of(self.policy.action_dist)
            if not samples_as_sb3(self.policy.action_dist):
                raise ValueError(f"{type(self.policy.action_dist).__name__} samples in a way of its own")
        except ValueError as error:
            raise ValueError(
                f"{name} samples from the action distribution and needs its KL divergence in closed form, but {error}. Use a "
                "policy with one of SB3's distributions, or A2C."
            ) from None
        self._parts = parts_of(self.policy, name)
        if not self._parts.critic:
            raise ValueError(
                f"{self.policy_class.__name__} has no trainable critic, but {name} needs one: use REINFORCE, or a policy with "
                "a critic."
            )
        self._parts_key: Any = None
        self.curvature = Curvature(self._parts.blocks, self._modules.parameters)
        space, log = self.observation_space, self._compile_log
        self._statistics_pass = Derivative(_losses_and_sample, self._statistics, space, log, "the gradient with its curvature")
        self._distances_pass = CompiledPass(_distances, space, log, "the measure of the step")

    def _excluded_save_params(self) -> list[str]:
        own = ["curvature", "_parts", "_parts_key", "_statistics_pass", "_distances_pass"]
        return [*super()._excluded_save_params(), *own]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        return [*state_dicts, "curvature"], tensors

    # ------------------------------------------------------------------------------------------------ the update

    def update(self, rollout: Rollout) -> Metrics:
        """
        Take one step along the natural gradient.

        :param rollout: rollout with advantages and returns
        :return: metrics to log, without the prefix ``train/``
        """
        self.check_numbers()  # a callback may have changed them
        self._modules.train(self.policy, False)
        self._look_at_parts()
        batch = next(iter(self.minibatches(rollout, None))).for_graph()
        now = self._measured(batch)
        norm = flatten([*now.gradient.values()]).norm()
        self._check(batch, now, norm)
        damping = self.coefficient("damping")
        factors = self._observed(now, damping)
        clip = 1.0 if self.max_grad_norm is None else min(1.0, self.max_grad_norm / (norm.item() + 1e-6))
        taken = self._step({name: clip * g for name, g in now.gradient.items()}, self._regions(now), factors)
        distances = self._distances_of(batch, now)
        self.n_gradient_steps += 1
        self._n_updates += 1
        return {
            **now.losses,
            "grad_norm": norm,
            **({} if self.max_grad_norm is None else {"grad_clipped": float(clip < 1)}),
            "damping": damping,
            **{f"{part}step_length": step.length for part, step in taken.items()},
            **{PREDICTED[part]: step.predicted for part, step in taken.items()},
            **distances,
            **self.spread(),
        }

    def _look_at_parts(self) -> None:
        """Find the blocks again if layers have been replaced, frozen or thawed."""
        parameters = self._modules.parameters
        key = (self._modules.version, [p.requires_grad for p in parameters.values()])
        if key == self._parts_key:
            return
        self._undo.add(attributes_of(self, "curvature", "_parts", "_parts_key"))
        self._parts, before = parts_of(self.policy, type(self).__name__), self.curvature.blocks
        if self._parts.blocks != before:
            self.curvature = Curvature(self._parts.blocks, parameters)
        self._parts_key = key

    def _measured(self, batch: Batch) -> Statistics:
        """Compute gradient and factors at the current parameters."""
        scaled = self.normalize_advantage and len(batch) > 1
        coefficients = (self.coefficient("ent_coef"), self.coefficient("vf_coef"), self.vf_fisher_coef)
        like = next(iter(self._modules.parameters.values()))
        tensors = [
            th.tensor(coefficients, dtype=like.dtype, device=like.device),
            standardized(batch.advantages) if scaled else batch.advantages,
            batch.returns,
            batch.values,
            batch.actions,
            noise_source(self.policy.action_dist, len(batch), self.device)(),
            *self._statistics_pass.encode(batch.inputs),
        ]
        names = self._parts.names
        gradient, *rest = self._statistics_pass.run(self.policy, self._modules, tensors, self.compiled, names)
        n = len(LOSSES)
        losses, (values, distribution), factors = rest[:n], rest[n : n + 2], rest[n + 2 :]
        trained = self._parts.actor | self._parts.critic
        by_name = named(gradient, self._modules.parameters, names)
        return Statistics(
            {name: g if name in trained else th.zeros_like(g) for name, g in by_name.items()},
            dict(zip(LOSSES, losses, strict=True)),
            values,
            distribution,
            [*zip(factors[::2], factors[1::2], strict=True)],
        )

    def _statistics(
        self, function: PolicyFunction, values: Mapping[str, Tensor], moved: Sequence[str], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """Return gradient, losses, values, distributions and the factors of all blocks, as a pure function."""
        leaves = {name: values[name].detach().requires_grad_(True) for name in moved}
        with th.enable_grad():
            # Free parameters get a copy per row, whose gradients are those of each sample.
            free = {b.name: leaves[b.name].expand(len(tensors[1]), -1) for b in self._parts.blocks if b.weight is None}
            with LayerCalls(leaves) as recorded:
                losses, score, now = function({**values, **leaves, **free}, *tensors)
            gradients = th.autograd.grad(losses["loss"], [*leaves.values()], retain_graph=True, materialize_grads=True)
            calls = {call.weight: call for call in recorded.calls}
            outputs = [free[b.name] if b.weight is None else calls[b.weight].outputs for b in self._parts.blocks]
            scores = th.autograd.grad(score, outputs, materialize_grads=True)
        factors = [
            factor
            for block, gradient in zip(self._parts.blocks, scores, strict=True)
            for factor in observed_factors(block, calls.get(block.name), gradient)
        ]
        measured = [losses[name].detach() for name in LOSSES]
        return flatten(gradients), *measured, now.values.detach(), now.distribution.detach(), *factors

    def _check(self, batch: Batch, now: Statistics, norm: Tensor) -> None:
        """:raises ValueError: gradient, factors or the optimizer's state are not finite; the parameters are unchanged"""
        if not math.isfinite(norm + sum(loss for name, loss in now.losses.items() if name != "explained_variance")):
            gradients = {f"gradient of {name}": piece for name, piece in now.gradient.items()}
            raise not_finite({**batch.suspects(), **now.losses, **gradients}, self._n_updates, CAUSES)
        check_state(self.policy.optimizer, self._modules.parameters, self._n_updates)

    def _observed(self, now: Statistics, damping: float) -> FactorPairs:
        """Add the factors to the averages, invert these if it is time, and return them, damped."""
        k, interval = self.curvature.observe(now.factors, self.stats_decay), self.inverse_update_interval
        factors = self.curvature.damped(damping)
        try:
            if k <= interval or k % interval == 0:
                self.curvature.invert(factors)
            return factors
        except th.linalg.LinAlgError:
            what = f"the factors of the Fisher matrix are not finite, or have no inverse with damping={damping:g},"
            raise step_refusal(what, self._n_updates, CAUSES) from None

    def _regions(self, now: Statistics) -> dict[str, Region]:
        """Return the trust regions, by the part of the policy that they are for."""
        _, actor, critic = self._parts
        delta = self.coefficient("target_kl")
        if actor & critic:
            return {"": Region(actor | critic, delta)}
        variance = now.losses["value_loss"].item()
        regions = {"": Region(actor, delta), "critic_": Region(critic, self.critic_epsilon, self.vf_fisher_coef * variance)}
        return {part: region for part, region in regions.items() if region.names}

    def _step(self, gradient: Mapping[str, Tensor], regions: Mapping[str, Region], factors: FactorPairs) -> dict[str, Step]:
        """Move the parameters, and return how far."""
        optimizer, curvature, parameters = self.policy.optimizer, self.curvature, self._modules.parameters
        rate = optimizer.param_groups[0]["lr"]
        trained: frozenset[str] = frozenset().union(*(region.names for region in regions.values()))
        direction = {name: x if name in trained else th.zeros_like(x) for name, x in curvature.natural(gradient).items()}
        optimizer.zero_grad(set_to_none=True)  # a callback may have left gradients behind
        lengths, taken = {}, {}
        for part, (names, bound, unit) in regions.items():
            fraction = fraction_within(rate**2 * curvature.quadratic(direction, factors, names), bound * unit)
            lengths[part] = rate * fraction
            for name in names:
                parameters[name].grad = fraction * direction[name]
        before = {name: parameters[name].detach().clone() for name in self._parts.names}
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step = {name: parameters[name].detach() - x for name, x in before.items()}
        for part, (names, bound, unit) in regions.items():
            quadratic = curvature.quadratic(step, factors, names)
            if not math.isfinite(quadratic):
                raise led_astray(self._n_updates)
            fraction = fraction_within(quadratic, bound * unit)
            if fraction < 1:
                for name in names:
                    parameters[name].detach().copy_(before[name] + fraction * step[name])
            taken[part] = Step(lengths[part], 0.5 * fraction**2 * quadratic / unit if unit > 0 else 0.0)
        return taken

    def _distances_of(self, batch: Batch, now: Statistics) -> Metrics:
        """Return how far the step has moved the policy and the critic."""
        tensors = [now.distribution, now.values, batch.actions, *self._distances_pass.encode(batch.inputs)]
        kl, largest, change = self._distances_pass.run(self.policy, self._modules, tensors, self.compiled)
        if not (math.isfinite(kl) and math.isfinite(change)):
            what = f"the step leads to a KL divergence of {kl:g} and a mean squared change of V of {change:g}"
            raise step_refusal(what, self._n_updates, CAUSES)
        error = now.losses["value_loss"]
        return {
            "kl_divergence_loss": kl,
            "kl_max": largest,
            "critic_constraint": th.where(change > 0, change / (2 * error), 0.0),
        }


def _losses_and_sample(
    policy: ActorCriticPolicy,
    coefficients: Tensor,
    advantages: Tensor,
    returns: Tensor,
    values: Tensor,
    actions: Tensor,
    noise: Tensor,
    *inputs: Tensor,
) -> tuple[dict[str, Tensor], Tensor, Evaluation]:
    """
    Return A2C's losses, and log p of sampled outputs of policy and critic, summed over the rows.

    The gradient of the critic's part is that of V, times the root of its weight: its second moment is the Gauss-Newton matrix.
    That of log π has the mean 0 in each state, so both may be added.
    """
    policy_inputs = as_inputs(policy, inputs)
    ent_coef, vf_coef, vf_fisher_coef = coefficients.unbind()
    now, log_prob = evaluate_and_sample(policy, policy_inputs, actions, noise)
    batch = Batch(policy_inputs.observations, actions, values, values, advantages, returns)
    losses = actor_critic_objective(now, batch, Coefficients(False, ent_coef, vf_coef))  # type: ignore[arg-type]
    return losses, log_prob.sum() + vf_fisher_coef.sqrt() * now.values.sum(), now


def _distances(
    policy: ActorCriticPolicy, distribution: Tensor, values: Tensor, actions: Tensor, *inputs: Tensor
) -> tuple[Tensor, ...]:
    """Return mean and maximum of KL(old‖new), and the mean squared change of V."""
    now = evaluate_actions(policy, as_inputs(policy, inputs), actions, with_distribution=True)
    assert now.distribution is not None
    # In double precision: the divergence of a small step is a difference of nearly equal numbers.
    kl = family_of(policy.action_dist).kl(distribution.double(), now.distribution.double())
    return kl.mean(), kl.max(), (now.values - values).square().mean()
