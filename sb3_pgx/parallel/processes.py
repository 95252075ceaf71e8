"""The processes of a run on torch.distributed: gloo for what is on the CPU, NCCL for what is on CUDA."""

import atexit
import os
import pickle
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
import torch as th

from sb3_pgx.parallel.failure import Failure

# A process may wait this long for another one, for instance while the first one evaluates the policy. The end of a process is
# noticed at once, because its connections are closed.
PATIENCE = timedelta(days=1)


def world_size() -> int:
    """Return how many processes ``torchrun`` has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return the number of this process, from 0; 0 without ``torchrun``."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Return whether this process is the one that logs, evaluates and saves; true without ``torchrun``."""
    return rank() == 0


class ProcessLost(ConnectionError):
    """Another process of the run has ended, so that this one cannot go on."""


class Processes:
    """
    The processes of a run. All of them must call the collective methods, in the same order.

    :param rank: number of this process, from 0
    :param size: number of processes
    :param store: keys and values that all of them share; ``None``: they have none, and do not know one another's errors
    """

    def __init__(self, rank: int, size: int, store: th.distributed.Store | None = None):
        self.rank, self.size = rank, size
        self.bytes_moved = 0  # that this process has sent or received, without the overhead of the transport
        self.n_left = 0  # how often this process has left the others
        self._posted: list[tuple[Any, th.Tensor]] = []  # what is being sent; it would keep connections open
        self.learns_from: Any = None  # environments from which the processes learn; None: no `learn` is running
        self.store = store
        self._group: th.distributed.ProcessGroup | None = None  # their connections
        self._lost: ProcessLost | None = None  # since when the processes cannot be connected any more

    @property
    def is_first(self) -> bool:
        """Whether this process logs, evaluates and saves."""
        return self.rank == 0

    def rows(self, total: int) -> range:
        """Return which of ``total`` rows belong to this process."""
        share = total // self.size
        return range(self.rank * share, (self.rank + 1) * share)

    def sum(self, values: th.Tensor) -> th.Tensor:
        """Sum a tensor over all processes, in place, and return it. All processes get the same bits."""
        with self.losses():
            th.distributed.all_reduce(values, group=self._group)
        self.bytes_moved += values.numel() * values.element_size()
        return values

    def mean(self, values: th.Tensor) -> th.Tensor:
        """Average a tensor over all processes, in place, and return it. All processes get the same bits."""
        return self.sum(values).div_(self.size)

    def concatenated(self, values: th.Tensor) -> th.Tensor:
        """Return the tensors of all processes, of one shape, one after another along their first dimension."""
        parts = [th.empty_like(values) for _ in range(self.size)]
        with self.losses():
            th.distributed.all_gather(parts, values.contiguous(), group=self._group)
        self.bytes_moved += values.numel() * values.element_size()
        return th.cat(parts)

    def exchange(self, value: Any) -> list[Any]:
        """Return the objects of all processes, by rank."""
        message = _pickled(value)
        sizes = self.concatenated(th.tensor([len(message)])).tolist()
        padded = th.zeros(max(sizes), dtype=th.uint8)
        padded[: len(message)] = message
        parts = self.concatenated(padded).view(self.size, -1)
        return [_unpickled(part[:n]) for part, n in zip(parts, sizes, strict=True)]

    def from_first(self, value: Any = None) -> Any:
        """Return the first process's object. Those of the others are ignored."""
        message = _pickled(value) if self.is_first else th.empty(0, dtype=th.uint8)
        size = th.tensor([len(message)])
        with self.losses():
            th.distributed.broadcast(size, 0, group=self._group)
            if not self.is_first:
                message = th.empty(int(size), dtype=th.uint8)
            th.distributed.broadcast(message, 0, group=self._group)
        self.bytes_moved += len(message) if self.is_first else 0
        return value if self.is_first else _unpickled(message)

    def broadcast(self, values: th.Tensor) -> th.Tensor:
        """Replace a tensor by that of the first process, in place, and return it."""
        with self.losses():
            th.distributed.broadcast(values, 0, group=self._group)
        self.bytes_moved += values.numel() * values.element_size()
        return values

    def send(self, peer: int, frame: np.ndarray) -> None:
        """Send bytes to one process, which must receive as many."""
        with self.losses(peer):
            th.distributed.send(th.from_numpy(frame), peer, group=self._group)
        self.bytes_moved += frame.nbytes

    def receive(self, peer: int, frame: np.ndarray) -> None:
        """Fill an array of bytes with those that one process sends."""
        with self.losses(peer):
            th.distributed.recv(th.from_numpy(frame), peer, group=self._group)
        self.bytes_moved += frame.nbytes

    def post(self, peer: int, values: th.Tensor) -> None:
        """Begin to send a copy of a tensor. :meth:`finish` must be called later."""
        sent = values.clone()
        self.bytes_moved += sent.numel() * sent.element_size()
        with self.losses(peer):
            self._posted.append((th.distributed.isend(sent, peer, group=self._group), sent))

    def finish(self) -> None:
        """Wait until everything has been sent that :meth:`post` has begun to send."""
        with self.losses():
            while self._posted:
                self._posted.pop()[0].wait()

    def receive_tensor(self, into: th.Tensor, peer: int | None = None) -> int:
        """
        Receive a tensor, and return the rank of the process that has sent it.

        :param into: tensor to be filled
        :param peer: rank of the other process, whose end is noticed; ``None``: whichever has sent something first
        """
        with self.losses(peer):
            sender = th.distributed.recv(into, peer, group=self._group)
        self.bytes_moved += into.numel() * into.element_size()
        return sender

    def shared_store(self) -> th.distributed.Store:
        """Return a new store of keys and values that all processes share; all of them must call this."""
        host = os.environ["MASTER_ADDR"]
        own = th.distributed.TCPStore(host, 0, is_master=True, wait_for_workers=False) if self.is_first else None
        port = self.from_first(None if own is None else own.port)
        return own or th.distributed.TCPStore(host, port, is_master=False)

    def leave(self, error: BaseException) -> None:
        """
        Close the connections to the other processes, so that none of them waits for this one: when they exchange something
        next, they raise this error. Processes that have all left are connected again when they exchange something.

        :param error: why this process leaves
        """
        if self.store is not None and self._group is not None:
            with suppress(RuntimeError):  # the process that has the store may have ended
                text = pickle.dumps(Failure(error, self.rank))
                self.store.compare_set(self._reason, "", text)  # type: ignore[arg-type]  # it takes bytes, too
        self._close(error)

    @contextmanager
    def learning(self, env: Any) -> Iterator[None]:
        """
        Within this context, the processes learn. This one leaves the others if anything is raised.

        :param env: the environments that are spread over them, from which they learn
        """
        self.learns_from = env
        try:
            yield
        except BaseException as error:
            self.leave(error)
            raise
        finally:
            self.learns_from = None

    @contextmanager
    def losses(self, peer: int | None = None) -> Iterator[None]:
        """
        Within this context, processes exchange something. They are connected again if they have left.

        :param peer: rank of the other process; ``None``: it may be any
        :raises ProcessLost: another process has ended; if one has left, its error is raised
        """
        if self._group is None:
            self._connect()
        try:
            yield
        except RuntimeError as error:
            who = f"process {peer} of {self.size}" if peer is not None else f"another one of the {self.size} processes"
            raise self._followed(error, who) from error

    def _connect(self) -> None:
        """Connect this process with the others, which must do the same as often."""
        if self._lost is not None:
            raise self._lost
        self._group = th.distributed.new_group(timeout=PATIENCE)  # of their own, because nobody else must keep it open

    def _followed(self, error: RuntimeError, who: str) -> BaseException:
        """Leave, because another process has left or ended. Return its error, or one that says that it has ended."""
        failure: Failure | None = None
        with suppress(RuntimeError):
            if self.store is not None and self.store.check([self._reason]):
                failure = pickle.loads(self.store.get(self._reason))
        self._close(error)  # so that processes that wait for this one follow, too
        if failure is not None:
            return failure.error()
        self._lost = ProcessLost(
            f"process {self.rank} cannot go on, because {who} has ended; its own error is printed above. "
            "torchrun --max-restarts=3 starts all of them again"
        )
        return self._lost

    def _close(self, error: BaseException) -> None:
        """Close the connections, which end with the last reference to them; the frames of an error have some, too."""
        group, self._group = self._group, None
        self._posted.clear()
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_globals.get("__name__", "").startswith("torch.distributed"):
                with suppress(RuntimeError):  # it is running
                    frame.clear()
        if group is not None:
            th.distributed.destroy_process_group(group)
            self.n_left += 1

    @property
    def _reason(self) -> str:
        """Key in the store of the error because of which the first process leaves."""
        return f"error {self.n_left}"


