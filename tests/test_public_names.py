"""Tests go through public names, so that a change that users cannot see breaks none of them."""

import ast
import re
from pathlib import Path

import stable_baselines3

TESTS, OURS = Path(__file__).parent, ("sb3_pgx", "benchmarks")
PATCHED = {
    "engine/test_graph_rewrites.py": "CpuKernels",  # a pass that would be left out of what the compiler's cache has
    "core/test_written_rollout_buffer.py": "rollout_buffer",  # simulates a GPU, whose arrays are copies
}
OTHERS = {"experiment._check"}  # of other packages, by the name of something private here


def parsed(folder):
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py"))}


def private_names():
    """What the package defines by names that begin with an underscore, except for those of SB3 and of named tuples."""
    names = set()
    for tree in parsed(TESTS.parent / "sb3_pgx").values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.id if isinstance(node, ast.Name) else node.attr)
    sb3 = "".join(path.read_text(encoding="utf-8") for path in Path(stable_baselines3.__file__).parent.rglob("*.py"))
    return {name for name in names if re.match("_[A-Za-z]", name)} - set(re.findall(r"\w+", sb3)) - {"_replace"}


def test_no_test_uses_a_private_name_of_the_package_or_patches_it():
    """A registry may get another entry."""
    private, found = private_names(), []
    for path, tree in parsed(TESTS).items():
        nodes, file = list(ast.walk(tree)), path.relative_to(TESTS).as_posix()
        imported = [node for node in nodes if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(OURS)]
        aliases = [alias for node in imported for alias in node.names]
        aliases += [a for node in nodes if isinstance(node, ast.Import) for a in node.names if a.name.startswith(OURS)]
        ours = {alias.asname or alias.name for alias in aliases}
        found += [f"{file}: {name}" for name in ours if name.startswith("_")]
        for node in nodes:
            if isinstance(node, ast.Attribute) and node.attr in private:
                text = ast.unparse(node)
                problem = not text.startswith("self.") and text not in OTHERS
            elif (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("setattr", "delattr")
            ):
                text = ast.unparse(node)
                target = ast.unparse(node.args[0]).strip("'")
                problem = target.startswith(OURS) or target.partition(".")[0] in ours - {PATCHED.get(file)}
            else:
                continue
            found += [f"{file}, line {node.lineno}: {text}"] * problem
    assert found == []
