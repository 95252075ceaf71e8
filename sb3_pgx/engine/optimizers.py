"""Torch's optimizers as pure functions of one flat vector. They give the same numbers, and can be part of a graph."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adam import adam
from torch.optim.adamw import adamw

from sb3_pgx.core.tensors import copy_all
from sb3_pgx.ops.objectives import sum_of, weighted

Group = Mapping[str, Any]


class OptimizerRule(ABC):
    """
    The step of one kind of optimizer. The class itself is used, without creating an object.

    ``moments`` names the tensors that the optimizer keeps for each parameter, in addition to the step count.
    """

    moments: ClassVar[tuple[str, ...]]
    initial = 0.0  # value of every moment before the first step

    @staticmethod
    def new_count(steps: int) -> dict[str, Any]:
        """Return a parameter's step count as torch's optimizer keeps it."""
        return {"step": th.tensor(float(steps))}

    @staticmethod
    @abstractmethod
    def scalars(group: Group, step: int) -> tuple[float, ...]:
        """
        Return the numbers that a step needs.

        :param group: the optimizer's options
        :param step: 1 for the first step
        """

    @staticmethod
    @abstractmethod
    def step(theta: Tensor, gradient: Tensor, moments: Sequence[Any], s: Sequence[Any]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """
        Return what a step makes of parameters and moments.

        :param theta: parameters, ``[P]``
        :param gradient: gradient of the loss, ``[P]``
        :param moments: one for each name, ``[P]`` each
        :param s: :meth:`scalars`, as numbers or as tensors without dimensions
        :return: parameters and moments after the step
        """

    @classmethod
    def move(cls, theta: Tensor, gradient: Tensor, moments: Sequence[Tensor], group: Group, number: int) -> None:
        """
        Take the same step on the host, in place.

        :param theta: parameters, ``[P]``
        :param gradient: gradient of the loss, ``[P]``
        :param moments: one for each name, ``[P]`` each
        :param group: the optimizer's options
        :param number: of the step, 1 for the first one
        """
        after, kept = cls.step(theta, gradient, moments, cls.scalars(group, number))
        copy_all((theta, *moments), (after, *kept))

    @classmethod
    def stepped(
        cls,
        thetas: Sequence[Tensor],
        gradients: Sequence[Tensor],
        moments: Sequence[Sequence[Tensor]],
        group: Group,
        number: int,
    ) -> list[tuple[Tensor, Sequence[Tensor]]]:
        """
        Return what a step on the host makes of several parameters and their moments, without changing them.

        :param thetas: parameters of any shape
        :param gradients: gradient of the loss with respect to each parameter
        :param moments: for each parameter, one tensor per name
        :param group: the optimizer's options
        :param number: of the step, 1 for the first one
        """
        scalars = cls.scalars(group, number)
        return [cls.step(x, g, kept, scalars) for x, g, kept in zip(thetas, gradients, moments, strict=True)]


class Adam(OptimizerRule):
    """Adam (Kingma & Ba, 2015, algorithm 1), with weight decay added to the gradient."""

    moments = ("exp_avg", "exp_avg_sq")
    fused: ClassVar[Any] = getattr(th, "_fused_adam_", None)  # which Adam(fused=True) calls; private
    function: ClassVar[Any] = staticmethod(adam)  # which Adam calls

    @staticmethod
    def scalars(group: Group, step: int) -> tuple[float, ...]:
        beta1, beta2 = group["betas"]
        size = group["lr"] / (1 - beta1**step)
        correction = (1 - beta2**step) ** -0.5
        # 1 − β in double precision: of a β in single precision it would be wrong in the fifth digit.
        averages = (1 - beta1, beta2, 1 - beta2)
        return float(size), float(correction), *averages, group["eps"], group["weight_decay"], group["lr"]

    @staticmethod
    def step(theta: Tensor, gradient: Tensor, moments: Sequence[Any], s: Sequence[Any]) -> tuple[Tensor, tuple[Tensor, ...]]:
        size, correction, weight, beta2, square_weight, eps, weight_decay, _ = s
        gradient = sum_of(gradient, weighted(weight_decay, theta))
        mean = th.lerp(moments[0], gradient, weight)
        square = plus_product(beta2 * moments[1], square_weight, gradient, gradient)
        return minus_quotient(theta, size, mean, square.sqrt() * correction + eps), (mean, square)

    @classmethod
    def move(cls, theta: Tensor, gradient: Tensor, moments: Sequence[Tensor], group: Group, number: int) -> None:
        """Take the step by torch's fused operation, in a third of the time. Arguments are those of the base class."""
        if cls.fused is None:
            super().move(theta, gradient, moments, group, number)
        else:
            means, squares = [[x] for x in moments]
            arguments = cls._arguments(group, lr=float(group["lr"]))
            cls.fused([theta], [gradient], means, squares, [], [th.tensor(float(number))], **arguments)

    @classmethod
    def stepped(
        cls,
        thetas: Sequence[Tensor],
        gradients: Sequence[Tensor],
        moments: Sequence[Sequence[Tensor]],
        group: Group,
        number: int,
    ) -> list[tuple[Tensor, Sequence[Tensor]]]:
        """
        Take the step by torch's own function, on copies. It rounds as the optimizer does, so that runs without a graph equal
        SB3's bit for bit, however many steps they take. Arguments are those of the base class.
        """
        after, kept = [x.clone() for x in thetas], [[x.clone() for x in of_one] for of_one in moments]
        means, squares = map(list, zip(*kept, strict=True))
        steps = [th.tensor(float(number - 1)) for _ in thetas]  # before the step
        how = {name: group.get(name) for name in ("foreach", "fused")}
        cls.function(after, [*gradients], means, squares, [], steps, **how, **cls._arguments(group))
        return [*zip(after, kept, strict=True)]

    @staticmethod
    def _arguments(group: Group, **changed: Any) -> dict[str, Any]:
        """Return the options as torch's functions take them."""
        beta1, beta2 = group["betas"]
        same = {name: group[name] for name in ("lr", "weight_decay", "eps")}
        return {**same, "beta1": beta1, "beta2": beta2, "amsgrad": False, "maximize": False, **changed}