def _pickled(value: Any) -> th.Tensor:
    return th.frombuffer(bytearray(pickle.dumps(value)), dtype=th.uint8)


def _unpickled(message: th.Tensor) -> Any:
    return pickle.loads(message.numpy().tobytes())


@cache
def joined_processes() -> Processes | None:
    """
    Join the processes that ``torchrun`` has started; all of them must call it.

    :return: ``None`` without ``torchrun``, or if it has started one process
    """
    if world_size() == 1:
        return None
    if not th.distributed.is_initialized():
        store, rank, size = next(th.distributed.rendezvous("env://", timeout=PATIENCE))
        # torchrun keeps the store when it starts the processes again, and with it the addresses of those that have ended.
        fresh = th.distributed.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        cuda = th.cuda.is_available() and th.distributed.is_nccl_available()
        if cuda:
            th.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % th.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        th.distributed.init_process_group(backend, timeout=PATIENCE, rank=rank, world_size=size, store=fresh)
        atexit.register(_disconnect)
        return Processes(rank, size, fresh)
    if "cpu" not in (config := th.distributed.get_backend_config()):
        raise RuntimeError(
            f'torch.distributed has been initialised with "{config}", but environments need a backend on the CPU: leave '
            'init_process_group out, or call it with "cpu:gloo,cuda:nccl"'
        )
    processes = Processes(th.distributed.get_rank(), th.distributed.get_world_size())
    processes.store = processes.shared_store() if "MASTER_ADDR" in os.environ else None
    return processes


def _disconnect() -> None:
    if th.distributed.is_initialized():
        th.distributed.destroy_process_group()
