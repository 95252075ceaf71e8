"""
Gradients of each sample separately, in chunks of bounded memory. Variance-optimal baselines and the gradient noise scale need
them.
"""

from collections.abc import Callable, Iterator, Mapping

import torch as th
from torch import Tensor
from torch.func import grad, vmap

Inputs = tuple[Tensor | dict[str, Tensor], ...]

# 2^24 numbers of float32 are 64 MiB.
MAX_NUMBERS = 2**24


def per_sample_gradients(
    function: Callable[..., Tensor], parameters: Mapping[str, Tensor], inputs: Inputs, max_numbers: int = MAX_NUMBERS
) -> Iterator[tuple[slice, Tensor]]:
    """
    Yield ∇_θ f(θ, x_b) for consecutive chunks of samples x_b.

    :param function: ``f(θ, *x)``, from parameters and one sample (without a batch dimension) to a scalar
    :param parameters: θ by name
    :param inputs: x, tensors or dictionaries of tensors with a leading dimension B
    :param max_numbers: largest number of entries in a chunk's gradients; a chunk has at least one sample
    :return: rows of the chunk and their gradients ``[rows, P]``, with the parameters flattened and concatenated in order
    """
    parameters = {name: p.detach() for name, p in parameters.items()}
    size = sum(p.numel() for p in parameters.values())
    rows = max(1, max_numbers // max(size, 1))
    gradient = vmap(grad(function), in_dims=(None, *(0 for _ in inputs)), randomness="same")
    for start in range(0, batch_size(inputs), rows):
        chunk = slice(start, start + rows)
        gradients = gradient(parameters, *(pick(x, chunk) for x in inputs))
        yield chunk, th.cat([gradients[name].flatten(start_dim=1) for name in parameters], dim=1)


def batch_size(inputs: Inputs) -> int:
    """Return the leading dimension of the first tensor."""
    first = inputs[0]
    return len(next(iter(first.values()))) if isinstance(first, dict) else len(first)


def pick(values: Tensor | dict[str, Tensor], index: slice | Tensor) -> Tensor | dict[str, Tensor]:
    """Return rows of a tensor, or of each tensor of a dictionary."""
    return {k: v[index] for k, v in values.items()} if isinstance(values, dict) else values[index]
