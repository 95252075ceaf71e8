"""
The Kronecker-factored Fisher matrix of a policy: which parameters share a factor, running averages of the factors, and their
inverses.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from sb3_pgx.core.layer_calls import LAYERS, LayerCall, LayerCalls
from sb3_pgx.core.policies import split_parameters
from sb3_pgx.ops.kronecker import (
    average_weight,
    damped_factors,
    input_factor,
    inverse,
    output_factor,
    patches,
    quadratic_form,
    with_ones,
)

Tensors = dict[str, Tensor]
FactorPairs = Sequence[tuple[Tensor, Tensor]]  # factors of the inputs and of the outputs of each block


@dataclass(frozen=True)
class Block:
    """
    Parameters whose part of the Fisher matrix is one Kronecker product: those of a layer, or ``log_std``, which acts as the
    bias of a layer without inputs.

    :param weight: name of the weights; ``None``: there are none
    :param bias: name of the bias; ``None``: there is none
    :param shape: of the weights; without weights, of the bias
    """

    weight: str | None
    bias: str | None
    shape: th.Size

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(name for name in (self.weight, self.bias) if name is not None)

    @property
    def name(self) -> str:
        """Name of the first parameter, which no other block has."""
        return self.names[0]

    @property
    def size(self) -> tuple[int, int]:
        """Numbers of outputs m and of inputs n, the 1 of the bias included."""
        of_weight = 0 if self.weight is None else self.shape[1:].numel()
        return self.shape[0], of_weight + (self.bias is not None)

    def matrix(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the block's part of a vector that is given by name: the matrix ``[m, n]``, the bias as its last column."""
        return th.cat(
            [values[name].flatten(start_dim=1) if values[name].dim() > 1 else values[name][:, None] for name in self.names], 1
        )

    def named(self, matrix: Tensor) -> Tensors:
        """Return the parts of a matrix ``[m, n]`` by name, the inverse of :meth:`matrix`."""
        parts = {} if self.bias is None else {self.bias: matrix[:, -1]}
        if self.weight is not None:
            parts[self.weight] = matrix[:, : self.shape[1:].numel()].reshape(self.shape)
        return parts


