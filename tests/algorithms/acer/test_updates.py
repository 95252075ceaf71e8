"""How often ACER updates, from what, and that it trains the same compiled."""

import copy
import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecNormalize
from support.acer_models import ACTIONS, BOTH, BOX, Change, envs, flat, make, watch_epochs, watch_steps
from support.acer_segments import evaluated
from support.eager_and_compiled import Sentences, assert_same_training, trained
from support.models import assert_same, parameters
from support.observers import Metrics
from support.small_environments import DEVICE, AnySpace, vectorised

from sb3_pgx import ACER


def test_replayed_updates_are_poisson_distributed():
    """Mean and variance of 10⁴ draws are the ratio, within five standard errors; and so is the share of zeros, e^−r."""
    ratio, n = 3.0, 10_000
    model = make(replay_ratio=ratio).learn(24)
    counts = np.array([model.number_of_replays() for _ in range(n)])
    assert abs(counts.mean() - ratio) < 5 * math.sqrt(ratio / n)
    assert abs(counts.var() - ratio) < 5 * math.sqrt((ratio + 2 * ratio**2) / n)
    assert abs((counts == 0).mean() - math.exp(-ratio)) < 5 * math.sqrt(math.exp(-ratio) / n)


def test_a_rollout_is_kept_once_as_callbacks_leave_it():
    """When it has been collected, as SB3 has it: what trains on it again does not keep it again."""

    class Relabel(BaseCallback):
        def _on_rollout_end(self):
            self.model.last_rollout.rewards.fill_(7.0)

        def _on_step(self):
            return True

    model = make(replay_ratio=1.0)
    model.learn(24, callback=Relabel())
    model.train()
    replay = model.replay_buffer
    assert replay.size == 24 and set(replay.sample(20, np.random.default_rng(0)).rewards.ravel()) == {7.0}


@BOTH
def test_nothing_is_replayed_before_the_memory_holds_enough(kind):
    model, metrics = make(kind, replay_start=36, replay_ratio=20.0), Metrics()
    before = parameters(model)
    model.learn(24, callback=metrics)
    assert [m["replay_updates"] for m in metrics.updates] == [0, 0]
    if kind == "Box":
        assert_same(before, parameters(model))
    model.learn(12, callback=metrics, reset_num_timesteps=False)
    assert metrics.updates[2]["replay_updates"] > 0


@pytest.mark.parametrize("kind, given, learns", [("Discrete", None, True), ("Box", None, False), ("Box", True, True)])
def test_discrete_actions_are_learned_from_as_they_come_and_box_actions_from_the_memory_alone(kind, given, learns):
    model = make(kind, on_policy_update=given, replay_start=60)
    updates = watch_steps(model, lambda segments, c: th.equal(segments.rewards, model.last_rollout.rewards))
    model.learn(36)
    assert updates == [True] * (3 * learns)
    assert model.n_gradient_steps == model._n_updates == 3 * learns


@pytest.mark.parametrize("replay_batch, segments", [(None, 2), (5, 5)])
def test_as_many_segments_are_replayed_as_there_are_environments_unless_told_otherwise(replay_batch, segments):
    model = make("Box", replay_batch=replay_batch)
    shapes = watch_steps(model, lambda batch, c: tuple(batch.rewards.shape))
    model.learn(60)
    assert set(shapes) == {(6, segments)}


def test_metrics_are_means_over_the_updates_of_a_rollout_and_the_largest_ratio_is_the_largest():
    """The parts are those of the policy before each update, on its segments."""
    model, metrics = make(replay_ratio=4.0), Metrics()

    def measure(segments, steps):
        now = evaluated(model, segments)
        return {name: x.item() for name, x in model.objective.measure(now, segments, steps.plan.coefficients).items()}

    measured = watch_steps(model, measure)
    model.learn(60, callback=metrics)
    for logged in metrics.updates:
        of_rollout, measured = measured[: 1 + int(logged["replay_updates"])], measured[1 + int(logged["replay_updates"]) :]
        assert logged["ratio_max"] == pytest.approx(max(m["ratio_max"] for m in of_rollout))
        assert logged["q_loss"] == pytest.approx(np.mean([m["q_loss"] for m in of_rollout]))
        assert of_rollout[0]["ratio_max"] == pytest.approx(1.0, abs=1e-5), "the first is the one on the rollout itself"
        assert len(of_rollout) == 1 or logged["ratio_max"] > 1.01
    assert not measured


def test_without_on_policy_updates_every_update_is_a_replayed_one():
    model, metrics = make(on_policy_update=False), Metrics()
    model.learn(96, callback=metrics)
    assert model._n_updates == sum(m["replay_updates"] for m in metrics.updates) > 0


@BOTH
def test_without_replay_there_is_one_update_a_rollout_and_no_memory(kind):
    model = make(kind, env=VecNormalize(envs(kind)), replay_ratio=0, on_policy_update=True).learn(48)
    assert model._n_updates == 4
    assert model.replay_buffer.size == 0


def test_without_a_seed_numpys_global_one_decides():
    def first():
        np.random.seed(5)
        return make("Discrete", seed=None).replay_generator.random()

    assert first() == first()


