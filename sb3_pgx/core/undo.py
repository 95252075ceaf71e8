"""Undo a refused rollout: whatever a rollout and its update have changed is put back as it was."""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import torch as th
from torch import Tensor
from torch.optim import Optimizer

PutBack = Callable[[], None]
Method = TypeVar("Method", bound=Callable[..., Any])


class Refusal(ValueError):
    """A rollout or an update is refused. When this leaves ``learn``, the model is as it was before that rollout."""


class Undo:
    """
    A list of functions, each of which puts back one thing that a rollout or its update has changed.

    Whoever is about to change something adds the function first. An accepted update forgets all of them; a refusal runs
    them, the last one first.
    """

    def __init__(self) -> None:
        self._put_back: list[PutBack] = []

    def __getstate__(self) -> dict[str, Any]:
        return vars(Undo())  # the functions are about this model, not about a copy of it

    def add(self, *put_back: PutBack) -> None:
        """:param put_back: functions, of which the last one is run first"""
        self._put_back += put_back

    def forget(self) -> None:
        """Keep what has been changed."""
        self._put_back.clear()

    @contextmanager
    def on(self, *exceptions: type[Exception]) -> Iterator[None]:
        """Within this context, an exception of these kinds puts everything back. Any exception is raised on as it is."""
        try:
            yield
        except BaseException as error:
            with ExitStack() as stack:  # runs all of them, the last one first, even if one of them fails
                if isinstance(error, exceptions):
                    for put_back in self._put_back:
                        stack.callback(put_back)
                self.forget()
            raise


def undone_if_refused(method: Method) -> Method:
    """A method of an algorithm whose refusals put back all that its ``_undo`` knows by then."""

    @wraps(method)
    def undoing(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._undo.on(Refusal):
            return method(self, *args, **kwargs)

    return undoing  # type: ignore[return-value]


def attributes_of(owner: Any, *names: str) -> PutBack:
    """Keep attributes of an object; of queues, copies."""
    attributes = vars(owner)
    before = {name: attributes[name] for name in names if name in attributes}
    before |= {name: value.copy() for name, value in before.items() if isinstance(value, deque)}
    return lambda: attributes.update(before)


def numbers_of(owner: Any) -> PutBack:
    """Keep all numbers among the attributes of an object: counters, and coefficients that adapt."""
    attributes = vars(owner)
    before = {**attributes}

    def put_back() -> None:
        for name, value in [*attributes.items()]:
            if name not in before and _is_scalar(value):  # as long as it was 0, it was the class's
                del attributes[name]
        attributes.update({name: value for name, value in before.items() if _is_scalar(value)})

    return put_back


def _is_scalar(value: Any) -> bool:
    """Whether an attribute is one, truth values included."""
    return isinstance(value, int | float)


def options_of(optimizer: Optimizer) -> PutBack:
    """Keep the options of an optimizer, such as its learning rate."""
    before = [(group, {**group}) for group in optimizer.param_groups]

    def put_back() -> None:
        for group, options in before:
            group.update(options)

    return put_back


def state_of(generator: np.random.Generator) -> PutBack:
    """Keep the state of a random number generator."""
    before = generator.bit_generator.state

    def put_back() -> None:
        generator.bit_generator.state = before

    return put_back


def tensors_of(tensors: Sequence[Tensor], optimizers: Iterable[Optimizer]) -> PutBack:
    """
    Keep parameters and buffers, and of optimizers the moments, step counts, and for which parameters there are any.

    The copies take as much memory as the originals, until they are forgotten.
    """
    tensors, states = [*tensors], []
    for optimizer in optimizers:
        before = {p: {**state} for p, state in optimizer.state.items()}
        for state in before.values():
            tensors += [x for x in state.values() if isinstance(x, Tensor)]
            state.update({name: copy.deepcopy(x) for name, x in state.items() if not isinstance(x, Tensor)})
        states.append((optimizer.state, before))
    with th.no_grad():
        copies = [x.clone() for x in tensors]

    def put_back() -> None:
        with th.no_grad():
            for x, kept in zip(tensors, copies, strict=True):
                x.copy_(kept)
        for held, before in states:
            held.clear()
            held.update(before)

    return put_back
