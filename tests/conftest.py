"""One torch thread a process: the suite runs on as many processes as there are cores."""

import pytest
import torch as th

th.set_num_threads(1)


@pytest.fixture(autouse=True)
def process_wide_state_stays_as_it_is():
    """No test may leave torch's process-wide settings changed, and so neither may what it calls."""
    before = (th.distributions.Distribution._validate_args, th.get_default_dtype(), th.get_num_threads(), th.is_grad_enabled())
    yield
    after = (th.distributions.Distribution._validate_args, th.get_default_dtype(), th.get_num_threads(), th.is_grad_enabled())
    assert after == before