@BOTH
def test_a_step_of_gradient_descent_is_as_long_as_max_grad_norm_allows_and_in_the_same_direction(kind):
    steps, sgd = [], dict(optimizer_class=th.optim.SGD)
    for max_grad_norm in (None, 0.01):
        settings = dict(learning_rate=1.0, replay_ratio=0, on_policy_update=True, max_grad_norm=max_grad_norm)
        model = make(kind, policy_kwargs=sgd, **settings)
        before = flat(model.policy)
        model.learn(12)
        steps.append(flat(model.policy) - before)
    whole, clipped = steps
    assert whole.norm() > 0.1 and clipped.norm().item() == pytest.approx(0.01, rel=1e-3)
    th.testing.assert_close(clipped, 0.01 * whole / whole.norm(), rtol=1e-3, atol=1e-6)


def test_a_replay_ratio_of_0_is_refused_when_it_leaves_nothing_to_learn_from():
    with pytest.raises(ValueError, match="replay_ratio=0 leaves nothing to learn from"):
        make("Box").learn(72, callback=Change(16, replay_ratio=0.0))


@BOTH
def test_a_compiled_training_is_the_eager_one(kind, graphs):
    """
    Acting, the evaluation of a rollout, and the step on rollouts and on replayed segments, of another number of rows: four
    graphs, however often rollouts and replays take turns, and however many episodes were truncated.
    """
    models = []
    for compile in (False, True):
        model = make(kind, compile=compile, on_policy_update=True, n_steps=2, replay_batch=3, replay_start=12)
        model.log = Sentences()
        model.set_logger(Logger(None, [model.log]))
        models.append(model)
    eager, compiled = models
    assert trained(compiled) == trained(eager), "random numbers were drawn differently"
    assert eager._n_updates > 6, "six rollouts, and something to replay"
    assert not any("uncompiled" in sentence for sentence in compiled.log.sentences)
    assert len(graphs) == 4
    assert_same_training(eager, compiled)
    assert_same_policies(eager, compiled)


def assert_same_policies(eager, compiled):
    for policy in ("policy", "average_policy"):
        ours, theirs = (flat(getattr(model, policy)) for model in (compiled, eager))
        th.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_compiled_it_keeps_the_parts_of_dictionaries_apart(graphs):
    """Final observations come in the environment's order, where others come in the space's."""
    space, models = spaces.Dict({"a": BOX, "b": spaces.Box(4, 6, (3,), np.float32)}), []
    for compile in (False, True):
        inner = [AnySpace(copy.deepcopy(space), ACTIONS["Discrete"]) for _ in range(2)]
        swapped = (TransformObservation(env, lambda x: dict(reversed(x.items())), env.observation_space) for env in inner)
        env = VecNormalize(vectorised(*swapped))
        small = dict(n_steps=6, buffer_size=60, replay_start=24, replay_ratio=2.0, learning_rate=5e-3, seed=0, device=DEVICE)
        model = ACER("MultiInputPolicy", env, policy_kwargs=dict(net_arch=[8]), compile=compile, **small)
        models.append(model.learn(96))
    assert len(graphs) == 4, "acting, evaluation, and a step for a final observation a segment at most, and one for more"
    assert_same_policies(*models)


def test_a_policy_that_is_loaded_again_and_again_needs_no_new_graph_and_one_that_shares_layers_has_none(graphs):
    models = [make(compile=c) for c in (False, True)]
    for model in models:
        trained(model, 96)
    count = len(graphs)
    for _ in range(2):
        for model in models:
            model.set_parameters({"policy": {k: 0.9 * x for k, x in model.policy.state_dict().items()}}, exact_match=False)
            assert th.equal(flat(model.policy), flat(model.average_policy))
            trained(model, reset_num_timesteps=False)
        assert_same_policies(*models)
    assert len(graphs) == count
    for model in models:
        model.average_policy.mlp_extractor = model.policy.mlp_extractor
    trained(models[0], reset_num_timesteps=False)
    with pytest.warns(UserWarning, match="the policy and the one that follows it share a parameter"):
        trained(models[1], reset_num_timesteps=False)
    assert_same_policies(*models)


def test_a_batch_that_is_larger_than_what_is_drawn_at_once_is_drawn_by_itself():
    model = make(replay_start=24, replay_batch=6000)
    sizes = watch_epochs(model, lambda batches, steps: len(batches))
    model.learn(48)
    assert set(sizes) == {1} and len(sizes) == model.n_gradient_steps > 4


@pytest.mark.parametrize("compile", [False, True])
def test_an_update_that_is_refused_says_which_and_undoes_those_of_the_same_rollout(compile, graphs):
    """The ninth of eleven on the memory, whose large batches come in two parts. One on each of two rollouts came before."""
    model = make(compile=compile, replay_start=24, replay_batch=600)
    model.replay_ratio, before = 1.0, []

    number_of_replays = model.number_of_replays
    model.number_of_replays = lambda: 11 if number_of_replays() else 0

    def spoil(batches, steps):
        if len(sizes) == 1:
            before.extend([parameters(model), flat(model.average_policy)])
        if len(sizes) == 3:
            batches[1].rewards[2, 1] = math.nan
        return len(batches)

    sizes = watch_epochs(model, spoil)
    with pytest.raises(ValueError, match="the rewards is not finite in update 11; the step was not taken"):
        model.learn(24)
    assert sizes == [1, 1, 7, 4] and model._n_updates == 1 == model.n_gradient_steps
    assert_same(before[0], parameters(model))
    assert th.equal(before[1], flat(model.average_policy))
    assert {float(state["step"]) for state in model.policy.optimizer.state.values()} == {1.0}
