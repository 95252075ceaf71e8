"""Which class a policy stands for: names of recurrent policies, and classes for mixed actions."""

from typing import Any

from gymnasium import spaces

from sb3_pgx.core.errors import one_line
from sb3_pgx.core.mixed_policies import FOR_MIXED_ACTIONS, MixedActionsMixin
from sb3_pgx.core.mixed_spaces import is_mixed
from sb3_pgx.core.recurrent_evaluation import is_recurrent

RECURRENT_POLICIES = (
    "MlpLstmPolicy",
    "CnnLstmPolicy",
    "MultiInputLstmPolicy",
    "MlpGruPolicy",
    "CnnGruPolicy",
    "MultiInputGruPolicy",
)


def named_policy(policy: Any) -> Any:
    """
    Return the class if the argument is the name of a recurrent policy, and otherwise the argument. Only such a name imports
    sb3-contrib.

    :param policy: policy argument of a constructor
    """
    if not isinstance(policy, str) or policy not in RECURRENT_POLICIES:
        return policy
    from sb3_pgx.core import recurrent_policies

    return recurrent_policies.BY_NAME[policy]


def policy_class_acting_in(policy_class: Any, action_space: spaces.Space) -> Any:
    """
    Return the policy class to use in an action space: for a mixed one, ours instead of SB3's or sb3-contrib's; otherwise the
    given one.

    :param policy_class: policy class that was asked for; a user's own class is returned as it is
    :param action_space: action space of the environment
    """
    if not is_mixed(action_space):
        return policy_class
    if not is_recurrent(policy_class):
        return FOR_MIXED_ACTIONS.get(policy_class, policy_class)
    from sb3_pgx.core import recurrent_policies

    return recurrent_policies.FOR_MIXED_ACTIONS.get(policy_class, policy_class)


def check_acts_in(policy_class: Any, action_space: spaces.Space) -> None:
    """
    Check that a policy can act in the action space.

    :param policy_class: class of the policy, or a function that makes one
    :param action_space: action space of the environment
    :raises ValueError: the actions are mixed, and SB3's policies, from which the class is derived, cannot act in them
    """
    takes = isinstance(policy_class, type) and issubclass(policy_class, MixedActionsMixin)
    if not is_mixed(action_space) or not isinstance(policy_class, type) or takes:
        return
    names, base = "MlpPolicy, CnnPolicy or MultiInputPolicy", "mixed_policies.MixedActionsPolicy"
    if is_recurrent(policy_class):
        names, base = "MlpLstmPolicy, MlpGruPolicy or their relatives", "recurrent_policies.MixedActionsMlpLstmPolicy"
    raise ValueError(
        f"{policy_class.__name__} cannot act in {one_line(action_space)}: use {names}, or derive the class from "
        f"sb3_pgx.core.{base}"
    )
