"""Shapes and exact value ranges through an integer network: the facts that packing, planning and checking share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwgen.errors import ModelError
from hwgen.format.network import (
    Conv2d,
    Flatten,
    Input,
    IntegerNetwork,
    KWinners,
    Layer,
    Linear,
    MaxPool2d,
    Pair,
    ReLU,
    Requantise,
    SumPool2d,
)


@dataclass(frozen=True)
class Tensor:
    """What flows between two layers.

    Attributes:
        shape: (C, H, W) or (F,).
        low, high: proven bounds of every value, inclusive.
    """

    shape: tuple[int, ...]
    low: int
    high: int

    @property
    def signed(self) -> bool:
        return self.low < 0

    @property
    def bits(self) -> int:
        """Width that holds every value: two's complement if any can be negative, else unsigned."""
        if not self.signed:
            return max(1, int(self.high).bit_length())
        return 1 + max(int(self.high).bit_length(), int(-self.low - 1).bit_length())

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """(C, H, W); a vector is a map of one position."""
        if len(self.shape) == 3:
            return self.shape  # type: ignore[return-value]
        return (self.shape[0], 1, 1)


def window_count(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool = False) -> int:
    """Number of windows along one axis, as torch counts them."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (span + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        # Torch drops a last window that would start in the padding on the far side.
        count -= 1
    return max(0, count)


def window_map(
    layer: Conv2d | MaxPool2d | SumPool2d, height: int, width: int, kernel: Pair, dilation: Pair = (1, 1)
) -> Pair:
    """Output height and width of a windowed layer; raises ModelError where no window fits."""
    ceil_mode = getattr(layer, "ceil_mode", False)
    size = tuple(
        window_count(extent, kernel[axis], layer.stride[axis], layer.padding[axis], dilation[axis], ceil_mode)
        for axis, extent in enumerate((height, width))
    )
    if min(size) < 1:
        raise ModelError(f"layer {layer.name!r}: a {kernel[0]}x{kernel[1]} window does not fit a {height}x{width} map")
    return size  # type: ignore[return-value]


def _product_bounds(weight: np.ndarray, bias: np.ndarray, low: int, high: int) -> tuple[int, int]:
    """Exact bounds of bias + weight @ x for x in [low, high], padding zeros and every partial sum included."""
    rows = weight.reshape(weight.shape[0], -1).astype(np.int64)
    high, low = max(high, 0), min(low, 0)
    positive, negative = np.maximum(rows, 0).sum(axis=1), np.minimum(rows, 0).sum(axis=1)
    top = positive * high + negative * low
    bottom = positive * low + negative * high
    bias = bias.astype(np.int64)
    # A partial sum may lack the bias or any of the products, so both bounds include 0 and the bare products.
    return (
        int(min(bottom.min(initial=0), (bottom + bias).min(initial=0), 0)),
        int(max(top.max(initial=0), (top + bias).max(initial=0), 0)),
    )


def output_of(layer: Layer, tensor: Tensor) -> Tensor:
    """The tensor that `layer` makes of `tensor`; raises ModelError where they do not fit."""
    match layer:
        case Linear():
            if len(tensor.shape) != 1 or layer.weight.shape[1] != tensor.shape[0]:
                raise ModelError(
                    f"layer {layer.name!r}: takes {layer.weight.shape[1]} features, but its input has shape {tensor.shape}"
                )
            return Tensor((layer.weight.shape[0],), *_product_bounds(layer.weight, layer.bias, tensor.low, tensor.high))
        case Conv2d():
            if len(tensor.shape) != 3 or layer.weight.shape[1] * layer.groups != tensor.shape[0]:
                raise ModelError(
                    f"layer {layer.name!r}: takes {layer.weight.shape[1] * layer.groups} channels of a map, "
                    f"but its input has shape {tensor.shape}"
                )
            size = window_map(layer, *tensor.shape[1:], layer.weight.shape[2:], layer.dilation)  # type: ignore[arg-type, call-arg]
            bounds = _product_bounds(layer.weight, layer.bias, tensor.low, tensor.high)
            return Tensor((layer.weight.shape[0], *size), *bounds)
        case MaxPool2d():
            _needs_map(layer, tensor)
            size = window_map(layer, *tensor.shape[1:], layer.kernel, layer.dilation)  # type: ignore[arg-type, call-arg]
            for axis in range(2):
                _meets_map(layer, axis, tensor.shape[1 + axis], size[axis])
            return Tensor((tensor.shape[0], *size), tensor.low, tensor.high)
        case SumPool2d():
            _needs_map(layer, tensor)
            size = window_map(layer, *tensor.shape[1:], layer.kernel)  # type: ignore[arg-type, call-arg]
            area = layer.kernel[0] * layer.kernel[1]
            return Tensor((tensor.shape[0], *size), min(tensor.low, 0) * area, max(tensor.high, 0) * area)
        case Requantise():
            return Tensor(tensor.shape, *((-128, 127) if layer.signed else (0, 255)))
        case ReLU():
            return Tensor(tensor.shape, 0, max(tensor.high, 0))
        case KWinners():
            return Tensor(tensor.shape, min(tensor.low, 0), max(tensor.high, 0))
        case Flatten():
            return Tensor((int(np.prod(tensor.shape)),), tensor.low, tensor.high)


def _meets_map(layer: MaxPool2d, axis: int, extent: int, windows: int) -> None:
    """A window that lies wholly in the padding has no largest value: torch gives -infinity, hardware cannot."""
    taps = np.arange(layer.kernel[axis]) * layer.dilation[axis] - layer.padding[axis]
    places = np.arange(windows)[:, None] * layer.stride[axis] + taps
    if not ((places >= 0) & (places < extent)).any(axis=1).all():
        raise ModelError(
            f"layer {layer.name!r}: some windows of the max-pool lie wholly in the padding; reduce padding or dilation"
        )


def _needs_map(layer: MaxPool2d | SumPool2d, tensor: Tensor) -> None:
    if len(tensor.shape) != 3:
        raise ModelError(f"layer {layer.name!r}: takes a map (C, H, W), but its input has shape {tensor.shape}")


def input_tensor(value: Input) -> Tensor:
    return Tensor(value.shape, *((-128, 127) if value.signed else (0, 255)))


def tensors(network: IntegerNetwork) -> list[Tensor]:
    """The network's input followed by each layer's output; raises ModelError where layers do not fit together."""
    result = [input_tensor(network.input)]
    for layer in network.layers:
        result.append(output_of(layer, result[-1]))
    return result
