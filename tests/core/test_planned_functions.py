"""Functions that have the arguments of the function which plans their work."""

import inspect

import pytest

from sb3_pgx.core.planned_functions import planned_by
from sb3_pgx.experiments import compare
from sb3_pgx.experiments.comparison import plan_comparison
from sb3_pgx.tuning import tune
from sb3_pgx.tuning.tuning_plan import plan_tuning


def plan(first: int, second: int = 2) -> list[int]:
    if first < 0:
        raise ValueError("first is negative")
    return [first, second]


@planned_by(plan)
def total(numbers: list[int]) -> int:
    """Return the sum."""
    return sum(numbers)


def test_the_work_gets_the_plan_and_has_its_signature():
    assert total(1) == 3 and total(first=1, second=5) == 6 and total.__doc__ == "Return the sum."
    assert str(inspect.signature(total)) == "(first: int, second: int = 2) -> int"
    with pytest.raises(ValueError, match="first is negative"):
        total(-1)


@pytest.mark.parametrize("work, planner", [(compare, plan_comparison), (tune, plan_tuning)])
def test_comparisons_and_searches_show_their_arguments(work, planner):
    shown, planned = inspect.signature(work), inspect.signature(planner)
    assert shown.parameters == planned.parameters and "progress" in shown.parameters
    assert shown.return_annotation != planned.return_annotation
    assert all(f":param {name}: " in work.__doc__ for name in shown.parameters)
