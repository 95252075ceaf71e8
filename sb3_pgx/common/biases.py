"""A pass of the compiler's own, before it makes kernels of a graph: how a layer's bias is added."""

from typing import Any

import torch as th
from torch._inductor.custom_graph_pass import CustomGraphPass

aten = th.ops.aten


class BiasesApart(CustomGraphPass):
    """
    Makes a product and a sum of each ``addmm``. On the CPU ``addmm`` copies the bias into the result and multiplies then,
    which takes as long as a small layer's product; a sum is part of the kernel that comes next, such as the activation's.
    """

    def __call__(self, graph: th.fx.Graph) -> None:
        """Changes the graph; an ``addmm`` with factors stays as it is."""
        for node in graph.find_nodes(op="call_function", target=aten.addmm.default):
            if node.kwargs:
                continue
            bias, rows, weights = node.args
            with graph.inserting_before(node):
                product: Any = graph.call_function(aten.mm.default, (rows, weights))
                total: Any = graph.call_function(aten.add.Tensor, (product, bias))
            product.meta, total.meta = node.meta.copy(), node.meta.copy()
            node.replace_all_uses_with(total)
            graph.erase_node(node)

    def uuid(self) -> str:
        """By which the compiler's cache knows what the pass does: to be changed with it."""
        return "sb3_pgx: biases apart, 1"
