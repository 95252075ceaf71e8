"""Record the inputs and outputs of a policy's linear layers and convolutions during a forward pass."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch as th
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

LAYERS = "Linear and Conv2d"  # whose functions are recorded


@dataclass(frozen=True)
class Convolution:
    """How a convolution moves over its images."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer."""

    weight: str  # names of its parameters
    bias: str | None
    inputs: Tensor  # [B, n], or [B, C, H, W]
    outputs: Tensor  # [B, m], or [B, m, H', W'], before the activation function
    convolution: Convolution | None


class LayerCalls(TorchFunctionMode):
    """
    A context that records each layer of a forward pass with gradients, whichever module calls it. Hooks would be seen by
    others, and are not part of a trace.

    ``calls`` has one entry per call, in order. Calls that no single Kronecker product describes are left out: those with
    groups, with padding given as a text, or with more than one row per sample.

    :param parameters: parameters, by name, or the tensors that replace them
    """

    def __init__(self, parameters: Mapping[str, Tensor]):
        super().__init__()
        self.calls: list[LayerCall] = []
        self._parameters = dict(parameters)  # keeps them alive, so that no id comes twice
        self._names = {id(p): name for name, p in parameters.items()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        outputs = func(*args, **kwargs)
        if th.is_grad_enabled():
            if func is F.linear:
                self._add(outputs, None, *_linear(*args, **kwargs))
            elif func is F.conv2d:
                self._add(outputs, *_convolution(*args, **kwargs))
        return outputs

    def _add(
        self, outputs: Tensor, convolution: Convolution | None, inputs: Tensor, weight: Tensor, bias: Tensor | None
    ) -> None:
        name = self._names.get(id(weight))
        is_known = convolution is not None or weight.dim() == 2
        if name is not None and is_known and inputs.dim() == weight.dim():
            of_bias = None if bias is None else self._names.get(id(bias))
            self.calls.append(LayerCall(name, of_bias, inputs, outputs, convolution))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    return input, weight, bias


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Convolution | None, Tensor, Tensor, Tensor | None]:
    if groups != 1 or isinstance(padding, str):
        return None, input, weight, bias
    kernel_size = tuple(weight.shape[2:])
    return Convolution(kernel_size, _pair(stride), _pair(padding), _pair(dilation)), input, weight, bias


def _pair(value: Any) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value) * (2 // len(value))
