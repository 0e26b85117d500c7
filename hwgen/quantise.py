"""From a float network and calibration data to the integer network, as docs/arithmetic.md defines it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.calibration import Range, measure_ranges, without_identities
from hwgen.float_network import AvgPool2d, Conv2d, Layer, Linear, Network
from hwgen.format import network as integer
from hwgen.format.network import (
    Flatten,
    Input,
    IntegerNetwork,
    KWinners,
    MaxPool2d,
    ReLU,
    Requantise,
    SumPool2d,
)
from hwgen.format.shapes import input_tensor, output_of

Scales = NDArray[np.float64]

MAX_SHIFT = 47
MAX_MULTIPLIER = 2**16 - 1
# A channel that would need a smaller multiplier gets a larger weight scale instead: 128 bounds the error of rounding
# the multiplier by 0.4 %.
MIN_MULTIPLIER = 2**7
MAX_BIAS = 2**31 - 1
SUMS = Linear | Conv2d | AvgPool2d


def quantise(network: Network, calibration: NDArray[np.floating], *, power_of_two: bool = False) -> IntegerNetwork:
    """Chooses every scale and rounds every weight.

    Args:
        network: the float network.
        calibration: float32 or float64 (N, *network.input_shape), typical inputs; their extremes set the scales of the
            activations, so leave outliers out.
        power_of_two: make every multiplier 1, so that requantisation is a shift. All channels of a layer then share
            one weight scale, and scales are off by up to a factor of sqrt(2) from the best ones.

    Returns:
        The integer network.

    Raises:
        DataError: calibration is empty, of another shape or dtype, or not finite.
        ModelError: a layer whose values cannot be represented.
    """
    network = without_identities(network)
    return round_network(network, measure_ranges(network, calibration), power_of_two=power_of_two).network


@dataclass(frozen=True, eq=False)
class LayerScales:
    """What one step of a layer's integers stands for.

    Attributes:
        weight: float64 (outputs,), of the weights.
        sums: float64 (outputs,), of the bias and the sums: the weight's scale times the input's.
    """

    weight: Scales
    sums: Scales


@dataclass(frozen=True, eq=False)
class RoundedNetwork:
    """An integer network and the scales of its weights, which it needs no more, but training does.

    Attributes:
        network: the integer network.
        scales: of each Linear and Conv2d, by name.
    """

    network: IntegerNetwork
    scales: dict[str, LayerScales]


def round_network(network: Network, ranges: Sequence[Range], *, power_of_two: bool = False) -> RoundedNetwork:
    """Rounds a network whose ranges are known; the same ranges and weights always give the same integers.

    Args:
        network: the float network, from `without_identities`.
        ranges: of its input and of each layer's output, from `measure_ranges`.
        power_of_two: as for `quantise`.
    """
    signed = ranges[0].low < 0
    first = Input(network.input_shape, _activation_scale(ranges[0], signed) or 1.0, signed)
    chain = _Chain(first, power_of_two)
    segments, done = _segments(network.layers), 0
    for number, segment in enumerate(segments):
        done += len(segment)
        chain.append_segment(segment, ranges[done], last=number == len(segments) - 1)
    return RoundedNetwork(IntegerNetwork(first, tuple(chain.layers), chain.output_scale(), network.head), chain.scales)


def _segments(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Cuts the chain before every layer that computes sums; the first segment is what the input passes through."""
    segments: list[list[Layer]] = [[]]
    for layer in layers:
        if isinstance(layer, SUMS):
            segments.append([])
        segments[-1].append(layer)
    return segments


def _activation_scale(values: Range, signed: bool) -> float:
    """The smallest scale whose 8-bit range holds all of `values`; 0 where they are all 0."""
    scale = max(values.high / 127, -values.low / 128) if signed else values.high / 255
    return scale if scale > np.finfo(np.float32).tiny else 0.0


