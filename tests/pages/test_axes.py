"""The numbers on the axes of charts, on a page and in a picture."""

from sb3_pgx.pages.charts import Chart, Line, Lines, Scatter
from sb3_pgx.pages.looks import Look
from sb3_pgx.pages.pictures import draw
from sb3_pgx.pages.plotly_figures import figure_of


def lines(xs):
    return Lines("t", "x", "y", (Line("a", xs, [1.0] * len(xs), Look(0)),))


def numbers(panel):
    """Return the numbers on the x axis of a picture."""
    figure = draw(Chart("c", "", (panel,)))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    return [label.get_text() for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]


def test_trials_are_numbered_one_by_one():
    assert figure_of(lines([0, 1, 2, 4]))["layout"]["xaxis"]["dtick"] == 1
    assert numbers(lines([0, 1, 2])) == ["0", "1", "2"]
    assert "dtick" not in figure_of(lines([0, 1000, 2000]))["layout"]["xaxis"]


def test_thousands_are_short_and_parts_of_a_second_are_no_thousandths():
    assert "20k" in numbers(lines([0, 20_000, 60_000]))
    seconds = numbers(lines([0.0, 0.25, 0.5]))
    assert "0.5" in seconds and not any("m" in number for number in seconds)


def test_a_learning_rate_is_a_power_of_ten():
    panel = Scatter("t", "learning_rate", "score", [1e-5, 1e-4, 1e-2], [1.0, 2.0, 3.0], ["0", "1", "2"], log_x=True)
    assert figure_of(panel)["layout"]["xaxis"]["exponentformat"] == "power"  # by default, Plotly writes 10μ
