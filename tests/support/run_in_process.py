"""Executes the runs of a comparison in the test's process. The pool of processes has its own tests."""

from sb3_pgx.experiments.pool import write_result
from sb3_pgx.experiments.runs import execute


def run_all_here(specs, paths=None, workers=None, progress=True, on_result=lambda result: None):
    """Replace :func:`sb3_pgx.experiments.pool.run_all`."""
    results = []
    for spec, path in zip(specs, paths or [None] * len(specs), strict=True):
        results.append(execute(spec))
        if path is not None:
            write_result(results[-1], path)
        on_result(results[-1])
    return results
