"""Functions of a plan: one signature serves the function that checks the arguments, and the one that also does the work."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
Plan = TypeVar("Plan")
R = TypeVar("R")


def planned_by(make_plan: Callable[P, Plan]) -> Callable[[Callable[[Plan], R]], Callable[P, R]]:
    """
    Return a decorator for a function of a plan. The decorated function has the arguments of ``make_plan`` instead.

    :param make_plan: checks its arguments, and returns a plan
    """

    def decorate(work: Callable[[Plan], R]) -> Callable[P, R]:
        @functools.wraps(work)
        def planned(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{work.__name__}() {error}") from None
            return work(make_plan(*args, **kwargs))

        shown: Any = planned
        result, signature = inspect.signature(work).return_annotation, inspect.signature(make_plan)
        shown.__signature__ = signature.replace(return_annotation=result)
        return planned

    return decorate
