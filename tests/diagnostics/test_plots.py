"""Read and plot the log of a run: what the plots show, and which logs are refused."""

import json
import math
import re

import numpy as np
import pytest
from PIL import Image
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.env_util import make_vec_env
from support.browser import browse, needs_browser, pixels_of
from support.models import ACTION_SPACES
from support.observers import logging_to
from support.packages import without
from support.witnessed_runs import OBSERVATIONS, AnySpace

from sb3_pgx.cli import main
from sb3_pgx.core.optional_packages import install_command
from sb3_pgx.diagnostics import METRICS, Above, DiagnosticsCallback, Outside, Rule
from sb3_pgx.diagnostics.panels import LOG_SPAN, THEMES, panels_of
from sb3_pgx.diagnostics.plots import plot_folder
from sb3_pgx.diagnostics.progress_file import read_progress
from sb3_pgx.diagnostics.rules import apply_rules
from sb3_pgx.diagnostics.verdicts import RULE_HEADER, verdict_rows
from sb3_pgx.pages.looks import COLORS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train for three updates; return the folder of the log, and the callback's history."""
    folder = tmp_path_factory.mktemp("run")
    env = make_vec_env(lambda: AnySpace(OBSERVATIONS, ACTION_SPACES["Discrete"]), 2)
    model = SB3PPO("MlpPolicy", env, n_steps=16, batch_size=8, n_epochs=1, seed=0, device="cpu")
    diagnostics = DiagnosticsCallback()
    with logging_to(folder, model):
        model.learn(96, callback=diagnostics)
    return folder, diagnostics.history


@pytest.fixture(scope="module")
def plotted(run, tmp_path_factory):
    """Plot the log; return picture and page."""
    folder = tmp_path_factory.mktemp("plotted")
    (folder / "progress.csv").write_bytes((run[0] / "progress.csv").read_bytes())
    return plot_folder(folder)


def test_reading_a_log_returns_the_measured_numbers(run):
    folder, history = run
    steps, series = read_progress(folder)
    assert steps == [32, 64, 96], "the steps of the update, although SB3 logs it after the rollout that follows it"
    for name in history[0]:
        measured = [numbers.get(name, math.nan) for numbers in history]
        np.testing.assert_allclose(series[name], measured, rtol=1e-4, atol=1e-8, err_msg=name)
    np.testing.assert_allclose(series["progress"], [1 / 3, 2 / 3, 1])
    assert not math.isnan(series["training_return"][-1])


def test_a_log_of_sb3_alone_is_read_under_the_same_names(tmp_path):
    rows = "time/total_timesteps,train/approx_kl,rollout/ep_rew_mean\n64,,1.5\n128,0.02,2.5\n,0.03,\n"
    (tmp_path / "progress.csv").write_text(rows)
    steps, series = read_progress(tmp_path)
    assert steps == [64, 128, 128]
    np.testing.assert_array_equal(series["approx_kl"], [math.nan, 0.02, 0.03])
    np.testing.assert_array_equal(series["training_return"], [1.5, 2.5, math.nan])


def test_a_logarithmic_axis_shows_the_alarm_line_and_leaves_out_what_is_practically_zero():
    rule = Rule("r", "kl_max", Above(0.1), "s", "m")
    families = [family for theme in THEMES.values() for family in theme if "kl_max" in family.metrics]

    def panel_of(kl):
        series = {"kl_max": kl}
        (panel,) = panels_of(families, [1, 2, 3], series, apply_rules((rule,), series))
        return panel

    (low, high), wide = panel_of([1e-15, 0.5, 2.0]).y_range, panel_of([1e-15, 0.5, 2.0]).log_y
    assert wide and low < 2.0 / LOG_SPAN < 10 * low and low < 0.1 < 2.0 < high
    assert panel_of([1e-4, 0.5, 2.0]).y_range[0] < 1e-4 and not panel_of([1.0, 0.5, 2.0]).log_y


def panel_with(rule, metric, values):
    (family,) = (family for theme in THEMES.values() for family in theme if metric in family.metrics)
    series = {metric: values}
    (panel,) = panels_of([family], [1, 2, 3], series, apply_rules((rule,), series))
    return panel


def test_the_alarm_line_of_a_metric_that_is_always_zero_is_in_view():
    panel = panel_with(Rule("r", "initial_ratio_error", Above(0.001), "s", "m"), "initial_ratio_error", [0.0, 0.0, 0.0])
    low, high = panel.y_range
    assert [level.value for level in panel.levels] == [0.001] and low < 0.0 < 0.001 < high < 0.002


def test_two_lines_of_one_rule_have_one_name():
    panel = panel_with(Rule("r", "ratio_mean", Outside(0.8, 1.2), "s", "m"), "ratio_mean", [0.9, 1.0, 1.3])
    assert [(level.value, level.name) for level in panel.levels] == [(0.8, ""), (1.2, "alarm outside 0.8 to 1.2")]


def test_the_table_of_rules_says_for_which_part_of_the_run_a_rule_is():
    rule, series = Rule("r", "kl", Above(1.0), "s", "m", patience=3, until=0.5), {"kl": [2.0, 2.0]}
    (row,) = verdict_rows(apply_rules((rule,), series), series)
    assert row[RULE_HEADER.index("alarm if")] == "above 1 for 3 updates in a row, in the first 50 % of the run"


