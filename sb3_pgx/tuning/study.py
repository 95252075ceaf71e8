"""Opens Optuna's study for a plan in any kind of storage, and refuses a study that was started with other settings."""

import contextlib
import json
import random
import re
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_pgx.core.optional_packages import install_command
from sb3_pgx.tuning.tuning_plan import GRACE_SECONDS, TuningPlan

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

MACHINES_AT_ONCE = 5  # attempts, since machines that create the tables of a new database at the same time fail in turn
STARTUP_TRIALS = {"tpe": 10, "median": 5}  # Optuna's defaults: random trials, and trials before the first is pruned
# pip's names of SQLAlchemy's drivers, by module, if they differ.
DRIVERS = {
    "MySQLdb": "mysqlclient",
    "mysql": "mysql-connector-python",
    "psycopg2": "psycopg2-binary",
    "cx_Oracle": "oracledb, and write oracle+oracledb://…",
}
AGREEMENT = "sb3_pgx"  # the study's attribute with the settings on which all machines must agree


class StudyMismatch(ValueError):
    """A study of this name was started with other settings."""


def open_study(plan: TuningPlan) -> "optuna.Study":
    """
    Create the study, with the plan's starting configuration as its first trial, or load an existing one that agrees with the
    plan.

    :param plan: the plan
    :raises StudyMismatch: a study of this name exists and has other settings
    :raises ValueError: the study should be deleted, but a process is working on it
    :raises OSError: the storage cannot be reached
    :raises ImportError: the storage's driver is not installed
    """
    import optuna

    from sb3_pgx.tuning.trial_records import enqueue_default

    storage = open_storage(plan.storage, plan.seconds_to_connect, plan.lock_seconds)
    with reachable(plan.storage):
        if plan.force:
            _delete(plan, storage)
        try:
            study = optuna.create_study(storage=storage, study_name=plan.study_name, direction="maximize", **_methods(plan))
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(storage=storage, study_name=plan.study_name, **_methods(plan))
            if (old := _agreement_of(study, plan.seconds_to_start)) is not None:
                check_agreement(plan, old)
                return study
        enqueue_default(study, plan)
        study.set_user_attr(AGREEMENT, plan.agreement())  # comes last: a study with this attribute is complete
    return study


def _delete(plan: TuningPlan, storage: "BaseStorage") -> None:
    import optuna

    from sb3_pgx.tuning.trial_records import active_processes

    try:
        study = optuna.load_study(storage=storage, study_name=plan.study_name)
    except KeyError:
        return
    if owners := active_processes(study, plan.dead_seconds):
        raise ValueError(
            f"the study {plan.study_name} cannot be deleted: {' and '.join(owners)} {'is' if len(owners) == 1 else 'are'} "
            "working on it; stop that first"
        )
    optuna.delete_study(storage=storage, study_name=plan.study_name)


def open_storage(url: str, seconds_to_connect: float = 10.0, lock_seconds: int = GRACE_SECONDS) -> "BaseStorage":
    """
    Open Optuna's storage.

    :param url: the path of a journal file; ``grpc://host:port`` for Optuna's proxy; or an address for SQLAlchemy, such as
        ``sqlite:///file`` or ``postgresql://user@host/database``
    :param seconds_to_connect: how long to wait for Optuna's proxy
    :param lock_seconds: as of :class:`~sb3_pgx.tuning.journal.Journal`
    :raises OSError: the storage cannot be reached
    :raises ImportError: its driver is not installed
    :raises ValueError: the address is invalid
    """
    with reachable(url):
        if url.startswith("grpc://"):
            return _grpc(url, seconds_to_connect)
        return _database(url) if "://" in url else _journal(Path(url), lock_seconds)


