"""A person who hovers over a class in an editor reads there what each of its arguments means."""

import inspect
import re

import pytest

from sb3_pgx.registry import EVERY_ALGORITHM

# Numbers without a typical range.
NOT_TUNED = {"verbose"}
ELSEWHERE = r"\blikewise\b|\bas in (?:PPO|NPG|A2C|REINFORCE|SB3)\b|listed here"


def documented(doc):
    """Return the text of each argument in a class docstring, by name."""
    parts = re.split(r"^\s*:(?:param (\w+)|raises \w+):", doc, flags=re.MULTILINE)
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True) if name}


def arguments(algorithm):
    return list(inspect.signature(EVERY_ALGORITHM[algorithm].__init__).parameters.values())[1:]


def is_hyperparameter(argument):
    default = argument.default
    number = isinstance(default, int | float) and not isinstance(default, bool)
    optional_number = default is None and "float" in str(argument.annotation)
    return argument.name not in NOT_TUNED and (number or optional_number)


@pytest.mark.parametrize("algorithm", EVERY_ALGORITHM)
def test_a_class_documents_each_of_its_arguments_and_no_others(algorithm):
    texts = documented(vars(EVERY_ALGORITHM[algorithm])["__doc__"])
    assert set(texts) == {argument.name for argument in arguments(algorithm)}
    assert all(texts.values()) and not [name for name, text in texts.items() if re.search(ELSEWHERE, text)]


@pytest.mark.parametrize("algorithm", EVERY_ALGORITHM)
def test_a_hyperparameter_has_a_typical_range_and_the_effect_of_changing_it(algorithm):
    texts = documented(vars(EVERY_ALGORITHM[algorithm])["__doc__"])
    numbers = [argument.name for argument in arguments(algorithm) if is_hyperparameter(argument)]
    assert len(numbers) > 5
    assert not [name for name in numbers if not re.search(r"Typical:.*(Larger|Smaller)\s+values", texts[name], re.DOTALL)]
