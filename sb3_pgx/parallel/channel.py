"""Arrays of a layout that seldom changes, from one process to another in one message of fixed size."""

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np

from sb3_pgx.parallel.processes import Processes

Layout = list[tuple[np.dtype, tuple[int, ...]]]
_HEADER = 8  # bytes: the size of the pickled message that follows, negative if the arrays are in it


class Channel:
    """
    Sends arrays to one process in one direction, or receives them.

    The arrays are sent as they are in memory if their types and shapes are those of the last ones. If they differ, or if there
    is more to send than arrays, a pickled message follows.

    :param processes: of the run
    :param peer: rank of the other process
    """

    def __init__(self, processes: Processes, peer: int):
        self._processes, self._peer = processes, peer
        self._n_left: int | None = None

    def send(self, arrays: Sequence[np.ndarray], more: Any = None) -> None:
        """
        Send arrays, and an object.

        :param arrays: any types and shapes
        :param more: anything that can be pickled; ``None`` costs nothing
        """
        self._follow_connection()
        fits = [(x.dtype, x.shape) for x in arrays] == self._layout
        message = b"" if fits and more is None else pickle.dumps((None if fits else arrays, more))
        self._header[0] = len(message) if fits else -len(message)
        if fits:
            for place, array in zip(self._places, arrays, strict=True):
                place[...] = array
        self._processes.send(self._peer, self._frame)
        if message:
            self._processes.send(self._peer, np.frombuffer(bytearray(message), np.uint8))
        if not fits:
            self._use(_layout_of(arrays))

    def receive(self) -> tuple[list[np.ndarray], Any]:
        """Return what the other process has sent. The arrays are valid until the next call."""
        self._follow_connection()
        self._processes.receive(self._peer, self._frame)
        size = int(self._header[0])
        if size == 0:
            return self._places, None
        message = np.empty(abs(size), np.uint8)
        self._processes.receive(self._peer, message)
        arrays, more = pickle.loads(message.tobytes())
        if arrays is None:
            return self._places, more
        self._use(_layout_of(arrays))
        return list(arrays), more

    def _follow_connection(self) -> None:
        """Forget the layout if the processes have left one another, since one of them may have missed a message."""
        if self._n_left != self._processes.n_left:
            self._n_left = self._processes.n_left
            self._use([])

    def _use(self, layout: Layout) -> None:
        self._layout = layout
        sizes = [int(dtype.itemsize * np.prod(shape, dtype=int)) for dtype, shape in layout]
        starts = np.cumsum([_HEADER, *(size + -size % 8 for size in sizes)]).tolist()  # aligned to 8 bytes
        self._frame = np.zeros(starts[-1], np.uint8)
        self._header = self._frame[:_HEADER].view(np.int64)
        self._places = [
            self._frame[start : start + size].view(dtype).reshape(shape)
            for start, size, (dtype, shape) in zip(starts, sizes, layout, strict=False)
        ]


def _layout_of(arrays: Sequence[np.ndarray]) -> Layout:
    """Return types and shapes of arrays; nothing if some hold objects, which cannot be sent as they are in memory."""
    return [] if any(x.dtype.hasobject for x in arrays) else [(x.dtype, x.shape) for x in arrays]
