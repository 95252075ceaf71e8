"""Arrays on their way from one process to another. A queue stands for the connection."""

import numpy as np
import pytest

from sb3_pgx.parallel.channel import Channel


class Connection:
    """Delivers bytes in order, and remembers how many came in each message."""

    n_left = 0

    def __init__(self):
        self.frames, self.sizes = [], []

    def send(self, peer, frame):
        self.frames.append(frame.copy())
        self.sizes.append(frame.nbytes)

    def receive(self, peer, frame):
        sent = self.frames.pop(0)
        assert sent.nbytes == frame.nbytes  # otherwise gloo fails
        frame[:] = sent


@pytest.fixture
def connection():
    return Connection()


MESSAGES = [
    ([np.arange(6, dtype=np.float32).reshape(2, 3), np.array([True, False])], None),
    ([np.ones((2, 3), np.float32), np.array([False, False])], None),
    ([np.zeros((2, 3), np.float32), np.array([True, True])], {"more": [1, 2]}),
    ([np.zeros((2, 3), np.float64), np.array([True, True])], None),  # another type
    ([np.zeros((1, 3), np.float64), np.array([True])], ("seed", 3)),  # another shape
    ([], "no arrays"),
    ([np.array([{"a": 1}, None])], None),  # objects
    ([np.arange(6, dtype=np.float32).reshape(2, 3), np.array([True, False])], None),
]


def test_what_is_received_is_what_was_sent(connection):
    sender, receiver = Channel(connection, 1), Channel(connection, 0)
    for arrays, more in MESSAGES:
        sender.send(arrays, more)
        received, rest = receiver.receive()
        assert rest == more and len(received) == len(arrays)
        for x, y in zip(received, arrays, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
    assert not connection.frames


def test_arrays_of_the_last_layout_are_one_message_without_pickling(connection):
    sender = Channel(connection, 1)
    sender.send(*MESSAGES[0])
    connection.sizes.clear()
    sender.send(*MESSAGES[1])
    assert connection.sizes == [8 + 24 + 8]  # a header, 6 floats, and 2 truth values at a multiple of 8 bytes
