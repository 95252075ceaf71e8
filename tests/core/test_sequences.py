"""Rows cut into sequences and put into packed order, against torch's own packing and against the definition."""

import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_sequence

from sb3_pgx.core.sequences import begins_of, pack

BEGINS = st.lists(st.booleans(), min_size=1, max_size=40)


def sequences(begins):
    """Return the places of each sequence's rows."""
    found = []
    for place, begin in enumerate(begins):
        if begin or not found:
            found.append([])
        found[-1].append(place)
    return found


@given(BEGINS)
def test_packed_order_is_that_of_torch(begins):
    longest_first = sorted(sequences(begins), key=len, reverse=True)
    expected = pack_sequence([th.tensor(places) for places in longest_first])
    packing = pack(th.tensor(begins))
    assert packing.order.tolist() == expected.data.tolist() and packing.sizes.tolist() == expected.batch_sizes.tolist()
    assert packing.firsts().tolist() == [places[0] for places in longest_first]


@given(BEGINS)
def test_unpacking_gives_the_rows_back(begins):
    rows, packing = th.rand(len(begins), 2), pack(th.tensor(begins))
    assert th.equal(packing.unpacked(rows[packing.order]), rows)


STARTS = th.tensor([[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=th.bool)  # 4 steps of 3 environments


@pytest.mark.parametrize(
    "rows, begins",
    [
        ([0, 3, 6, 9], [1, 0, 0, 0]),  # one environment, whose episode goes on
        ([1, 4, 7, 10], [1, 0, 1, 0]),  # an episode starts in the third row
        ([6, 9, 1, 4], [1, 0, 1, 0]),  # the environment changes
        ([9, 0, 3], [1, 1, 0]),  # from the last row to the first one
        ([0, 6, 9], [1, 1, 0]),  # a row is missing
        ([4, 5, 8], [1, 1, 0]),  # another environment at the same step
    ],
)
def test_a_sequence_begins_where_a_row_does_not_continue_the_one_before(rows, begins):
    assert begins_of(th.tensor(rows), STARTS).tolist() == [bool(x) for x in begins]
