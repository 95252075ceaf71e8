"""What ACKTR refuses: arguments, layers whose curvature K-FAC does not know, and steps that are not finite."""

import math

import pytest
import torch as th
from stable_baselines3.common.distributions import Distribution, SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from support.capabilities import IMAGE, SMALL_LSTM, OwnExtractor
from support.eager_and_compiled import envs, make
from support.models import assert_same, parameters
from support.refusals import refusal
from support.small_environments import DEVICE, Scripted, vectorised

from sb3_pgx import ACKTR
from sb3_pgx.core.controllers import KLAdaptiveLearningRate
from sb3_pgx.core.policies import ActorPolicy

# ------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "arguments, message",
    [
        *((dict(target_kl=x), f"target_kl={x} must be positive and finite") for x in (0.0, -0.01, math.inf, math.nan, None)),
        (dict(target_kl="lin_-0.01"), 'target_kl="lin_-0.01" is not a schedule'),
        (dict(damping=0.0), r"damping is 0 at remaining progress 1\.000; it must be positive"),
        (dict(damping=-0.1), "damping is -0.1"),
        (dict(damping=math.nan), "damping is nan"),
        *((dict(stats_decay=x), rf"stats_decay={x} must be a number in \[0, 1\)") for x in (1.0, -0.1, math.nan, None)),
        *((dict(momentum=x), rf"momentum={x} must be a number in \[0, 1\)") for x in (1.0, -0.1, math.nan, None)),
        *((dict(inverse_update_interval=x), f"inverse_update_interval={x} must be a whole") for x in (0, -1, 1.5)),
        *((dict(vf_fisher_coef=x), f"vf_fisher_coef={x} must be positive and finite") for x in (0.0, -1.0, math.inf)),
        *((dict(critic_epsilon=x), f"critic_epsilon={x} must be positive and finite") for x in (0.0, -1.0)),
        (dict(n_steps=0), "n_steps=0 must be a whole number, at least 1"),
        (dict(n_steps=1, normalize_advantage=True), "normalize_advantage=True needs more than one row"),
        (dict(policy_kwargs=dict(use_sde=True)), r"ACKTR knows no Kronecker factors of gSDE.*or use A2C or TRPO"),
        (dict(learning_rate=KLAdaptiveLearningRate(1e-3)), r"ACKTR takes one step a rollout.*or a schedule"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        ACKTR("MlpPolicy", vectorised(Scripted([3])), device=DEVICE, **{"n_steps": 8, **arguments})


@pytest.mark.parametrize(
    "name, value", [("target_kl", -0.01), ("damping", 0.0), ("stats_decay", 1.5), ("critic_epsilon", None)]
)
def test_an_attribute_that_is_set_to_what_makes_no_sense_is_refused_before_the_next_update(name, value):
    model = make("acktr").learn(12)
    setattr(model, name, value)
    before = parameters(model)
    with pytest.raises(ValueError, match=name):
        model.learn(12, reset_num_timesteps=False)
    assert_same(parameters(model), before)


def test_a_damping_that_falls_to_zero_is_refused_when_it_does():
    model = make("acktr", damping=lambda progress: 0.01 if progress > 0.5 else 0.0)
    message = refusal(lambda: model.learn(48))
    assert message.startswith("damping is 0 at remaining progress 0.500; it must be positive") and model._n_updates == 1


# ------------------------------------------------------------------------------------------------------- policies


@pytest.mark.parametrize("policy", ["MlpLstmPolicy", "MlpGruPolicy"])
def test_a_policy_with_memory_is_refused_with_an_algorithm_that_takes_it(policy):
    with pytest.raises(
        ValueError, match=r"^ACKTR knows no Kronecker factors of recurrent layers: use a policy without memory"
    ):
        ACKTR(policy, envs(), policy_kwargs=SMALL_LSTM, device=DEVICE)


class Normalised(OwnExtractor):
    def __init__(self, space):
        super().__init__(space)
        self.norm = th.nn.LayerNorm(self.features_dim)

    def forward(self, observations):
        return self.norm(super().forward(observations))


class Twice(OwnExtractor):
    def forward(self, observations):
        return self.layer(super().forward(observations).tanh())


class InRows(OwnExtractor):
    """Calls a linear layer with several rows per sample."""

    def forward(self, observations):
        return self.layer(observations[:, None].expand(-1, 2, -1)).mean(dim=1)


class InFlatRows(OwnExtractor):
    """The same, with the rows of all samples below each other."""

    def forward(self, observations):
        rows = self.layer(observations.repeat_interleave(2, dim=0))
        return rows.view(len(observations), 2, -1).mean(dim=1)


class Grouped(OwnExtractor):
    def __init__(self, space):
        super().__init__(space)
        self.layer = th.nn.Conv2d(4, 4, 3, groups=2)
        self.first = th.nn.Conv2d(1, 4, 3)
        self._features_dim = 4 * 32 * 32

    def forward(self, observations):
        return self.layer(self.first(observations)).flatten(start_dim=1)


class Spectral(OwnExtractor):
    """A layer whose weights are computed from its parameter."""

    def __init__(self, space):
        super().__init__(space)
        self.layer = th.nn.utils.parametrizations.weight_norm(self.layer)


@pytest.mark.parametrize(
    "extractor, space, parameter, why",
    [
        (Normalised, None, "norm.weight", "it belongs to no Linear and Conv2d layer"),
        (Twice, None, "layer.weight", "its layer is called more than once"),
        (InRows, None, "layer.weight", "it belongs to no Linear and Conv2d layer with one row per sample"),
        (InFlatRows, None, "layer.weight", "it belongs to no Linear and Conv2d layer with one row per sample"),
        (Grouped, IMAGE, "layer.weight", "it belongs to no Linear and Conv2d layer"),
        (Spectral, None, "layer.bias", "it belongs to no Linear and Conv2d layer"),
    ],
)
def test_a_layer_whose_curvature_is_unknown_is_named_with_the_remedies(extractor, space, parameter, why):
    env = envs() if space is None else envs(space)
    message = refusal(lambda: make("acktr", env, policy_kwargs=dict(features_extractor_class=extractor)))
    assert message.startswith(f"ACKTR cannot train features_extractor.{parameter} of ActorCriticPolicy: {why}")
    assert "requires_grad_(False)" in message and "use A2C or TRPO" in message


def test_a_layer_whose_curvature_is_unknown_trains_on_once_it_is_frozen():
    class Frozen(Normalised):
        def __init__(self, space):
            super().__init__(space)
            self.norm.requires_grad_(False)

    model = make("acktr", policy_kwargs=dict(features_extractor_class=Frozen))
    before = parameters(model)
    model.learn(24)
    moved = {name for name, p in parameters(model).items() if not th.equal(p, before[name])}
    assert moved == {name for name in before if ".norm." not in name}
    model.policy.features_extractor.norm.requires_grad_(True)
    assert "features_extractor.norm.weight" in refusal(lambda: model.learn(24, reset_num_timesteps=False))


OwnDistribution = type("OwnDistribution", (Distribution,), dict.fromkeys(Distribution.__abstractmethods__))


class PolicyOfOnesOwn(ActorCriticPolicy):
    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.action_dist = OwnDistribution()


def test_policies_without_a_known_distribution_or_without_a_critic_are_refused():
    with pytest.raises(ValueError, match=r"ACKTR samples from the action distribution .*OwnDistribution is no distribution"):
        ACKTR(PolicyOfOnesOwn, vectorised(Scripted([3])), device=DEVICE)
    with pytest.raises(ValueError, match=r"ActorPolicy has no trainable critic, but ACKTR needs one: use REINFORCE"):
        ACKTR(ActorPolicy, vectorised(Scripted([3])), device=DEVICE)


# ------------------------------------------------------------------------------------------------------- not finite


def refused_update(message, **kwargs):
    """An update that is refused, and that leaves all parameters and factors as they are."""
    model = make("acktr", n_steps=8, **kwargs)
    before = parameters(model), {name: x.clone() for name, x in model.curvature.state_dict().items()}
    with pytest.raises(ValueError, match=message) as error:
        model.learn(16)
    assert_same(parameters(model), before[0])
    assert_same(model.curvature.state_dict(), before[1])
    assert "in update 1; the step was not taken, and the model is as it was before this rollout" in str(error.value)
    assert model._n_updates == 0


class Steep(OwnExtractor):
    """Finite, with a gradient that is not."""

    def forward(self, observations):
        features = super().forward(observations)
        return features + (features * 0).abs().sqrt()


@pytest.mark.parametrize("compile", [False, True])
def test_a_gradient_that_is_not_finite_is_named_and_nothing_moves(compile, graphs):
    policy_kwargs = dict(features_extractor_class=Steep)
    refused_update(r"gradient of features_extractor.layer.weight is not finite", policy_kwargs=policy_kwargs, compile=compile)


@pytest.mark.parametrize("compile", [False, True])
def test_a_step_that_leads_nowhere_is_refused_and_nothing_moves(compile, graphs):
    """The trust region is far too wide."""
    refused_update(
        "the step leads to a KL divergence of .* and a mean squared change of V of (inf|nan)",
        learning_rate=1e10, target_kl=1e30, critic_epsilon=1e30, compile=compile,
        policy_kwargs=dict(net_arch=[8, 8, 8], activation_fn=th.nn.ReLU),
    )  # fmt: skip


def test_a_distribution_that_samples_in_its_own_way_is_refused():
    class Squashed(ActorCriticPolicy):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.action_dist = SquashedDiagGaussianDistribution(1)

    assert "SquashedDiagGaussianDistribution samples in a way of its own" in refusal(lambda: make("acktr", policy=Squashed))