def test_a_negative_estimate_of_a_metric_without_a_rule_leaves_the_axis_logarithmic():
    rule = Rule("r", "approx_kl", Above(0.1), "s", "m")
    (family,) = (family for theme in THEMES.values() for family in theme if "approx_kl" in family.metrics)
    series = {"approx_kl": [1e-3, 0.5, 2.0], "approx_kl_k1": [-1e-4, 0.4, 1.0]}
    (panel,) = panels_of([family], [1, 2, 3], series, apply_rules((rule,), series))
    assert panel.log_y and 0 < panel.y_range[0] < 1e-3
    (panel,) = panels_of([family], [1, 2, 3], series, ())
    assert not panel.log_y


def test_rules_apply_to_a_log_as_during_the_run():
    rule = Rule("r", "kl", Above(1.0), "s", "m", patience=2, until=0.75)
    (state,) = apply_rules((rule,), {"kl": [2.0, math.nan, 2.0, 2.0], "entropy": [0.0] * 4})
    assert (state.judged, state.alarms) == (2, 1), "the last row is after the share of the run to which the rule applies"


def test_the_page_holds_every_series_with_its_healthy_range_and_needs_no_network(run, plotted):
    (_, history), (png, html) = run, plotted
    page = html.read_text(encoding="utf-8")
    assert not re.search(r'<(script|link)[^>]+(src|href)="http', page), "the page needs a network"
    figures = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page)]
    by_name = {trace["name"]: trace for figure in figures for trace in figure["data"]}
    assert {"kl", "entropy", "explained_variance", "training_return"} <= by_name.keys()
    np.testing.assert_allclose(by_name["kl"]["x"], [32, 64, 96])
    np.testing.assert_allclose(by_name["kl"]["y"], [numbers["kl"] for numbers in history], rtol=1e-4)
    shapes = [shape for figure in figures for shape in figure["layout"]["shapes"] if shape["type"] == "rect"]
    assert (0.7, 1.0) in [(shape["y0"], shape["y1"]) for shape in shapes]
    image = np.asarray(Image.open(png).convert("RGB")).reshape(-1, 3)
    assert (image == (0x00, 0x72, 0xB2)).all(axis=1).sum() > 1000, "lines"
    assert (abs(image.astype(int) - (222, 241, 222)) <= 3).all(axis=1).mean() > 0.02, "healthy ranges"


def test_every_metric_has_its_place_on_the_page():
    placed = [name for theme in THEMES.values() for family in theme for name in family.metrics]
    assert sorted(placed) == sorted({*METRICS, *placed}) and {*METRICS} - {*placed} == set()


def test_alarms_come_first_and_are_marked_with_their_line_in_view(tmp_path):
    rows = [f"{t},{t},{t // 64},{t / 640},{0.5 if t > 300 else 0.01},0.9" for t in range(64, 641, 64)]
    names = ("timesteps", "update", "progress", "approx_kl", "effective_sample_size")
    header = ",".join(["time/total_timesteps", *(f"diagnostics/{name}" for name in names)])
    (tmp_path / "progress.csv").write_text("\n".join([header, *rows]) + "\n")
    page = plot_folder(tmp_path)[1].read_text(encoding="utf-8")
    body = page.partition("<body>")[2].partition("plotly.js (basic")[0]
    assert re.findall(r"<h2>(.*?)</h2>", body)[:2] == ["In alarm", "Change of the policy per update"]
    assert body.index("1 of 3 rules was in alarm") < body.index("<h2>") and '<h3 class="marked">KL(old‖new), mean' in body
    figure = json.loads(re.search(r'<script type="application/json">(.*?)</script>', body)[1])
    (line,) = [shape for shape in figure["layout"]["shapes"] if shape["type"] == "line"]
    low, high = figure["layout"]["yaxis"]["range"]
    assert line["y0"] == 0.1 and low < 0.1 < high and figure["layout"]["annotations"][0]["text"] == "alarm above 0.1"


@needs_browser
def test_a_browser_shows_the_page_without_console_messages(plotted):
    seen, console = browse(plotted[1])
    assert console == []
    assert pixels_of(seen, COLORS[0]) > 500


def test_the_command_prints_what_it_wrote_and_replaces_files_only_with_force(run, tmp_path, capsys, monkeypatch):
    draws_nothing = "matplotlib.backends.backend_agg.FigureCanvasAgg.print_png"
    monkeypatch.setattr(draws_nothing, lambda *_: None)  # drawing takes seconds
    (tmp_path / "progress.csv").write_bytes((run[0] / "progress.csv").read_bytes())
    (tmp_path / "diagnostics.html").write_text("mine")
    assert main(["plot", str(tmp_path)]) == 2
    assert "diagnostics.html already exists; --force replaces it" in capsys.readouterr().err
    assert (tmp_path / "diagnostics.html").read_text() == "mine" and not (tmp_path / "diagnostics.png").exists()
    assert main(["plot", str(tmp_path), "--force"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "diagnostics.png"), str(tmp_path / "diagnostics.html")]


def test_a_log_that_cannot_be_plotted_is_reported_in_one_sentence(tmp_path, capsys, monkeypatch):
    assert main(["plot", str(tmp_path)]) == 2
    assert "progress.csv does not exist; pass a folder to which a run logged" in capsys.readouterr().err
    (tmp_path / "progress.csv").write_text("time/fps\n3\n")
    assert main(["plot", str(tmp_path)]) == 2
    assert (
        "holds no metric of DiagnosticsCallback (diagnostics/…) and none that SB3's on-policy algorithms log"
        in capsys.readouterr().err
    )
    (tmp_path / "progress.csv").write_text("diagnostics/kl,train/approx_kl\n,nan\n")
    assert main(["plot", str(tmp_path)]) == 2
    assert "holds no finite number to plot" in capsys.readouterr().err
    without(monkeypatch, "matplotlib")
    assert main(["plot", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"sb3-pgx: plots need matplotlib: {install_command('plots')}\n"
