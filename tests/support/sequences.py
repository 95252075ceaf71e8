"""Rows cut into sequences in many ways; recurrent networks on them by our operators, and by torch's networks one by one."""

from dataclasses import dataclass

import torch as th
from torch import nn
from torch.func import vjp
from torch.nn import functional as F

from sb3_pgx.core.sequences import pack
from sb3_pgx.ops.recurrence import gru, lstm

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}
N_ROWS, N_FEATURES = 23, 3
# Where sequences begin among the rows, besides the first one.
PATTERNS = {
    "one sequence": [],
    "single rows": list(range(N_ROWS)),
    "mixed lengths": [2, 3, 11, 12, 20],
    "nearly equal lengths": [8, 16],
    "one long sequence": [17, 18, 19, 20, 21, 22],
}
RANDOM_PATTERNS = {
    f"random {seed}": (th.rand(N_ROWS, generator=th.Generator().manual_seed(seed)) < (seed + 1) / 40)
    .nonzero()
    .flatten()
    .tolist()
    for seed in range(30)
}


@dataclass
class Example:
    """A network with random weights, random rows in packed order, and random states before the sequences."""

    cell: str
    width: int
    pattern: str
    scale: float = 1.0  # of the weights

    def __post_init__(self):
        generator = th.Generator().manual_seed(self.width)

        def random(*shape):
            return th.randn(*shape, generator=generator, dtype=th.float64)

        self.network = CELLS[self.cell](N_FEATURES, self.width).double()
        for p in self.network.parameters():
            p.data = self.scale * random(*p.shape) / self.width**0.5
        begins = th.zeros(N_ROWS, dtype=th.bool)
        begins[(PATTERNS | RANDOM_PATTERNS)[self.pattern]] = True
        self.packing = pack(begins)
        self.inputs, self.hidden, self.memory = (random(N_ROWS, n) for n in (N_FEATURES, self.width, self.width))

    def arguments(self, dtype=th.float64):
        """Return the arguments of :func:`by_operators`. There are more states than sequences, and zeros among the sizes."""
        numbers = [*self.network.parameters(), self.inputs, self.hidden, self.memory]
        sizes = th.zeros(N_ROWS, dtype=th.int64)
        sizes[: len(self.packing.sizes)] = self.packing.sizes
        return [*(x.detach().to(dtype) for x in numbers), sizes]

    def one_by_one(self):
        """Return the results of :func:`by_operators`, from torch's network on one sequence at a time."""
        inputs = self.inputs.clone().requires_grad_()
        leaves = [*self.network.parameters(), inputs]
        sequences = [[] for _ in range(int(self.packing.sizes[0]))]  # indices of packed rows
        for row, sequence in enumerate(n for size in self.packing.sizes.tolist() for n in range(size)):
            sequences[sequence].append(row)
        outputs = th.zeros(N_ROWS, self.width, dtype=th.float64)
        for n, rows in enumerate(sequences):
            state = self.hidden[None, n : n + 1], self.memory[None, n : n + 1]
            made, _ = self.network(inputs[rows][:, None], state if self.cell == "lstm" else state[0])
            outputs = outputs.index_copy(0, th.tensor(rows), made[:, 0])
        gradients = th.autograd.grad(weighted(outputs), leaves, retain_graph=True)
        u = th.zeros_like(outputs).requires_grad_()
        pulled_back = th.autograd.grad(outputs, leaves, u, create_graph=True)
        (tangents,) = th.autograd.grad(pulled_back, u, directions(leaves))
        return [outputs.detach(), tangents, *gradients]


def weighted(outputs):
    """Return a sum in which every number has a weight of its own."""
    return (outputs * th.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs)).sum()


def directions(leaves):
    """Return directions in which parameters and inputs move."""
    return tuple(th.linspace(1, -2, x.numel(), dtype=x.dtype).view_as(x) for x in leaves)


def by_operators(w_input, w_hidden, b_input, b_hidden, inputs, hidden, memory, sizes):
    """
    Return the outputs of a network, their tangents if parameters and inputs move in the ``directions``, and the gradients of
    their weighted sum in the parameters and in the inputs.
    """

    def run(w_input, w_hidden, b_input, b_hidden, inputs):
        if len(w_hidden) == 4 * w_hidden.shape[1]:
            return lstm(F.linear(inputs, w_input, b_input + b_hidden), w_hidden, hidden, memory, sizes)[0]
        return gru(F.linear(inputs, w_input, b_input), w_hidden, b_hidden, hidden, sizes)

    leaves = [x.detach().requires_grad_() for x in (w_input, w_hidden, b_input, b_hidden, inputs)]
    with th.enable_grad():
        outputs = run(*leaves)
        gradients = th.autograd.grad(weighted(outputs), leaves)
    points = [x.detach() for x in leaves]
    _, push_forward = vjp(lambda u: vjp(run, *points)[1](u), th.zeros_like(outputs))
    (tangents,) = push_forward(directions(points))
    return outputs.detach(), tangents, *gradients
