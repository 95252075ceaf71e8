"""What every process that trains for another one needs: it ends with its parent and leaves Ctrl-C to it."""

import os
import signal
import threading
from multiprocessing import parent_process

import torch as th


def become_worker_process() -> None:
    """Prepare this process to train while others do. Call it first."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C, too, and stops the workers
    th.set_num_threads(1)  # runs share the processors; more threads than processors slow all of them down


def _end_with_parent() -> None:
    """End this process when its parent dies; otherwise the run would continue although nothing waits for it."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
