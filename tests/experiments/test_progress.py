"""The progress of many jobs: estimates follow from the speed of the jobs, and a log gets lines from time to time."""

import re
import time

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
    """A job that has done some steps since now."""
    return Job(
        f"{kind} 0", kind, total, so_far=RunProgress(steps, seconds=1.0), first=(time.monotonic(), 0) if steps else None
    )


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


def test_the_time_before_the_first_steps_is_not_taken_for_that_of_steps(clock):
    """A process imports packages for 20 s, and compiles; then 40 of 100 steps take 10 s."""
    starting = Job("a 0", "a", 100)
    clock.now += 20
    starting.report(RunProgress(activity="compiling"))
    starting.report(RunProgress(10))
    assert starting.seconds_left is None
    clock.now += 10
    starting.report(RunProgress(40))
    assert starting.seconds_left == pytest.approx(50 * 10 / 40)
    # A job of the same kind that reports nothing yet has been starting for 30 of about 42.5 seconds.
    assert time_left([Job("a 1", "a", 100, started=clock.now - 30)], [], {"a": [42.5]}, workers=1) == pytest.approx(12.5)


def test_a_log_gets_a_line_per_job_and_a_total_from_time_to_time_and_compiling_at_once(clock, capsys):
    def printed():
        shown.refresh()
        return capsys.readouterr().out.splitlines()

    with Progress(["ppo on A", "ppo on A", "a2c on A"], workers=2) as shown:
        shown.begin(0, "ppo on A, seed 0", "ppo on A", 40_000)
        shown.begin(1, "ppo on A, seed 1", "ppo on A", 40_000)
        shown.advance(0, RunProgress(activity="compiling a gradient step, which takes about 20 s"))
        assert printed() == ["ppo on A, seed 0: compiling a gradient step, which takes about 20 s"]
        shown.advance(0, RunProgress(4))
        clock.now += FIRST_LINES - 1
        shown.advance(0, RunProgress(9_996, seconds=5.0, last_return=123.4))
        assert printed() == []
        clock.now += 1
        total, first, second = printed()
        assert total == "0 of 3 runs in 30 s, about 4 min left"
        assert first == "  ppo on A, seed 0, 10 000 of 40 000 steps, 2 000 frames/s, last return 123.4, about 90 s left"
        assert second == "  ppo on A, seed 1, starts"
        assert printed() == []
        shown.advance(0, RunProgress(30_000, seconds=10.0))
        clock.now += FIRST_LINES
        done = "  ppo on A, seed 0, 40 000 of 40 000 steps, 2 667 frames/s, last return 123.4, plays the final episodes"
        assert printed()[1] == done
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


def terminal(monkeypatch, width):
    pytest.importorskip("rich")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))


def shown_lines(capsys):
    """What was shown in a terminal, without colours and movements."""
    return [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", line).rstrip() for line in capsys.readouterr().out.splitlines()]


def test_a_terminal_gets_a_table_whose_names_may_have_brackets(clock, capsys, monkeypatch):
    terminal(monkeypatch, 150)
    with Progress(["ppo[gamma=0.9] on A"], workers=1) as shown:
        shown.begin(0, "ppo[gamma=0.9] on A, seed 0", "ppo[gamma=0.9] on A", 100)
        shown.advance(0, RunProgress(4))
        clock.now += 10
        shown.advance(0, RunProgress(48, 5.2, 7.0))
        print("[1/1] a line above the table")
    lines = shown_lines(capsys)
    assert any(re.fullmatch(" +steps +frames/s +last return +time left", line) for line in lines)
    assert any(re.fullmatch(r"ppo\[gamma=0.9\] on A, seed 0 +52 of 100 +10 +7 +about 10 s", line) for line in lines)
    assert "[1/1] a line above the table" in lines


def test_a_narrow_terminal_shortens_names_in_their_middle_and_breaks_no_line(clock, capsys, monkeypatch):
    terminal(monkeypatch, 80)
    name = "reinforce[baseline=None] on CartPole-v1, seed 3"
    with Progress([name], workers=1) as shown:
        shown.begin(0, name, name, 30_000)
        shown.advance(0, RunProgress(4))
        clock.now += 10
        shown.advance(0, RunProgress(20_000, 5.0, 123.4))
    lines = shown_lines(capsys)
    rows = [line for line in lines if "of 30 000" in line]
    assert rows and all(re.search(r"^reinforce\S*….*seed 3 +20 004 of 30 000 +4 001 +123.4 +about 5 s$", row) for row in rows)
    assert all(len(line) <= 80 for line in lines)
