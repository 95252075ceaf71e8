"""SB3's base class, for off-policy algorithms that SB3 does not have."""

from typing import Any

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm


class SetUpLater(OffPolicyAlgorithm):
    """SB3's base class with the arguments that its algorithms take from :class:`~sb3_pgx.stages.off_policy.OffPolicy`."""

    def __init__(self, *args: Any, _init_setup_model: bool, **kwargs: Any):
        super().__init__(*args, **{**kwargs, "support_multi_env": True, "sde_support": False})
