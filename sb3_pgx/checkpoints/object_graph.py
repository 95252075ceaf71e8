"""
Save the attributes of live objects, and set them on the corresponding objects of another process.

Environments, wrappers, callbacks and loggers form a graph. They cannot be pickled as they are: some hold files, processes or
pointers, and gymnasium's ``EzPickle`` keeps the arguments of the constructor alone. So each of these objects (a *node*) stays
where it is, the attributes of all of them are pickled at once, and references to a node become its path in the graph. Objects
that two nodes share are shared afterwards, too.
"""

import inspect
import io
import pickle
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import gymnasium as gym
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_pgx.checkpoints.replay_memory import reduced
from sb3_pgx.environments.gathered import GatheredVecEnv
from sb3_pgx.environments.spread import ShareOfEnvironments

ENVIRONMENTS = (VecEnv, gym.Env, gym.vector.VectorEnv)
NODES = (*ENVIRONMENTS, BaseCallback, Logger, KVWriter, ResultsWriter)
# Attributes that lead to the next node. They are followed first, so that a node has the same path in every process.
LINKS = ("venv", "own", "envs", "vector_env", "env", "callbacks", "callback", "output_formats")
# Attributes with such types stay as they are: code, windows, progress bars, and writers whose files are handled here.
KEPT_MODULES = ("csv", "mujoco", "pygame", "rich", "tqdm", "torch.utils.tensorboard", "tensorboard", "_io")
KEPT_TYPES = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type)
PROCESS_MODULES = ("multiprocessing", "threading", "_thread", "subprocess", "socket", "concurrent")
_PLAIN = type("Plain", (), {}).__basicsize__  # size of an object whose state is its attributes
_STRUCTURE = {"output_formats", "own", "callbacks"}  # untouched attributes that lead to nodes
# What this package attaches to environments.
RECORDER_ATTRIBUTE, WORKER_ATTRIBUTE = "sb3_pgx_episode_recorder", "sb3_pgx_worker"


class FileContent(NamedTuple):
    """Content of a file that a node has open for writing."""

    content: bytes

    def write_to(self, file: io.TextIOWrapper) -> None:
        """Replace the content of an open file; later writes are appended."""
        file.seek(0)
        file.truncate()
        file.flush()
        file.buffer.write(self.content)
        file.flush()
        file.seek(0, io.SEEK_END)


class Graph(NamedTuple):
    """Attributes of nodes. ``kept`` are those that stay as they are, by path; ``lost`` those that should have been saved."""

    classes: dict[str, str]  # class of each node, by path
    pickled: bytes
    kept: dict[str, tuple[str, ...]]
    lost: dict[str, tuple[str, ...]]


