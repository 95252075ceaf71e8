"""A process that ends without a word ends the run of all."""

import pytest
from support.ranks import started


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
        assert last.wait(timeout=120) != 0
        errors = [process.communicate(timeout=60)[1] for process in others]
    finally:
        for process in processes:
            process.kill()
    for rank, (process, text) in enumerate(zip(others, errors, strict=True)):
        assert process.returncode == 1
        sentence = text.strip().splitlines()[-1]
        assert f"ProcessLost: process {rank} cannot go on, because " in sentence
        assert "has ended" in sentence and "torchrun --max-restarts" in sentence
