"""A process that ends without a word ends the run of all."""

import pytest
from support.ranks import started


@pytest.mark.parametrize("parallel", ["gather", pytest.param("all_reduce", marks=pytest.mark.slow)])
def test_the_others_end_with_one_sentence(parallel, tmp_path):
    (tmp_path / "parallel").write_text(parallel)
    first, second = started(tmp_path, "dying")
    try:
        assert second.wait(timeout=120) == 9
        _, errors = first.communicate(timeout=60)
    finally:
        first.kill()
        second.kill()
    assert first.returncode == 1
    sentence = errors.strip().splitlines()[-1]
    assert "ProcessLost: process 0 cannot go on, because " in sentence
    assert "has ended" in sentence and "torchrun --max-restarts" in sentence
