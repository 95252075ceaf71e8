"""Recurrent policies on packed rows against sb3-contrib's evaluation of padded sequences, in float64."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from support.recurrent import CELLS, LAYOUTS, double_policy, policy_kwargs
from support.small_environments import DEVICE

from sb3_pgx.core.evaluation import evaluate_actions, predict_values
from sb3_pgx.core.policies import distribution_of
from sb3_pgx.core.recurrent_evaluation import no_memory
from sb3_pgx.core.rollout import PolicyInputs
from sb3_pgx.core.sequences import pack

# Where sequences begin among 23 rows, besides the first one; episodes start in every second of them.
PATTERNS = {"one sequence": [], "single rows": list(range(23)), "mixed lengths": [2, 3, 11, 12, 20], "equal": [0]}
ACTION_SPACES = {"Discrete": spaces.Discrete(3), "Box": spaces.Box(-1, 1, (2,), np.float32)}


class Example:
    """A policy, 23 rows cut into sequences, and states before them; everything for sb3-contrib and for us."""

    def __init__(self, cell, layout, pattern, action_space="Discrete", n_lstm_layers=1):
        kwargs = policy_kwargs(layout, n_lstm_layers=n_lstm_layers)
        box, space = spaces.Box(-1, 1, (3,), np.float64), ACTION_SPACES[action_space]
        self.policy = double_policy(f"Mlp{cell}Policy")(box, space, lambda _: 1e-3, **kwargs).to(DEVICE)
        generator = th.Generator().manual_seed(0)
        begins = th.zeros(23, dtype=th.bool)
        begins[PATTERNS[pattern]] = True
        packing = pack(begins)
        self.order, self.sizes, n = packing.order.to(DEVICE), packing.sizes, int(packing.sizes[0])
        self.observations = th.rand(23, 3, generator=generator, dtype=th.float64).to(DEVICE)
        self.actions = th.tensor(np.array([space.sample() for _ in range(23)]), device=DEVICE)
        self.starts = th.arange(n, device=DEVICE) % 2 == 1
        self.states = {
            name: th.randn(x.shape, generator=generator, dtype=x.dtype).to(DEVICE)
            for name, x in no_memory(self.policy, n).items()
        }
        self.inputs = PolicyInputs(
            self.observations[self.order],
            memory={
                "sizes": packing.sizes,
                **{name: th.where(self.starts[:, None, None], 0.0, x) for name, x in self.states.items()},
            },
        )

    def contribs(self):
        """Return values, log-probabilities and entropies of sb3-contrib's method, in packed order."""
        n_levels, n = len(self.sizes), int(self.sizes[0])
        alive = (th.arange(n) < self.sizes[:, None]).T.flatten().to(DEVICE)  # sequence after sequence, padded
        level_first = (th.arange(n) < self.sizes[:, None]).flatten().nonzero().squeeze(1)
        padded_of_packed = (level_first % n) * n_levels + level_first // n

        def padded(rows):
            return th.zeros(n * n_levels, *rows.shape[1:], dtype=rows.dtype, device=DEVICE).index_copy(
                0, padded_of_packed.to(DEVICE), rows[self.order]
            )

        starts = th.zeros(n, n_levels, device=DEVICE)
        starts[:, 0] = self.starts.float()
        states = {name: x.transpose(0, 1).contiguous() for name, x in self.states.items()}
        pi = states["h_pi"], states["c_pi"]
        vf = (states["h_vf"], states["c_vf"]) if "h_vf" in states else pi
        results = self.policy.evaluate_actions(
            padded(self.observations), padded(self.actions), RNNStates(pi, vf), starts.flatten()
        )
        assert alive.sum() == 23
        return [x.flatten()[padded_of_packed.to(DEVICE)] for x in results]


def gradient(results, policy):
    """Return the gradient of a sum in which every number has a weight of its own."""
    weighted = [x * th.linspace(0.5, k + 1.5, len(x), dtype=x.dtype, device=DEVICE) for k, x in enumerate(results)]
    parameters = list(policy.parameters())
    return th.autograd.grad(sum(x.sum() for x in weighted), parameters, materialize_grads=True, allow_unused=True)


@pytest.mark.parametrize("n_lstm_layers", [1, 2])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_evaluation_and_gradient_are_those_of_contrib(cell, layout, pattern, n_lstm_layers):
    example = Example(cell, layout, pattern, n_lstm_layers=n_lstm_layers)
    theirs = example.contribs()
    ours = evaluate_actions(example.policy, example.inputs, example.actions[example.order][:, None])[:3]
    for mine, expected in zip(ours, theirs, strict=True):
        th.testing.assert_close(mine, expected, rtol=0, atol=1e-10)
    pairs = zip(gradient(ours, example.policy), gradient(theirs, example.policy), strict=True)
    for (name, _), (mine, expected) in zip(example.policy.named_parameters(), pairs, strict=True):
        assert (mine - expected).abs().max() < 1e-10, name
    th.testing.assert_close(predict_values(example.policy, example.inputs), theirs[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("cell", CELLS)
def test_box_actions(cell):
    example = Example(cell, "separate", "mixed lengths", "Box")
    ours = evaluate_actions(example.policy, example.inputs, example.actions[example.order], with_distribution=True)
    for mine, expected in zip(ours, example.contribs(), strict=False):
        th.testing.assert_close(mine, expected, rtol=0, atol=1e-10)
    made = distribution_of(example.policy, example.inputs).distribution
    th.testing.assert_close(ours.distribution, th.cat([made.mean, made.stddev], dim=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dropout_between_layers_is_random_in_training_only(layout):
    example = Example("Lstm", layout, "one sequence", n_lstm_layers=2)
    example.policy.lstm_actor.dropout = 0.5
    arguments = (example.policy, example.inputs, example.actions[example.order][:, None])
    example.policy.set_training_mode(False)
    assert th.equal(evaluate_actions(*arguments).log_prob, evaluate_actions(*arguments).log_prob)
    example.policy.set_training_mode(True)
    assert not th.equal(evaluate_actions(*arguments).log_prob, evaluate_actions(*arguments).log_prob)
