"""A study in a journal file: other files are left unchanged, and incomplete lines do no harm."""

import json
import multiprocessing as mp
import os
import sqlite3
import zipfile

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from selection import mostly_slow
from support.full_disk import full_disk

from sb3_pgx.cli import main
from sb3_pgx.tuning import journal
from sb3_pgx.tuning import study as studies
from sb3_pgx.tuning.study import open_study


def an_optuna_database(path):
    optuna.create_study(storage=f"sqlite:///{path}", study_name="precious").ask()


def a_database_of_something_else(path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE notes (text TEXT)")


def a_model(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{}\n" * 100)


FOREIGN = {
    "optuna.db": (an_optuna_database, "is an SQLite database, not a journal file: write --storage sqlite:///"),
    "notes.db": (a_database_of_something_else, "is an SQLite database, not a journal file: write --storage sqlite:///"),
    "model.zip": (a_model, "is a zip archive, such as a saved model: give another path"),
    "text.txt": (lambda path: path.write_text("a\nb\nthe last line has no newline"), "is not the journal of a study"),
    "note": (lambda path: path.write_text("one line"), "is not the journal of a study"),
    "data.json": (lambda path: path.write_text(json.dumps({"op_code": 3}, indent=1)), "is not the journal of a study"),
    "log.jsonl": (lambda path: path.write_text('{"a": 1}\n{"b": 2}\n{"c"'), "is not the journal of a study"),
    "zeros": (lambda path: path.write_bytes(bytes(100)), "is not the journal of a study"),
    "brace": (lambda path: path.write_text("{"), "is not the journal of a study"),
}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_something_else_is_refused_and_stays_byte_for_byte(name, force, tmp_path, capsys):
    write, sentence = FOREIGN[name]
    path = tmp_path / name
    write(path)
    before = path.read_bytes(), path.stat().st_mtime_ns
    command = ["tune", "--algo", "a2c", "--env", "CartPole-v1", "--output", str(tmp_path / "out"), "--storage", str(path)]
    assert main([*command, *(["--force"] if force else [])]) == 2
    error = capsys.readouterr().err
    assert f"storage {path} {sentence}" in error and error.count("\n") == 1
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["out", name]), "no lock is left"


def test_a_database_can_be_named_as_the_sentence_says(plan, tmp_path):
    path = tmp_path / "study.db"
    an_optuna_database(path)
    with pytest.raises(ValueError, match="write --storage ") as error:
        open_study(plan(storage=str(path)))
    study = open_study(plan(storage=str(error.value).rpartition("--storage ")[2]))
    assert study.study_name == "tune-a2c-CartPole-v1"
    assert set(optuna.get_all_study_names(f"sqlite:///{path}")) == {"precious", study.study_name}


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


def torn_in_the_middle(path, number):
    """A process died within a line, and another one continued in the same line without mending it."""
    lines = lines_of(path)
    lines.insert(number, lines[number][: len(lines[number]) // 2])
    path.write_bytes(b"".join(lines))


def test_a_half_line_in_the_middle_is_skipped_with_a_note_and_what_follows_it_is_read(stub, plan, search, capsys):
    """The study is the same as without the line and can be resumed, and the note is printed once."""
    p = plan(trials=2, seeds=1)
    _, study = search(p)
    path = p.output / "journal.log"
    whole, expected = path.read_bytes(), [(t.params, t.value) for t in study.trials]
    for number in (1, 5, len(lines_of(path)) - 1):
        path.write_bytes(whole)
        torn_in_the_middle(path, number)
        capsys.readouterr()
        _, again = search(p)
        assert [(t.params, t.value) for t in again.trials] == expected
        assert capsys.readouterr().out.count("is incomplete because a process died while writing; it is skipped") == 1
    _, longer = search(plan(trials=3, seeds=1))
    assert [t.state.name for t in longer.trials] == ["COMPLETE"] * 3


def test_a_line_of_anything_else_in_the_middle_is_skipped(stub, plan, search):
    p = plan(trials=2, seeds=1)
    _, study = search(p)
    path = p.output / "journal.log"
    lines = lines_of(path)
    path.write_bytes(b"".join([*lines[:3], bytes(50) + b"\n", *lines[3:6], b"\n", b'{"op_code":5,"wor\n', *lines[6:]]))
    assert [t.params for t in open_study(p).trials] == [t.params for t in study.trials]


def test_a_machine_that_is_at_work_while_another_one_dies_in_a_line_goes_on(plan):
    """Optuna's own tools can read the mended file."""
    p = plan()
    study = open_study(p)
    trial = study.ask()
    path = p.output / "journal.log"
    with path.open("ab") as file:
        file.write(lines_of(path)[-1][:-20])
    trial.set_user_attr("kept", 3)
    study.tell(trial, 1.0)
    other = optuna.load_study(storage=JournalStorage(JournalFileBackend(str(path))), study_name=p.study_name)
    assert other.trials[0].user_attrs["kept"] == 3 and other.trials[0].value == 1.0


@pytest.mark.filterwarnings("ignore:.*grace_period")
def test_a_process_that_is_killed_while_it_writes_does_not_stop_the_next_start(plan, tmp_path, monkeypatch):
    """The dead process leaves Optuna's lock. The path is relative, like the default."""
    monkeypatch.chdir(tmp_path)
    p = plan(output="out", lock_seconds=1)
    study = open_study(p)

    def die_in_the_middle():
        os.fsync = lambda file: os._exit(0)
        study.ask()

    process = mp.get_context("fork").Process(target=die_in_the_middle)
    process.start()
    process.join()
    assert os.path.lexists("out/journal.log.lock")
    process = mp.get_context("fork").Process(target=open_study, args=(p,))
    process.start()
    process.join(10)
    waits = process.is_alive()
    process.kill()
    assert not waits and sorted(os.listdir("out")) == ["journal.log"]


@pytest.mark.parametrize("room", mostly_slow([100, 500, 1000, 2000, 3000, 4000, 5000], [500, 3000]))
def test_a_full_disk_is_one_sentence_and_the_study_goes_on_when_there_is_room(room, stub, plan, search):
    """Wherever in the second or third trial the disk is full; the command is given again, as a new process."""
    p = plan(trials=3, seeds=2)
    search(plan(trials=1, seeds=2))
    path = p.output / "journal.log"

    def search_on_a_full_disk():
        with pytest.raises(OSError) as error, full_disk(path.stat().st_size + room):
            search(p)
        assert str(error.value) == f"{path} cannot be written: File too large; its entries so far are kept"

    process = mp.get_context("fork").Process(target=search_on_a_full_disk)
    process.start()
    process.join()
    assert process.exitcode == 0
    done = stub.executions()
    _, study = search(p)
    assert [t.state.name for t in study.trials].count("COMPLETE") == 3
    assert done[:2] == [(0, 100), (0, 101)] and (0, 100) not in stub.executions()[2:]


# ---------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "storage, sentence",
    [
        ("sqlite://", "storage sqlite:// is in memory, where the study would be lost: name a file, as in sqlite:///study.db"),
        ("sqlite:///:memory:", "is in memory, where the study would be lost"),
        ("sqlite:/study.db", "storage sqlite:/study.db is not an address: write sqlite://…"),
        ("postgresql:me@host/db", "storage postgresql:me@host/db is not an address: write postgresql://…"),
        ("postgresql://me:secret@host:port/db", "storage postgresql://me:***@host:port/db: the port is not a number"),
        ("mysql://me:secret@host/db", "storage mysql://me:***@host/db: MySQLdb is not installed; pip install mysqlclient"),
        ("nosuch://me:secret@host/db?sslpassword=secret", "storage nosuch://me:***@host/db?sslpassword=*** is not an address"),
        ("/dev/null", "storage /dev/null is neither a file nor the address of a database"),
    ],
)
def test_an_address_that_makes_no_sense_is_one_sentence_without_its_password(plan, storage, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, ImportError)) as error:
        open_study(plan(storage=storage))
    assert sentence in str(error.value) and "secret" not in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.rglob("sqlite*"))


