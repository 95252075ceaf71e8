"""
Run an LSTM or a GRU over sequences of rows in packed order (:mod:`sb3_pgx.core.sequences`).

A state is a pair of tensors, hidden and cell state, ``[S, layers, H]`` each. A GRU has no cell state: its width is 0.
"""

from collections.abc import Sequence
from typing import Any

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

State = tuple[Tensor, Tensor]


class GRU(nn.GRU):
    """
    A GRU with the interface of an LSTM: it takes and returns a pair of states. The second one is passed through, whatever its
    width, so code for LSTMs, such as sb3-contrib's policies, can run a GRU.
    """

    def forward(self, input: Any, hx: Any = None) -> Any:
        """
        Run the network.

        :param input: inputs, ``[L, S, F]``
        :param hx: hidden state ``[layers, S, H]``, and a second state; ``None``: zeros
        :return: outputs ``[L, S, H]``; hidden state after the last input, and the second state
        """
        if hx is None:
            zeros = input.new_zeros(self.num_layers, input.shape[1], self.hidden_size)
            hx = zeros, zeros
        outputs, hidden = super().forward(input, hx[0])
        return outputs, (hidden, hx[1])


def no_state(network: nn.RNNBase, n: int) -> State:
    """Return the state of n sequences at the start of an episode: zeros."""
    like: Any = network.weight_hh_l0
    shape = (n, network.num_layers, network.hidden_size)
    return like.new_zeros(shape), like.new_zeros(shape if isinstance(network, nn.LSTM) else (*shape[:2], 0))


def run_padded(network: nn.RNNBase, inputs: Tensor, sizes: Tensor, start: State) -> Tensor:
    """
    Run a network by one call of its own, on sequences that are padded to the same length. On the CPU, this is the fastest way
    that torch has: oneDNN runs an LSTM over padded sequences only. Its gradient cannot be differentiated again.

    :param network: LSTM or :class:`GRU`
    :param inputs: rows in packed order, ``[R, F]``
    :param sizes: rows per level, ``[L]``
    :param start: states before the sequences' first rows
    :return: outputs of the last layer, ``[R, H]``
    """
    n_levels, n_sequences = len(sizes), int(sizes[0])
    states = tuple(x.transpose(0, 1).contiguous() for x in start)
    if n_levels * n_sequences == len(inputs):  # the sequences have the same length
        return network(inputs.unflatten(0, (n_levels, n_sequences)), states)[0].flatten(end_dim=1)
    alive = th.arange(n_sequences) < sizes[:, None]
    places = alive.flatten().nonzero().squeeze(1).to(inputs.device)
    padded = inputs.new_zeros(n_levels * n_sequences, inputs.shape[1]).index_copy(0, places, inputs)
    outputs, _ = network(padded.unflatten(0, (n_levels, n_sequences)), states)
    return outputs.flatten(end_dim=1).index_select(0, places)


def run_cells(network: nn.RNNBase, inputs: Tensor, sizes: Tensor, start: State) -> tuple[Tensor, State]:
    """
    Run a network level by level, and keep the states. Dropout between layers is left out, as in evaluation mode. Arguments are
    those of :func:`run_padded`.

    :return: outputs of the last layer, ``[R, H]``, and the states after each row, ``[R, layers, H]`` each
    """
    return _run_levels(network, inputs, sizes.tolist(), start)


def run_operators(network: nn.RNNBase, inputs: Tensor, sizes: Tensor, start: State) -> tuple[Tensor, State]:
    """
    Run a network by the operators of :mod:`sb3_pgx.ops.recurrence`, whose shapes do not depend on where sequences begin, so
    that a compiler can take them. Arguments are those of :func:`run_padded`, except that ``sizes`` may end in zeros, and that
    there may be more states than sequences.

    :return: outputs of the last layer, ``[R, H]``, and the states after each row, ``[R, layers, H]`` each, the cell states
        without gradient
    """
    from sb3_pgx.ops.recurrence import gru, lstm  # registering operators takes 30 ms, and most policies have no memory

    last, after = network.num_layers - 1, []
    for layer, (w_input, w_hidden, *biases) in enumerate(network.all_weights):
        b_input, b_hidden = biases or (w_input.new_zeros(len(w_input)),) * 2
        hidden, memory = (x[:, layer] for x in start)
        if isinstance(network, nn.LSTM):
            inputs, memory = lstm(F.linear(inputs, w_input, b_input + b_hidden), w_hidden, hidden, memory, sizes)
        else:
            inputs = gru(F.linear(inputs, w_input, b_input), w_hidden, b_hidden, hidden, sizes)
            memory = inputs[:, :0]
        after.append((inputs, memory))
        if layer < last and network.dropout:
            inputs = F.dropout(inputs, network.dropout, network.training)
    return inputs, _stacked(after)


def run_step(network: nn.RNNBase, inputs: Tensor, resets: Tensor, start: State) -> tuple[Tensor, State]:
    """
    Run a network over one row of each sequence, in operations that a compiler can take.

    :param network: LSTM or :class:`GRU`
    :param inputs: rows, ``[S, F]``
    :param resets: whether an episode starts in a row, ``[S]``
    :param start: states before the rows, not yet reset, ``[S, layers, H]`` each
    :return: outputs of the last layer, ``[S, H]``, and the states after the rows, ``[S, layers, H]`` each
    """
    hidden, memory = (th.where(resets[:, None, None], 0.0, x) for x in start)
    return _run_levels(network, inputs, [len(inputs)], (hidden, memory))


def _run_levels(network: nn.RNNBase, inputs: Tensor, sizes: Sequence[int], start: State) -> tuple[Tensor, State]:
    cell, after = _lstm_cell if isinstance(network, nn.LSTM) else _gru_cell, []
    for layer, (w_input, w_hidden, *biases) in enumerate(network.all_weights):
        b_input, b_hidden = biases or (None, None)
        fed = F.linear(inputs, w_input, b_input).split(sizes)
        hidden, memory = (x[:, layer] for x in start)
        levels = []
        for x in fed:
            hidden, memory = cell(x, F.linear(hidden[: len(x)], w_hidden, b_hidden), hidden[: len(x)], memory[: len(x)])
            levels.append((hidden, memory))
        inputs, memories = (th.cat(parts) for parts in zip(*levels, strict=True))
        after.append((inputs, memories))
    return inputs, _stacked(after)


def _stacked(layers: Sequence[State]) -> State:
    """Return the states of all layers, ``[R, layers, H]`` each, given those of each, ``[R, H]``."""
    hidden, memory = (th.stack(parts, dim=1) for parts in zip(*layers, strict=True))
    return hidden, memory


def _lstm_cell(fed: Tensor, recurrent: Tensor, hidden: Tensor, memory: Tensor) -> State:
    """Return hidden and cell state after a row, given what input and hidden state add to the gates, ``[n, 4 H]`` each."""
    i, f, g, o = (fed + recurrent).chunk(4, dim=1)
    memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
    return o.sigmoid() * memory.tanh(), memory


def _gru_cell(fed: Tensor, recurrent: Tensor, hidden: Tensor, memory: Tensor) -> State:
    """Return the hidden state after a row, and no cell state; arguments as for :func:`_lstm_cell`, ``[n, 3 H]``."""
    (r, z, n), (r_h, z_h, n_h) = fed.chunk(3, dim=1), recurrent.chunk(3, dim=1)
    new = (n + (r + r_h).sigmoid() * n_h).tanh()
    return new + (z + z_h).sigmoid() * (hidden - new), memory
