"""A report in a browser: charts are drawn, tables sort, dark pages are dark, and nothing is cut off on a telephone."""

import numpy as np
import pytest
from support.browser import examine, needs_browser, pixels_of

from sb3_pgx.core.files import write_text
from sb3_pgx.pages.blocks import Code, Document, Note, Number, Section, Table
from sb3_pgx.pages.charts import Chart, Dot, Dots, Level, Line, Lines, Scatter
from sb3_pgx.pages.html import as_html
from sb3_pgx.pages.looks import COLORS, DARK_COLORS, Look

pytestmark = needs_browser
LONG = "reinforce_baseline[gae_lambda=0.95, learning_rate=0.001, max_grad_norm=0.5]"
X = [1, 2, 3]
PANELS = (
    Lines(
        "curves", "seconds of training per run, on one thread each", "fraction of all runs with a return above it",
        (
            Line(LONG, X, [1.0, 3.0, 2.0], Look(0), [0, 1, 1], [2, 4, 3], ((X, [1, 2, 1]), (X, [1, 4, 3]))),
            Line("b", X, [1.0, 3.0, 2.0], Look(1)),
        ),
        (Level(2.5, "threshold 2.5"),),
    ),
    Dots("dots", "score", (Dot(f"{LONG} > b", 0.5, 0.1, 0.9, Look(2)), Dot("c", 1.0, np.nan, np.nan, Look(3)))),
    Scatter("points", "rate", "score", [0.001, 0.1], [1.0, 2.0], ["trial 0", "trial 1"], best=1, log_x=True),
    Dots("one", "probability that a run of the first scores higher", (Dot("a > b", 0.5, 0.1, 0.9, Look(0)),)),
)  # fmt: skip
ROWS = tuple((name, Number(value, f"{value:g} [0, 1000]"), LONG) for name, value in (("x", 9.0), ("y", 100.0), ("z", -1.0)))
WORDY = "a drop shows an update that is too large, or policies that differ between modes; above 0.7 in healthy runs"
MANY_COLUMNS = ("rule", "verdict", "metric", "last", "min", "max", "alarm if", "sources")
MANY = ("Gaussian policy nearly deterministic", "alarm at 1 of 12 updates", "effective_sample_size", "0.94", "0.453", "0.988")
SORTED = """
  const header = document.querySelectorAll("th button")[1], names = () =>
    [...document.querySelector("tbody").rows].map((row) => row.cells[0].textContent).join("");
  const orders = [names()];
  for (let i = 0; i < 2; i++) { header.click(); orders.push(names()); }
  const isCut = (text) => {
    const inner = text.getBoundingClientRect(), outer = text.closest("svg").getBoundingClientRect();
    return inner.left < outer.left - 1 || inner.right > outer.right + 1 || inner.top < outer.top - 1 ||
      inner.bottom > outer.bottom + 1;
  };
  const cut = [...document.querySelectorAll(".plot text")].filter(isCut).map((text) => text.textContent);
  const box = (item) => item.getBoundingClientRect();
  const overlaps = (a, b) => box(a).top < box(b).bottom - 1 && box(a).left < box(b).right && box(b).left < box(a).right;
  for (const plot of document.querySelectorAll(".plot")) for (const title of plot.querySelectorAll(".xtitle"))
    for (const tick of plot.querySelectorAll(".xtick text")) if (overlaps(title, tick)) cut.push(tick.textContent);
  const wide = [...document.querySelectorAll("body *")].filter((item) => item.getBoundingClientRect().right > innerWidth + 1);
  return [orders, [...document.querySelectorAll(".plot")].map((plot) => plot.querySelectorAll(".scatterlayer .trace").length),
    document.documentElement.scrollWidth, wide.map((item) => item.tagName + "." + (item.getAttribute("class") || "")),
    getComputedStyle(document.body).backgroundColor, cut];
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with every block and every kind of panel."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    table = Table(("algorithm", "return", "settings"), ROWS, frozenset({1}))
    many = Table(MANY_COLUMNS, ((*MANY, "above 0.01, for 10 updates in a row", WORDY),))
    blocks = (table, many, Chart("c", "caption", PANELS), Code(LONG * 3))
    write_text(path, as_html(Document("Title", "The answer.", (Note("few seeds"),), (Section("S", blocks),))))
    assert path.stat().st_size < 2_000_000
    return path


def test_charts_are_drawn_and_tables_sort_by_number(page):
    (orders, traces, _, wide, background, cut), seen, console = examine(page, SORTED)
    assert console == [] and wide == cut == []
    assert orders == ["xyz", "zxy", "yxz"]
    assert traces == [5, 3, 1, 2]  # band, two seeds and two lines; an interval and two dots; the points; an interval and a dot
    assert background == "rgb(255, 255, 255)" and all(pixels_of(seen, color) > 50 for color in COLORS[:2])


def test_on_a_telephone_nothing_is_cut_off_and_a_dark_page_is_dark(page):
    (_, traces, width, wide, background, cut), seen, console = examine(page, SORTED, width=390, dark=True)
    assert console == [] and traces == [5, 3, 1, 2]
    assert width <= 390 and wide == cut == []
    assert background == "rgb(20, 23, 27)" and pixels_of(seen, "#14171b") > 0.5 * seen.shape[0] * seen.shape[1]
    assert all(pixels_of(seen, color) > 50 for color in DARK_COLORS[:2])