@pytest.mark.parametrize("query", ["password=secret", "sslmode=require&password=secret", "PASSWD=secret&x=1"])
def test_a_password_in_the_query_is_masked_wherever_the_address_is_shown(plan, query):
    pytest.importorskip("psycopg2", reason="psycopg2, the driver of PostgreSQL, is not installed")
    with pytest.raises(OSError, match=r"=\*\*\*") as error:
        open_study(plan(storage=f"postgresql://me@127.0.0.1:9/db?{query}"))
    assert "secret" not in str(error.value)


def test_the_mismatch_of_a_study_shows_no_password(plan):
    p = plan(storage="postgresql://me@host/db?password=secret")
    with pytest.raises(studies.StudyMismatch) as error:
        studies.check_agreement(p, {**p.agreement(), "timesteps": 1})
    assert "secret" not in str(error.value) and "?password=***" in str(error.value)


def test_a_process_that_dies_while_it_releases_the_lock_leaves_nothing_but_the_lock(tmp_path):
    def append_and_die():
        os.unlink = lambda path: os._exit(9)
        journal.Journal(tmp_path / "journal.log").append_logs([{"op_code": 0}])

    process = mp.get_context("fork").Process(target=append_and_die)
    process.start()
    process.join()
    assert process.exitcode == 9
    assert {path.name for path in tmp_path.iterdir()} == {"journal.log", "journal.log.lock"}
