"""``make pythons``: which interpreter it takes, and that each result replaces only the earlier one of its version."""

import pytest
import pythons


def test_the_result_of_one_python_takes_the_place_of_its_earlier_one(tmp_path, monkeypatch, capsys):
    """Here, of a Python that is not there: the search path has a shim that fails, as those of pyenv do."""
    (tmp_path / "python3.12").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "python3.12").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    file = tmp_path / "pythons.txt"
    kept = "Python 3.11.7, 2026-11-30, Linux x86_64: 6 passed in 1 s"
    file.write_text(f"{kept}\nPython 3.12.1, 2026-11-30, Linux x86_64: 1 failed, 5 passed in 1 s\n")
    assert pythons.main(["3.12", "--file", str(file)]) == 0
    assert file.read_text() == f"{kept}\nPython 3.12: not run: neither the search path nor pyenv has it\n"
    with pytest.raises(SystemExit):
        pythons.main(["3.9", "--file", str(file)])
    assert "3.9 is none of the versions that pyproject.toml names: 3.10, 3.11" in capsys.readouterr().err


def test_a_python_of_pyenv_is_found_and_the_newest_one(tmp_path, monkeypatch):
    for exact in ("3.12.9", "3.12.11"):
        folder = tmp_path / "versions" / exact / "bin"
        folder.mkdir(parents=True)
        (folder / "python").write_text(f"#!/bin/sh\necho Python {exact}\n")
        (folder / "python").chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert pythons.interpreter("3.12") == (str(tmp_path / "versions" / "3.12.11" / "bin" / "python"), "3.12.11")
    assert pythons.interpreter("3.13") is None
