"""Projections onto a fixed support against their definition."""

import numpy as np
import pytest
import torch as th

from sb3_pgx.ops.distributional import atoms_between, outside, project

LIKE = th.zeros(1, dtype=th.float64)


def projected_by_hand(values, probs, atoms):
    """Each value gives its probability to the two atoms around it: loops over rows and values (Bellemare et al., alg. 1)."""
    result = np.zeros((len(probs), len(atoms)))
    for row, (of_row, p) in enumerate(zip(values, probs, strict=True)):
        for x, mass in zip(of_row, p, strict=True):
            x = min(max(x, atoms[0]), atoms[-1])
            above = next(k for k, z in enumerate(atoms) if z >= x)
            if atoms[above] == x:
                result[row, above] += mass
            else:
                share = (x - atoms[above - 1]) / (atoms[above] - atoms[above - 1])
                result[row, above - 1] += mass * (1 - share)
                result[row, above] += mass * share
    return result


@pytest.mark.parametrize("n_atoms, v_min, v_max", [(2, -1.0, 1.0), (5, -2.0, 6.0), (51, 0.0, 10.0)])
def test_a_projection_is_that_of_the_definition(n_atoms, v_min, v_max):
    random = np.random.default_rng(0)
    atoms = np.linspace(v_min, v_max, n_atoms)
    values = random.uniform(v_min - 3, v_max + 3, (6, 8))
    values[0, :4] = atoms[0], atoms[-1], atoms[1], v_max + 100
    probs = random.dirichlet(np.ones(8), 6)
    ours = project(th.tensor(values), th.tensor(probs), atoms_between(v_min, v_max, n_atoms, LIKE))
    assert np.allclose(ours, projected_by_hand(values, probs, atoms), rtol=0, atol=1e-12)
    beyond = np.where((values < v_min) | (values > v_max), probs, 0).sum(axis=1)
    assert np.allclose(outside(th.tensor(values), th.tensor(probs), th.tensor(atoms)), beyond, rtol=0, atol=1e-12)


def test_a_projection_keeps_the_mean_of_values_inside_of_the_support():
    values, atoms = th.rand(20, 7, dtype=th.float64) * 4 - 2, atoms_between(-2, 2, 11, LIKE)
    probs = th.rand(20, 7, dtype=th.float64).softmax(dim=1)
    assert th.allclose(project(values, probs, atoms) @ atoms, (values * probs).sum(dim=1), rtol=0, atol=1e-12)


def test_a_distribution_over_the_atoms_themselves_stays():
    atoms = atoms_between(-3, 3, 13, LIKE)
    probs = th.rand(4, 13, dtype=th.float64).softmax(dim=1)
    assert th.allclose(project(atoms.expand(4, -1), probs, atoms), probs, rtol=0, atol=1e-12)


def test_numbers_that_are_not_finite_stay_visible():
    atoms = atoms_between(-1, 1, 3, LIKE)
    values = th.tensor([[0.0, np.nan], [0.0, 1.0]], dtype=th.float64)
    projected = project(values, th.full((2, 2), 0.5, dtype=th.float64), atoms)
    assert projected[0].isnan().any() and projected[1].tolist() == [0, 0.5, 0.5]
