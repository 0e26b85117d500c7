"""What is computed: a whole network or one layer, its inputs, and the same network in floats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import hwgen
from hwgen import float_network
from hwgen.errors import ModelError
from hwgen.float_network import Network
from hwgen.format.network import (
    Conv2d,
    Flatten,
    Input,
    IntegerNetwork,
    KWinners,
    Linear,
    MaxPool2d,
    ReLU,
    Requantise,
)
from hwgen.format.packed import PackedNetwork
from hwgen.nn import KWinners2d
from hwgen.sparsify import apply_masks, complementary_mask

Words = NDArray[np.float32]

# One standard deviation of the random inputs, in steps of the network's input: few saturate.
DEVIATION_STEPS = 32.0
# Of a layer: the share of weights that are not pruned, and of inputs that won.
WEIGHT_DENSITY, ACTIVE = 0.05, 0.1
# The smallest winner, of 1: it is not rounded to 0.
SMALLEST_WINNER = 0.1


@dataclass(frozen=True)
class LayerShape:
    """A 1x1 convolution.

    Attributes:
        channels: of the input and of the output.
        size: rows and columns of the map.
    """

    channels: int
    size: int

    @property
    def winners(self) -> int:
        return round(ACTIVE * self.channels)

    @property
    def nonzeros(self) -> int:
        """Of an output channel's weights."""
        return max(1, round(WEIGHT_DENSITY * self.channels))


LAYERS = {"wide": LayerShape(channels=1024, size=8), "small": LayerShape(channels=32, size=4)}


def inputs(input: Input, seed: Sequence[int], n: int) -> Words:
    """n random words for a network's input, float32 (n, *input.shape)."""
    steps = np.random.default_rng(seed).normal(scale=DEVIATION_STEPS, size=(n, *input.shape))
    return ((steps if input.signed else np.abs(steps)) * input.scale).astype(np.float32)


def layer_inputs(shape: LayerShape, seed: Sequence[int], n: int) -> Words:
    """What a local k-WTA leaves: float32 (n, channels, size, size) with exactly `winners` positive values a position."""
    generator = np.random.default_rng(seed)
    order = generator.random((n, shape.size, shape.size, shape.channels)).argsort(axis=-1)
    values = generator.uniform(SMALLEST_WINNER, 1, order.shape)
    return np.where(order < shape.winners, values, 0).astype(np.float32).transpose(0, 3, 1, 2).copy()


def layers(shape: LayerShape, seed: int, calibration: Words) -> tuple[PackedNetwork, PackedNetwork]:
    """The layer behind a k-WTA, which promises that few of its inputs are active, and the layer alone."""
    generator = torch.Generator().manual_seed(seed)
    convolution = nn.Conv2d(shape.channels, shape.channels, 1)
    mask = complementary_mask(shape.channels, shape.channels, shape.nonzeros, generator)
    with torch.no_grad():
        for parameter in convolution.parameters():
            parameter.normal_(generator=generator)
    alone = nn.Sequential(convolution).eval().requires_grad_(False)
    apply_masks(alone, {"0": mask})
    behind = nn.Sequential(KWinners2d(k=shape.winners), convolution).eval()
    return hwgen.pack(behind, calibration=calibration), hwgen.pack(alone, calibration=calibration)


def in_floats(network: IntegerNetwork) -> Network:
    """What an engine without hwgen's arithmetic would be given: real values in and out, nothing rounded or saturated.

    Values between layers are in steps of the integer network: requantisation is folded into the weights before it.

    Raises:
        ModelError: a network with average pools.
    """
    found: list[float_network.Layer] = []
    # From the units of what comes in to steps.
    scale = 1 / network.input.scale
    for layer in network.layers:
        match layer:
            case Linear() | Conv2d():
                weight, bias = layer.weight.astype(np.float64) * scale, layer.bias.astype(np.float64)
                scale = 1.0
                if isinstance(layer, Linear):
                    found.append(float_network.Linear(layer.name, weight, layer.mask, bias))
                else:
                    shape = (layer.stride, layer.padding, layer.dilation, layer.groups)
                    found.append(float_network.Conv2d(layer.name, weight, layer.mask, bias, *shape))
            case Requantise():
                _scale_last(found, layer.multiplier / 2.0**layer.shift)
                if not layer.signed:
                    # Right behind the sums, where engines fuse it; max-pools commute with it.
                    found.insert(_last(found) + 1, ReLU(layer.name))
            case ReLU() | MaxPool2d() | KWinners() | Flatten():
                found.append(layer)
            case _:
                raise ModelError(
                    f"layer {layer.name!r} ({type(layer).__name__}): the comparison has no such layer; "
                    "give a network without average pools"
                )
    # A Flatten leaves the positions of a channel next to one another, all of one scale.
    channels = len(_sums(found, _last(found)).bias)
    _scale_last(found, network.output_scale[:: len(network.output_scale) // channels])
    return Network(network.input.shape, tuple(found), network.head)


def without_winners(network: Network) -> Network:
    """The same layers, k-WTA left out: what remains is the purely dense work that engines are made for."""
    return replace(network, layers=tuple(layer for layer in network.layers if not isinstance(layer, KWinners)))


def _last(found: list[float_network.Layer]) -> int:
    """Index of the last layer with weights."""
    indices = [i for i, layer in enumerate(found) if isinstance(layer, float_network.Linear | float_network.Conv2d)]
    if not indices:
        raise ModelError("the network has no Linear or Conv2d: there is nothing to compare")
    return indices[-1]


def _sums(found: list[float_network.Layer], index: int) -> float_network.Linear | float_network.Conv2d:
    layer = found[index]
    assert isinstance(layer, float_network.Linear | float_network.Conv2d)
    return layer


def _scale_last(found: list[float_network.Layer], factors: NDArray[np.float64]) -> None:
    """Multiplies each output channel of the last layer with weights."""
    index = _last(found)
    layer = _sums(found, index)
    weight = layer.weight * factors.reshape(-1, *[1] * (layer.weight.ndim - 1))
    found[index] = replace(layer, weight=weight, bias=layer.bias * factors)
