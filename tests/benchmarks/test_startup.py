"""The times of starts: fresh processes, the table, and one small measurement. No test asserts a speed."""

import json
from pathlib import Path

import generated_sections
import pytest

from benchmarks.speed import startup
from benchmarks.speed.fresh_process import run_fresh
from sb3_pgx.registry import ALGORITHMS

ENTRY = {"command": "", "seconds": {"first start": [9.0, 7.0, 8.0], "later start": [0.25], "eager": [1.0, 3.0]}}
ROW = "| `trpo` | 8.00 (7.00–9.00) | 0.25 (0.25–0.25) | 2.00 (1.00–3.00) |"


@pytest.fixture
def worker(tmp_path):
    """A script that does what its job says, and keeps the names of the folders that it was given."""
    file = tmp_path / "worker.py"
    file.write_text(
        "import json, os, sys\n"
        "job = json.loads(sys.argv[1])\n"
        "places = [os.environ[name] for name in ('SB3_PGX_CACHE_DIR', 'TORCHINDUCTOR_CACHE_DIR')]\n"
        "open(job['file'], 'w').write(json.dumps(places))\n"
        "print('a word before')\n"
        "print(1 / job['divisor'])\n"
    )
    return file


def test_a_fresh_process_has_the_caches_that_it_is_given(worker, tmp_path):
    job = {"file": str(tmp_path / "seen.json"), "divisor": 8}
    printed, whole = run_fresh(worker, job, tmp_path / "graphs", tmp_path / "own")
    assert printed == 0.125 and 0 < whole < 60
    assert json.loads((tmp_path / "seen.json").read_text()) == [str(tmp_path / "graphs"), str(tmp_path / "own")]


def test_the_error_of_a_fresh_process_names_its_job(worker, tmp_path):
    with pytest.raises(RuntimeError, match=r'"divisor": 0.*: ZeroDivisionError: division by zero$'):
        run_fresh(worker, {"file": str(tmp_path / "seen.json"), "divisor": 0}, tmp_path, tmp_path)


def test_the_table_has_medians_with_their_range():
    imports = {"seconds": {"sb3_pgx": [1.0, 2.0, 9.0], "stable_baselines3": [1.5]}}
    *table, empty, line = startup.markdown({"trpo": ENTRY, "imports": imports}).splitlines()
    assert table == [
        "| seconds to the end of the first update | first start | later start | eager |",
        "|---|--:|--:|--:|",
        ROW,
    ]
    assert empty == "" and line.startswith(
        "`import sb3_pgx` takes 2.00 (1.00–9.00) s; `import stable_baselines3` takes 1.50 ("
    )


def test_the_published_table_is_what_was_measured():
    assert generated_sections.section("startup") == generated_sections.GENERATED["startup"](), "run `make table`"


@pytest.mark.parametrize(
    "arguments, sentence",
    [(["--restarts", "0"], "--restarts is 0; it must be at least 1"), (["--algorithms", "pto"], "invalid choice: 'pto'")],
)
def test_a_user_error_is_one_sentence_before_any_measuring(arguments, sentence, capsys):
    with pytest.raises(SystemExit, match="2"):
        startup.main([*arguments, "--dry"])
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_measurement_keeps_what_it_does_not_measure(tmp_path, capsys):
    file = tmp_path / "speed" / "startup.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"trpo": ENTRY}))
    assert startup.main(["--algorithms", "reinforce", "imports", "--restarts", "1", "--file", str(file)]) == 0
    record = json.loads(file.read_text())
    assert list(record) == ["reinforce", "trpo", "imports"] and record["trpo"] == ENTRY
    _, _, reinforce, _, _, imports = startup.markdown(record).splitlines()
    assert capsys.readouterr().out.splitlines() == [reinforce, imports]
    for name, kinds in (("reinforce", ["first start", "later start", "eager"]), ("imports", ["sb3_pgx", "stable_baselines3"])):
        seconds = record[name]["seconds"]
        assert list(seconds) == kinds and all(len(s) == 1 and s[0] > 0 for s in seconds.values())
        assert record[name]["command"].endswith(f"--file {file}") and record[name]["machine"]["cores"]


def test_every_algorithm_is_measured(tmp_path, capsys):
    """The help names all that there are; ``imports`` comes last."""
    with pytest.raises(SystemExit, match="0"):
        startup.main(["--help"])
    names = " ".join(capsys.readouterr().out.split())
    assert all(name in names for name in [*ALGORITHMS, "imports"])
    assert Path(startup.FILE).parent.name == "speed"  # files directly in the folder of results are claims
