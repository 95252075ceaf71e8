"""The graph of a function: what is computed twice, what is changed in place, and what a graph cannot depend on."""

import numpy as np
import pytest
import torch as th

from sb3_pgx.engine.trace import NotCompilable, trace

X = th.linspace(-1, 1, 6).reshape(2, 3)


def operations(traced):
    return [str(node.target) for node in traced.graph.graph.nodes if node.op == "call_function"]


def check(function, *arguments):
    """The graph does what the function does, to other arguments than those it was traced with, which it leaves alone."""
    before = [x.clone() for x in arguments]
    traced = trace(function, arguments)
    assert all(map(th.equal, arguments, before))
    given = [th.randn_like(x) for x in arguments]
    expected_arguments, graphs_arguments = [x.clone() for x in given], [x.clone() for x in given]
    expected = function(*expected_arguments)
    results = traced.graph(*traced.inputs(graphs_arguments))
    assert len(results) == len(expected) and all(map(th.equal, results, expected))
    assert all(map(th.equal, graphs_arguments, expected_arguments))
    return operations(traced)


def changes_one_of_two(x):
    a, b = x.exp(), x.exp()
    a.add_(1.0)
    return a, b


def changes_a_view_of_one(x):
    a, b = x.exp(), x.exp()
    a.view(-1)[0] = 7.0
    return a, b


def changes_the_first_after_the_second_was_read(x):
    a, b = x.exp(), x.exp()
    c = b * 2
    b.zero_()
    return a, b, c


def changes_an_argument_and_reads_it_through_a_view(x):
    view = x.view(-1)
    before = view.sum()
    x.mul_(3.0)
    return before, view.sum(), x.sum()


def changes_a_constant(x):
    constant = th.tensor(2.0)
    first = x * constant
    constant.add_(1.0)
    return first, x * constant


def takes_parts(x):
    first, second = x.split(1)
    return first + second, x.max(1).values + x.max(1).indices, th.stack([first, second])


@pytest.mark.parametrize(
    "function",
    [
        changes_one_of_two,
        changes_a_view_of_one,
        changes_the_first_after_the_second_was_read,
        changes_an_argument_and_reads_it_through_a_view,
        changes_a_constant,
        takes_parts,
    ],
)
def test_a_graph_does_what_the_function_does(function):
    check(function, X)
    traced = trace(function, [X])
    first, second = (traced.graph(*traced.inputs([X.clone()])) for _ in range(2))
    assert all(map(th.equal, first, second)), "a call leaves nothing behind for the next"


def test_what_is_computed_twice_is_in_the_graph_once():
    def squared_norm_and_gradient(x):
        with th.enable_grad():
            leaf = x.detach().requires_grad_()
            (gradient,) = th.autograd.grad(leaf.exp().sum(), leaf)
        return x.exp() * gradient, x.max(1).values + x.max(1).values

    found = check(squared_norm_and_gradient, X)
    assert found.count("aten.exp.default") == found.count("aten.max.dim") == 1


def test_derivatives_within_function_transforms_are_recorded():
    def hessian_product(x, v):
        gradient = th.func.grad(lambda y: (y.exp() * y).sum())
        return (th.func.jvp(gradient, (x,), (v,))[1],)

    check(hessian_product, X, X + 1)
    check(lambda x: (th.vmap(lambda row: row.softmax(0) * row.sum())(x),), X)


def test_arguments_that_are_not_read_and_constants_that_are_not_used_are_not_inputs():
    def function(a, b, c):
        th.tensor(5.0)
        return (a + c * th.tensor(3.0),)

    traced = trace(function, [X, X, X])
    assert (list(traced.read), [x.item() for x in traced.constants]) == ([0, 2], [3.0])
    assert len([node for node in traced.graph.graph.nodes if node.op == "placeholder"]) == 3


@pytest.mark.parametrize(
    "function, reason",
    [
        (lambda x: (x * 2,) if x.sum() > 0 else (x,), "it reads a value of a tensor, on which a graph cannot depend"),
        (lambda x: (x * x.max().item(),), "it reads a value of a tensor"),
        (lambda x: (x + sum(x[0].tolist()),), "it reads the values of a tensor, on which a graph cannot depend"),
        (lambda x: (x + th.from_numpy(x.numpy() * 2),), "it reads the values of a tensor"),
        (lambda x: (x + th.as_tensor(np.asarray(x)),), "it reads the values of a tensor"),
        (lambda x: (x + th.randn(3),), "it draws random numbers"),
        (lambda x: (th.nn.functional.dropout(x),), "it draws random numbers"),
        (lambda x: (x + OUTSIDE,), "it reads a tensor that is neither a parameter nor in the batch"),
        (lambda x: (OUTSIDE,), "it reads a tensor that is neither a parameter nor in the batch"),
    ],
)
def test_what_a_graph_cannot_depend_on_is_refused(function, reason):
    generator = th.get_rng_state()
    with pytest.raises(NotCompilable, match=reason):
        trace(function, [X])
    assert th.equal(th.get_rng_state(), generator), "no random number was drawn"


OUTSIDE = th.ones(3)
