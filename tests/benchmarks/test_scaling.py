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
    assert len(scaling.CASES) == 16
    assert [scaling.name_of(*scaling.parts_of(name)) for name in scaling.CASES] == scaling.CASES


@pytest.mark.slow
def test_a_small_measurement(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(scaling, "JOB", dict(n_envs=4, n_steps=8, batch_size=16, n_epochs=1, compile=False, iterations=1))
    monkeypatch.setattr(scaling, "SLEEPING", (1, 2))
    scaling.main(["--parallel", "gather", "--seconds", "1e-3", "--repeats", "1", "--file", str(tmp_path / "scaling.json")])
    rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0] for row in rows] == ["| gather, spinning, 0.001 s", "| gather, sleeping, 0.001 s"]
    assert (tmp_path / "scaling.json").is_file()
