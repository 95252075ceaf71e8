"""The report: tables and pictures show the results of the runs."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from support.capabilities import BOX
from support.small_environments import AnySpace
from torch import nn

from sb3_pgx.experiments.analysis import analyse
from sb3_pgx.experiments.design import ComparisonDesign
from sb3_pgx.experiments.normalized_scores import complete_seeds, find_scale, random_return, score_matrix
from sb3_pgx.experiments.pool import read_result, write_result
from sb3_pgx.experiments.report.charts import compose_charts
from sb3_pgx.experiments.report.sections import compose
from sb3_pgx.pages.blocks import Bullets, Document, Section, Table
from sb3_pgx.pages.charts import Chart, Level, Lines
from sb3_pgx.pages.html import as_html
from sb3_pgx.pages.markdown import as_markdown, brief
from sb3_pgx.pages.pictures import draw
from sb3_pgx.settings.configs import RunConfig

DESIGN = ComparisonDesign(("CartPole-v1",), ("good", "sb3:bad"), (0, 1), 60_000, {"CartPole-v1": 475.0}, workers=2)
STEPS = [10_000, 20_000, 30_000]
# Of two seeds, the bootstrap interval of the mean ends at the two values; Student's quantile is 12.706, the normal one 1.960.
OF_TWO = 12.7062 / 1.95996 * 2**0.5


class Own(BaseFeaturesExtractor):
    """A class that has no name in hyperparameter files."""


@pytest.fixture
def results(result):
    return [
        result("good", 0, returns=[490.0, 500.0], curve_steps=STEPS, curve_returns=[100.0, 480.0, 300.0]),
        result(
            "good", 1, returns=[400.0, 410.0], curve_steps=STEPS, curve_returns=[200.0, 300.0, 500.0], training_seconds=4.0
        ),
        result("sb3:bad", 0, returns=[9.0, 11.0], curve_steps=STEPS, curve_returns=[10.0, 10.0, 10.0]),
        result("sb3:bad", 1, error="ValueError: Invalid learning rate: -1", steps=0),
    ]


@pytest.fixture
def several(result):
    """Two algorithms, two seeds, two environments; A-v0 is twice as slow, and ``b`` failed once there."""

    def one(label, env_id, seed, curve, seconds, **outcome):
        curves = {"curve_steps": STEPS, "curve_returns": curve, "curve_seconds": [seconds * k for k in (1.0, 2.0, 3.0)]}
        return result(label, seed, env_id=env_id, returns=[curve[-1]], timesteps=30_000, **curves, **outcome)

    return [
        one("a", "A-v0", 0, [0.0, 50.0, 100.0], 2.0),
        one("a", "A-v0", 1, [0.0, 30.0, 60.0], 2.0),
        one("b", "A-v0", 0, [0.0, 10.0, 20.0], 2.0),
        one("b", "A-v0", 1, [0.0, 0.0, 0.0], 2.0, error="ValueError: no"),
        one("a", "B-v0", 0, [-100.0, -50.0, -50.0], 1.0),
        one("a", "B-v0", 1, [-100.0, -75.0, -25.0], 1.0),
        one("b", "B-v0", 0, [-100.0, -100.0, -100.0], 1.0),
        one("b", "B-v0", 1, [-100.0, -100.0, -100.0], 1.0),
    ]


# Scores are returns / 100 in A-v0 and 1 + return / 100 in B-v0.
OF_SEVERAL = ComparisonDesign(
    ("A-v0", "B-v0"),
    ("a", "b"),
    (0, 1),
    30_000,
    {"A-v0": 100.0},
    normalize={"B-v0": (-100.0, 0.0)},
    random_returns={"A-v0": 0.0},
)


def report(results, design):
    return as_markdown(compose(analyse(results, design), results, design, {}))


def axes_of(name, results, design):
    return draw(compose_charts(analyse(results, design), design)[name]).axes


def rows(text: str, section: str) -> list[list[str]]:
    lines = text.partition(f"## {section}\n")[2].partition("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_table_has_a_row_for_each_algorithm(results):
    header, _, good, bad = rows(report(results, DESIGN), "CartPole-v1")
    assert header[1:] == [
        "final return [95 % interval]",
        "steps to 475",
        "frames per second",
        "hyperparameters",
    ]
    # seed means 495 and 405; thresholds at 20 000 and 30 000 steps; 1000 steps in 2 and in 4 seconds
    mean = f"450.0 [{450 - 45 * OF_TWO:.1f}, {450 + 45 * OF_TWO:.1f}]"
    assert good == ["good", mean, "median: 25 000 (2 of 2 seeds reached it)", "375", "good.yml: default"]
    assert bad == [
        "sb3:bad",
        "10.0 (no interval from one seed) (1 of 2 runs; the others failed)",
        "median: not reached (0 of 2 seeds did)",
        "500",
        "sb3:bad.yml: default",
    ]


def test_algorithms_with_the_highest_mean_are_named_together(result):
    curves = {"a": [1.0, 9.0], "b": [2.0, 9.0], "c": [1.0, 5.0]}
    runs = [
        result(label, seed, returns=[curve[-1] - (label == "c") * seed], curve_steps=[1, 2], curve_returns=curve)
        for label, curve in curves.items()
        for seed in (0, 1)
    ]
    design = ComparisonDesign(("CartPole-v1",), ("a", "b", "c"), (0, 1), 1000)
    opening = compose(analyse(runs, design), runs, design, {}).summary
    assert opening == (
        "a and b end with the highest mean return: 9.0. With 2 seeds it is undecided whether a is better than c."
    )


def test_failed_runs_are_told_with_their_sentence(results):
    text = report(results, DESIGN)
    assert "1 run failed" in text and "- sb3:bad on CartPole-v1, seed 1: ValueError: Invalid learning rate: -1" in text
    assert "failed and gave" not in report(results[:3], DESIGN)


def test_the_report_warns_that_an_interval_over_few_seeds_is_too_narrow(results):
    assert "2 seeds are few" in report(results[:2], DESIGN)
    assert "seeds are few" not in report(results[:2], ComparisonDesign(("CartPole-v1",), ("good",), tuple(range(10)), 60_000))


def test_an_algorithm_whose_every_run_failed_keeps_its_row(results):
    design = ComparisonDesign(("CartPole-v1",), ("sb3:bad",), (1,), 60_000, {"CartPole-v1": 475.0})
    assert rows(report(results[3:], design), "CartPole-v1")[2] == [
        "sb3:bad", "every run failed", "–", "–", "sb3:bad.yml: default",
    ]  # fmt: skip
    assert list(compose_charts(analyse(results[3:], design), design)) == ["curves"]


def test_a_terminal_is_told_why_nothing_is_summed_up(result):
    runs = [result("a", 0, env_id=env_id, error="ValueError: no") for env_id in ("A-v0", "B-v0")]
    design = ComparisonDesign(("A-v0", "B-v0"), ("a",), (0,), 10, random_returns={"A-v0": 0.0, "B-v0": 0.0})
    told = brief(compose(analyse(runs, design), runs, design, {}))
    assert "All environments together\n\nNo algorithm has a seed that finished in every environment" in told


def test_without_threshold_its_column_is_omitted(results):
    design = ComparisonDesign(("CartPole-v1",), ("good", "sb3:bad"), (0, 1), 60_000)
    text = report(results, design)
    assert {len(row) for row in rows(text, "CartPole-v1")} == {4}
    assert "hreshold" not in text and "steps to" not in text
    (panel,) = compose_charts(analyse(results, design), design)["curves"].panels
    assert panel.levels == ()


def test_lines_are_means_over_seeds_and_bands_their_intervals(results):
    (axes,) = axes_of("curves", results, DESIGN)
    first, second, good, bad, threshold = axes.lines  # the seeds of good, behind it; sb3:bad has one
    assert [line.get_ydata().tolist() for line in (first, second)] == [r.curve_returns for r in results[:2]]
    points = {line: np.asarray(line.get_xydata(), dtype=float).tolist() for line in axes.lines}
    assert points[good] == [[10_000, 150.0], [20_000, 390.0], [30_000, 400.0]]
    assert points[bad] == [[10_000, 10.0], [20_000, 10.0], [30_000, 10.0]]
    assert threshold.get_linestyle() == "--" and [y for _, y in points[threshold]] == [475.0, 475.0]
    (band,) = [artist for artist in axes.collections if isinstance(artist, PolyCollection)]  # one seed has no band
    corners = {(x, y) for x, y in np.asarray(band.get_paths()[0].vertices)}
    halves = ((10_000, 150, 50), (20_000, 390, 90), (30_000, 400, 100))
    ends = [(x, middle + sign * OF_TWO * half) for x, middle, half in halves for sign in (-1, 1)]
    assert all(any(np.allclose(end, corner, rtol=1e-4) for corner in corners) for end in ends)
    assert to_rgb(np.asarray(band.get_facecolor())[0][:3]) == to_rgb(good.get_color())


def test_axes_and_legend_are_labelled(results):
    (axes,) = axes_of("curves", results, DESIGN)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["good", "sb3:bad"]
    assert [text.get_text() for text in axes.texts] == ["threshold 475"]
    assert "steps" in axes.get_xlabel() and "return" in axes.get_ylabel() and "CartPole-v1" in axes.get_title(loc="left")
    assert axes.get_xlim() == (0, 60_000)


def test_environments_are_summed_up_on_their_scales_from_seeds_that_finished_everywhere(several):
    found = analyse(several, OF_SEVERAL)
    a, b = found.aggregates
    # final scores of a: 1, 0.6 in A-v0 and 0.5, 0.75 in B-v0; of b, whose seed 1 failed: 0.2 and 0
    assert a.estimates["interquartile mean"].value == pytest.approx((0.6 + 0.75) / 2)
    assert (a.estimates["mean"].value, b.estimates["mean"].value) == pytest.approx((0.7125, 0.1))
    gap = a.estimates["optimality gap"]
    assert (
        gap.value == pytest.approx(1 - 0.7125) and gap.low >= 0.0 > 2 * gap.value - gap.high
    )  # without a bound, it is below 0
    assert (a.seeds, b.seeds) == ((0, 1), (0,)) and np.isnan(b.estimates["mean"].low)
    (pair,) = found.pairs
    assert (pair.first, pair.second, pair.probability.value, pair.verdict.verdict) == ("a", "b", 1.0, "undecided")
    table = rows(report(several, OF_SEVERAL), "All environments together")
    assert table[2][1].startswith("0.675 [") and [row[-1] for row in table[2:]] == ["2 of 2", "1 of 2"]
    assert rows(report(several, OF_SEVERAL), "What counts as 0 and as 1")[2:] == [
        ["A-v0", "0.0", "a random policy (at most 20 episodes)", "100.0", "the threshold"],
        ["B-v0", "-100.0", "given by the user", "0.0", "given by the user"],
    ]


def test_an_environment_in_which_every_run_failed_leaves_the_scores_over_the_others(several, result):
    broken = [result(label, seed, env_id="C-v0", error="ProcessDied: SIGSEGV") for label in "ab" for seed in (0, 1)]
    design = replace(
        OF_SEVERAL, env_ids=("A-v0", "B-v0", "C-v0"), random_failures={"C-v0": "its process was ended by SIGSEGV"}
    )
    found, without = analyse([*several, *broken], design), analyse(several, OF_SEVERAL)
    assert found.counted == ("A-v0", "B-v0") and found.aggregates[0].estimates == without.aggregates[0].estimates
    text = report([*several, *broken], design)
    assert "mean score over 2 environments" in text and "Left out, because every run failed there: C-v0." in text
    assert "Random actions in C-v0 have no return: its process was ended by SIGSEGV. The worst run counts as 0 there" in text
    assert analyse(broken, design).aggregates == []


def test_efficiency_is_the_interquartile_mean_of_scores_over_steps_and_over_seconds(several):
    a = analyse(several, OF_SEVERAL).aggregates[0]
    assert a.by_steps is not None and a.by_seconds is not None
    # scores at 20 000 steps: 0.5, 0.3 and 0.5, 0.25
    np.testing.assert_allclose(a.by_steps.center, [0.0, (0.3 + 0.5) / 2, (0.6 + 0.75) / 2])
    assert (a.by_seconds.x[0], a.by_seconds.x[-1]) == (2.0, 6.0)  # A-v0 is first evaluated at 2 s, and ends at 6 s
    # at 2 s: 0, 0 in A-v0 and 0.5, 0.25 in B-v0; at 6 s B-v0's runs have ended and keep their last score
    np.testing.assert_allclose(a.by_seconds.center[[0, -1]], [0.125, (0.6 + 0.75) / 2])


def test_runs_that_are_evaluated_at_no_common_step_have_a_report_without_that_line(result):
    """Of ten steps, sixteen environments take sixteen, and one takes eleven."""
    curves = {"A-v0": ([16], [1.0], [0.2]), "B-v0": ([1, 11], [0.0, 1.0], [0.1, 0.3])}
    runs = [
        result("a", 0, env_id=env_id, returns=[1.0], curve_steps=steps, curve_returns=returns, curve_seconds=seconds)
        for env_id, (steps, returns, seconds) in curves.items()
    ]
    design = ComparisonDesign(("A-v0", "B-v0"), ("a",), (0,), 10, random_returns={"A-v0": 0.0, "B-v0": 0.0})
    (found,) = analyse(runs, design).aggregates
    assert found.by_steps is None and found.by_seconds is not None
    assert compose_charts(analyse(runs, design), design)["sample_efficiency"].panels[0].lines == ()


def test_settings_tell_normalisation_as_it_is_from_none(result):
    runs = [
        result("a", 0, returns=[1.0], config={"n_envs": 8, "normalize": normalize, "env_kwargs": {}, "hyperparameters": {}})
        for normalize in ({}, None)
    ]
    settings = [rows(report([run], DESIGN), "Settings")[2][-1] for run in runs]
    assert settings == ["normalize=True, n_envs=8, policy=MlpPolicy", "n_envs=8, policy=MlpPolicy"]


@pytest.mark.parametrize("is_read_back", [False, True])
def test_settings_are_what_the_user_wrote(result, is_read_back, tmp_path):
    policy_kwargs = {"activation_fn": nn.ReLU, "net_arch": {"pi": [8], "vf": [8, 4]}, "features_extractor_class": Own}
    hyperparameters = {"learning_rate": "lin_3e-4", "clip_range": 0.2, "policy_kwargs": policy_kwargs, "target_kl": None}
    wrappers = (("gymnasium.wrappers.TimeLimit", {"max_episode_steps": 9}),)
    config = {"wrappers": wrappers, "hyperparameters": hyperparameters}
    run = result("a", 0, returns=[1.0], config=config)
    if is_read_back:
        write_result(run, tmp_path / "run.json")
        run = read_result(tmp_path / "run.json")
    settings = rows(report([run], DESIGN), "Settings")[2][-1]
    own = f"{Own.__module__}.Own"
    kwargs = f"dict(activation_fn=nn.ReLU, net_arch=dict(pi=[8], vf=[8, 4]), features_extractor_class={own})"
    assert settings.endswith(f"learning_rate=lin_3e-4, clip_range=0.2, policy_kwargs={kwargs}")
    assert settings.startswith("env_wrapper=[{'gymnasium.wrappers.TimeLimit': {'max_episode_steps': 9}}], ")


def test_pictures_draw_the_numbers_of_the_findings(several):
    found = analyse(several, OF_SEVERAL)
    charts = compose_charts(found, OF_SEVERAL)
    assert set(charts) == {"curves", "aggregates", "sample_efficiency", "profiles", "wall_clock", "improvement"}
    assert [axes.get_title(loc="left") for axes in draw(charts["curves"]).axes] == ["A-v0", "B-v0"]
    profile = draw(charts["profiles"]).axes[0].lines[0]
    np.testing.assert_array_equal(profile.get_ydata(), found.aggregates[0].profile.center)
    at_half = np.interp(0.55, *np.asarray(profile.get_xydata(), dtype=float).T)
    assert at_half == pytest.approx(0.75)  # of 1, 0.6, 0.5, 0.75
    interval, dot = draw(charts["aggregates"]).axes[0].lines[:2]
    estimate = found.aggregates[0].estimates["interquartile mean"]
    assert list(dot.get_xdata()) == [estimate.value] and list(interval.get_xdata()) == [estimate.low, estimate.high]


def test_a_seed_counts_where_it_finished_in_every_environment(several):
    scales = analyse(several, OF_SEVERAL).scales
    of_b = [r for r in several if r.label == "b"]
    assert complete_seeds(of_b, ["A-v0", "B-v0"]) == [0] and complete_seeds(of_b, ["B-v0"]) == [0, 1]
    np.testing.assert_allclose(score_matrix(of_b, scales), [[0.2, 0.0]])
    assert score_matrix([r for r in of_b if r.seed == 1], scales).shape == (0, 2)


def test_scales_are_given_or_from_a_random_policy_to_the_threshold_or_else_to_the_best_run():
    def ends(*arguments):
        scale = find_scale(*arguments)
        return scale.low, scale.high

    assert ends([1.0], (3.0, 7.0), 0.0, 5.0) == (3.0, 7.0)
    assert ends([1.0, 9.0], None, -2.0, 5.0) == (-2.0, 5.0)
    assert ends([1.0, 9.0], None, -2.0, None) == ends([1.0, 9.0], None, -2.0, -3.0) == (-2.0, 9.0)
    assert ends([-5.0, -3.0], None, -2.0, None) == (-2.0, 1.0)  # no run beats a random policy
    assert ends([], None, -2.0, None) == ends([-2.0], None, -2.0, None) == (-2.0, -1.0)
    assert ends([3.0, 1.0], None, None, 5.0) == (1.0, 5.0)  # random actions have no return: the worst run counts as 0
    assert ends([3.0, 1.0], None, None, None) == (1.0, 3.0) and ends([], None, None, None) == (0.0, 1.0)
    np.testing.assert_allclose(find_scale([], (0.0, 4.0), None, None)([2.0, -4.0, 8.0]), [0.5, -1.0, 2.0])


def test_a_random_policy_is_played_as_the_environment_is_trained_and_must_come_to_an_end():
    short = RunConfig(source="", wrappers=(("gymnasium.wrappers.TimeLimit", {"max_episode_steps": 7}),), normalize={})
    assert random_return("CartPole-v1", short) == 7.0
    assert 15 < random_return("CartPole-v1", RunConfig(source="")) < 30  # published: 22 steps
    with pytest.raises(ValueError, match="end no episode within 5 steps"):
        random_return("CartPole-v1", RunConfig(source=""), max_steps=5)


def test_a_random_policy_acts_in_spaces_of_several_parts():
    actions = spaces.Tuple([spaces.Discrete(1, start=1), spaces.Box(0, 0, (2,), np.float32)])
    gym.register("TupleActions-v0", entry_point=lambda: AnySpace(BOX, actions))  # the reward is an action's sum
    assert random_return("TupleActions-v0", RunConfig(source="")) == 5.0


def test_what_runs_say_cannot_break_the_page_or_the_table():
    table = Table(("a", "b"), (("<script>x</script>", "1 | 2"),))
    lines = Lines("<u>", "x", "y", (), (Level(1.0, "</script><s>"),))
    document = Document("T & <i>", "<em>", (Bullets(("<b>",)),), (Section("S", (table, Chart("p", '"quoted"', (lines,)))),))
    body = as_html(document).partition("<body>")[2].partition("plotly.js")[0]
    assert "&lt;script&gt;" in body and "T &amp; &lt;i&gt;" in body and "&quot;quoted&quot;" in body
    assert not any(mark in body for mark in ("<script>x", "<i>", "<em>", "<b>", "<u>", "<s>"))
    assert body.count("</script>") == 1  # that of the chart's own data
    assert "| <script>x</script> | 1 \\| 2 |" in as_markdown(document)
