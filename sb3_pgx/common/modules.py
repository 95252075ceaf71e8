"""The layers of a policy, remembered: to switch all of them between acting and training, and to see when they have changed."""

from itertools import chain
from operator import attrgetter, is_
from typing import Any

from stable_baselines3.common.policies import BaseModel
from torch import Tensor, nn

from sb3_pgx.common.compiling import signature

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Modules:
    """
    The layers and parameters of one policy.

    ``version`` grows whenever :meth:`look` finds other layers, parameters, hooks, types, devices or layouts than before:
    what was built from them must be built anew. Plain attributes that a layer reads are compared at the start of a training
    alone, for some count in them. ``parameters`` are the policy's, by name.
    """

    def __init__(self) -> None:
        self.version = 0
        self.parameters: dict[str, nn.Parameter] = {}
        self._modules: list[nn.Module] = []
        self._holders: list[dict[str, Any]] = []  # of children and parameters
        self._hooks: list[dict[int, Any]] = []
        self._held: list[Any] = []
        self._kinds: tuple[Any, ...] = ()
        self._hooked = self._plain_train = False
        self._attributes: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(Modules()) | {"version": self.version}  # whatever is looked at next is new

    def look(self, policy: BaseModel, start: bool = False) -> int:
        """
        Compare with what was there before.

        :param policy: whatever is the policy now
        :param start: of a training: compare attributes, too
        :return: the version
        """
        if not (self._modules and self._modules[0] is policy and self._is_known()):
            self._remember(policy)
            self.version += 1
        kinds = signature(self.parameters.values())
        if kinds != self._kinds:
            self._kinds = kinds
            self.version += 1
        if start:
            attributes = [_attributes(m) for m in (*self._modules, getattr(policy, "action_dist", None))]
            self.version += self._attributes not in (None, attributes)
            self._attributes = attributes
        return self.version

    def tensors(self) -> list[Tensor]:
        """Parameters and buffers."""
        buffers = {id(b): b for m in self._modules for b in m._buffers.values() if b is not None}  # layers may share one
        return [*self.parameters.values(), *buffers.values()]

    def _is_known(self) -> bool:
        held = list(chain.from_iterable(map(dict.values, self._holders)))
        if len(held) != len(self._held) or not all(map(is_, held, self._held)):
            return False
        return self._hooked == self._has_hooks()

    def _remember(self, policy: BaseModel) -> None:
        self._modules = list(policy.modules())
        self._holders = [holder for m in self._modules for holder in (m._modules, m._parameters)]
        self._hooks = [hooks for m in self._modules for name in _HOOKS if (hooks := vars(m).get(name)) is not None]
        self._held = list(chain.from_iterable(map(dict.values, self._holders)))
        self.parameters = dict(policy.named_parameters())
        self._hooked = self._has_hooks()
        self._plain_train = getattr(type(policy), "set_training_mode", None) is BaseModel.set_training_mode and all(
            type(m).train is nn.Module.train and "train" not in vars(m) for m in self._modules
        )

    def _has_hooks(self) -> bool:
        return any(self._hooks) or any(map(any, map(_hooks_of, self.parameters.values())))

    def train(self, policy: BaseModel, mode: bool) -> None:
        """Make ``mode`` the mode of the policy and of all its layers, as ``set_training_mode`` does."""
        if not (self._plain_train and self._modules[0] is policy):
            policy.set_training_mode(mode)
            return
        for module in self._modules:
            vars(module)["training"] = mode


def has_hooks(module: nn.Module) -> bool:
    """Whether a layer or one of its own parameters has hooks, which a graph would not call."""
    return any(vars(module).get(name) for name in _HOOKS) or any(
        p is not None and any(_hooks_of(p)) for p in module._parameters.values()
    )


_hooks_of = attrgetter("_backward_hooks", "_post_accumulate_grad_hooks")


def _attributes(owner: Any) -> dict[str, Any]:
    """Numbers, strings and the like that belong to a layer, or tuples of them."""
    values = vars(owner).items() if owner is not None else ()
    return {name: value for name, value in values if _is_plain(value) and name != "training"}


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str | None) or (isinstance(value, tuple) and all(map(_is_plain, value)))