class AdamW(Adam):
    """AdamW (Loshchilov & Hutter, 2019): weight decay is separate from the gradient."""

    fused = getattr(th, "_fused_adamw_", None)
    function = staticmethod(adamw)

    @staticmethod
    def step(theta: Tensor, gradient: Tensor, moments: Sequence[Any], s: Sequence[Any]) -> tuple[Tensor, tuple[Tensor, ...]]:
        *others, weight_decay, lr = s
        return Adam.step(theta * (1 - lr * weight_decay), gradient, moments, (*others, 0.0, lr))


class RMSprop(OptimizerRule):
    """RMSprop (Tieleman & Hinton, 2012), neither centred nor with momentum."""

    moments = ("square_avg",)

    @staticmethod
    def scalars(group: Group, step: int) -> tuple[float, ...]:
        return group["lr"], group["alpha"], 1 - group["alpha"], group["eps"], group["weight_decay"]

    @staticmethod
    def step(theta: Tensor, gradient: Tensor, moments: Sequence[Any], s: Sequence[Any]) -> tuple[Tensor, tuple[Tensor, ...]]:
        lr, alpha, weight, eps, weight_decay = s
        gradient = sum_of(gradient, weighted(weight_decay, theta))
        square = plus_product(alpha * moments[0], weight, gradient, gradient)
        return minus_quotient(theta, lr, gradient, square.sqrt() + eps), (square,)


class TensorFlowRMSprop(RMSprop):
    """RMSprop as in TensorFlow: ε is under the root, and averages start at 1."""

    initial = 1.0

    @staticmethod
    def new_count(steps: int) -> dict[str, Any]:
        return {"step": steps}

    @staticmethod
    def step(theta: Tensor, gradient: Tensor, moments: Sequence[Any], s: Sequence[Any]) -> tuple[Tensor, tuple[Tensor, ...]]:
        lr, alpha, weight, eps, weight_decay = s
        gradient = sum_of(gradient, weighted(weight_decay, theta))
        square = plus_product(alpha * moments[0], weight, gradient, gradient)
        return minus_quotient(theta, lr, gradient, (square + eps).sqrt()), (square,)


class SGD(OptimizerRule):
    """Gradient descent without momentum."""

    moments = ()

    @staticmethod
    def new_count(steps: int) -> dict[str, Any]:
        return {}

    @staticmethod
    def scalars(group: Group, step: int) -> tuple[float, ...]:
        return group["lr"], group["weight_decay"]

    @staticmethod
    def step(theta: Tensor, gradient: Tensor, moments: Sequence[Any], s: Sequence[Any]) -> tuple[Tensor, tuple[Tensor, ...]]:
        lr, weight_decay = s
        return theta - lr * sum_of(gradient, weighted(weight_decay, theta)), ()


