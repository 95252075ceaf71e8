"""README and docs: code blocks run, tables are up to date, links lead somewhere, and every public name is documented."""

import importlib
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import gymnasium
import pytest
import torch as th
from generated_sections import GENERATED, PAGES, section
from PIL import Image
from support.run_in_process import compare_here

from benchmarks import picture
from benchmarks.claims.protocol import load_claims
from benchmarks.claims.records import find_problem
from sb3_pgx.cli import parser
from sb3_pgx.registry import ALGORITHMS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SEVERAL_MACHINES, COMPARING, TEN_THINGS = "docs/several_machines.md", "docs/guide/comparing.md", "docs/concepts/ten_things.md"
BLOCK = re.compile(r"(<!-- slow -->\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Pages whose blocks are parts of a script, or need torchrun.
IN_PARTS = ("docs/many_processes.md", "docs/checkpoints.md")
PUBLIC = "sb3_pgx checkpoints diagnostics doctor engine environments experiments parallel tasks tuning".split()


def read(file):
    return (ROOT / file).read_text(encoding="utf-8")


def blocks(file, language):
    """Line, whether it is slow, and text of each block in a language."""
    text = read(file)
    return [(text[: m.start(3)].count("\n"), bool(m[1]), m[3]) for m in BLOCK.finditer(text) if m[2] == language]


def python_blocks():
    for page in PAGES:
        file = page.relative_to(ROOT).as_posix()
        for line, slow, code in blocks(file, "python") if file not in IN_PARTS else ():
            yield pytest.param(file, line, code, id=f"{file}:{line}", marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("file, line, code", list(python_blocks()))
def test_code_blocks_run(file, line, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    th.manual_seed(0)
    shortened = re.sub(r"learn\(([\d_]+)", lambda m: f"learn({min(int(m[1]), 2000)}", code)
    exec(compile(shortened, f"{file}:{line}", "exec"), {"__name__": "__main__"})


def test_published_figures_are_those_that_were_measured():
    stale = [name for name in GENERATED if name != "capabilities" and section(name) != GENERATED[name]()]
    assert not stale, "run `make table`"


def test_the_picture_shows_the_measured_figures_and_is_small():
    with Image.open(picture.PICTURE) as image:
        assert image.text["Description"] == picture.shown(), "run `make table`"
    assert picture.PICTURE.stat().st_size < 200_000


@pytest.mark.slow
def test_a_picture_is_drawn_from_the_records(tmp_path):
    picture.draw(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        assert image.text["Description"] == picture.shown() and min(image.size) > 300


def test_every_verdict_follows_from_the_published_runs_or_the_record_says_why_it_was_superseded():
    from claim_tables import results

    records = [record for record in results() if not record.get("superseded")]
    problems = [find_problem(claim, records) for of_subject in load_claims().values() for claim in of_subject]
    assert results() and not [p for p in problems if p and p.sentence.startswith(("altered", "changed"))]


def test_commands_parse_and_targets_exist():
    """``sb3-pgx`` commands have arguments that exist, ``make`` has the targets that are named."""
    makefile = read("Makefile")
    files = [page.relative_to(ROOT).as_posix() for page in PAGES]
    commands = [
        line for file in files for *_, block in blocks(file, "sh") for line in block.splitlines() if line and line[0] != "#"
    ]
    assert any("make demo" in c for c in commands) and any("sb3-pgx compare" in c for c in commands)
    for command in commands:
        words = shlex.split(command, comments=True)
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), command
        elif words[0] == "sb3-pgx":
            parser().parse_args(words[1:])


def test_extras_that_are_named_exist():
    extras = set(
        re.findall(r"^(\w+) = \[", read("pyproject.toml").partition("[project.optional-dependencies]")[2], re.MULTILINE)
    )
    for page in PAGES:
        named = re.findall(r"pip install [^`\n]*\[(\w+)\]", page.read_text(encoding="utf-8"))
        assert set(named) - {"mkl"} <= extras, page


def test_the_commands_for_two_machines_are_one_comparison_in_two_shards_and_its_report():
    commands = [shlex.split(line) for *_, block in blocks(SEVERAL_MACHINES, "sh") for line in block.splitlines()]
    first, second, last = (vars(parser().parse_args(words[1:])) for words in commands if "/shared/two" in words)
    assert (first.pop("shard"), second.pop("shard"), last.pop("shard")) == ("1/2", "2/2", None)
    assert last.pop("report_only") and first.pop("report_only") == second.pop("report_only") is False
    assert first == second == last
    (on_ray,) = (parser().parse_args(words[1:]) for words in commands if words[0] == "sb3-pgx" and "--ray" in words)
    assert on_ray.ray == "first:6379"


def test_each_piece_of_folklore_has_a_picture_and_a_command_that_exists():
    claims = re.split(r"^## \d+\. ", read(TEN_THINGS), flags=re.MULTILINE)[1:]
    assert len(claims) == 10
    for claim in claims:
        commands = re.findall(r"`python (examples/\w+\.py)`", claim)
        assert commands and all((ROOT / command).is_file() for command in commands), claim
        assert "{image}" in claim or "picture" in claim, claim


def test_each_pitfall_names_a_test_that_exists():
    named = re.findall(r"`(test_\w+)`", read("docs/concepts/pitfalls.md"))
    defined = {name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", read(path))}
    assert len(named) > 20 and set(named) <= defined


def slug(heading):
    """The anchor of a heading, as GitHub and Sphinx make it."""
    return re.sub(r"[^\w\- ]", "", re.sub(r"[`*]|\]\(.*?\)", "", heading).lower()).replace(" ", "-")


def anchors(path):
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    return {slug(h) for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)} | set(
        re.findall(r"^\((\S+)\)=$", text, re.MULTILINE)
    )


LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md"]


@pytest.mark.parametrize("file", LINKED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_pictures_lead_somewhere(file):
    text = BLOCK.sub("", file.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))
    links += re.findall(r"^```\{image\} (\S+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    for link in links:
        where = urlsplit(link)
        if where.scheme:
            assert where.scheme == "https" and "." in where.netloc, f"{link} is no address"
            continue
        target = (file.parent / where.path).resolve() if where.path else file
        assert target.exists(), f"{link} leads nowhere"
        assert not where.fragment or where.fragment in anchors(target), f"{link} leads nowhere in {target.name}"


def documented():
    """Every object that a page documents, by its full name."""
    names = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        names |= set(re.findall(r"^\.\. (?:auto(?:class|function|exception|data)|py:data):: (\S+)", text, re.MULTILINE))
        for name in re.findall(r"^\.\. automodule:: (\S+)\n   :members:", text, re.MULTILINE):
            names |= {f"{name}.{member}" for member in vars(importlib.import_module(name))}
    return names


@pytest.mark.parametrize("room", PUBLIC)
def test_every_public_name_is_documented(room):
    module = importlib.import_module(room if room == "sb3_pgx" else f"sb3_pgx.{room}")
    missing = {f"{module.__name__}.{name}" for name in module.__all__} - documented()
    assert not missing, "add it to a page of docs/reference/api/, an algorithm to one of docs/algorithms/"
    silent = [name for name in module.__all__ if callable(getattr(module, name)) and not inspect.getdoc(getattr(module, name))]
    assert not silent, "write a docstring"


def test_every_algorithm_has_a_page_that_the_index_lists():
    index = read("docs/algorithms/index.md")
    for name in (*ALGORITHMS, "maskable_ppo", "recurrent_ppo"):
        assert (DOCS / "algorithms" / f"{name}.md").is_file() and f"\n{name}\n" in index, name


def test_the_readme_is_short():
    assert len(read("README.md").splitlines()) <= 150


def test_outputs_are_those_of_the_last_command_with_its_warnings(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    from outputs import refreshed

    page = (
        "```python\nimport warnings\n\nprint(6 * 7)\nwarnings.warn('careful')\n```\n\n<!-- output -->\n```text\nold\n```\n\n"
        "```sh\nsed -n 3p example.py\nsed -n 1p example.py\n```\nprints\n\n<!-- output -->\n```text\nold\nlines\n```\n"
    )
    new = refreshed(page, "a page")
    assert "old" not in new and "```text\n42\nexample.py:4: UserWarning: careful\n" in new
    assert new.endswith("```text\nimport warnings\n```\n")


@pytest.mark.slow
def test_the_pages_build_without_a_warning(tmp_path):
    pytest.importorskip("furo")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", DOCS, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "algorithms" / "ppo.html").read_text(encoding="utf-8")
    assert "<math" in page and "clipped_surrogate" in page and "Typical: 0.1 to 0.3" in page


@pytest.mark.slow
def test_the_comparison_of_the_pages_runs(tmp_path, monkeypatch, capsys):
    """On a small budget, with one seed, and with short episodes."""
    monkeypatch.setattr(gymnasium.spec("Acrobot-v1"), "max_episode_steps", 20)
    (command,) = [line for *_, block in blocks(COMPARING, "sh") for line in block.splitlines() if "sb3-pgx compare" in line]
    shortened = re.sub(r"--seeds \d+ --timesteps \d+", "--seeds 1 --timesteps 40 --eval-episodes 1", command)
    assert shortened != command
    assert compare_here([*shlex.split(shortened)[1:], "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert all(printed.count(f"| {name} |") >= 3 for name in ("ppo", "sb3:ppo", "a2c"))
    named = re.findall(r"`(\w+\.(?:html|md|csv))`", read(COMPARING))
    assert "failed" not in printed and len(named) == 5 and all((tmp_path / "out" / name).is_file() for name in named)


def test_the_demo_of_the_makefile_is_a_command():
    (command,) = re.findall(r"\$\(BIN\)/sb3-pgx (compare .*)", read("Makefile"))
    assert parser().parse_args(shlex.split(command)).algos == ["reinforce", "reinforce_baseline", "sb3:ppo"]
