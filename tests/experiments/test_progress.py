"""The progress of many jobs: estimates follow from the speed of the jobs, and a log gets lines from time to time."""

import pytest

from sb3_pgx.experiments.progress import FIRST_LINES, Job, Progress, time_left
from sb3_pgx.experiments.runs import RunProgress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""

    class Clock:
        now = 1000.0

        def __call__(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


def job(kind, steps, total=100):
    return Job(f"{kind} 0", kind, total, so_far=RunProgress(steps, seconds=1.0))


def test_jobs_of_different_speed_are_scheduled_on_the_workers(clock):
    """After 10 s: a job of 40 s is at 25 % and one of 20 s at 50 %; three more wait, of which one kind is known only now."""
    running = [job("slow", 25), job("fast", 50)]
    clock.now += 10
    assert time_left(running, [], {}, workers=2) == pytest.approx(30)
    # One worker is free after 10 s, does two fast ones until 50 s; the other, after 30 s, does a slow one until 70 s.
    assert time_left(running, ["fast", "slow", "fast"], {}, workers=2) == pytest.approx(70)
    assert time_left(running, ["fast"], {"fast": [100.0]}, workers=2) == pytest.approx(10 + (100 + 20) / 2)
    assert time_left(running, ["new"], {}, workers=2) == pytest.approx(10 + (40 + 20) / 2)
    assert time_left(running, ["fast"], {}, workers=3) == pytest.approx(30)


def test_nothing_is_estimated_before_anything_is_known(clock):
    assert time_left([job("slow", 0)], ["slow"], {}, workers=1) is None


def test_a_log_gets_a_line_per_job_and_a_total_from_time_to_time_and_compiling_at_once(clock, capsys):
    def printed():
        shown.refresh()
        return capsys.readouterr().out.splitlines()

    with Progress(["ppo on A", "ppo on A", "a2c on A"], workers=2) as shown:
        shown.begin(0, "ppo on A, seed 0", "ppo on A", 40_000)
        shown.begin(1, "ppo on A, seed 1", "ppo on A", 40_000)
        shown.advance(0, RunProgress(activity="compiling a gradient step, which takes about 20 s"))
        assert printed() == ["ppo on A, seed 0: compiling a gradient step, which takes about 20 s"]
        clock.now += FIRST_LINES - 1
        shown.advance(0, RunProgress(10_000, seconds=5.0, last_return=123.4))
        assert printed() == []
        clock.now += 1
        total, first, second = printed()
        assert total == "0 of 3 runs in 30 s, about 4 min left"
        assert first == "  ppo on A, seed 0, 10 000 of 40 000 steps, 2 000 frames/s, last return 123.4, about 90 s left"
        assert second == "  ppo on A, seed 1, starts"
        assert printed() == []
        shown.advance(0, RunProgress(30_000, seconds=10.0))
        clock.now += FIRST_LINES
        assert printed()[1] == "  ppo on A, seed 0, 40 000 steps, plays the final episodes"
        shown.end(0)
        clock.now = 1000 + 3600.0
        total, silent = printed()
        assert total.startswith("1 of 3 runs in 60 min")
        assert silent == "  ppo on A, seed 1, starts, no report for 60 min"
        clock.now += FIRST_LINES
        assert printed() == [], "lines become rarer"


def test_what_is_not_to_be_shown_is_not(clock, capsys):
    with Progress(["a"], workers=1, shown=False) as shown:
        shown.begin(0, "a", "a", 10)
        shown.advance(0, RunProgress(activity="compiling"))
        clock.now += 1e6
        shown.refresh()
        shown.end(0)
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_table_whose_names_may_have_brackets(clock, capsys, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    with Progress(["ppo[gamma=0.9] on A"], workers=1) as shown:
        shown.begin(0, "ppo[gamma=0.9] on A, seed 0", "ppo[gamma=0.9] on A", 100)
        clock.now += 10
        shown.advance(0, RunProgress(50, 5.0, 7.0))
        print("[1/1] a line above the table")
    printed = capsys.readouterr().out
    assert "ppo[gamma=0.9] on A, seed 0" in printed and "10 frames/s" in printed and "about 10 s left" in printed
    assert "[1/1] a line above the table" in printed
