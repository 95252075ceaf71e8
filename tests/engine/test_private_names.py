"""Private names of torch: engine/ alone has any, and without them the package is imported and trains, eagerly at least."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "sb3_pgx" / "engine"
# Modules of torch that are private, although not all of their names begin with an underscore.
COMPILER = ("torch.fx.experimental", "torch._dynamo", "torch._functorch", "torch._inductor", "torch.utils._python_dispatch")

# Attributes that are read, of tensors, layers, parameters and optimizers.
READ = {"_version"}
HOLDERS = {"_modules", "_parameters", "_buffers"}
LAYER_HOOKS = {
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks", "_global_backward_pre_hooks"),
    "_post_accumulate_grad_hooks",
}
STEP_HOOKS = {
    *("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"),
    *("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks"),
}
TO_COMPILE = {
    *("compile_lock", "make_fx", "compile_fx", "compile_fx_inner", "TorchDispatchMode"),
    *("CustomGraphPass", "get_hash_for_files", "select_decomp_table", "make_pointwise", "register_lowering"),
}
TO_COMPILE_MEMORY = {"ExternKernelOut", "FixedLayout", "FlexibleLayout", "TensorBox"}  # of recurrent policies
# Modules, which torch itself imports, and of which one that is renamed lacks the names above.
MODULES = {
    "_utils",
    "_inductor",
    "_dynamo",
    "_functorch",
    "_python_dispatch",
    "config",
    "cpp_builder",
    "cpu_vec_isa",
    "ops",
    "_C",
}
# In C++, out of reach of the process below: without them graphs are not kept between runs (tests/engine/test_kept_graphs.py).
TO_KEEP = {"_aoti", "_torchinductor_pyobject_tensor_data_ptr"}
# Operators, which torch itself needs. Without them, a rule's own step is taken (tests/engine/test_rules.py).
TO_STEP = {"_fused_adam_", "_fused_adamw_"}
# Named nowhere, but what is behind them matters: how torch's distributions check arguments, and which layers have two modes.
INDIRECT = {"_is_all_true", "_validate_args", "_DropoutNd", "_NormBase"}
MEMBERS = READ | HOLDERS | LAYER_HOOKS | STEP_HOOKS | INDIRECT

RENAMED = sorted(MEMBERS | TO_COMPILE | TO_COMPILE_MEMORY)
QUICK = {"_forward_hooks"}
REASONS = (
    *((name, "this version of torch keeps hooks in another place") for name in LAYER_HOOKS),
    *((name, "this version of torch keeps the hooks of an optimizer's step in another place") for name in STEP_HOOKS),
    *((name, f"lacks what compiling needs: cannot import name '{name}'") for name in TO_COMPILE | TO_COMPILE_MEMORY),
)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in RENAMED])
def test_without_a_private_name_the_package_is_imported_and_trains(name):
    reason = dict(REASONS).get(name)
    policy = "MlpLstmPolicy" if name in TO_COMPILE_MEMORY else "MlpPolicy"
    said = _process(name, *["--compile", policy] * (reason is not None))
    if reason is not None:
        assert any(sentence.startswith("compile=True: the gradient step runs uncompiled: ") for sentence in said)
        assert all(reason in sentence for sentence in said)


def _process(*arguments):
    """What a process says in which a name is gone, line by line."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", ROOT / "tests" / "support" / "torch_without.py", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_no_private_name_of_torch_is_outside_of_the_engine():
    sources = [path for folder in ("sb3_pgx", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")]
    found = {(path.relative_to(ROOT).as_posix(), n) for path in sources if ENGINE not in path.parents for n in private(path)}
    assert len(sources) > 100 and not found


def test_every_private_name_in_the_engine_is_one_of_those_that_are_taken_away():
    found = {name for path in ENGINE.glob("*.py") for name in private(path)}
    assert found - MEMBERS - TO_COMPILE - TO_COMPILE_MEMORY - TO_KEEP - TO_STEP - MODULES == set()
    assert "compile_lock" in found and "_version" in found and "_forward_hooks" in found


@pytest.mark.parametrize(
    "line",
    [
        "from torch._utils import _flatten_dense_tensors",
        "import torch._dynamo",
        "from torch import _foreach_copy_",
        "from torch.fx.experimental.proxy_tensor import make_fx",
        "import torch as th\nth._foreach_copy_([], [])",
        "from torch import nn\nnn.modules.dropout._DropoutNd",
        "count = parameter._version",
        "getattr(layer, '_forward_hooks')",
    ],
)
def test_a_private_name_is_seen(line, tmp_path):
    (tmp_path / "module.py").write_text(line)
    assert private(tmp_path / "module.py")


def private(path):
    """The private names of torch in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {"torch"}  # names that stand for torch or for something in it
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            for alias in node.names:
                full = f"{module}.{alias.name}".lstrip(".")
                if full.partition(".")[0] != "torch":
                    continue
                imported.add(alias.asname or alias.name)
                if full.startswith(COMPILER):
                    yield alias.name if module else full.split(".")[1]
                yield from filter(_is_private, full.split(".")[:-1] if full.startswith(COMPILER) else full.split("."))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (node.attr in MEMBERS - HOLDERS or _is_private(node.attr)):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if node.attr in MEMBERS - HOLDERS or (isinstance(root, ast.Name) and root.id in imported):
                yield node.attr
        elif isinstance(node, ast.Constant) and node.value in MEMBERS - HOLDERS:
            yield node.value


def _is_private(name):
    return name.startswith("_") and not name.startswith("__")
