"""Packages that are installed, or are not, as far as imports and metadata tell."""

import sys
import textwrap
from importlib.machinery import ModuleSpec
from types import ModuleType

import gymnasium


def without(monkeypatch, *missing, but_with=()):
    """Let packages be missing, and others be installed, of which nothing is used."""
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    for name in but_with:
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)


def install(name, folder, monkeypatch):
    """
    Put a package of version 2.0 with a copy of CartPole into a folder and on the path. Return the name of the environment,
    which is registered as long as the test runs.
    """
    (folder / f"{name}-2.0.dist-info").mkdir()
    (folder / f"{name}-2.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
    code = """
        from gymnasium.envs.classic_control import CartPoleEnv

        class Environment(CartPoleEnv):
            pass
    """
    (folder / f"{name}.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(folder)
    spec = gymnasium.envs.registration.EnvSpec(f"{name}-v0", f"{name}:Environment", max_episode_steps=20)
    monkeypatch.setitem(gymnasium.registry, spec.id, spec)
    return spec.id
