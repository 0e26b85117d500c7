"""The float network: what was read from a framework, before quantisation, and its forward pass in numpy.

Layers without numbers of their own are the integer network's. Tensors are described without the batch dimension:
(C, H, W) for maps, (F,) for vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from hwgen.errors import ShapeError
from hwgen.format.network import Flatten, KWinners, MaxPool2d, Pair, ReLU, SumPool2d
from hwgen.format.shapes import Tensor, output_of, window_count

Floats: TypeAlias = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Linear:
    """y[o] = bias[o] + sum over i of weight[o, i] * x[i].

    Attributes:
        name: the torch module's path.
        weight: float64 (outputs, inputs), 0 wherever `mask` is false.
        mask: bool (outputs, inputs): the positions that were not pruned, whatever their value.
        bias: float64 (outputs,).
    """

    name: str
    weight: NDArray[np.float64]
    mask: NDArray[np.bool_]
    bias: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Conv2d:
    """A convolution as torch.nn.Conv2d defines it, padded with zeros.

    Attributes:
        name: the torch module's path.
        weight: float64 (outputs, inputs / groups, kernel height, kernel width), 0 wherever `mask` is false.
        mask: bool, of the weight's shape.
        bias: float64 (outputs,).
        stride, padding, dilation: (vertical, horizontal).
        groups: as in torch.
    """

    name: str
    weight: NDArray[np.float64]
    mask: NDArray[np.bool_]
    bias: NDArray[np.float64]
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class AvgPool2d:
    """The sum over each window, zeros outside the map, divided by `divisor` > 0."""

    name: str
    kernel: Pair
    stride: Pair
    divisor: int
    padding: Pair = (0, 0)
    ceil_mode: bool = False


Layer: TypeAlias = Linear | Conv2d | ReLU | MaxPool2d | AvgPool2d | KWinners | Flatten


@dataclass(frozen=True, eq=False)
class Network:
    """A straight chain of layers with batch norm folded and dropout removed.

    Attributes:
        input_shape: (C, H, W) or (F,).
        layers: in the order in which they run; names are unique.
        head: "softmax" or "log_softmax" over the output's first dimension, or None.
    """

    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    head: str | None = None


def output_shape(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of what `layer` makes of a tensor of `shape`; raises ModelError where they do not fit."""
    match layer:
        case Linear():
            outputs, inputs = layer.weight.shape
            if len(shape) != 1:
                raise ShapeError(
                    f"layer {layer.name!r} (Linear): takes a vector, but its input has shape {shape}; "
                    "put nn.Flatten before it"
                )
            if shape[0] != inputs:
                raise ShapeError(
                    f"layer {layer.name!r} (Linear): takes {inputs} features, but its input has {shape[0]}"
                )
            return (outputs,)
        case Conv2d():
            outputs, inputs, *kernel = layer.weight.shape
            if len(shape) != 3 or shape[0] != inputs * layer.groups:
                raise ShapeError(
                    f"layer {layer.name!r} (Conv2d): takes a map of {inputs * layer.groups} channels, "
                    f"but its input has shape {shape}"
                )
            size = tuple(
                window_count(
                    shape[1 + axis], kernel[axis], layer.stride[axis], layer.padding[axis], layer.dilation[axis]
                )
                for axis in (0, 1)
            )
            if min(size) < 1:
                raise ShapeError(
                    f"layer {layer.name!r} (Conv2d): a {kernel[0]}x{kernel[1]} window does not fit "
                    f"a {shape[1]}x{shape[2]} map"
                )
            return (outputs, *size)
        case AvgPool2d():
            pool = SumPool2d(layer.name, layer.kernel, layer.stride, layer.padding, layer.ceil_mode)
            return output_of(pool, Tensor(shape, 0, 0)).shape
        case _:
            return output_of(layer, Tensor(shape, 0, 0)).shape


