"""Opens Optuna's study for a plan, wherever it is stored, and refuses one that was started for something else."""

import contextlib
import json
import random
import re
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_pgx.tuning.tuning_plan import TuningPlan

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

SECONDS_TO_CONNECT = 10
SECONDS_TO_START = 5.0  # that another machine may take from creating the study to saying what it is for
MACHINES_AT_ONCE = 5  # that make the tables of a new database, and fail in turn
STARTUP_TRIALS = {"tpe": 10, "median": 5}  # Optuna's defaults: random trials, and trials before the first is pruned
# Packages of SQLAlchemy's drivers that are named otherwise than their modules.
DRIVERS = {
    "MySQLdb": "mysqlclient",
    "mysql": "mysql-connector-python",
    "psycopg2": "psycopg2-binary",
    "cx_Oracle": "oracledb, and write oracle+oracledb://…",
}
AGREEMENT = "sb3_pgx"  # the study's attribute that says what it is for


class StudyMismatch(ValueError):
    """The study of that name was started with other settings."""


def open_study(plan: TuningPlan) -> "optuna.Study":
    """
    Creates the study, with the plan's own configuration as its first trial, or goes on with one that agrees with the plan.

    :param plan: what to tune
    :return: the study
    :raises StudyMismatch: a study of that name is there, with other settings
    :raises ValueError: it is to be deleted, and somebody is at work on it
    :raises OSError: the storage cannot be reached
    :raises ImportError: its driver is not installed
    """
    import optuna

    from sb3_pgx.tuning.trial_records import enqueue_default

    storage = open_storage(plan.storage)
    with reachable(plan.storage):
        if plan.force:
            _delete(plan, storage)
        try:
            study = optuna.create_study(storage=storage, study_name=plan.study_name, direction="maximize", **_methods(plan))
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(storage=storage, study_name=plan.study_name, **_methods(plan))
            if (old := _agreement_of(study)) is not None:
                _compare(plan, old)
                return study
        enqueue_default(study, plan)
        study.set_user_attr(AGREEMENT, plan.agreement())  # last: a study that has it is complete
    return study


def _delete(plan: TuningPlan, storage: "BaseStorage") -> None:
    import optuna

    from sb3_pgx.tuning.trial_records import active_processes

    try:
        study = optuna.load_study(storage=storage, study_name=plan.study_name)
    except KeyError:
        return
    if owners := active_processes(study):
        raise ValueError(
            f"the study {plan.study_name} is not deleted: {' and '.join(owners)} is at work on it; end that first"
        )
    optuna.delete_study(storage=storage, study_name=plan.study_name)


def open_storage(url: str) -> "BaseStorage":
    """
    :param url: a path, for a journal file; ``grpc://host:port``, for Optuna's proxy; or what SQLAlchemy takes, such as
        ``sqlite:///file`` and ``postgresql://user@host/database``
    :return: Optuna's storage
    :raises OSError: it cannot be reached
    :raises ImportError: its driver is not installed
    :raises ValueError: the address makes no sense
    """
    with reachable(url):
        if url.startswith("grpc://"):
            return _grpc(url)
        return _database(url) if "://" in url else _journal(Path(url))


