"""The layers of a policy, remembered: to switch all of them between acting and training, and to see when they have changed."""

from typing import Any

from stable_baselines3.common.policies import BaseModel
from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Modules:
    """
    The layers and parameters of one policy.

    ``version`` grows whenever :meth:`look` finds other layers, parameters or hooks than before: what was built from them must
    be built anew. Plain attributes that a layer reads are compared at the start of a training alone, for some count in them.
    """

    def __init__(self) -> None:
        self.version = 0
        self._modules: list[nn.Module] = []
        self._parts: list[Any] = []
        self._plain_train = False
        self._attributes: Any = None

    def look(self, policy: BaseModel, start: bool = False) -> int:
        """
        Compare with what was there before.

        :param policy: whatever is the policy now
        :param start: of a training: compare attributes, too
        :return: the version
        """
        known = self._modules and self._modules[0] is policy
        if not known or not _identical(parts := _parts(self._modules), self._parts):
            self._modules = list(policy.modules())
            parts = _parts(self._modules)
            self.version += 1
            self._plain_train = getattr(type(policy), "set_training_mode", None) is BaseModel.set_training_mode and all(
                type(m).train is nn.Module.train and "train" not in vars(m) for m in self._modules
            )
        self._parts = parts
        if start:
            attributes = [_attributes(m) for m in (*self._modules, getattr(policy, "action_dist", None))]
            self.version += self._attributes not in (None, attributes)
            self._attributes = attributes
        return self.version

    def train(self, policy: BaseModel, mode: bool) -> None:
        """Make ``mode`` the mode of the policy and of all its layers, as ``set_training_mode`` does; look first."""
        if not self._plain_train:
            policy.set_training_mode(mode)
            return
        for module in self._modules:
            vars(module)["training"] = mode


def _parts(modules: list[nn.Module]) -> list[Any]:
    """Objects whose identity matters: children and parameters; and whether anything has hooks."""
    parts: list[Any] = []
    for module in modules:
        parts += module._modules.values()
        parts += module._parameters.values()
        parts.append(has_hooks(module))
    return parts


def has_hooks(module: nn.Module) -> bool:
    """Whether a layer or one of its own parameters has hooks, which a graph would not call."""
    return any(map(bool, (vars(module).get(name) for name in _HOOKS))) or any(
        p is not None and (p._backward_hooks or p._post_accumulate_grad_hooks) for p in module._parameters.values()
    )


def _identical(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(map(lambda a, b: a is b, left, right))


def _attributes(owner: Any) -> dict[str, Any]:
    """Numbers, strings and the like that belong to a layer, or tuples of them."""
    values = vars(owner).items() if owner is not None else ()
    return {name: value for name, value in values if _is_plain(value) and name != "training"}


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str | None) or (isinstance(value, tuple) and all(map(_is_plain, value)))
