"""Errors on their way from one process to another."""

import pickle

from sb3_pgx.parallel.failure import Failure


def arrived(error):
    return pickle.loads(pickle.dumps(Failure(error, rank=2))).error()


def test_an_error_arrives_with_the_number_of_its_process():
    error = arrived(KeyError("a key"))
    assert (type(error), error.args) == (KeyError, ("in process 2: 'a key'",))
    assert str(arrived(ValueError("in process 1: no"))) == "in process 1: no"  # it has come from there


def test_an_error_whose_class_cannot_be_pickled_or_made_anew_arrives_as_a_runtime_error():
    class OfAFunction(Exception):
        pass

    for error, text in [
        (OfAFunction("no"), "in process 2: OfAFunction: no"),
        (UnicodeDecodeError("utf8", b"x", 0, 1, "odd"), "in process 2: UnicodeDecodeError: 'utf8' codec can't decode"),
    ]:
        found = arrived(error)
        assert type(found) is RuntimeError and str(found).startswith(text)
