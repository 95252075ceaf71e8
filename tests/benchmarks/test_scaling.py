"""The scaling of several processes: the model, the table, and one small measurement. No test asserts a speed."""

import pytest

from benchmarks.speed import scaling


def test_the_model_is_exact_if_its_parts_are_what_it_assumes():
    rest, environments, messages = 0.5, 8.0, 0.1
    one, two = rest + environments, rest + environments / 2 + messages
    expected = {str(n): one / (rest + environments / n + messages * (n - 1)) for n in (8, 16, 64)}
    assert scaling.modelled(one, two, environments) == pytest.approx(expected)
    assert expected["64"] < expected["8"]  # messages to so many cost more than the environments that they save


def test_without_messages_the_model_is_amdahls_law():
    assert scaling.modelled(1.0, 0.6, environments=0.8)["64"] == pytest.approx(1 / (0.2 + 0.8 / 64))


def test_every_case_has_its_name_back():
    assert len(scaling.CASES) == 24
    assert [scaling.name_of(*scaling.parts_of(name)) for name in scaling.CASES] == scaling.CASES


@pytest.mark.slow
@pytest.mark.parametrize("way", scaling.WAYS)
def test_a_run_takes_at_least_as_long_as_its_environments(way):
    small = dict(n_envs=4, n_steps=8, batch_size=16, n_epochs=1, compile=False, iterations=2)
    measured = scaling.run({**small, "parallel": way, "spins": False, "seconds": 0.005}, 2)
    assert measured["iteration"] >= measured["rollout"] >= 8 * (4 / 2) * 0.005
    observations = 8 * (4 / 2) * 8 * 4  # steps, environments of the other process, numbers, bytes
    assert measured["bytes"] > (observations if way != "all_reduce" else 1000)


def test_a_row_of_the_table():
    measured = {
        "seconds": {"1": 2.0, "2": 1.25},
        "efficiency": {"1": 1.0, "2": 0.8},
        "bytes": {"1": 0.0, "2": 12345.0},
        "modelled_speedup": {"8": 4.0, "16": 5.0, "64": 2.5},
    }
    table = scaling.markdown({"gather, spinning, 0.001 s": {"seconds": measured}})
    row = "| gather, spinning, 0.001 s | 2.00 | 80 % |  |  | 12,345 | 4.0 × | 5.0 × | 2.5 × |"
    assert table.splitlines()[-1] == row
