"""K-FAC's blocks against the exact Fisher matrix where it factorises, and ACKTR's step by dense linear algebra."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from selection import mostly_slow
from support.capabilities import IMAGE, OwnExtractor
from support.dense_natural_gradient import (
    OBSERVATIONS,
    DoublePolicy,
    Updated,
    Updates,
    double_envs,
    flat_grad,
    hessian_of_kl,
)
from support.eager_and_compiled import envs, make, pair, trained
from support.models import assert_same, parameters
from support.small_environments import DEVICE, AnySpace, vectorised

from sb3_pgx import ACKTR
from sb3_pgx.core.rollout import as_policy_input
from sb3_pgx.ops.kronecker import damped_factors

SPACES = {
    "Discrete": spaces.Discrete(3),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(2),
    "Box": spaces.Box(-1, 1, (2,), np.float64),
}
# A policy and a critic of one linear layer each: then K-FAC's independence of inputs and gradients is the only approximation.
LINEAR = dict(policy_kwargs=dict(net_arch=[]))
ONE_STEP = dict(momentum=0.0, stats_decay=0.0)


def acktr(action_space=SPACES["Box"], n=2, env=None, policy=DoublePolicy, **kwargs):
    """A float64 model that is not compiled. Arguments are those of ACKTR."""
    settings = dict(n_steps=8, seed=0, device=DEVICE, compile=False)
    return ACKTR(policy, env or double_envs(copy.deepcopy(action_space), n), **{**settings, **kwargs})


def factors_of(model):
    """The averages of both factors, by the name of a block's first parameter."""
    held = zip(model.curvature.blocks, model.curvature.factors, strict=True)
    return {block.name: (kept.input_factor, kept.output_factor) for block, kept in held}


def fisher_of(policy, observations, block):
    """The exact Fisher matrix of a block of the actor, in the order of its flattened matrix."""
    actor = {name: p for name, p in policy.named_parameters() if "value" not in name}
    places, first = {}, 0
    for name, p in actor.items():
        places[name] = th.arange(first, first + p.numel()).view(p.shape)
        first += p.numel()
    order = block.matrix(places).flatten()
    return hessian_of_kl(policy, observations)[order][:, order]


class Constant(AnySpace):
    """Gives the same observation in every step."""

    def reset(self, **kwargs):
        super().reset(**kwargs)
        return np.array([0.5, -1.0, 1.0]), {}

    def step(self, action):
        _, *rest = super().step(action)
        return np.array([0.5, -1.0, 1.0]), *rest