class MomentumSGD(OptimizerRule):
    """Gradient descent with heavy-ball momentum. The first step fills the buffer with the gradient, as in torch."""

    moments = ("momentum_buffer",)

    @staticmethod
    def new_count(steps: int) -> dict[str, Any]:
        return {}

    @staticmethod
    def scalars(group: Group, step: int) -> tuple[float, ...]:
        fresh = 1.0 if step == 1 else 1.0 - group["dampening"]
        return group["lr"], group["momentum"], fresh, group["weight_decay"]

    @staticmethod
    def step(theta: Tensor, gradient: Tensor, moments: Sequence[Any], s: Sequence[Any]) -> tuple[Tensor, tuple[Tensor, ...]]:
        lr, momentum, fresh, weight_decay = s
        buffer = momentum * moments[0] + fresh * sum_of(gradient, weighted(weight_decay, theta))
        return theta - lr * buffer, (buffer,)


def plus_product(x: Tensor, weight: Tensor | float, a: Tensor, b: Tensor) -> Tensor:
    """Return x + weight · a · b, in one operation if the weight is a number."""
    return x + weight * a * b if isinstance(weight, Tensor) else th.addcmul(x, a, b, value=weight)


def minus_quotient(x: Tensor, weight: Tensor | float, a: Tensor, b: Tensor) -> Tensor:
    """Return x − weight · a / b, in one operation if the weight is a number."""
    return x - weight * a / b if isinstance(weight, Tensor) else th.addcdiv(x, a, b, value=-weight)


_PLAIN: dict[type[Optimizer], type[OptimizerRule]] = {
    th.optim.Adam: Adam,
    th.optim.AdamW: AdamW,
    th.optim.RMSprop: RMSprop,
    RMSpropTFLike: TensorFlowRMSprop,
    th.optim.SGD: SGD,
}
# Where torch keeps the hooks of an optimizer's step, and those of the steps of all optimizers. The names are private.
_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
_GLOBAL_HOOKS = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")
_MODULE = sys.modules[Optimizer.__module__]  # which holds the latter
# Options that change what a rule does; with any of them switched on, torch's own step is taken.
_OTHERWISE = ("amsgrad", "maximize", "centered", "nesterov", "differentiable")


def rule_of(optimizer: Optimizer) -> type[OptimizerRule] | str:
    """
    Return the rule that takes the same steps as an optimizer, or the reason why there is none, without a full stop.

    :param optimizer: a policy's optimizer
    """
    kind = type(optimizer)
    if kind not in _PLAIN:
        return f"there is no rule for the optimizer {kind.__name__}"
    if len(optimizer.param_groups) != 1:
        return f"the optimizer has {len(optimizer.param_groups)} groups of parameters"
    if not step_hooks_are_found():
        return "this version of torch keeps the hooks of an optimizer's step in another place"
    if "step" in vars(optimizer) or has_step_hooks(optimizer):
        return "the optimizer's step has been replaced or has hooks"
    (group,) = optimizer.param_groups
    for option in _OTHERWISE:
        if group.get(option):
            return f"there is no rule for {kind.__name__} with {option}"
    if kind is th.optim.SGD:
        return MomentumSGD if group["momentum"] else SGD
    if group.get("momentum"):
        return f"there is no rule for {kind.__name__} with momentum"
    return AdamW if kind is th.optim.Adam and group.get("decoupled_weight_decay") else _PLAIN[kind]


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Return whether torch calls hooks when the optimizer takes a step."""
    own = any(getattr(optimizer, name, None) for name in _HOOKS)
    return own or any(getattr(_MODULE, name, None) for name in _GLOBAL_HOOKS)


@cache
def step_hooks_are_found() -> bool:
    """
    Return whether :func:`has_step_hooks` finds hooks of every kind.

    It reads private names of torch. A version of torch that uses others must not look as if there were no hooks.
    """
    for register in (Optimizer.register_step_pre_hook, Optimizer.register_step_post_hook):
        optimizer = th.optim.SGD([th.zeros(1)], lr=0.0)
        register(optimizer, lambda *arguments: None)
        if not any(getattr(optimizer, name, None) for name in _HOOKS):
            return False
    return all(hasattr(_MODULE, name) for name in _GLOBAL_HOOKS)
