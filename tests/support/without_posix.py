"""
A process without the modules and functions that Windows lacks. It imports the package, and trains, saves and resumes eagerly.

    python tests/support/without_posix.py

Torch, SB3 and the other requirements are imported before, because on Linux they need these names themselves.
"""

import os
import signal
import sys
import tempfile
from importlib import import_module
from pathlib import Path

REQUIREMENTS = ("torch", "stable_baselines3", "sb3_contrib", "gymnasium", "filelock", "platformdirs", "multiprocessing.spawn")
MODULES = ("fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty")
# Those of os and signal that Python's documentation does not list for Windows, as of 3.11.
OF_OS = (
    *(
        "O_TMPFILE",
        "O_DIRECTORY",
        "O_NOFOLLOW",
        "chown",
        "fchmod",
        "fchown",
        "fork",
        "forkpty",
        "getegid",
        "geteuid",
        "getgid",
    ),
    *(
        "getloadavg",
        "getpgid",
        "getpgrp",
        "getuid",
        "killpg",
        "lchown",
        "mkfifo",
        "nice",
        "pread",
        "pwrite",
        "register_at_fork",
    ),
    *("sched_getaffinity", "sched_setaffinity", "set_blocking", "setpgid", "setsid", "statvfs", "sync", "sysconf", "uname"),
    *("wait", "wait3", "wait4", "WIFEXITED", "WIFSIGNALED", "WNOHANG", "posix_fallocate", "posix_spawn"),
)
OF_SIGNAL = (
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCONT",
    "SIGHUP",
    "SIGKILL",
    "SIGSTOP",
    "SIGUSR1",
    "SIGUSR2",
    "alarm",
    "setitimer",
)


def take_away() -> None:
    """Remove the names from this process."""
    for name in REQUIREMENTS:
        import_module(name)
    for name in MODULES:
        sys.modules[name] = None
    for module, names in ((os, OF_OS), (signal, OF_SIGNAL)):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)


def use() -> None:
    """Train every algorithm, save and load it, and resume a run from a checkpoint."""
    from support.capabilities import QUICK
    from support.models import make

    from sb3_pgx.diagnostics import HealthCallback
    from sb3_pgx.registry import ALGORITHMS, EVERY_ALGORITHM

    for name in QUICK:
        model = make(name, compile=False).learn(24, callback=HealthCallback() if name == "ppo" else None)
        model.save("model")
        EVERY_ALGORITHM[name].load("model", env=model.get_env())
    make("ppo", compile=False).learn(24).save_checkpoint("checkpoints")
    ALGORITHMS["ppo"].resume("checkpoints", make("ppo").get_env())
    print(*sorted(path.name for path in Path().iterdir()))


if __name__ == "__main__":
    take_away()
    for room in (
        "sb3_pgx",
        "checkpoints",
        "diagnostics",
        "doctor",
        "environments",
        "experiments",
        "parallel",
        "settings.configs",
    ):
        import_module(room if room == "sb3_pgx" else f"sb3_pgx.{room}")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        use()
        os.chdir("/")
