"""The definition of the arithmetic: every device must give these integers. Short, slow and obviously right."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from hwgen.format.network import (
    Conv2d,
    Flatten,
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
from hwgen.format.shapes import window_map

Integers = NDArray[np.int64]


def run_int(network: IntegerNetwork, x: NDArray[np.integer]) -> Integers:
    """The network's integer output for integer inputs.

    Args:
        network: the integer network.
        x: integers (N, *network.input.shape) within the input's range.

    Returns:
        int64 (N, ...): the last layer's values, not scaled.
    """
    value = x.astype(np.int64)
    for layer in network.layers:
        value = apply(layer, value)
    return value


def trace(network: IntegerNetwork, x: NDArray[np.integer]) -> Iterator[tuple[Layer, Integers]]:
    """Each layer with its output, in order."""
    value = x.astype(np.int64)
    for layer in network.layers:
        value = apply(layer, value)
        yield layer, value


def apply(layer: Layer, x: Integers) -> Integers:
    """One layer on a batch; x is (N, C, H, W) or (N, F)."""
    match layer:
        case Linear():
            return x @ layer.weight.T.astype(np.int64) + layer.bias
        case Conv2d():
            return convolve(layer, x)
        case Requantise():
            return requantise(layer, x)
        case ReLU():
            return np.maximum(x, 0)
        case MaxPool2d():
            lowest = np.iinfo(np.int64).min
            return windows(layer, x, layer.kernel, layer.dilation, fill=lowest).max(axis=(-2, -1))
        case SumPool2d():
            return windows(layer, x, layer.kernel, (1, 1), fill=0).sum(axis=(-2, -1))
        case KWinners():
            return k_winners(layer, x)
        case Flatten():
            return x.reshape(len(x), -1)


def convolve(layer: Conv2d, x: Integers) -> Integers:
    kernel = layer.weight.shape[2:]
    view = windows(layer, x, kernel, layer.dilation, fill=0)
    batch, _, height, width = view.shape[:4]
    view = view.reshape(batch, layer.groups, -1, height, width, *kernel)
    weight = layer.weight.astype(np.int64).reshape(layer.groups, -1, *layer.weight.shape[1:])
    sums = np.einsum("ngcyxij,gocij->ngoyx", view, weight, optimize=True)
    return sums.reshape(batch, -1, height, width) + layer.bias[:, None, None]


def requantise(layer: Requantise, x: Integers) -> Integers:
    """(x * m + 2^(s-1)) >> s, arithmetic, so that .5 goes towards +infinity; then saturation."""
    multiplier = layer.multiplier.astype(np.int64).reshape(-1, *[1] * (x.ndim - 2))
    half = (1 << layer.shift) >> 1
    scaled = (x * multiplier + half) >> layer.shift
    return np.clip(scaled, -128, 127) if layer.signed else np.clip(scaled, 0, 255)


def k_winners(layer: KWinners, x: Integers) -> Integers:
    """Exactly k winners; a stable sort of the negated values gives ties to the lowest index."""
    groups = np.moveaxis(x, 1, -1) if layer.local and x.ndim == 4 else x.reshape(len(x), -1)
    losers = np.argsort(-groups, axis=-1, kind="stable")[..., layer.k :]
    kept = groups.copy()
    np.put_along_axis(kept, losers, 0, axis=-1)
    return np.moveaxis(kept, -1, 1) if layer.local and x.ndim == 4 else kept.reshape(x.shape)


def windows(layer: Conv2d | MaxPool2d | SumPool2d, x: Integers, kernel: Pair, dilation: Pair, fill: int) -> Integers:
    """(N, C, output height, output width, kernel height, kernel width), `fill` outside the map."""
    rows, columns = window_map(layer, x.shape[2], x.shape[3], kernel, dilation)
    (stride_y, stride_x), (pad_y, pad_x) = layer.stride, layer.padding
    span_y, span_x = dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1
    # ceil_mode may need a few rows and columns more than the padding on the far side.
    far_y = max(pad_y, (rows - 1) * stride_y + span_y - pad_y - x.shape[2])
    far_x = max(pad_x, (columns - 1) * stride_x + span_x - pad_x - x.shape[3])
    padded = np.pad(x, ((0, 0), (0, 0), (pad_y, far_y), (pad_x, far_x)), constant_values=fill)
    view = sliding_window_view(padded, (span_y, span_x), axis=(2, 3))
    return view[:, :, ::stride_y, ::stride_x, :: dilation[0], :: dilation[1]][:, :, :rows, :columns]
