"""
LSTM and GRU over sequences of rows in packed order, as torch operators with fixed shapes.

R rows belong to at most S sequences. Level l holds row l of every sequence with more than l rows, the longest sequence first,
so a level's rows continue the first rows of the level before (:mod:`sb3_pgx.core.sequences`). ``sizes`` has the number of rows
per level, followed by zeros if it is longer. Only its values depend on where sequences begin, so one compiled graph runs all
patterns of R rows; :mod:`sb3_pgx.engine.recurrence_lowering` gives it a kernel in C++. Here the operators run level by level.

The recurrent product is all that the operators compute of a layer. What its inputs add to the gates, ``fed``, is one matrix
product over all rows, and so is the gradient of the recurrent weights. Gradients do not reach the states before the
sequences.
"""

from collections.abc import Callable, Iterator
from inspect import signature
from typing import Any

import torch as th
from torch import Tensor
from torch.autograd import Function

_LIBRARY = th.library.Library("sb3_pgx", "FRAGMENT")


def lstm(fed: Tensor, weights: Tensor, hidden: Tensor, memory: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """
    Return the hidden states and the cell states of an LSTM after each row. The cell states are without gradient.

        i, f, g, o = σ, σ, tanh, σ of (fed_t + W h_{t−1})
        c_t = f c_{t−1} + i g
        h_t = o tanh(c_t)

    :param fed: what the inputs and all biases add to the gates, ``[R, 4 H]``
    :param weights: W, ``[4 H, H]``
    :param hidden: hidden states before the sequences, ``[S, H]``
    :param memory: cell states before the sequences, ``[S, H]``
    :param sizes: rows per level, ``[L]``
    :return: h_t and c_t, ``[R, H]`` each
    """
    after, record = _LSTM.apply(fed, weights, hidden, memory, sizes)
    return after, _parts(record, weights.shape[1], 1, 1, 1, 4)[1]


def gru(fed: Tensor, weights: Tensor, bias: Tensor, hidden: Tensor, sizes: Tensor) -> Tensor:
    """
    Return the hidden states of a GRU after each row.

        r, z = σ of the first two thirds of (fed_t + W h_{t−1} + b)
        n = tanh(fed_t + r (W h_{t−1} + b)), of the last third
        h_t = n + z (h_{t−1} − n)

    :param fed: what the inputs and their bias add to the gates, ``[R, 3 H]``
    :param weights: W, ``[3 H, H]``
    :param bias: b, ``[3 H]``
    :param hidden: hidden states before the sequences, ``[S, H]``
    :param sizes: rows per level, ``[L]``
    :return: h_t, ``[R, H]``
    """
    return _GRU.apply(fed, weights, bias, hidden, sizes)[0]


class _LSTM(Function):
    @staticmethod
    def forward(fed: Tensor, weights: Tensor, hidden: Tensor, memory: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        record = th.ops.sb3_pgx.lstm_forward(fed, weights, hidden, memory, sizes)
        return _parts(record, weights.shape[1], 1, 1, 1, 4)[0], record

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        (_, weights, _, memory, sizes), (_, record) = inputs, output
        _keep(ctx, record, weights, memory, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        record, weights, _, _ = ctx.saved_tensors
        _, _, before, _ = _parts(record, weights.shape[1], 1, 1, 1, 4)
        d_fed = _LSTMGradient.apply(gradients[0], *ctx.saved_tensors)
        return d_fed, d_fed.T @ before, None, None, None


class _GRU(Function):
    @staticmethod
    def forward(fed: Tensor, weights: Tensor, bias: Tensor, hidden: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        record = th.ops.sb3_pgx.gru_forward(fed, weights, bias, hidden, sizes)
        return _parts(record, weights.shape[1], 1, 1, 4)[0], record

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        (_, weights, _, _, sizes), (_, record) = inputs, output
        _keep(ctx, record, weights, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        record, weights, _ = ctx.saved_tensors
        width = weights.shape[1]
        _, before, _ = _parts(record, width, 1, 1, 4)
        d_gates = _GRUGradient.apply(gradients[0], *ctx.saved_tensors)
        d_new, d_product = d_gates[:, :width], d_gates[:, width:]
        d_fed = th.cat([d_product[:, : 2 * width], d_new], dim=1)
        return d_fed, d_product.T @ before, d_product.sum(0), None, None


def _keep(ctx: Any, record: Tensor, *others: Tensor) -> None:
    """Keep what the gradient needs. The record itself has no gradient, not even one of zeros."""
    ctx.mark_non_differentiable(record)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(record, *others)


# The gradient is linear in that of the outputs. The transpose of this map takes tangents of the gates to tangents of the
# outputs, so products with the Jacobian are the gradient of a gradient (as in :mod:`sb3_pgx.ops.natural_gradient`).


class _LSTMGradient(Function):
    @staticmethod
    def forward(d_outputs: Tensor, record: Tensor, weights: Tensor, memory: Tensor, sizes: Tensor) -> Tensor:
        return th.ops.sb3_pgx.lstm_backward(d_outputs, record, weights, memory, sizes)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        _check_linear(ctx)
        return th.ops.sb3_pgx.lstm_tangent(gradients[0], *ctx.saved_tensors), None, None, None, None


class _GRUGradient(Function):
    @staticmethod
    def forward(d_outputs: Tensor, record: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return th.ops.sb3_pgx.gru_backward(d_outputs, record, weights, sizes)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        _check_linear(ctx)
        return th.ops.sb3_pgx.gru_tangent(gradients[0], *ctx.saved_tensors), None, None, None


def _check_linear(ctx: Any) -> None:
    """:raises RuntimeError: the gradient is differentiated in something else than the gradient of the outputs"""
    if any(ctx.needs_input_grad[1:]):
        raise RuntimeError("the gradient of lstm and gru can be differentiated in the gradient of the outputs only")


# The operators return one tensor each, since a graph has no kernels with several results. What is kept for the gradient is one
# vector of several parts.


def _parts(record: Tensor, width: int, *columns: int) -> list[Tensor]:
    """Split a vector into matrices with the same number of rows, given their columns in multiples of the width."""
    n_rows = record.numel() // (sum(columns) * width)
    return [x.view(n_rows, -1) for x in record.split([n_rows * n * width for n in columns])]


def _joined(*parts: Tensor) -> Tensor:
    return th.cat([x.flatten() for x in parts])


def _levels(sizes: Tensor, n_rows: int) -> Iterator[tuple[slice, slice | None]]:
    """Yield the rows of each level, and the rows of the level before that they continue; ``None``: the states before."""
    first, before = 0, None
    for size in sizes.tolist():
        if first == n_rows:
            return
        yield slice(first, first + size), None if before is None else slice(before, before + size)
        first, before = first + size, first


def lstm_forward(fed: Tensor, weights: Tensor, hidden: Tensor, memory: Tensor, sizes: Tensor) -> Tensor:
    """
    Run the LSTM of :func:`lstm`.

    :return: h_t, c_t and h_{t−1} of each row, ``[R, H]`` each, and the gates i, f, g and o, ``[R, 4 H]``, in one vector
    """
    n_rows, width = fed.shape[0], weights.shape[1]
    gates = th.empty_like(fed)
    after, memories, before = (fed.new_empty(n_rows, width) for _ in range(3))
    for rows, continued in _levels(sizes, n_rows):
        n = rows.stop - rows.start
        h, c = (hidden[:n], memory[:n]) if continued is None else (after[continued], memories[continued])
        i, f, g, o = (fed[rows] + h @ weights.T).chunk(4, dim=1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        gates[rows], before[rows], memories[rows] = th.cat([i, f, g, o], dim=1), h, f * c + i * g
        after[rows] = o * memories[rows].tanh()
    return _joined(after, memories, before, gates)


def lstm_backward(d_outputs: Tensor, record: Tensor, weights: Tensor, memory: Tensor, sizes: Tensor) -> Tensor:
    """
    Return the gradient of ``fed`` of :func:`lstm`, ``[R, 4 H]``.

    :param d_outputs: gradient of the hidden states, ``[R, H]``
    :param record: result of :func:`lstm_forward`
    """
    n_rows, width = d_outputs.shape
    _, memories, _, gates = _parts(record, width, 1, 1, 1, 4)
    d_fed, d_hidden, d_memory = th.empty_like(gates), d_outputs.clone(), th.zeros_like(d_outputs)
    for rows, continued in reversed([*_levels(sizes, n_rows)]):
        i, f, g, o = gates[rows].chunk(4, dim=1)
        c = memory[: rows.stop - rows.start] if continued is None else memories[continued]
        squashed, d_after = memories[rows].tanh(), d_hidden[rows]
        d_next = d_memory[rows] + d_after * o * (1 - squashed**2)
        d_gates = [
            d_next * g * i * (1 - i),
            d_next * c * f * (1 - f),
            d_next * i * (1 - g**2),
            d_after * squashed * o * (1 - o),
        ]
        d_fed[rows] = th.cat(d_gates, dim=1)
        if continued is not None:
            d_hidden[continued] += d_fed[rows] @ weights
            d_memory[continued] = d_next * f
    return d_fed


def lstm_tangent(tangents: Tensor, record: Tensor, weights: Tensor, memory: Tensor, sizes: Tensor) -> Tensor:
    """
    Return the tangents of the hidden states of :func:`lstm`, ``[R, H]``: the transpose of :func:`lstm_backward`. The states
    before the sequences do not move.

    :param tangents: of ``fed``, ``[R, 4 H]``; those of the weights W add Ẇ h_{t−1}
    :param record: result of :func:`lstm_forward`
    """
    n_rows, width = len(tangents), weights.shape[1]
    _, memories, _, gates = _parts(record, width, 1, 1, 1, 4)
    after, of_memory = th.empty_like(memories), th.empty_like(memories)
    for rows, continued in _levels(sizes, n_rows):
        n = rows.stop - rows.start
        if continued is None:
            c, of_h, of_c = memory[:n], memory.new_zeros(n, width), memory.new_zeros(n, width)
        else:
            c, of_h, of_c = memories[continued], after[continued], of_memory[continued]
        moved = tangents[rows] + of_h @ weights.T
        (i, f, g, o), (of_i, of_f, of_g, of_o) = gates[rows].chunk(4, dim=1), moved.chunk(4, dim=1)
        squashed = memories[rows].tanh()
        of_next = f * of_c + c * f * (1 - f) * of_f + g * i * (1 - i) * of_i + i * (1 - g**2) * of_g
        of_memory[rows] = of_next
        after[rows] = squashed * o * (1 - o) * of_o + o * (1 - squashed**2) * of_next
    return after


def gru_forward(fed: Tensor, weights: Tensor, bias: Tensor, hidden: Tensor, sizes: Tensor) -> Tensor:
    """
    Run the GRU of :func:`gru`.

    :return: h_t and h_{t−1} of each row, ``[R, H]`` each, and r, z, n and the last third of W h_{t−1} + b, ``[R, 4 H]``, in
        one vector
    """
    n_rows, width = fed.shape[0], weights.shape[1]
    after, before, gates = (fed.new_empty(n_rows, columns * width) for columns in (1, 1, 4))
    for rows, continued in _levels(sizes, n_rows):
        h = hidden[: rows.stop - rows.start] if continued is None else after[continued]
        (r, z, n), (r_h, z_h, n_h) = fed[rows].chunk(3, dim=1), th.addmm(bias, h, weights.T).chunk(3, dim=1)
        r, z = (r + r_h).sigmoid(), (z + z_h).sigmoid()
        n = (n + r * n_h).tanh()
        after[rows], before[rows], gates[rows] = n + z * (h - n), h, th.cat([r, z, n, n_h], dim=1)
    return _joined(after, before, gates)


def gru_backward(d_outputs: Tensor, record: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
    """
    Return the gradients of the gates of :func:`gru`, ``[R, 4 H]``: of the last third of ``fed``, and of W h_{t−1} + b. The
    first two thirds of both are the same.

    :param d_outputs: gradient of the hidden states, ``[R, H]``
    :param record: result of :func:`gru_forward`
    """
    n_rows, width = d_outputs.shape
    _, before, gates = _parts(record, width, 1, 1, 4)
    d_gates, d_hidden = th.empty_like(gates), d_outputs.clone()
    for rows, continued in reversed([*_levels(sizes, n_rows)]):
        r, z, n, n_h = gates[rows].chunk(4, dim=1)
        d_after = d_hidden[rows]
        d_new = d_after * (1 - z) * (1 - n**2)
        of_product = [d_new * n_h * r * (1 - r), d_after * (before[rows] - n) * z * (1 - z), d_new * r]
        d_gates[rows] = th.cat([d_new, *of_product], dim=1)
        if continued is not None:
            d_hidden[continued] += d_after * z + th.cat(of_product, dim=1) @ weights
    return d_gates


def gru_tangent(tangents: Tensor, record: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
    """
    Return the tangents of the hidden states of :func:`gru`, ``[R, H]``: the transpose of :func:`gru_backward`. The states
    before the sequences do not move.

    :param tangents: of the gates, ``[R, 4 H]``: of the last third of ``fed``, and of W h_{t−1} + b with the first two thirds
        of ``fed``; those of the weights W add Ẇ h_{t−1} to the latter
    :param record: result of :func:`gru_forward`
    """
    n_rows, width = len(tangents), weights.shape[1]
    _, before, gates = _parts(record, width, 1, 1, 4)
    after = th.empty_like(before)
    for rows, continued in _levels(sizes, n_rows):
        of_h = after.new_zeros(rows.stop - rows.start, width) if continued is None else after[continued]
        of_n, moved = tangents[rows, :width], tangents[rows, width:] + of_h @ weights.T
        (r, z, n, n_h), (of_r, of_z, of_n_h) = gates[rows].chunk(4, dim=1), moved.chunk(3, dim=1)
        of_new = (1 - n**2) * (of_n + n_h * r * (1 - r) * of_r + r * of_n_h)
        after[rows] = (1 - z) * of_new + (before[rows] - n) * z * (1 - z) * of_z + z * of_h
    return after


# By operator, the shape of its result for R rows and a width of H.
OPERATORS: dict[Any, Callable[[int, int], tuple[int, ...]]] = {}


def _register(function: Callable[..., Tensor], shape: Callable[[int, int], tuple[int, ...]]) -> None:
    """
    Make a function an operator with its name.

    :param function: function of rows, weights and other tensors
    :param shape: shape of its result for R rows and a width of H
    """
    name, weights = function.__name__, [*signature(function).parameters].index("weights")

    def shaped(*tensors: Tensor) -> Tensor:
        return tensors[0].new_empty(shape(len(tensors[0]), tensors[weights].shape[1]))

    _LIBRARY.define(name + th.library.infer_schema(function, mutates_args=()))
    _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
    th.library.register_fake(f"sb3_pgx::{name}", shaped, lib=_LIBRARY)
    OPERATORS[getattr(th.ops.sb3_pgx, name).default] = shape


_register(lstm_forward, lambda rows, width: (7 * rows * width,))
_register(lstm_backward, lambda rows, width: (rows, 4 * width))
_register(lstm_tangent, lambda rows, width: (rows, width))
_register(gru_forward, lambda rows, width: (6 * rows * width,))
_register(gru_backward, lambda rows, width: (rows, 4 * width))
_register(gru_tangent, lambda rows, width: (rows, width))
