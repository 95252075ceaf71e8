"""The layers of a policy, remembered, so that all of them can be switched between acting and training at no cost."""

from stable_baselines3.common.policies import BaseModel
from torch import nn


class Modules:
    """
    Switches a policy between training and evaluation mode as its ``set_training_mode`` does, without walking the tree.

    Where any class has a ``train`` of its own, that is what is called.
    """

    def __init__(self) -> None:
        self._policy: BaseModel | None = None
        self._modules: list[nn.Module] | None = None

    def train(self, policy: BaseModel, mode: bool) -> None:
        """Make ``mode`` the mode of the policy and of all its layers."""
        if policy is not self._policy:
            modules = list(policy.modules())
            plain = getattr(type(policy), "set_training_mode", None) is BaseModel.set_training_mode and all(
                type(m).train is nn.Module.train and "train" not in vars(m) for m in modules
            )
            self._policy, self._modules = policy, modules if plain else None
        if self._modules is None:
            policy.set_training_mode(mode)
        else:
            for module in self._modules:
                vars(module)["training"] = mode
