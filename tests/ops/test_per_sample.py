"""Per-sample gradients against a loop over the samples."""

import pytest
import torch as th
from torch.func import functional_call

from sb3_pgx.ops.per_sample import per_sample_gradients


@pytest.mark.parametrize("max_numbers", [1, 60, 10**6])
def test_per_sample_gradients_equal_a_loop_whatever_the_chunk(max_numbers):
    th.manual_seed(0)
    net = th.nn.Sequential(th.nn.Linear(3, 4), th.nn.Tanh(), th.nn.Linear(4, 1)).double()
    x, scale = th.randn(7, 3, dtype=th.float64), {"scale": th.rand(7, dtype=th.float64)}

    def function(theta, x, scale):
        return functional_call(net, theta, (x,)).squeeze() * scale["scale"]

    parameters = dict(net.named_parameters())
    chunks = list(per_sample_gradients(function, parameters, (x, scale), max_numbers))
    expected = []
    for row, s in zip(x, scale["scale"], strict=True):
        gradients = th.autograd.grad(net(row).squeeze() * s, list(net.parameters()))
        expected.append(th.cat([g.flatten() for g in gradients]))
    th.testing.assert_close(th.cat([g for _, g in chunks]), th.stack(expected), rtol=1e-12, atol=1e-12)
    size = sum(p.numel() for p in net.parameters())
    assert all(len(g) <= max(1, max_numbers // size) for _, g in chunks)
    assert [i for rows, _ in chunks for i in range(7)[rows]] == list(range(7))