def _journal(path: Path) -> "BaseStorage":
    from optuna.storages import JournalStorage

    from sb3_pgx.tuning.journal import Journal

    if address := re.match(r"(sqlite|postgresql|mysql|mariadb|oracle|mssql|grpc)[\w+]*:/?", str(path)):
        raise ValueError(f"storage {path} is not an address: write {address[0].rstrip('/')}//…")
    if path.is_dir():
        raise IsADirectoryError(f"storage {path} is a folder: name a file, such as {path / 'journal.log'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    mend_journal(path)
    return JournalStorage(Journal(path))


def mend_journal(path: Path) -> int:
    """
    Cut off a last line that was not written to its end.

    :param path: a journal file, which need not exist
    :return: bytes that were cut off
    :raises ValueError: the file is something else, which is left as it is
    """
    from sb3_pgx.tuning.journal import Journal

    return Journal(path).mend() if path.is_file() else 0


def _database(url: str) -> "BaseStorage":
    import sqlalchemy.exc
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import make_url

    is_sqlite = url.startswith("sqlite")
    try:
        address = make_url(url)
    except ValueError:  # of int()
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
            time.sleep(random.uniform(0.2, 1.0))  # another machine makes the tables
    if is_sqlite:
        _lock_from_the_start(storage.engine)
    return storage


def _lock_from_the_start(engine: Any) -> None:
    """
    SQLite has no lock of a row: between reading that a trial waits and writing that it runs, another process could read the
    same. So each transaction takes the lock of the file when it begins, not when it first writes.
    """
    from sqlalchemy import event

    def leave_transactions_to_us(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections that were opened without
    event.listen(engine, "connect", leave_transactions_to_us)
    event.listen(engine, "begin", begin)


def _grpc(url: str) -> "BaseStorage":
    from optuna.storages import GrpcStorageProxy

    host, _, port = url.removeprefix("grpc://").rstrip("/").rpartition(":")
    if not (host and port.isdigit()):
        raise ValueError(f"storage {url}: write grpc://host:port")
    storage = GrpcStorageProxy(host=host, port=int(port))
    try:
        storage.wait_server_ready(SECONDS_TO_CONNECT)
    except ConnectionError as error:
        storage.close()
        raise _unreachable(url, error) from None
    return storage


@contextlib.contextmanager
def reachable(url: str) -> Iterator[None]:
    """
    Around whatever asks the storage.

    :param url: of the storage
    :raises OSError: it cannot be reached; one sentence without its password
    :raises ImportError: its driver is not installed
    :raises ValueError: the address makes no sense
    """
    import sqlalchemy.exc

    shown = _without_password(url)
    try:
        yield
    except ImportError as error:
        name = str(getattr(error.__cause__, "name", None) or error.name)  # Optuna's own sentence does not say which
        extra = '"sb3_pgx[postgresql]"' if url.startswith("postgresql") else DRIVERS.get(name, name)
        raise ImportError(f"storage {shown}: {name} is not installed; pip install {extra}") from None
    except (sqlalchemy.exc.ArgumentError, sqlalchemy.exc.NoSuchModuleError) as error:
        sentence = _first_line(error).replace(url, shown)
        raise ValueError(f"storage {shown} is no address that SQLAlchemy knows: {sentence}") from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise _unreachable(shown, getattr(error, "orig", None) or error) from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] == "grpc":  # which need not be installed
            raise _unreachable(shown, error) from None
        raise


def _unreachable(shown: str, error: BaseException) -> OSError:
    return OSError(f"storage {shown} cannot be reached: {_first_line(error)}")


def _without_password(url: str) -> str:
    """The address with each password masked, also if it is not a valid one."""
    url = re.sub(r"^([\w+]+://[^:/@]*:)[^@]*@", r"\1***@", url)
    return re.sub(r"([?&][^=&]*(?:pass|pwd|secret|token)[^=&]*=)[^&]*", r"\1***", url, flags=re.IGNORECASE)


def _first_line(error: BaseException) -> str:
    details = getattr(error, "details", None)  # of gRPC's errors, whose text begins with a class's name
    text = details() if callable(details) else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _methods(plan: TuningPlan) -> dict[str, Any]:
    """The sampler and the pruner."""
    from optuna import pruners, samplers

    from sb3_pgx.tuning.sampler import StreamPerTrial

    # The steps of a report are environment steps, or with the Wilcoxon pruner seeds.
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


def _agreement_of(study: "optuna.Study") -> dict[str, Any] | None:
    """What the study is for; None where whoever created it came no further."""
    deadline = time.monotonic() + SECONDS_TO_START
    while (agreement := study.user_attrs.get(AGREEMENT)) is None and time.monotonic() < deadline:
        time.sleep(0.2)
    return agreement


def _compare(plan: TuningPlan, old: dict[str, Any]) -> None:
    new = json.loads(json.dumps(plan.agreement()))
    for name in [*new, *(name for name in old if name not in new)]:
        if old.get(name) != new.get(name):
            was, now = _difference(old.get(name), new.get(name))
            raise StudyMismatch(
                f"the study {plan.study_name} in {_without_password(plan.storage)} was started with {name} {was}, and now it "
                f"is {now}: choose another --output or --study-name, or --force to start anew"
            )


def _difference(old: Any, new: Any) -> tuple[Any, Any]:
    """Where two settings differ: of lists and dictionaries only what is in one of them."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        return tuple(", ".join(f"{name}={side.get(name)}" for name in names) for side in (old, new))  # type: ignore[return-value]
    if isinstance(old, list) and isinstance(new, list) and all(isinstance(item, str) for item in old + new):
        lost, gained = ([item for item in a if item not in b] for a, b in ((old, new), (new, old)))
        return ", ".join(lost) or "without that", ", ".join(gained) or "without that"
    return old, new
