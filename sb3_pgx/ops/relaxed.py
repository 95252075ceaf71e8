"""Differentiable samples of choices."""

import torch as th
from torch import Tensor


def gumbel_noise(like: Tensor) -> Tensor:
    """
    Return independent samples of the standard Gumbel distribution: −log E, where E is exponentially distributed.

    :param like: a tensor of the wanted shape, type and device
    """
    return -th.empty_like(like).exponential_().log()


def one_hot_choice(scores: Tensor) -> Tensor:
    """
    Return the unit vector of the largest score, in the scores' type.

    With Gumbel noise added to logits, the choice is a sample of their softmax (Gumbel, 1954).

    :param scores: ``[..., K]``
    :return: ``[..., K]``
    """
    choices = th.arange(scores.shape[-1], device=scores.device)
    return (scores.argmax(dim=-1, keepdim=True) == choices).to(scores.dtype)


def gumbel_softmax(logits: Tensor, noise: Tensor, temperature: float | Tensor) -> Tensor:
    """
    Return a one-hot sample whose gradient is that of a relaxed one (straight-through Gumbel-softmax; Jang et al., 2017;
    Maddison et al., 2017).

        relaxed = softmax((logits + noise) / temperature)
        sample = one_hot(argmax relaxed), with the gradient of relaxed

    As the temperature falls, the gradient's bias falls and its variance rises.

    :param logits: ``[..., K]``
    :param noise: of :func:`gumbel_noise`, ``[..., K]``
    :param temperature: positive
    :return: ``[..., K]``
    """
    scores = logits + noise
    relaxed = (scores / temperature).softmax(dim=-1)
    return one_hot_choice(scores) + (relaxed - relaxed.detach())
