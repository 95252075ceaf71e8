"""The report: that table and picture say what the runs gave."""

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb

from sb3_pgx.compare.report import Setting, draw_curves, markdown, save_curves
from sb3_pgx.compare.summary import summarize

SETTING = Setting(
    "CartPole-v1", seeds=(0, 1), timesteps=60_000, threshold=475.0, eval_episodes=20, curve_episodes=5, workers=2
)


@pytest.fixture
def results(result):
    steps = [10_000, 20_000, 30_000]
    return [
        result("good", 0, returns=[490.0, 500.0], curve_steps=steps, curve_returns=[100.0, 480.0, 300.0]),
        result(
            "good", 1, returns=[400.0, 410.0], curve_steps=steps, curve_returns=[200.0, 300.0, 500.0], training_seconds=4.0
        ),
        result("sb3:bad", 0, returns=[9.0, 11.0], curve_steps=steps, curve_returns=[10.0, 10.0, 10.0]),
        result("sb3:bad", 1, error="ValueError: Invalid learning rate: -1", steps=0),
    ]


def rows(report: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in report.splitlines() if line.startswith("|")]


def test_table_has_a_row_for_each_algorithm(results):
    header, _, good, bad = rows(markdown(summarize(results, 475.0), SETTING))
    assert header == ["algorithm", "final return (95 % interval)", "steps to 475", "frames per second", "hyperparameters"]
    # seed means 495 and 405; thresholds at 20 000 and 30 000 steps; 1000 steps in 2 and in 4 seconds
    assert good == ["good", "450.0 ([405.0, 495.0])", "25 000 (2 of 2 seeds reached it)", "375", "good.yml: default"]
    assert bad == [
        "sb3:bad",
        "10.0 (no interval from one seed, of 1 of 2 runs: the others failed)",
        "not by 60 000 (0 of 2 seeds reached it)",
        "500",
        "sb3:bad.yml: default",
    ]


def test_failed_runs_are_told_with_their_sentence(results):
    report = markdown(summarize(results, 475.0), SETTING)
    assert "**1 run failed**" in report
    assert "- sb3:bad, seed 1: ValueError: Invalid learning rate: -1" in report
    assert "failed" not in markdown(summarize(results[:3], 475.0), SETTING)


def test_the_report_warns_that_an_interval_over_few_seeds_is_too_narrow(results):
    assert "2 seeds are few" in markdown(summarize(results[:2], 475.0), SETTING)
    many = Setting("X-v0", tuple(range(10)), 60_000, None, 20, 5, 2)
    assert "seeds are few" not in markdown(summarize(results[:2], None), many)


def test_an_algorithm_whose_every_run_failed_keeps_its_row(results):
    table = rows(markdown(summarize(results[3:], 475.0), SETTING))
    assert table[2] == ["sb3:bad", "every run failed", "–", "–", "sb3:bad.yml: default"]


def test_without_threshold_its_column_is_omitted(results):
    setting = Setting("X-v0", (0, 1), 60_000, None, 20, 5, 2)
    report = markdown(summarize(results, None), setting)
    assert {len(row) for row in rows(report)} == {4}
    assert "hreshold" not in report and "steps to" not in report
    assert all(line.get_linestyle() == "-" for line in draw_curves(summarize(results, None), setting).axes[0].lines)


def test_lines_are_means_over_seeds_and_bands_their_intervals(results):
    (axes,) = draw_curves(summarize(results, 475.0), SETTING).axes
    good, bad, threshold = axes.lines
    points = {line: np.asarray(line.get_xydata(), dtype=float).tolist() for line in axes.lines}
    assert points[good] == [[10_000, 150.0], [20_000, 390.0], [30_000, 400.0]]
    assert points[bad] == [[10_000, 10.0], [20_000, 10.0], [30_000, 10.0]]
    assert threshold.get_linestyle() == "--" and [y for _, y in points[threshold]] == [475.0, 475.0]
    (band,) = [artist for artist in axes.collections if isinstance(artist, PolyCollection)]  # one seed has no band
    corners = {(x, y) for x, y in np.asarray(band.get_paths()[0].vertices)}
    # of two seeds, the interval of the mean ends at the two values
    assert {(10_000, 100.0), (10_000, 200.0), (20_000, 300.0), (20_000, 480.0), (30_000, 300.0), (30_000, 500.0)} <= corners
    assert to_rgb(np.asarray(band.get_facecolor())[0][:3]) == to_rgb(good.get_color())


def test_axes_and_legend_are_labelled(results):
    figure = draw_curves(summarize(results, 475.0), SETTING)
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["good", "sb3:bad", "threshold 475"]
    assert "steps" in axes.get_xlabel() and "return" in axes.get_ylabel() and "CartPole-v1" in axes.get_title(loc="left")
    assert axes.get_xlim() == (0, 60_000)


def test_picture_is_written_even_if_every_run_failed(results, tmp_path):
    for name, runs in {"all": results, "failed": results[3:]}.items():
        save_curves(summarize(runs, None), Setting("X-v0", (0,), 60_000, None, 20, 5, 2), tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