def run(network: Network, x: Floats) -> Floats:
    """The network's float output before its head, in x's precision.

    Args:
        network: the float network.
        x: float32 or float64 (N, *network.input_shape).

    Returns:
        (N, ...) of x's dtype.
    """
    for _, result in trace(network, x):
        x = result
    return x


def trace(network: Network, x: Floats) -> Iterator[tuple[Layer, Floats]]:
    """Each layer with its output, in order."""
    for layer in network.layers:
        x = _apply(layer, x)
        yield layer, x


def _apply(layer: Layer, x: Floats) -> Floats:
    match layer:
        case Linear():
            return x @ layer.weight.T.astype(x.dtype) + layer.bias.astype(x.dtype)
        case Conv2d():
            return _convolve(layer, x)
        case ReLU():
            return np.maximum(x, 0)
        case MaxPool2d():
            view = _windows(x, layer.kernel, layer.stride, layer.padding, layer.dilation, layer.ceil_mode, -np.inf)
            return view.max(axis=(-2, -1))
        case AvgPool2d():
            view = _windows(x, layer.kernel, layer.stride, layer.padding, (1, 1), layer.ceil_mode, 0.0)
            return view.sum(axis=(-2, -1)) / x.dtype.type(layer.divisor)
        case KWinners():
            return _k_winners(layer, x)
        case Flatten():
            return x.reshape(len(x), -1)


def _convolve(layer: Conv2d, x: Floats) -> Floats:
    outputs, inputs, *kernel = layer.weight.shape
    view = _windows(x, (kernel[0], kernel[1]), layer.stride, layer.padding, layer.dilation, False, 0.0)
    batch, _, rows, columns = view.shape[:4]
    # One matrix product a group: einsum would not use BLAS.
    patches = view.transpose(1, 0, 2, 3, 4, 5).reshape(layer.groups, inputs, batch, rows, columns, *kernel)
    patches = patches.transpose(0, 2, 3, 4, 1, 5, 6).reshape(layer.groups, batch * rows * columns, -1)
    weight = layer.weight.astype(x.dtype).reshape(layer.groups, outputs // layer.groups, -1)
    sums = patches @ weight.transpose(0, 2, 1)
    sums = sums.transpose(1, 0, 2).reshape(batch, rows, columns, outputs) + layer.bias.astype(x.dtype)
    return np.ascontiguousarray(sums.transpose(0, 3, 1, 2))


def _k_winners(layer: KWinners, x: Floats) -> Floats:
    """Exactly k winners; a stable sort of the negated values gives ties to the lowest index."""
    local = layer.local and x.ndim == 4
    groups = np.moveaxis(x, 1, -1) if local else x.reshape(len(x), -1)
    losers = np.argsort(-groups, axis=-1, kind="stable")[..., layer.k :]
    kept = groups.copy()
    np.put_along_axis(kept, losers, 0, axis=-1)
    return np.ascontiguousarray(np.moveaxis(kept, -1, 1)) if local else kept.reshape(x.shape)


def _windows(
    x: Floats, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool, fill: float
) -> Floats:
    """(N, C, output height, output width, kernel height, kernel width), `fill` outside the map."""
    span = [dilation[axis] * (kernel[axis] - 1) + 1 for axis in (0, 1)]
    count = [
        window_count(x.shape[2 + axis], kernel[axis], stride[axis], padding[axis], dilation[axis], ceil_mode)
        for axis in (0, 1)
    ]
    # ceil_mode may need a few rows and columns more than the padding on the far side.
    far = [
        max(padding[axis], (count[axis] - 1) * stride[axis] + span[axis] - padding[axis] - x.shape[2 + axis])
        for axis in (0, 1)
    ]
    padded = np.pad(x, ((0, 0), (0, 0), (padding[0], far[0]), (padding[1], far[1])), constant_values=fill)
    view = sliding_window_view(padded, span, axis=(2, 3))  # type: ignore[call-overload]
    view = view[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
    return view[:, :, : count[0], : count[1]]
