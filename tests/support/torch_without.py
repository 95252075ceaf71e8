"""
A process in which one private name of torch is another one, as in a version of torch that has renamed it.

    python tests/support/torch_without.py _forward_hooks

Torch itself goes on working: the name is replaced in the source of every module of torch while it is imported, and what is
written in C++ is put under the new name. Then the package is imported and every algorithm trains, eagerly; with
``--compile MlpPolicy`` one of them is asked to compile with this policy, and what it says is printed.
"""

import importlib.machinery
import re
import sys
import warnings

SUFFIX = "_as_renamed"


class Renaming(importlib.machinery.SourceFileLoader):
    """A loader that replaces the name in the source."""

    pattern: re.Pattern[bytes]
    new: bytes

    def get_code(self, fullname):
        source = self.get_data(self.path)
        if not self.pattern.search(source):
            return super().get_code(fullname)
        return self.source_to_code(self.pattern.sub(self.new, source), self.path)


class Finder:
    """Finds torch's modules as Python does, and gives them the loader above."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        spec = None
        if fullname.partition(".")[0] == "torch":
            spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = Renaming(spec.loader.name, spec.loader.path)
        return spec


def rename(name):
    """Import torch with another name in the place of this one."""
    Renaming.pattern, Renaming.new = re.compile(rb"\b" + name.encode() + rb"\b"), (name + SUFFIX).encode()
    sys.meta_path.insert(0, Finder)
    import torch

    if hasattr(torch, name):  # a function in C++
        setattr(torch, name + SUFFIX, getattr(torch, name))
        delattr(torch, name)
    if hasattr(torch.Tensor, name):  # an attribute in C++, of a class that cannot be changed: the subclass hides it
        setattr(torch.Tensor, name + SUFFIX, getattr(torch.Tensor, name))
        setattr(torch.Tensor, name, Gone())


class Gone:
    """An attribute that neither the class nor its objects seem to have."""

    def __get__(self, instance, owner=None):
        raise AttributeError("this name is gone")


def train_everything():
    """Train every algorithm, eagerly."""
    from support.capabilities import QUICK
    from support.models import make

    for name in QUICK:
        make(name, compile=False).learn(24)


def compile_one(policy):
    """Print what PPO says when it is asked to compile, one sentence a line."""
    from support.models import make

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make("ppo", policy=policy, compile=True).learn(24)
    for sentence in {str(w.message) for w in caught if str(w.message).startswith("compile=True: ")}:
        print(sentence)


if __name__ == "__main__":
    rename(sys.argv[1])
    import sb3_pgx.diagnostics  # noqa: F401

    train_everything()
    if "--compile" in sys.argv:
        compile_one(sys.argv[-1])
