"""Environments that other packages bring, made known to Gymnasium."""

import importlib
from functools import cache
from importlib.metadata import EntryPoint, entry_points

import gymnasium as gym


def register_environment(env_id: str) -> str:
    """
    Import the module before a colon; or have the package that ``MinAtar/Breakout-v1`` comes from register its environments, if
    it is installed: it names the function that does so as an entry point ``MinAtar`` of the group ``gymnasium.envs``.

    :param env_id: Gymnasium's name of the environment, known or not
    :return: the name without the module
    :raises ImportError: the module cannot be imported, or the function failed
    """
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:  # perhaps of something that the module needs
            raise ImportError(f"environment {env_id}: module {module} cannot be imported: {sentence(error)}") from None
    namespace, slash, _ = name.partition("/")
    if slash and name not in gym.registry:
        for plugin in entry_points(group="gymnasium.envs", name=namespace):
            try:
                run_once(plugin)
            except Exception as error:  # of any package
                raise ImportError(f"environment {env_id}: {plugin.value} cannot register it: {sentence(error)}") from error
    return name


@cache
def run_once(plugin: EntryPoint) -> None:
    """Call the function; not again for another name, since Gymnasium warns of what is registered twice."""
    plugin.load()()


def sentence(error: BaseException) -> str:
    """What an error says, on one line, without a full stop."""
    return " ".join(str(error).split()).rstrip(".")
