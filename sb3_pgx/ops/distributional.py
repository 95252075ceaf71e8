"""Distributions of returns over a fixed support (Bellemare et al., 2017): atoms z_1 < … < z_K, Δ apart."""

import torch as th
from torch import Tensor


def atoms_between(v_min: float, v_max: float, n_atoms: int, like: Tensor) -> Tensor:
    """
    Return z_k = v_min + (k − 1) Δ with Δ = (v_max − v_min) / (K − 1), ``[K]``.

    :param v_min: z_1
    :param v_max: z_K
    :param n_atoms: K, at least 2
    :param like: a tensor of the wanted type and device
    """
    return th.linspace(v_min, v_max, n_atoms, dtype=like.dtype, device=like.device)


def project(values: Tensor, probs: Tensor, atoms: Tensor) -> Tensor:
    """
    Project a distribution onto the support (Bellemare et al., 2017, eq. 7): each value, moved to the nearest end if it is
    outside, shares its probability between its two neighbours, in proportion to how near they are.

        (Φp)_k = Σ_j max(0, 1 − |clip(x_j, z_1, z_K) − z_k| / Δ) p_j

    Values inside of the support keep their mean.

    :param values: x_j, ``[B, J]``
    :param probs: p_j, ``[B, J]``
    :param atoms: z_k, ``[K]``
    :return: ``[B, K]``
    """
    places = (values.clamp(atoms[0], atoms[-1]) - atoms[0]) / (atoms[1] - atoms[0])  # from 0 to K − 1
    left = places.floor().clamp(max=len(atoms) - 2)
    of_right = places - left
    index = left.nan_to_num().long()  # NaN stays in the shares
    projected = probs.new_zeros(len(probs), len(atoms))
    return projected.scatter_add(1, index, probs * (1 - of_right)).scatter_add(1, index + 1, probs * of_right)


def outside(values: Tensor, probs: Tensor, atoms: Tensor) -> Tensor:
    """
    Return the probability outside of the support, which :func:`project` moves to its ends, ``[B]``.

    :param values: x_j, ``[B, J]``
    :param probs: p_j, ``[B, J]``
    :param atoms: z_k, ``[K]``
    """
    return (probs * ((values < atoms[0]) | (values > atoms[-1]))).sum(dim=1)
