"""
Restore the model after a refused rollout.

If a rollout or its update is refused (for example because a number is not finite), the model must be as it was before that
rollout. Each function of this module saves the state of one thing, such as an optimizer, and returns a function that restores
it. :class:`Undo` collects these functions.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import torch as th
from torch import Tensor
from torch.optim import Optimizer

from sb3_pgx.core.tensors import copy_all, flatten, unflatten

PutBack = Callable[[], None]
Method = TypeVar("Method", bound=Callable[..., Any])


class Refusal(ValueError):
    """Error for a refused rollout or update. When it leaves ``learn``, the model is as it was before that rollout."""


class Undo:
    """
    A list of functions, each of which restores one thing that a rollout or its update changes.

    Code that is about to change something first adds the function that restores it. An accepted update forgets all functions;
    a refused one calls them, the last one first.
    """

    def __init__(self) -> None:
        self._put_back: list[PutBack] = []

    def __getstate__(self) -> dict[str, Any]:
        return vars(Undo())  # the functions restore this model, not a copy of it

    def add(self, *put_back: PutBack) -> None:
        """
        Add functions that restore something.

        :param put_back: functions without arguments; the last one is called first
        """
        self._put_back += put_back

    def forget(self) -> None:
        """Accept all changes: forget the functions without calling them."""
        self._put_back.clear()

    @contextmanager
    def on(self, *exceptions: type[BaseException]) -> Iterator[None]:
        """
        Within this context, restore everything if an exception of these types is raised. All exceptions are passed on.

        :param exceptions: types of exceptions
        """
        try:
            yield
        except BaseException as error:
            failures = list(filter(None, map(_failure, reversed(self._put_back)))) if isinstance(error, exceptions) else []
            self.forget()
            if failures:
                raise failures[0] from error
            raise


def _failure(put_back: PutBack) -> Exception | None:
    """Put one thing back. What fails must not keep the others from being put back."""
    try:
        put_back()
    except Exception as error:
        return error
    return None


def undone_if_refused(method: Method) -> Method:
    """Decorate an algorithm's method: if it raises :class:`Refusal`, everything in the algorithm's ``_undo`` is restored."""

    @wraps(method)
    def undoing(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._undo.on(Refusal):
            return method(self, *args, **kwargs)

    return undoing  # type: ignore[return-value]


def attributes_of(owner: Any, *names: str) -> PutBack:
    """Save these attributes of an object; queues are copied."""
    attributes = vars(owner)
    before = {name: attributes[name] for name in names if name in attributes}
    before |= {name: value.copy() for name, value in before.items() if isinstance(value, deque)}
    return lambda: attributes.update(before)


def numbers_of(owner: Any) -> PutBack:
    """Save all numbers among the attributes of an object, such as counters and adaptive coefficients."""
    attributes = vars(owner)
    before = {**attributes}

    def put_back() -> None:
        for name, value in [*attributes.items()]:
            if name not in before and is_scalar(value):  # until then, the class's attribute held
                del attributes[name]
        attributes.update({name: value for name, value in before.items() if is_scalar(value)})

    return put_back


def is_scalar(value: Any) -> bool:
    """Return whether an attribute is a number or a truth value."""
    return isinstance(value, int | float)


def options_of(optimizer: Optimizer) -> PutBack:
    """Save the options of an optimizer, such as its learning rate."""
    before = [(group, {**group}) for group in optimizer.param_groups]

    def put_back() -> None:
        for group, options in before:
            group.update(options)

    return put_back


def state_of(generator: np.random.Generator) -> PutBack:
    """Save the state of a random number generator."""
    before = generator.bit_generator.state

    def put_back() -> None:
        generator.bit_generator.state = before

    return put_back


def tensors_of(tensors: Sequence[Tensor], optimizers: Iterable[Optimizer]) -> PutBack:
    """
    Save tensors, such as parameters, and the state of optimizers: moments, step counts, and which parameters have a state.

    The copies take as much memory as the originals until :meth:`Undo.forget`.

    :param tensors: tensors that change in place
    :param optimizers: optimizers that change these tensors
    """
    tensors, states = [*tensors], []
    for optimizer in optimizers:
        before = {p: {**state} for p, state in optimizer.state.items()}
        for state in before.values():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    tensors.append(value)
                elif not is_scalar(value):
                    state[name] = copy.deepcopy(value)
        states.append((optimizer.state, before))
    # In one vector per kind of tensor, which takes half the time of a copy per tensor.
    alike: dict[tuple[th.dtype, th.device], list[Tensor]] = {}
    for x in tensors:
        alike.setdefault((x.dtype, x.device), []).append(x)
    with th.no_grad():
        copies = [(group, flatten(group)) for group in alike.values()]

    def put_back() -> None:
        with th.no_grad():
            for group, kept in copies:
                copy_all(group, unflatten(kept, group))
        for held, before in states:
            held.clear()
            held.update(before)

    return put_back
