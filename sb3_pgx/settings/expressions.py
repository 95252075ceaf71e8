"""Evaluates the Python expressions in hyperparameter files without executing code."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from torch import nn

# Allowed in addition to the modules of torch.nn and the optimizers of torch.optim, by name or by full path.
CLASSES = {c.__name__: c for c in (RMSpropTFLike, HerReplayBuffer, NatureCNN, FlattenExtractor, CombinedExtractor)}
PATHS = {f"{c.__module__}.{c.__name__}": c for c in CLASSES.values()}
PACKAGES: dict[str, tuple[Any, type]] = {  # by the part of a name before its last dot
    **dict.fromkeys(("nn", "th.nn", "torch.nn"), (nn, nn.Module)),
    **dict.fromkeys(("optim", "th.optim", "torch.optim"), (th.optim, th.optim.Optimizer)),
}
MAX_BITS = 1024  # of a power, so that it cannot take forever


def evaluate_expression(text: str) -> Any:
    """
    Return the value of a Python expression that consists of numbers and arithmetic, texts, ``True``, ``False``, ``None``,
    lists, tuples, dictionaries, ``dict(name=…)``, and names of classes for policies, such as ``nn.Tanh``.

    :param text: the expression
    :raises ValueError: it contains something else; the message names the part
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as error:
        raise ValueError(error.msg) from None
    except (ArithmeticError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from None


def expression_for(value: type) -> str | None:
    """Return an expression that :func:`evaluate_expression` reads as this class; ``None`` if there is none."""
    name = value.__name__
    if CLASSES.get(name) is value:
        return name
    return next((f"{package}.{name}" for package in ("nn", "th.optim") if _in_package(package, name) is value), None)


def literal(value: Any, otherwise: Callable[[Any], str]) -> str:
    """
    Return an expression that :func:`evaluate_expression` reads as a value.

    :param value: a number, a text, ``None``, a class, or a dictionary, list or tuple of them
    :param otherwise: returns the text of a value that has no such expression, or raises an error
    """
    if isinstance(value, Mapping):
        return f"dict({', '.join(f'{name}={literal(item, otherwise)}' for name, item in value.items())})"
    if isinstance(value, list):
        return f"[{', '.join(literal(item, otherwise) for item in value)}]"
    if isinstance(value, tuple):
        return f"({''.join(f'{literal(item, otherwise)}, ' for item in value)})"
    if isinstance(value, type):
        return expression_for(value) or otherwise(value)
    return repr(value) if value is None or isinstance(value, bool | int | float | str) else otherwise(value)


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str()):
            return node.value
        case ast.List():
            return [_value(item) for item in node.elts]
        case ast.Tuple():
            return tuple(_value(item) for item in node.elts)
        case ast.Dict() if None not in node.keys:
            return {_value(key): _value(item) for key, item in zip(node.keys, node.values, strict=True) if key is not None}
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            return _keywords(node)
        case ast.UnaryOp() if type(node.op) in SIGNS:
            return SIGNS[type(node.op)](_number(node.operand))
        case ast.BinOp() if type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](_number(node.left), _number(node.right))
        case ast.Name() | ast.Attribute():
            return _class(ast.unparse(node))
    raise ValueError(
        f"{ast.unparse(node)} is more than a value; allowed are numbers, texts, lists, dict(…) and classes such as nn.Tanh"
    )


def _keywords(call: ast.Call) -> dict[str, Any]:
    names = [keyword.arg for keyword in call.keywords]
    if None in names or len(set(names)) < len(names):
        raise ValueError(f"{ast.unparse(call)}: write dict(name=value, …), each name once")
    return {str(keyword.arg): _value(keyword.value) for keyword in call.keywords}


def _number(node: ast.expr) -> int | float:
    value = _value(node)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{ast.unparse(node)} is not a number")
    return value


def _power(base: int | float, exponent: int | float) -> Any:
    if isinstance(base, int) and base.bit_length() * abs(exponent) > MAX_BITS:  # it would take forever
        raise ValueError(f"{base}**{exponent} is too large")
    if base < 0 and not float(exponent).is_integer():
        raise ValueError(f"({base})**{exponent} is not a real number")
    return base**exponent


def _class(name: str) -> type:
    package, _, last = name.rpartition(".")
    found = CLASSES.get(name) or PATHS.get(name) or _in_package(package, last)
    if found is None:
        known = ", ".join(CLASSES)
        raise ValueError(f"{name} is not a class of torch.nn (nn.Tanh) or torch.optim (th.optim.Adam), nor one of {known}")
    return found


def _in_package(package: str, name: str) -> type | None:
    module, base = PACKAGES.get(package, (None, object))
    found = vars(module).get(name) if module is not None else None
    return found if isinstance(found, type) and issubclass(found, base) else None


SIGNS: dict[type, Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: _power,
}