def _journal(path: Path, lock_seconds: int) -> "BaseStorage":
    from optuna.storages import JournalStorage

    from sb3_pgx.tuning.journal import Journal

    if address := re.match(r"(sqlite|postgresql|mysql|mariadb|oracle|mssql|grpc)[\w+]*:/?", str(path)):
        raise ValueError(f"storage {path} is not an address: write {address[0].rstrip('/')}//…")
    if path.is_dir():
        raise IsADirectoryError(f"storage {path} is a folder: give the path of a file, such as {path / 'journal.log'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal(path, lock_seconds)
    journal.mend()
    return JournalStorage(journal)


def _database(url: str) -> "BaseStorage":
    import sqlalchemy.exc
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import make_url

    is_sqlite = url.startswith("sqlite")
    try:
        address = make_url(url)
    except ValueError:  # raised by int()
        raise ValueError(f"storage {_without_password(url)}: the port is not a number") from None
    if is_sqlite and address.database in (None, "", ":memory:"):
        raise ValueError(f"storage {url} is in memory, where the study would be lost: name a file, as in sqlite:///study.db")
    if find_spec("psycopg2") is not None:  # the driver that our extra installs; SQLAlchemy's own choice depends on its version
        url = url.replace("postgresql://", "postgresql+psycopg2://", 1)
    # SQLite: to wait for one another. Others: connections that a server closes in hours of training are noticed.
    options = {"connect_args": {"timeout": 60}} if is_sqlite else {"pool_pre_ping": True}
    for left in reversed(range(MACHINES_AT_ONCE)):
        try:
            storage = RDBStorage(url, engine_kwargs=options)
            break
        except sqlalchemy.exc.DBAPIError as error:
            if not left or not ("already exists" in str(error) or isinstance(error, sqlalchemy.exc.IntegrityError)):
                raise
            time.sleep(random.uniform(0.2, 1.0))  # another machine is creating the tables
    if is_sqlite:
        _lock_from_the_start(storage.engine)
    return storage


def _lock_from_the_start(engine: Any) -> None:
    """
    Make each transaction lock the file when it begins, not when it first writes. SQLite has no row locks: otherwise two
    processes could both read that a trial is waiting, and both start it.
    """
    from sqlalchemy import event

    def leave_transactions_to_us(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # drop the connections that were opened without this
    event.listen(engine, "connect", leave_transactions_to_us)
    event.listen(engine, "begin", begin)


def _grpc(url: str, seconds_to_connect: float) -> "BaseStorage":
    from optuna.storages import GrpcStorageProxy

    host, _, port = url.removeprefix("grpc://").rstrip("/").rpartition(":")
    if not (host and port.isdigit()):
        raise ValueError(f"storage {url}: write grpc://host:port")
    storage = GrpcStorageProxy(host=host, port=int(port))
    try:
        storage.wait_server_ready(seconds_to_connect)
    except ConnectionError as error:
        storage.close()
        raise _unreachable(url, error) from None
    return storage


@contextlib.contextmanager
def reachable(url: str) -> Iterator[None]:
    """
    Convert errors of a storage into one sentence each. Wrap every access to the storage in this context.

    :param url: address of the storage; passwords in it are masked in messages
    :raises OSError: the storage cannot be reached
    :raises ImportError: its driver is not installed
    :raises ValueError: the address is invalid
    """
    import sqlalchemy.exc

    shown = _without_password(url)
    try:
        yield
    except ImportError as error:
        name = str(getattr(error.__cause__, "name", None) or error.name)  # Optuna's message does not say which
        is_extra = url.startswith("postgresql")
        remedy = install_command("postgresql") if is_extra else f"pip install {DRIVERS.get(name, name)}"
        raise ImportError(f"storage {shown}: {name} is not installed; {remedy}") from None
    except (sqlalchemy.exc.ArgumentError, sqlalchemy.exc.NoSuchModuleError) as error:
        sentence = _first_line(error).replace(url, shown)
        raise ValueError(f"storage {shown} is not an address that SQLAlchemy accepts: {sentence}") from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise _unreachable(shown, getattr(error, "orig", None) or error) from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] == "grpc":  # compared by name because grpc may not be installed
            raise _unreachable(shown, error) from None
        raise


def _unreachable(shown: str, error: BaseException) -> OSError:
    return OSError(f"storage {shown} cannot be reached: {_first_line(error)}")


def _without_password(url: str) -> str:
    """Return the address with passwords masked, even if the address is invalid."""
    url = re.sub(r"^([\w+]+://[^:/@]*:)[^@]*@", r"\1***@", url)
    return re.sub(r"([?&][^=&]*(?:pass|pwd|secret|token)[^=&]*=)[^&]*", r"\1***", url, flags=re.IGNORECASE)


def _first_line(error: BaseException) -> str:
    details = getattr(error, "details", None)  # gRPC's errors have the message here; their text starts with a class name
    text = details() if callable(details) else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _methods(plan: TuningPlan) -> dict[str, Any]:
    """Return the sampler and the pruner."""
    from optuna import pruners, samplers

    from sb3_pgx.tuning.sampler import StreamPerTrial

    # Trials report by environment steps; with the Wilcoxon pruner, by seeds.
    pruner = {
        "median": lambda: pruners.MedianPruner(STARTUP_TRIALS["median"], n_warmup_steps=plan.timesteps // 4),
        "hyperband": lambda: pruners.HyperbandPruner(plan.steps_between_points, plan.timesteps),
        "wilcoxon": lambda: pruners.WilcoxonPruner(),
        "none": lambda: pruners.NopPruner(),
    }[plan.pruner]()

    def sampler(seed: int | None) -> samplers.BaseSampler:
        if plan.sampler == "random":
            return samplers.RandomSampler(seed)
        return samplers.TPESampler(n_startup_trials=STARTUP_TRIALS["tpe"], seed=seed)

    seed = plan.sampler_seed
    return {"sampler": sampler(None) if seed is None else StreamPerTrial(sampler, seed), "pruner": pruner}


def _agreement_of(study: "optuna.Study", seconds_to_start: float) -> dict[str, Any] | None:
    """Return the settings of the study; ``None`` if the process that created it died before it stored them."""
    deadline = time.monotonic() + seconds_to_start
    while (agreement := study.user_attrs.get(AGREEMENT)) is None and time.monotonic() < deadline:
        time.sleep(0.2)
    return agreement


def check_agreement(plan: TuningPlan, old: dict[str, Any]) -> None:
    """:raises StudyMismatch: a study with these settings, from :meth:`TuningPlan.agreement`, is not one of the plan"""
    new = json.loads(json.dumps(plan.agreement()))
    for name in [*new, *(name for name in old if name not in new)]:
        if old.get(name) != new.get(name):
            was, now = _difference(old.get(name), new.get(name))
            raise StudyMismatch(
                f"the study {plan.study_name} in {_without_password(plan.storage)} was started with {name} {was}, and now it "
                f"is {now}: choose another --output or --study-name, or --force to start again"
            )


def _difference(old: Any, new: Any) -> tuple[Any, Any]:
    """Return how two settings differ: for lists and dictionaries, only the entries that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        return tuple(", ".join(f"{name}={side.get(name)}" for name in names) for side in (old, new))  # type: ignore[return-value]
    if isinstance(old, list) and isinstance(new, list) and all(isinstance(item, str) for item in old + new):
        lost, gained = ([item for item in a if item not in b] for a, b in ((old, new), (new, old)))
        return ", ".join(lost) or "absent", ", ".join(gained) or "absent"
    return old, new