class _Chain:
    """The integer layers so far, and what the 8-bit tensor that they make stands for."""

    def __init__(self, first: Input, power_of_two: bool) -> None:
        self.layers: list[integer.Layer] = []
        self.scales: dict[str, LayerScales] = {}
        self._tensor = input_tensor(first)
        self._scale = first.scale
        self._signed = first.signed
        self._sums_scale: Scales | None = None
        self._power_of_two = power_of_two

    def output_scale(self) -> Scales:
        """Of the first dimension of what the chain makes."""
        channels = self._tensor.shape[0]
        if self._sums_scale is None:
            return np.full(channels, self._scale)
        # A Flatten after the last sums leaves the positions of a channel next to one another.
        return np.repeat(self._sums_scale, channels // len(self._sums_scale))

    def append_segment(self, segment: Sequence[Layer], values: Range, *, last: bool) -> None:
        """Appends a layer that computes sums and the layers that choose among values up to the next one.

        Args:
            segment: as `_segments` cuts them; only the first one, the input's, has no layer that computes sums.
            values: what leaves the segment. Its scale is chosen for them, not for what k-WTA drops: losers may
                saturate, which does not make them win.
            last: no segment follows.
        """
        head: Layer | None = segment[0] if segment else None
        if not isinstance(head, SUMS):
            self._append_choices(segment)
            return
        tail = segment[1:]
        if last and not isinstance(head, AvgPool2d) and all(isinstance(layer, MaxPool2d | Flatten) for layer in tail):
            self._append_sums(head, None)
            self._sums_scale = self.scales[head.name].sums
            self._append_choices(tail)
            return
        # Max-pools commute with ReLU and requantisation, and leave fewer values to requantise.
        movable = ReLU if isinstance(head, AvgPool2d) else ReLU | MaxPool2d
        count = next((i for i, layer in enumerate(tail) if not isinstance(layer, movable)), len(tail))
        leading, rest = tail[:count], tail[count:]
        # A ReLU that only a Flatten or a pool keeps from the sums can still be done by requantisation.
        following = next((layer for layer in rest if not isinstance(layer, MaxPool2d | Flatten)), None)
        rectified = isinstance(following, ReLU) or any(isinstance(layer, ReLU) for layer in leading)
        signed = not rectified and (self._signed or not isinstance(head, AvgPool2d))
        wanted = _activation_scale(values, signed)
        if isinstance(head, AvgPool2d):
            self._append(SumPool2d(head.name, head.kernel, head.stride, head.padding, head.ceil_mode))
            rescale = _rescale_pool(self._scale / head.divisor, self._tensor.shape[0], wanted, self._power_of_two)
        else:
            rescale = self._append_sums(head, wanted)
        for layer in leading:
            if isinstance(layer, MaxPool2d):
                self._append(layer)
        self._append(Requantise(f"{head.name}.requantise", rescale.multiplier, rescale.shift, signed))
        self._scale, self._signed = rescale.scale, signed
        self._append_choices(rest)

    def _append_sums(self, layer: Linear | Conv2d, wanted: float | None) -> _Rescale:
        weights = _round_weights(layer, self._scale, wanted, self._power_of_two)
        self._append(_integer_layer(layer, weights))
        self.scales[layer.name] = weights.scales
        return weights.rescale

    def _append_choices(self, layers: Sequence[Layer]) -> None:
        for layer in layers:
            if isinstance(layer, ReLU):
                if not self._signed:
                    continue
                self._signed = False
            assert isinstance(layer, ReLU | MaxPool2d | KWinners | Flatten)
            self._append(layer)

    def _append(self, layer: integer.Layer) -> None:
        self.layers.append(layer)
        self._tensor = output_of(layer, self._tensor)


@dataclass(frozen=True)
class _Weights:
    """A layer's integers and how its sums are scaled.

    Attributes:
        weight: int8, of the float weight's shape.
        bias: int32 (outputs,).
        scales: of the weights and sums.
        rescale: of the sums; means nothing where they are the network's output.
    """

    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    scales: LayerScales
    rescale: _Rescale


@dataclass(frozen=True)
class _Rescale:
    """multiplier * 2^-shift takes steps of the sums to steps of `scale`."""

    multiplier: NDArray[np.int32]
    shift: int
    scale: float


def _round_weights(layer: Linear | Conv2d, input_scale: float, wanted: float | None, power_of_two: bool) -> _Weights:
    """Chooses the scales of a layer's weights and of its requantisation, and rounds the weights.

    Args:
        layer: the float layer.
        input_scale: of the layer's input.
        wanted: the scale to aim at after requantisation, 0 where any will do, None without requantisation.
        power_of_two: as for `quantise`.
    """
    rows = layer.weight.reshape(len(layer.weight), -1)
    scale = _natural_scales(rows, layer.bias, input_scale)
    rescale = _Rescale(np.ones(len(rows), np.int32), 0, 1.0)
    if wanted is not None and power_of_two:
        common = scale.max()
        wanted = wanted or input_scale * common
        shift = int(np.clip(np.rint(np.log2(wanted / (input_scale * common))), 0, MAX_SHIFT))
        # The nearest power of two either leaves room in the activations or in the weights.
        scale = np.full_like(scale, max(common, wanted * 2.0**-shift / input_scale))
        rescale = _Rescale(rescale.multiplier, shift, float(input_scale * scale[0] * 2.0**shift))
    elif wanted is not None:
        shift, output_scale = _best_shift(input_scale * scale, wanted)
        scale = np.maximum(scale, MIN_MULTIPLIER * 2.0**-shift * output_scale / input_scale)
        multiplier = np.rint(input_scale * scale / output_scale * 2.0**shift)
        rescale = _Rescale(multiplier.astype(np.int32), shift, output_scale)
    sums_scale = input_scale * scale
    weight = np.rint(rows / scale[:, None]).reshape(layer.weight.shape)
    bias = np.rint(layer.bias / sums_scale)
    return _Weights(weight.astype(np.int8), bias.astype(np.int32), LayerScales(scale, sums_scale), rescale)


def _natural_scales(rows: Scales, bias: Scales, input_scale: float) -> Scales:
    """Weight scales (outputs,) that use the whole range of int8 and whose bias fits int32."""
    peak = np.abs(rows).max(axis=1, initial=0.0)
    live = peak > np.finfo(np.float32).tiny
    if live.any():
        scale = np.maximum(peak / 127, np.abs(bias) / (input_scale * MAX_BIAS))
        # A channel without weights only has a bias: the coarsest scale of the others does for it.
        return np.where(live, scale, np.maximum(scale, scale[live].max()))
    # 15 bits for the biases, since nothing else needs the range.
    scale = np.abs(bias) / (input_scale * 2**15)
    return np.where(scale > np.finfo(np.float32).tiny, scale, scale.max(initial=0.0) or 1.0)


def _rescale_pool(sums_scale: float, channels: int, wanted: float, power_of_two: bool) -> _Rescale:
    """The requantisation of a sum pool, whose sums have one scale for all channels."""
    multiplier = 1.0
    if power_of_two:
        shift = int(np.clip(np.ceil(np.log2((wanted or sums_scale) / sums_scale)), 0, MAX_SHIFT))
        output_scale = sums_scale * 2.0**shift
    else:
        shift, output_scale = _best_shift(np.array([sums_scale]), wanted)
        multiplier = np.rint(sums_scale / output_scale * 2.0**shift)
    return _Rescale(np.full(channels, multiplier, np.int32), shift, output_scale)


def _best_shift(sums_scale: Scales, wanted: float) -> tuple[int, float]:
    """The shift that gives the largest multiplier its 16 bits, and the output's scale: `wanted` where that can be."""
    largest = float(sums_scale.max())
    output_scale = max(wanted or largest, largest / MAX_MULTIPLIER)
    shift = int(np.floor(np.log2(MAX_MULTIPLIER * (output_scale / largest))))
    return min(max(shift, 0), MAX_SHIFT), output_scale


def _integer_layer(layer: Linear | Conv2d, weights: _Weights) -> integer.Layer:
    if isinstance(layer, Linear):
        return integer.Linear(layer.name, weights.weight, layer.mask, weights.bias)
    shape = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return integer.Conv2d(layer.name, weights.weight, layer.mask, weights.bias, *shape)
