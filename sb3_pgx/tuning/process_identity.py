"""Who is at work on a trial: a process, told apart from those of other machines and containers and from later ones."""

import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """This process, as it is stored in a trial; ``at`` is now."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "machine": machine_identity(),
        "pid": pid,
        "started": _started(pid),
        "at": time.time(),
    }


def has_ended(owner: dict[str, Any]) -> bool:
    """
    Whether the process is known to have ended. Of other machines and containers that is never known: there, the same number
    is another process.

    :param owner: what :func:`this_process` returned, here or elsewhere
    """
    if owner.get("machine") != machine_identity():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        pass
    started = _started(owner["pid"])
    return started is not None and started != owner["started"]


def machine_identity() -> str:
    """
    What shares its process numbers with this process. Host names do not tell: containers often have the same one. On Linux
    this is the boot and the namespace of process numbers; elsewhere it is the network card, with the host name.
    """
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{uuid.getnode():x} {socket.gethostname()}"


def _started(pid: int) -> str | None:
    """When the process started, in the kernel's clock ticks. ``None`` if the system does not tell."""
    try:
        _, _, fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")  # what comes before it is the program's name
    except OSError:
        return None
    state, *numbers = fields.split()
    return "ended" if state in "ZX" else numbers[18]