# ------------------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize("kind", mostly_slow(SPACES, [*SPACES][:2]))
def test_the_actors_blocks_are_the_exact_fisher_matrix_in_expectation_if_all_inputs_are_the_same(kind):
    """The gradients are those of 4,000 sampled actions; KL's Hessian needs no sample."""
    env = vectorised(*(Constant(OBSERVATIONS, copy.deepcopy(SPACES[kind])) for _ in range(8)))
    model = acktr(env=env, n_steps=500, learning_rate=0.0, **LINEAR)
    policy = copy.deepcopy(model.policy)
    model.learn(4000)
    a = th.tensor([0.5, -1.0, 1.0, 1.0], dtype=th.float64)
    th.testing.assert_close(factors_of(model)["action_net.weight"][0], th.outer(a, a))
    blocks = [block for block in model.curvature.blocks if "value" not in block.name]
    assert [block.names for block in blocks] == [("action_net.weight", "action_net.bias"), ("log_std",)][: 1 + (kind == "Box")]
    for block in blocks:
        A, G = factors_of(model)[block.name]
        exact = fisher_of(policy, model.last_rollout.rows().observations[:1], block)
        assert (th.kron(G, A) - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_critics_block_is_the_exact_gauss_newton_matrix(weight):
    """Of a linear critic: the mean of ∇V ∇Vᵀ, times the inverse of the Gaussian's variance."""
    model = acktr(vf_fisher_coef=weight, **LINEAR)
    update = Updated(model)
    A, G = factors_of(model)["value_net.weight"]
    policy = copy.deepcopy(update.old)
    layer = policy.value_net
    gradients = [flat_grad(policy.predict_values(x[None]).sum(), [layer.weight, layer.bias]) for x in update.observations]
    th.testing.assert_close(th.kron(G, A), weight * sum(th.outer(g, g) for g in gradients) / len(gradients))


def test_factors_of_hidden_layers_are_second_moments_of_inputs_and_of_gradients_of_the_values():
    """Of the critic, whose gradients need no sample, by a backward pass for each row."""
    model = acktr(policy_kwargs=dict(net_arch=[4, 3]))
    update = Updated(model)
    policy = copy.deepcopy(update.old)
    first, _, second, _ = policy.mlp_extractor.value_net
    A, G = 0.0, 0.0
    for x in update.observations:
        hidden = first(x)
        inputs = hidden.tanh()
        outputs = second(inputs)
        (g,) = th.autograd.grad(policy.value_net(outputs.tanh()).sum(), outputs)
        a = th.cat([inputs, th.ones(1, dtype=th.float64)]).detach()
        A, G = A + th.outer(a, a) / len(update.observations), G + th.outer(g, g) / len(update.observations)
    th.testing.assert_close(factors_of(model)["mlp_extractor.value_net.2.weight"], (A, G))


def test_averages_are_those_of_the_paper():
    """The mean of the first updates, and then a running average."""
    callback, kept = Updates(), []
    model = acktr(stats_decay=0.75, learning_rate=0.0, **LINEAR)
    model.learn(16 * 6, callback=callback)
    for rollout in callback.rollouts:
        x = rollout.rows().observations
        a = th.cat([x, th.ones_like(x[:, :1])], dim=1)
        kept.append(a.T @ a / len(a))
    expected = sum(kept[:4]) / 4
    for A in kept[4:]:
        expected = 0.75 * expected + 0.25 * A
    th.testing.assert_close(factors_of(model)["action_net.weight"][0], expected)


# ------------------------------------------------------------------------------------------------------- the step


class Dense:
    """The step of one update of a model without momentum, recomputed with the factors that the model holds afterwards."""

    def __init__(self, model):
        before = Updated(model)
        self.model, self.metrics = model, before.metrics
        policy, batch = copy.deepcopy(before.old), before.batch
        values, log_prob, entropy = policy.evaluate_actions(
            batch.observations, as_policy_input(batch.actions, model.action_space)
        )
        loss = -(before.advantages * log_prob).mean() - model.ent_coef * entropy.mean()
        self.variance = (values.flatten() - batch.returns).square().mean()
        loss = loss + model.vf_coef * self.variance
        names = [name for name, _ in policy.named_parameters()]
        gradients = dict(zip(names, th.autograd.grad(loss, [*policy.parameters()]), strict=True))
        old, new = dict(before.old.named_parameters()), dict(before.new.named_parameters())
        self.natural, self.taken, self.quadratic = {}, {}, {"actor": 0.0, "critic": 0.0}
        for block in model.curvature.blocks:
            A, G = damped_factors(*factors_of(model)[block.name], model.damping)
            F = th.kron(G, A)
            g = block.matrix(gradients).flatten()
            s = th.linalg.solve(F, g)
            self.natural[block.name] = s
            self.taken[block.name] = (block.matrix(new) - block.matrix(old)).flatten().detach()
            self.quadratic[self.owner(block.name)] += (s @ F @ s).item()

    def owner(self, name):
        return "critic" if "value" in name else "actor"


@pytest.mark.parametrize("rate, kl, epsilon", [(0.3, 1e-4, 1e-4), (1e-3, 10.0, 10.0), (0.3, 1e-4, 10.0)])
@pytest.mark.parametrize("kind", SPACES)
def test_the_step_is_that_of_the_dense_matrix_in_the_papers_trust_region(kind, rate, kl, epsilon):
    """min(η_max, √(2δ / ΔᵀFΔ)) F⁻¹g, for actor and critic each, since they share no layers."""
    model = acktr(
        SPACES[kind], learning_rate=rate, target_kl=kl, critic_epsilon=epsilon, ent_coef=0.1, damping=0.03,
        policy_kwargs=dict(net_arch=[3]), **ONE_STEP,
    )  # fmt: skip
    dense = Dense(model)
    bounds = {"actor": kl, "critic": epsilon * dense.variance.item()}
    lengths = {owner: min(rate, (2 * bounds[owner] / q) ** 0.5) for owner, q in dense.quadratic.items()}
    for name, s in dense.natural.items():
        th.testing.assert_close(dense.taken[name], -lengths[dense.owner(name)] * s, rtol=1e-6, atol=1e-10)
    predicted = {owner: lengths[owner] ** 2 * q / 2 for owner, q in dense.quadratic.items()}
    expected = {
        "step_length": lengths["actor"],
        "critic_step_length": lengths["critic"],
        "kl_predicted": predicted["actor"],
        "critic_constraint_predicted": predicted["critic"] / dense.variance.item(),
    }
    assert {key: dense.metrics[key] for key in expected} == pytest.approx(expected, rel=1e-6)
    assert dense.metrics["kl_predicted"] <= kl * (1 + 1e-9)


def test_shared_layers_make_one_trust_region_of_actor_and_critic():
    class Shared(OwnExtractor):
        def __init__(self, observation_space):
            super().__init__(observation_space)
            self.double()

        def forward(self, observations):
            return super().forward(observations.double())

    class SharedPolicy(DoublePolicy):
        def __init__(self, *args, **kwargs):
            super(DoublePolicy, self).__init__(*args, **{**kwargs, "net_arch": [], "features_extractor_class": Shared})

    model = acktr(policy=SharedPolicy, target_kl=1e-4, **ONE_STEP)
    dense = Dense(model)
    quadratic = sum(dense.quadratic.values())
    length = min(0.25, (2e-4 / quadratic) ** 0.5)
    for name, s in dense.natural.items():
        th.testing.assert_close(dense.taken[name], -length * s, rtol=1e-6, atol=1e-10)
    assert dense.metrics["kl_predicted"] == pytest.approx(1e-4)
    assert {"critic_step_length", "critic_constraint_predicted"}.isdisjoint(dense.metrics)


def test_the_divergence_of_a_linear_gaussian_policy_is_the_predicted_one():
    """Its Fisher matrix factorises, but for the sampled actions; the damping makes the prediction a little larger."""
    model = acktr(n=8, n_steps=512, target_kl=1e-3, damping=1e-6, learning_rate=1e3, **ONE_STEP, **LINEAR)
    metrics = Updated(model).metrics
    assert metrics["kl_predicted"] == pytest.approx(1e-3)
    assert metrics["kl_divergence_loss"] == pytest.approx(1e-3, rel=0.15)


def test_the_clipped_gradient_gives_a_shorter_step_in_the_same_direction():
    steps, norms = [], []
    for limit in (None, 1e-3):
        model = acktr(max_grad_norm=limit, learning_rate=1e-3, target_kl=10.0, critic_epsilon=10.0, **ONE_STEP)
        update = Updated(model)
        norms.append(update.metrics["grad_norm"])
        steps.append(update.step)
    assert norms[0] == norms[1] > 1e-3 and update.metrics["grad_clipped"] == 1.0
    th.testing.assert_close(steps[1], steps[0] * 1e-3 / norms[0], rtol=1e-2, atol=1e-12)


# ------------------------------------------------------------------------------------------------------- many steps


@pytest.mark.parametrize("options", [{}, dict(policy_kwargs=dict(optimizer_class=th.optim.Adam))], ids=["momentum", "Adam"])
def test_no_step_leaves_the_trust_region_whatever_momentum_or_another_optimizer_make_of_it(options):
    quadratics = []

    class Watch(Updates):
        def on_update_end(self, metrics):
            super().on_update_end(metrics)
            old, new = (dict(policy.named_parameters()) for policy in (self.before[-1], self.after[-1]))
            step = {name: (p - old[name]).detach() for name, p in new.items()}
            actor = [name for name in step if "value" not in name]
            curvature = self.model.curvature
            quadratics.append(curvature.quadratic(step, curvature.damped(self.model.damping), actor) / 2)

    watch = Watch()
    model = acktr(target_kl=1e-3, learning_rate=10.0, **options)
    model.learn(16 * 12, callback=watch)
    assert max(quadratics) <= 1e-3 * (1 + 1e-6)
    assert quadratics == pytest.approx([metrics["kl_predicted"] for metrics in watch.metrics])


def test_momentum_is_a_running_average_of_steps():
    """With a tiny learning rate: the trust region shortens no step, and no gradient depends on the steps before."""
    steps = {}
    for momentum in (0.0, 0.6):
        callback = Updates()
        acktr(momentum=momentum, learning_rate=1e-9, **LINEAR).learn(16 * 5, callback=callback)
        pairs = zip(callback.before, callback.after, strict=True)
        steps[momentum] = [
            (th.nn.utils.parameters_to_vector(new.parameters()) - th.nn.utils.parameters_to_vector(old.parameters())).detach()
            for old, new in pairs
        ]
    average = steps[0.0][0]
    for plain, smooth in zip(steps[0.0][1:], steps[0.6][1:], strict=True):
        average = 0.6 * average + 0.4 * plain
        th.testing.assert_close(smooth, average, rtol=1e-4, atol=1e-14)


@pytest.mark.parametrize("interval", [1, 3])
def test_inverses_are_computed_in_the_first_k_updates_and_then_in_every_kth(interval):
    seen = []

    class Watch(Updates):
        def on_update_end(self, metrics):
            seen.append(self.model.curvature.factors[0].input_inverse.clone())

    acktr(inverse_update_interval=interval, **LINEAR).learn(16 * 9, callback=Watch())
    fresh = [k + 1 for k in range(1, 9) if not th.equal(seen[k], seen[k - 1])]
    assert fresh == (list(range(2, 10)) if interval == 1 else [2, 3, 6, 9])


def test_layers_that_are_frozen_stay_and_are_thawed_again():
    model = make("acktr", policy_kwargs=dict(net_arch=[8, 8]), compile=False)
    layers = model.policy.mlp_extractor.policy_net[0], model.policy.mlp_extractor.value_net[2]
    for frozen in (False, True, False):
        for layer in layers:
            layer.requires_grad_(not frozen)
        before = parameters(model)
        trained(model, reset_num_timesteps=False)
        moved = {name for name, p in parameters(model).items() if not th.equal(p, before[name])}
        still = {name for name in before if ".policy_net.0." in name or ".value_net.2." in name}
        assert moved == set(before) - (still if frozen else set())


def test_a_frozen_actor_leaves_the_critic_to_learn():
    model = make("acktr", compile=False)
    for name, p in model.policy.named_parameters():
        p.requires_grad_("value" in name)
    before = parameters(model)
    trained(model)
    assert all(th.equal(p, before[name]) != ("value" in name) for name, p in parameters(model).items())


def test_a_layer_that_is_replaced_during_a_run_gets_factors_of_its_size():
    model = make("acktr", compile=False)
    trained(model)
    model.policy.value_net = th.nn.Sequential(th.nn.Linear(8, 5), th.nn.ReLU(), th.nn.Linear(5, 1))
    model.policy.optimizer.param_groups[0]["params"] = list(model.policy.parameters())
    before = parameters(model)
    trained(model, reset_num_timesteps=False)
    assert {"value_net.0.weight", "value_net.2.weight"} <= factors_of(model).keys()
    assert all(not th.equal(p, before[name]) for name, p in parameters(model).items())


def test_an_update_that_is_refused_after_a_layer_was_replaced_can_be_repeated():
    model = make("acktr", compile=False)
    trained(model)
    model.policy.value_net = th.nn.Sequential(th.nn.Linear(8, 5), th.nn.ReLU(), th.nn.Linear(5, 1))
    model.policy.optimizer.param_groups[0]["params"] = list(model.policy.parameters())
    model.vf_coef = 3e38
    with pytest.raises(ValueError, match=r"not finite|is inf|is nan"):
        trained(model, reset_num_timesteps=False)
    model.vf_coef = 0.5
    trained(model, reset_num_timesteps=False)
    assert {"value_net.0.weight", "value_net.2.weight"} <= factors_of(model).keys()


def test_gradients_that_others_have_left_behind_move_nothing():
    class Extra(OwnExtractor):
        def __init__(self, space):
            super().__init__(space)
            self.head = th.nn.Linear(2, 2)

    model = make("acktr", compile=False, policy_kwargs=dict(features_extractor_class=Extra))
    head = model.policy.features_extractor.head
    before = head.weight.detach().clone()
    head.weight.grad = th.ones_like(before)
    trained(model)
    assert th.equal(head.weight, before)


# ------------------------------------------------------------------------------------------------------- compiled

CELLS = {
    "Box": lambda: {},
    "Discrete": lambda: dict(env=envs(action_space=spaces.Discrete(3)), normalize_advantage=True),
    "MultiDiscrete": lambda: dict(env=envs(action_space=spaces.MultiDiscrete([2, 3]))),
    "MultiBinary": lambda: dict(env=envs(action_space=spaces.MultiBinary(3)), max_grad_norm=0.5),
    "a shared extractor": lambda: dict(policy_kwargs=dict(features_extractor_class=OwnExtractor)),
    "images": lambda: dict(env=envs(IMAGE), policy="CnnPolicy"),
    "bounded, state-dependent std": lambda: dict(policy_kwargs=dict(log_std_bounds=(-5, 2), state_dependent_std=True)),
}


@pytest.mark.parametrize("cell", mostly_slow(CELLS, ["Box", "MultiDiscrete", "images"]))
def test_a_compiled_training_is_the_uncompiled_one(cell, graphs):
    eager, compiled = models = pair("acktr", CELLS[cell], n_steps=12)
    results = [trained(model, timesteps=72) for model in models]
    assert results[0] == results[1], "random numbers were drawn differently"
    before = parameters(make("acktr", **CELLS[cell]()))
    expected, reached = map(parameters, models)
    for key in expected:
        th.testing.assert_close(reached[key], expected[key], rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
    assert any((expected[key] - before[key]).norm() > 1e-3 for key in before)
    assert eager._n_updates == compiled._n_updates == eager.n_gradient_steps == 3
    parts = ["acting", "the evaluation of a rollout", "the gradient with its curvature", "the measure of the step"]
    assert compiled.log.sentences == [f"{part} is compiled" for part in parts] and len(graphs) == len(parts)


def test_values_that_change_need_no_new_graph(graphs):
    models = pair("acktr")
    for model in models:
        trained(model)
    made = len(graphs)
    for model in models:
        model.target_kl, model.damping, model.learning_rate, model.ent_coef, model.vf_coef = 0.1, 0.5, 0.01, 0.1, 1.0
        model.vf_fisher_coef, model.normalize_advantage = 0.5, True
        trained(model, reset_num_timesteps=False)
    assert len(graphs) == made > 0
    for key, p in parameters(models[0]).items():
        th.testing.assert_close(parameters(models[1])[key], p, rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------------------------------- files


def test_factors_and_inverses_are_saved_and_the_loaded_model_continues_as_the_saved_one(tmp_path):
    model = make("acktr", compile=False, inverse_update_interval=5)
    trained(model, 100)
    model.save(tmp_path / "model.zip")
    loaded = ACKTR.load(tmp_path / "model.zip", env=envs(), device=model.device)
    assert_same(loaded.curvature.state_dict(), model.curvature.state_dict())
    loaded.compile = False
    for each in (model, loaded):
        each.set_env(envs())
        each.set_random_seed(0)
        trained(each, 48)
    assert_same(parameters(loaded), parameters(model))
    assert_same(loaded.curvature.state_dict(), model.curvature.state_dict())
