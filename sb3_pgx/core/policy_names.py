"""Names of recurrent policies, in addition to those in an algorithm's ``policy_aliases``."""

from typing import Any

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
