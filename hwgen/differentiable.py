"""The integer network in torch, for training: exact integers forwards, useful gradients backwards.

Tensors hold integers as float64, in which every sum of a network is exact (`hwgen.format.shapes` bounds them). Values
are those of `host.reference`, to the last bit. Gradients are those of the same formulas without rounding, the
straight-through estimator of Bengio, Léonard and Courville (2013, arXiv 1308.3432), and 0 where a value saturates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hwgen.errors import DataError
from hwgen.format.io import dequantise_output
from hwgen.format.network import (
    Conv2d,
    Flatten,
    Input,
    IntegerNetwork,
    KWinners,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Requantise,
    SumPool2d,
)
from hwgen.nn import winners_mask


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, smooth: Tensor, exact: Tensor) -> Tensor:
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


def straight_through(smooth: Tensor, exact: Tensor) -> Tensor:
    """`exact` with the gradient of `smooth`, which has its shape and dtype."""
    return _StraightThrough.apply(smooth, exact)


def quantise_input(input: Input, x: Tensor) -> Tensor:
    """As `hwgen.format.io.quantise_input`.

    Args:
        input: the network's input type.
        x: float32 or float64 (N, *input.shape).

    Returns:
        float64 of x's shape that holds integers.

    Raises:
        DataError: another dtype, another shape or a NaN.
    """
    if x.dtype not in (torch.float32, torch.float64) or x.shape[1:] != input.shape or x.dim() != len(input.shape) + 1:
        wanted = ", ".join(map(str, input.shape))
        raise DataError(f"input: must be a float32 or float64 tensor (N, {wanted}), not {x.dtype} {tuple(x.shape)}")
    if x.isnan().any():
        raise DataError("input: contains NaN, which no integer stands for; every value must be a number")
    low, high = (-128, 127) if input.signed else (0, 255)
    # Division by a tensor: by a number, torch may multiply with the reciprocal, which rounds differently.
    steps = x.double() / x.new_tensor([input.scale], dtype=torch.float64)
    return straight_through(steps.clamp(low, high), (steps + 0.5).floor().clamp(low, high))


def dequantise(network: IntegerNetwork, y: Tensor) -> Tensor:
    """As `hwgen.format.io.dequantise_output`: scales and head.

    Args:
        network: the integer network.
        y: float64 (N, ...): the last layer's integers.

    Returns:
        float32 of y's shape.
    """
    scale = torch.as_tensor(network.output_scale, device=y.device)
    smooth = y * scale.reshape(-1, *[1] * (y.dim() - 2))
    if network.head is not None:
        smooth = getattr(functional, network.head)(smooth, dim=1)
    # Another library's exponential may differ in the last bit.
    exact = dequantise_output(network, y.detach().long().cpu().numpy())
    return straight_through(smooth.float(), torch.from_numpy(exact).to(y.device))


def apply(layer: Layer, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """One layer on a batch.

    Args:
        layer: of the integer network.
        x: float64 (N, C, H, W) or (N, F) that holds integers.
        weight, bias: the integers of a Linear or Conv2d as float64, with their gradients.

    Returns:
        float64 (N, ...) that holds integers.
    """
    match layer:
        case Linear():
            assert weight is not None
            return functional.linear(x, weight, bias)
        case Conv2d():
            assert weight is not None
            return functional.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        case Requantise():
            return _requantise(layer, x)
        case ReLU():
            return functional.relu(x)
        case MaxPool2d():
            return functional.max_pool2d(
                x, layer.kernel, layer.stride, layer.padding, layer.dilation, ceil_mode=layer.ceil_mode
            )
        case SumPool2d():
            return functional.avg_pool2d(
                x, layer.kernel, layer.stride, layer.padding, ceil_mode=layer.ceil_mode, divisor_override=1
            )
        case KWinners():
            return _k_winners(layer, x)
        case Flatten():
            return x.flatten(1)


def _requantise(layer: Requantise, x: Tensor) -> Tensor:
    multiplier = torch.as_tensor(layer.multiplier, dtype=torch.int64, device=x.device)
    multiplier = multiplier.reshape(-1, *[1] * (x.dim() - 2))
    low, high = (-128, 127) if layer.signed else (0, 255)
    # The product may need more than float64's 53 bits.
    scaled = (x.detach().long() * multiplier + ((1 << layer.shift) >> 1)) >> layer.shift
    smooth = (x * (multiplier * 2.0**-layer.shift)).clamp(low, high)
    return straight_through(smooth, scaled.clamp(low, high).double())


def _k_winners(layer: KWinners, x: Tensor) -> Tensor:
    local = layer.local and x.dim() == 4
    groups = x.movedim(1, -1) if local else x.flatten(1)
    kept = torch.where(winners_mask(groups, layer.k), groups, 0.0)
    return kept.movedim(-1, 1) if local else kept.reshape(x.shape)
