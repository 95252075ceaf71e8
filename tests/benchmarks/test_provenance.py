"""Where a measurement comes from: a hash that code changes and words do not, the commit, and whether the tree was clean."""

import subprocess

import pytest

from benchmarks.provenance import TRAINING_CODE, code_hash, git, provenance, uncommitted

SOURCE = (
    '"""Words."""\n\n\nclass A:\n    """Words."""\n\n    def f(self):\n        """Words."""\n        return "# 1"  # words\n'
)


@pytest.fixture
def checkout(tmp_path):
    """A repository with the folders that training depends on, one module in each, committed."""
    for name in TRAINING_CODE:
        path = tmp_path / name if name.endswith(".py") else tmp_path / name / "module.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SOURCE)
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


@pytest.mark.parametrize("name", TRAINING_CODE)
def test_the_hash_changes_with_each_file_that_training_depends_on(checkout, name):
    before = code_hash(root=checkout)
    path = checkout / name if name.endswith(".py") else checkout / name / "module.py"
    path.write_text(SOURCE.replace('"# 1"', '"# 2"'))
    assert code_hash(root=checkout) != before


def test_words_do_not_change_the_hash(checkout):
    before = code_hash(root=checkout)
    path = checkout / "sb3_pgx" / "ops" / "module.py"
    path.write_text(SOURCE.replace("Words", "Better\n    words").replace("  # words", "") + "\n# the end\n")
    assert code_hash(root=checkout) == before


def test_a_new_file_a_setting_and_further_code_change_the_hash(checkout):
    hashes = {code_hash(root=checkout), code_hash({"gamma": 0.9}, root=checkout), code_hash({"gamma": 0.99}, root=checkout)}
    (checkout / "more.py").write_text("a = 1\n")
    hashes |= {code_hash(root=checkout), code_hash(extra=["more.py"], root=checkout)}
    assert len(hashes) == 4  # a file beside the code changes nothing unless it is named
    (checkout / "sb3_pgx" / "ops" / "new.py").write_text("")
    assert code_hash(root=checkout) not in hashes


def test_code_that_has_moved_is_noticed(checkout):
    (checkout / "sb3_pgx" / "registry.py").unlink()
    with pytest.raises(FileNotFoundError, match=r"sb3_pgx/registry\.py is part of the hashed code"):
        code_hash(root=checkout)


def test_a_record_names_commit_machine_and_whether_the_tree_was_clean(checkout):
    facts = provenance(checkout)
    assert facts["clean"] and facts["commit"] == git(checkout, "rev-parse", "HEAD") and len(facts["commit"]) == 40
    assert facts["machine"]["cpu"] and facts["machine"]["cores"] >= 1
    (checkout / "benchmarks" / "results").mkdir(parents=True)
    (checkout / "benchmarks" / "results" / "a.json").write_text("[]")  # written while measuring
    assert provenance(checkout)["clean"]
    (checkout / "new.py").write_text("")
    assert not provenance(checkout)["clean"] and uncommitted(checkout) == ["new.py"]


def test_without_a_repository_nothing_is_known(tmp_path):
    facts = provenance(tmp_path)
    assert facts["commit"] is None and not facts["clean"]
