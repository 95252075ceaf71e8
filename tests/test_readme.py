"""Every code block of the README runs, and its tables are up to date."""

import re
import shlex
from pathlib import Path

import gymnasium
import pytest
import torch as th
from readme_tables import GENERATED, results, section
from support.run_in_process import compare_here

from benchmarks.claims.protocol import load_claims
from benchmarks.claims.records import find_problem
from sb3_pgx.cli import parser

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(file, language):
    text = (ROOT / file).read_text(encoding="utf-8")
    return [(text[: m.start()].count("\n") + 1, m[2]) for m in BLOCK.finditer(text) if m[1] == language]


SEVERAL_MACHINES = "docs/several_machines.md"
PYTHON = blocks("README.md", "python")


@pytest.mark.parametrize("line, code", PYTHON, ids=[f"line {line}" for line, _ in PYTHON])
def test_code_blocks_run(line, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    th.manual_seed(0)
    shortened = re.sub(r"learn\(([\d_]+)", lambda m: f"learn({min(int(m[1]), 2000)}", code)
    exec(compile(shortened, f"README.md:{line}", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("name", ["claims", "configs", "faults", "logged", "metrics", "mujoco", "variance"])
def test_published_figures_are_those_that_were_measured(name):
    assert section(name) == GENERATED[name](), "run `make table`"


def test_every_verdict_follows_from_the_published_runs_or_the_record_says_why_it_was_superseded():
    records = [record for record in results() if not record.get("superseded")]
    problems = [find_problem(claim, records) for of_subject in load_claims().values() for claim in of_subject]
    assert results() and not [p for p in problems if p and p.sentence.startswith(("altered", "changed"))]


def test_commands_parse_and_targets_exist():
    """``sb3-pgx`` commands have arguments that exist, ``make`` has the targets that are named."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    files = ("README.md", SEVERAL_MACHINES)
    commands = [
        line for file in files for _, block in blocks(file, "sh") for line in block.splitlines() if line and line[0] != "#"
    ]
    assert any("make demo" in c for c in commands) and any("sb3-pgx compare" in c for c in commands)
    for command in commands:
        words = shlex.split(command, comments=True)
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), command
        elif words[0] == "sb3-pgx":
            parser().parse_args(words[1:])


def test_the_commands_for_two_machines_are_one_comparison_in_two_shards_and_its_report():
    commands = [shlex.split(line) for _, block in blocks(SEVERAL_MACHINES, "sh") for line in block.splitlines()]
    first, second, last = (vars(parser().parse_args(words[1:])) for words in commands if "/shared/two" in words)
    assert (first.pop("shard"), second.pop("shard"), last.pop("shard")) == ("1/2", "2/2", None)
    assert last.pop("report_only") and first.pop("report_only") == second.pop("report_only") is False
    assert first == second == last
    (on_ray,) = (parser().parse_args(words[1:]) for words in commands if words[0] == "sb3-pgx" and "--ray" in words)
    assert on_ray.ray == "first:6379"


def test_each_piece_of_folklore_has_a_command_that_exists():
    """``sb3-pgx`` commands parse; of ``python examples/…`` the script is there, and its arguments are those that all share."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    _, _, rest = text.partition("## Ten things people say about policy gradients\n")
    claims = re.findall(r"^\d+\. \*\*“.*?(?=^\d+\. |^## )", rest.partition("\n## ")[0] + "\n## ", re.MULTILINE | re.DOTALL)
    assert len(claims) == 10
    shared = (ROOT / "examples" / "shared.py").read_text(encoding="utf-8")
    for claim in claims:
        commands = re.findall(r"`((?:python examples/|sb3-pgx )[^`]*)`", claim)
        assert commands, f"no command shows: {claim}"
        for command in commands:
            words = shlex.split(command)
            if words[0] == "sb3-pgx":
                parser().parse_args(words[1:])
            else:
                assert (ROOT / words[1]).is_file(), command
                options = [word for word in words[2:] if word.startswith("-")]
                assert all(f'"{option}"' in shared for option in options), command


@pytest.mark.slow
def test_the_comparison_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    """On a small budget, with one seed, and with short episodes."""
    monkeypatch.setattr(gymnasium.spec("Acrobot-v1"), "max_episode_steps", 20)
    (command,) = [line for _, block in blocks("README.md", "sh") for line in block.splitlines() if "sb3-pgx compare" in line]
    shortened = re.sub(r"--seeds \d+ --timesteps \d+", "--seeds 1 --timesteps 40 --eval-episodes 1", command)
    assert shortened != command
    assert compare_here([*shlex.split(shortened)[1:], "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert all(printed.count(f"| {name} |") >= 3 for name in ("ppo", "sb3:ppo", "a2c"))
    named = re.findall(r"`(\w+\.(?:html|md|csv))`", section_of("## Compare"))
    assert "failed" not in printed and len(named) == 5 and all((tmp_path / "out" / name).is_file() for name in named)


def test_the_demo_of_the_makefile_is_a_command():
    (command,) = re.findall(r"\$\(BIN\)/sb3-pgx (compare .*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert parser().parse_args(shlex.split(command)).algos == ["reinforce", "reinforce_baseline", "sb3:ppo"]


def section_of(title):
    return (ROOT / "README.md").read_text(encoding="utf-8").partition(f"{title}\n")[2].partition("\n## ")[0]
