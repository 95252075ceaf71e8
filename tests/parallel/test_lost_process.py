"""A process that ends without a word ends the run of all."""

import pytest
from support.ranks import output, started


@pytest.mark.parametrize(
    ("check", "size"),
    [
        ("dying:gather", 2),
        pytest.param("dying:all_reduce", 2, marks=pytest.mark.slow),
        pytest.param("broken_update:killed", 4, marks=pytest.mark.slow),
        pytest.param("broken_update:killed, late ones are dropped", 4, marks=pytest.mark.slow),
    ],
)
def test_the_others_end_with_one_sentence(check, size, tmp_path):
    *others, last = processes = started(tmp_path, check, size=size)
    try:
        last.join(120)
        assert last.exitcode not in (None, 0)
        for process in others:
            process.join(60)
    finally:
        for process in processes:
            process.kill()
    for rank, process in enumerate(others):
        assert process.exitcode == 1
        sentence = output(tmp_path, rank).strip().splitlines()[-1]
        assert f"ProcessLost: process {rank} cannot go on, because " in sentence
        assert "has ended" in sentence and "torchrun --max-restarts" in sentence
