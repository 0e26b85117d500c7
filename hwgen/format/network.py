"""The integer network: what every device computes, to the last bit.

A network is a value: an input type, a tuple of layers in the order in which they run, and the scales of its output.
`docs/arithmetic.md` defines each layer in words, `host.reference` in numpy. Tensors are described without the batch
dimension: (C, H, W) for maps, (F,) for vectors. "Index" is always torch's own order, C, H, W flattened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Input:
    """The network's input.

    Attributes:
        shape: (C, H, W) or (F,).
        scale: real value of one integer step.
        signed: int8 if true, else uint8.
    """

    shape: tuple[int, ...]
    scale: float
    signed: bool


@dataclass(frozen=True, eq=False)
class Linear:
    """accumulator[o] = bias[o] + sum over i of weight[o, i] * x[i], exact.

    Attributes:
        name: the torch module's path.
        weight: int8 (outputs, inputs), in [-127, 127], 0 wherever `mask` is false.
        mask: bool (outputs, inputs): the positions that were not pruned, whatever their value.
        bias: int32 (outputs,), at the accumulator's scale.
    """

    name: str
    weight: NDArray[np.int8]
    mask: NDArray[np.bool_]
    bias: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Conv2d:
    """A convolution as torch.nn.Conv2d defines it, padded with zeros, exact.

    Attributes:
        name: the torch module's path.
        weight: int8 (outputs, inputs / groups, kernel height, kernel width), 0 wherever `mask` is false.
        mask: bool, of the weight's shape.
        bias: int32 (outputs,), at the accumulator's scale.
        stride, padding, dilation: (vertical, horizontal).
        groups: as in torch.
    """

    name: str
    weight: NDArray[np.int8]
    mask: NDArray[np.bool_]
    bias: NDArray[np.int32]
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Requantise:
    """y = saturate((x * multiplier[c] + 2^(shift-1)) >> shift); no rounding term where shift is 0.

    Attributes:
        name: of the layer whose result it scales, with a suffix.
        multiplier: int32 (C,) or (F,), 1 <= multiplier < 2^16.
        shift: 0 <= shift <= 47, common to all channels.
        signed: saturates to [-128, 127] if true, else to [0, 255], which is a ReLU as well.
    """

    name: str
    multiplier: NDArray[np.int32]
    shift: int
    signed: bool


@dataclass(frozen=True)
class ReLU:
    """y = max(x, 0), for the places where requantisation cannot do it (after k-WTA)."""

    name: str


@dataclass(frozen=True)
class MaxPool2d:
    """As torch.nn.MaxPool2d; padding never wins. Takes accumulators or quantised values."""

    name: str
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False


@dataclass(frozen=True)
class SumPool2d:
    """The sum over each window, zeros outside the map; AvgPool2d's divisor lives in the scale that follows."""

    name: str
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    ceil_mode: bool = False


@dataclass(frozen=True)
class KWinners:
    """Keeps exactly the k largest quantised values and zeroes the others; ties go to the lowest index.

    Attributes:
        k: winners, 1 <= k; k >= n is the identity.
        local: k of the C values of each position if true, else k of all values of the tensor.
    """

    name: str
    k: int
    local: bool


@dataclass(frozen=True)
class Flatten:
    """(C, H, W) -> (C*H*W,), in torch's order."""

    name: str


Layer: TypeAlias = Linear | Conv2d | Requantise | ReLU | MaxPool2d | SumPool2d | KWinners | Flatten


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """The quantised network.

    Attributes:
        input: type of the input.
        layers: in the order in which they run; names are unique.
        output_scale: float64 (C,) of the output's first dimension: real value of one step of the last layer.
        head: "softmax" or "log_softmax", applied by `run` and not by `run_int`, or None.
    """

    input: Input
    layers: tuple[Layer, ...]
    output_scale: NDArray[np.float64]
    head: str | None = None