def nodes_of(roots: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return all nodes that can be reached, by path.

    :param roots: objects by name; those that are no nodes are ignored
    """
    found: dict[str, Any] = {}
    known: set[int] = set()
    waiting = [*roots.items()]
    for path, value in waiting:  # the list grows meanwhile: breadth first
        if isinstance(value, NODES) and id(value) not in known:
            known.add(id(value))
            found[path] = value
            waiting += _children(path, value)
    return found


def _children(path: str, node: Any) -> Iterator[tuple[str, Any]]:
    passed_over = _untouched(node) - _STRUCTURE
    for name, value in sorted(vars(node).items(), key=lambda item: (item[0] not in LINKS, item[0])):
        if name in passed_over:
            continue
        yield f"{path}.{name}", value
        if isinstance(value, list | tuple) and value and isinstance(value[0], NODES):
            yield from ((f"{path}.{name}[{i}]", part) for i, part in enumerate(value))
        elif isinstance(value, dict) and isinstance(next(iter(value.values()), None), NODES):
            yield from ((f"{path}.{name}[{key!r}]", part) for key, part in value.items())


def _untouched(node: Any) -> set[str]:
    """Return names of attributes that belong to the process or to the structure, not to the state."""
    if isinstance(node, BaseCallback):
        return {"model", "locals", "globals", *(["callbacks"] if isinstance(node, CallbackList) else [])}
    if isinstance(node, Logger):
        return {"output_formats", "dir"}
    if isinstance(node, ENVIRONMENTS):
        recorded = ("step", "reset") if RECORDER_ATTRIBUTE in vars(node) else ()
        members = ("class_attributes",) if isinstance(node, VecEnvWrapper) else ()
        connections = node.connections if isinstance(node, GatheredVecEnv | ShareOfEnvironments) else ()
        return {"spec", "_cached_spec", RECORDER_ATTRIBUTE, WORKER_ATTRIBUTE, *recorded, *members, *connections}
    return set()


def _arguments(kind: type) -> set[str]:
    """Return the constructor's arguments of a callback's class. Those that are texts, such as paths, may have changed."""
    if not issubclass(kind, BaseCallback):
        return set()
    constructors = [vars(cls)["__init__"] for cls in kind.__mro__[:-1] if "__init__" in vars(cls)]
    return {name for constructor in constructors for name in inspect.signature(constructor).parameters}


def hides_state(node: Any) -> bool:
    """Return whether a node has state outside its attributes, as an extension's class does."""
    return type(node).__basicsize__ > _PLAIN


def of_modules(value: Any, modules: Iterable[str]) -> bool:
    """Return whether the type of a value, or of the first of several, comes from one of these modules."""
    if isinstance(value, list | tuple) and value:
        value = value[0]
    name = type(value).__module__
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def is_kept(value: Any) -> bool:
    """Return whether an attribute stays as it is because it is code, a window or a file."""
    first = value[0] if isinstance(value, list | tuple) and value else value
    return isinstance(first, KEPT_TYPES) or of_modules(value, KEPT_MODULES)


def take(roots: Mapping[str, Any], values: Any = None, references: Mapping[int, Any] | None = None) -> Graph:
    """
    Pickle the attributes of all nodes.

    :param roots: objects by name from which the nodes are reached
    :param values: anything that may refer to the nodes, returned by :func:`put`
    :param references: keys by ``id`` for other objects that must stay as they are; :func:`put` gets them by these keys
    """
    nodes = nodes_of(roots)
    keys: dict[int, Any] = {id(node): ("node", path) for path, node in nodes.items()} | dict(references or {})
    states, kept, lost = {}, {}, {}
    for path, node in nodes.items():
        states[path], kept[path], processes = _state_of(node)
        keys.update({id(vars(node)[name]): ("kept", path, name) for name in kept[path] if _is_own(node, name)})
        lost.update({path: processes} if processes else {})
    try:
        pickled = _pickled((states, values), keys)
    except Exception:
        for path, state in states.items():
            bad = tuple(name for name, value in state.items() if not _can_be_pickled(value, keys))
            if bad:
                lost[path] = (*lost.get(path, ()), *bad)
                kept[path] = (*kept[path], *bad)
                keys.update({id(state.pop(name)): ("kept", path, name) for name in bad})
        pickled = _pickled((states, values), keys)
    return Graph({path: name_of_class(node) for path, node in nodes.items()}, pickled, kept, lost)


def _state_of(node: Any) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """Return attributes to save, names of those to keep, and names of those that belong to other processes."""
    state, kept, processes = {}, [], []
    untouched = _untouched(node)
    for name, value in vars(node).items():
        if name in untouched or (isinstance(value, str | Path) and name in _arguments(type(node))):
            kept.append(name)
        elif of_modules(value, PROCESS_MODULES):
            kept.append(name)
            processes.append(name)
        elif _is_file(value):
            value.flush()
            state[name] = FileContent(Path(value.name).read_bytes())
        elif is_kept(value):
            kept.append(name)
        else:
            state[name] = value
    return state, tuple(kept), tuple(processes)


def put(graph: Graph, roots: Mapping[str, Any], references: Mapping[Any, Any] | None = None) -> tuple[Any, list[str]]:
    """
    Set the attributes of the nodes. Files get the text that they had.

    :param graph: result of :func:`take`
    :param roots: objects that correspond to those given to :func:`take`
    :param references: other objects that stay as they are, by key
    :return: the values given to :func:`take`, and the paths of saved nodes that are not there
    """
    reached = nodes_of(roots)
    nodes = {path: node for path, node in reached.items() if graph.classes.get(path) == name_of_class(node)}
    states, values = _Unpickler(graph.pickled, reached, references or {}).load()
    for path, node in nodes.items():
        attributes = vars(node)
        for name in attributes.keys() - states[path].keys() - set(graph.kept[path]) - _untouched(node):
            del attributes[name]
        for name, value in states[path].items():
            if not isinstance(value, FileContent):
                attributes[name] = value
            elif _is_file(attributes.get(name)):
                value.write_to(attributes[name])
    return values, [path for path in states if path not in nodes]


def regrouped(parts: Sequence[tuple[Graph, Callable[[str], str | None]]], values_of: int | None) -> Graph:
    """
    Return one graph of the nodes of several, under other paths.

    :param parts: graphs, each with a function of a node's path that returns the new one, or ``None`` to leave the node out
    :param values_of: number of the graph whose values the result has; ``None``: it has none
    """
    classes, kept, lost, states, values = {}, {}, {}, {}, None
    placeholders: dict[Any, Any] = {}
    for i, (graph, renamed) in enumerate(parts):
        of_graph, of_values = _Relocator(graph.pickled, renamed, placeholders).load()
        values = of_values if i == values_of else values
        for path in graph.classes:
            if (new := renamed(path)) is not None:
                classes[new], kept[new], states[new] = graph.classes[path], graph.kept[path], of_graph[path]
                lost.update({new: graph.lost[path]} if path in graph.lost else {})
    return Graph(classes, _pickled((states, values), {id(x): key for key, x in placeholders.items()}), kept, lost)


def _is_own(node: Any, name: str) -> bool:
    """Return whether other nodes must refer to a kept attribute of this one, as to a window, and not to a text."""
    return name not in _untouched(node) and not isinstance(vars(node)[name], str | Path)


def name_of_class(node: Any) -> str:
    """Return the full name of an object's class."""
    return f"{type(node).__module__}.{type(node).__qualname__}"


def _is_file(value: Any) -> bool:
    is_text = isinstance(value, io.TextIOWrapper) and not value.closed and value.writable()
    return is_text and isinstance(value.name, str) and Path(value.name).is_file()


def _can_be_pickled(value: Any, keys: Mapping[int, Any]) -> bool:
    try:
        _pickled(value, keys)
    except Exception:
        return False
    return True


def _pickled(value: Any, keys: Mapping[int, Any]) -> bytes:
    file = io.BytesIO()
    _Pickler(file, keys).dump(value)
    return file.getvalue()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, keys: Mapping[int, Any]):
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.keys = keys

    def persistent_id(self, obj: Any) -> Any:
        return self.keys.get(id(obj))

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (*ENVIRONMENTS, gym.utils.EzPickle)):
            raise pickle.PicklingError("an environment that is not reached by attributes alone")
        if isinstance(obj, types.FunctionType) and "<" in obj.__qualname__:
            return cloudpickle.loads, (cloudpickle.dumps(obj),)
        if isinstance(obj, ReplayBuffer):
            return reduced(obj)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: bytes, nodes: Mapping[str, Any], references: Mapping[Any, Any]):
        super().__init__(io.BytesIO(pickled))
        self.nodes, self.references = nodes, references

    def persistent_load(self, key: Any) -> Any:
        kind, *place = key
        if kind == "node":
            return self.nodes.get(place[0])
        if kind == "kept":
            node = self.nodes.get(place[0])
            return None if node is None else vars(node).get(place[1])
        return self.references.get(key)


class _Relocator(pickle.Unpickler):
    """Reads a graph without its nodes: a placeholder stands for each reference, by its key with the new path."""

    def __init__(self, pickled: bytes, renamed: Callable[[str], str | None], placeholders: dict[Any, Any]):
        super().__init__(io.BytesIO(pickled))
        self.renamed, self.placeholders = renamed, placeholders

    def persistent_load(self, key: Any) -> Any:
        kind, *place = key
        if kind in ("node", "kept"):
            key = (kind, self.renamed(place[0]), *place[1:])
        return self.placeholders.setdefault(key, _Placeholder())


class _Placeholder:
    """Stands for an object that is not pickled."""