class Parts(NamedTuple):
    """What the parameters of a policy are for."""

    blocks: tuple[Block, ...]
    actor: frozenset[str]  # trainable parameters that the action distribution depends on
    critic: frozenset[str]  # trainable parameters that the value depends on; shared ones are in both

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters of all blocks."""
        return tuple(name for block in self.blocks for name in block.names)


def parts_of(policy: ActorCriticPolicy, algorithm: str) -> Parts:
    """
    Divide the parameters of a policy into blocks.

    :param policy: policy without memory
    :param algorithm: name of the algorithm, for the error
    :raises ValueError: a trainable parameter belongs to another kind of layer, or its layer is called more than once
    """
    parameters = dict(policy.named_parameters())
    with th.enable_grad(), LayerCalls(parameters) as recorded:
        actor, critic = split_parameters(policy)
    blocks = [Block(call.weight, call.bias, parameters[call.weight].shape) for call in recorded.calls if len(call.inputs) == 1]
    blocks += [Block(None, name, p.shape) for name, p in parameters.items() if p is getattr(policy, "log_std", None)]
    uses = Counter(name for block in blocks for name in block.names)
    for name in {**actor, **critic}:
        if uses[name] != 1:
            why = (
                "its layer is called more than once"
                if uses[name]
                else f"it belongs to no {LAYERS} layer with one row per sample"
            )
            raise ValueError(
                f"{algorithm} cannot train {name} of {type(policy).__name__}: {why}. K-FAC knows the curvature of "
                f"{LAYERS} layers, without groups and called once, and of log_std. Freeze the parameter with "
                "requires_grad_(False), replace the layer, or use A2C or TRPO"
            )
    return Parts(
        tuple(block for block in blocks if all(uses[name] == 1 for name in block.names)), frozenset(actor), frozenset(critic)
    )


class Factors(nn.Module):
    """
    Running averages of the two factors of a block, and inverses of the damped factors.

    :param block: the block
    :param like: tensor whose type and device they get
    """

    input_factor: Tensor
    output_factor: Tensor
    input_inverse: Tensor
    output_inverse: Tensor

    def __init__(self, block: Block, like: Tensor):
        super().__init__()
        m, n = block.size
        for name, size in (("input", n), ("output", m)):
            self.register_buffer(f"{name}_factor", like.new_zeros(size, size))
            self.register_buffer(f"{name}_inverse", like.new_zeros(size, size))


class Curvature(nn.Module):
    """
    The Kronecker-factored Fisher matrix of a policy, as running averages. It is saved with the model.

    :param blocks: parameters that share a factor
    :param parameters: parameters of the policy, by name
    """

    n_observed: Tensor

    def __init__(self, blocks: Sequence[Block], parameters: Mapping[str, Tensor]):
        super().__init__()
        self.blocks = tuple(blocks)
        self.factors = nn.ModuleList(Factors(block, parameters[block.name].detach()) for block in blocks)
        device = parameters[blocks[0].name].device if blocks else None
        self.register_buffer("n_observed", th.zeros((), dtype=th.long, device=device))

    def observe(self, factors: FactorPairs, decay: float) -> int:
        """
        Add factors to the averages.

        :param factors: factors of one batch
        :param decay: weight of the averages so far
        :return: how often there have been factors
        """
        self.n_observed += 1
        k = int(self.n_observed)
        weight = average_weight(k, decay)
        for kept, (of_inputs, of_outputs) in zip(self._factors, factors, strict=True):
            kept.input_factor.lerp_(of_inputs, weight)
            kept.output_factor.lerp_(of_outputs, weight)
        return k

    def damped(self, damping: float) -> FactorPairs:
        """
        Return the averages with damping.

        :param damping: λ
        """
        return [damped_factors(kept.input_factor, kept.output_factor, damping) for kept in self._factors]

    def invert(self, factors: FactorPairs) -> None:
        """
        Compute the inverses.

        :param factors: damped
        :raises torch.linalg.LinAlgError: a factor has none in double precision
        """
        for kept, (of_inputs, of_outputs) in zip(self._factors, factors, strict=True):
            kept.input_inverse.copy_(inverse(of_inputs))
            kept.output_inverse.copy_(inverse(of_outputs))

    def natural(self, gradient: Mapping[str, Tensor]) -> Tensors:
        """
        Return F⁻¹ times a gradient, with the inverses that were computed last.

        :param gradient: gradient, by name
        """
        natural: Tensors = {}
        for block, kept in zip(self.blocks, self._factors, strict=True):
            natural |= block.named(kept.output_inverse @ block.matrix(gradient) @ kept.input_inverse)
        return natural

    def quadratic(self, step: Mapping[str, Tensor], factors: FactorPairs, names: Iterable[str]) -> float:
        """
        Return ΔᵀFΔ.

        :param step: Δ, by name
        :param factors: of F
        :param names: parameters to which it is restricted, those of whole blocks
        """
        wanted = set(names)
        forms = [
            quadratic_form(block.matrix(step), *pair)
            for block, pair in zip(self.blocks, factors, strict=True)
            if not wanted.isdisjoint(block.names)
        ]
        return float(sum(forms))

    @property
    def _factors(self) -> Iterable[Factors]:
        return self.factors  # type: ignore[return-value]


def observed_factors(block: Block, call: LayerCall | None, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """
    Return the factors of a block in one batch.

    :param block: block
    :param call: call of its layer; ``None``: it has no weights
    :param gradients: gradient of each sample in the outputs, ``[B, m]`` or ``[B, m, H', W']``
    :return: factors of inputs ``[n, n]`` and outputs ``[m, m]``
    """
    if call is None:
        return gradients.new_ones(1, 1), output_factor(gradients)
    inputs = call.inputs.detach()
    if call.convolution is not None:
        how = call.convolution
        inputs = patches(inputs, how.kernel_size, how.stride, how.padding, how.dilation)
        gradients = gradients.flatten(start_dim=2).transpose(1, 2)
    return input_factor(inputs if block.bias is None else with_ones(inputs)), output_factor(gradients)
