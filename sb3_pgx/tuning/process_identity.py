"""Identifies a process across machines and containers, and across later processes with the same number."""

import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any

AT = "at"


def this_process() -> dict[str, Any]:
    """Return the identity of this process as it is stored in a trial. ``at`` is the current time."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "machine": machine_identity(),
        "pid": pid,
        "started": _started(pid),
        AT: time.time(),
    }


def is_this_process(owner: dict[str, Any]) -> bool:
    """
    Return whether this process is the owner.

    :param owner: the result of :func:`this_process`, in this process or in another
    """
    return {**owner, AT: None} == {**this_process(), AT: None}


def has_ended(owner: dict[str, Any]) -> bool:
    """
    Return whether the process is known to have ended. This is never known for processes of other machines and containers,
    whose numbers mean other processes here.

    :param owner: the result of :func:`this_process`, in this process or in another
    """
    if owner.get("machine") != machine_identity():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it runs as another user
        pass
    started = _started(owner["pid"])
    return started is not None and started != owner["started"]


def machine_identity() -> str:
    """
    Identify the scope within which process numbers are unique. Host names are not enough, since containers often share one. On
    Linux the scope is the boot and the namespace of process numbers; elsewhere it is the network card and the host name.
    """
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{uuid.getnode():x} {socket.gethostname()}"


def _started(pid: int) -> str | None:
    """Return when the process started, in the kernel's clock ticks; ``None`` if the system does not say."""
    try:
        _, _, fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")  # skip the name
    except OSError:
        return None
    state, *numbers = fields.split()
    return "ended" if state in "ZX" else numbers[18]
