"""Whatever an algorithm is given, it trains or says why not; `make fuzz` draws more of it."""

import pytest
from hypothesis import HealthCheck, given, settings
from support.random_uses import LATER, REFUSED, SB3S, TRAINED, draws, outcome

from sb3_pgx.engine.compiler import using_backend

QUICKLY = settings(max_examples=150, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def cheap_graphs():
    """Graphs run as they were traced."""
    with using_backend(lambda graph, examples: graph):
        yield


@QUICKLY
@given(draw=draws())
def test_every_use_trains_or_is_refused_in_a_sentence(cheap_graphs, draw):
    assert outcome(draw) in (TRAINED, REFUSED, SB3S, LATER)
