"""The recorded speed in short, for README, picture and pages: each figure is from ``benchmarks/results/``."""

import json
from functools import cache
from typing import NamedTuple

from benchmarks import RESULTS
from benchmarks.speed import short_runs
from benchmarks.speed.results import PeerComparison, compare_with_peers, read_results
from benchmarks.speed.short_runs import EAGER, FIRST, LATER, times_as_fast

FILE = RESULTS / "bench.json"
OTHER_PACKAGES = ("sb3:", "contrib:", "sbx:", "pfrl:", "rltools:")  # the remaining peers are variants of this package
SHORT = {"ppo-25k": "25,000 steps", "ppo-100k": "100,000 steps", "ppo-300k": "300,000 steps"}
LONG = {
    ("ppo-cartpole", "sb3:ppo"): "PPO on CartPole",
    ("ppo-halfcheetah", "sb3:ppo"): "PPO on HalfCheetah, where the physics takes most of the time",
    ("a2c-cartpole", "sb3:a2c"): "A2C on CartPole",
    ("trpo-cartpole", "contrib:trpo"): "TRPO on CartPole",
    ("ppo-masks", "contrib:maskableppo"): "PPO with action masks",
    ("ppo-lstm-64", "contrib:recurrentppo"): "PPO with an LSTM of 64 units",
    ("ppo-halfcheetah-256x256", "sb3:ppo"): "PPO with networks of 256 × 256 units on HalfCheetah",
    ("ppo-images", "sb3:ppo"): "PPO from images",
    ("ppo-cartpole-eager", "sb3:ppo"): "PPO on CartPole, not compiled",
}


class Frames(NamedTuple):
    """Environment steps per second in one case of the benchmark, beside one peer."""

    case: str
    algorithm: str
    comparison: PeerComparison


def short() -> dict[str, tuple[float, float, float]]:
    """Return how many times as fast whole runs are as SB3's, by length: a first start, a later start, without compiling."""
    runs = json.loads(short_runs.FILE.read_text(encoding="utf-8"))
    first, later, eager = ([times_as_fast(runs[n]["seconds"], c, "learn")[0] for n in SHORT] for c in (FIRST, LATER, EAGER))
    return dict(zip(SHORT.values(), zip(first, later, eager, strict=True), strict=True))


def long() -> dict[str, PeerComparison]:
    """Return the frames per second after compiling beside a peer, by what is trained."""
    measured = {(f.case, f.comparison.peer): f.comparison for f in frames()}
    return {words: measured[key] for key, words in LONG.items() if key in measured}


@cache
def frames() -> list[Frames]:
    """Return every recorded comparison of environment steps per second."""
    return [
        Frames(result.case.name, result.case.algorithm.partition("+")[0], comparison)
        for result in read_results(FILE)
        for comparison in compare_with_peers(result)
        if comparison.metric == "frames"
    ]


def markdown() -> str:
    """Return a table of short runs, and one of long runs."""
    lines = ["| PPO on CartPole, default arguments | first run (compiles) | every later run | `compile=False` |"]
    lines.append("|---|--:|--:|--:|")
    lines += [f"| {words} | {' | '.join(f'{r:.1f} ×' for r in ratios)} |" for words, ratios in short().items()]
    lines += ["", "| after compiling | peer | times as fast |", "|---|---|--:|"]
    lines += [f"| {words} | {c.peer} | {_spread(c)} × |" for words, c in long().items()]
    return "\n".join(lines)


def markdown_of(algorithm: str) -> str:
    """
    Return the cases that measure an algorithm beside another package; empty if there are none.

    :param algorithm: name of the algorithm on the command line
    """
    rows = [
        f"| {case} | {c.peer} | {c.ours:,.0f} | {c.theirs:,.0f} | {_spread(c)} |"
        for case, measured, c in frames()
        if measured == algorithm and c.peer.startswith(OTHER_PACKAGES)
    ]
    header = ["| case | peer | ours, frames/s | peer, frames/s | times as fast |", "|---|---|--:|--:|--:|"]
    return "\n".join([*header, *rows]) if rows else ""


def _spread(comparison: PeerComparison) -> str:
    low, high = comparison.ratio.low, comparison.ratio.high
    return f"{comparison.ratio.median:.1f}" + (f" ({low:.1f}–{high:.1f})" if low < high else "")
