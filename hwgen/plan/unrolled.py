"""Choosing how a Conv2d at the network's start runs as adders, its weights being constants of the circuit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from hwgen.format.network import Conv2d, Layer, MaxPool2d
from hwgen.format.shapes import Tensor
from hwgen.plan.mac import Request, distinct_parts, signed_bits, useful_products, window_of
from hwgen.plan.stages import Pair, Unrolled
from hwgen.plan.stream import Stream, torch_layout
from hwgen.plan.unrolled_graph import adder_graph
from rtl_templates import timing
from rtl_templates.adder_graph import AdderGraph
from rtl_templates.target import ECP5, Target

# Beyond, finding the adders takes minutes, and they fill most FPGAs.
MOST_WEIGHTS = 3000


def serves(layer: Conv2d, stream: Stream) -> bool:
    """Whether a layer that sees the input can be unrolled."""
    return (
        stream.entries is None
        and layer.groups == 1
        and layer.padding == (0, 0)
        and layer.dilation == (1, 1)
        and int(np.count_nonzero(layer.weight)) <= MOST_WEIGHTS
    )


def pool_of(following: Layer | None, before: Tensor, after: Tensor) -> Pair:
    """Windows of the max-pool that the engine takes in; (1, 1) where the layer behind it is none that it can."""
    if not isinstance(following, MaxPool2d) or following.kernel != following.stride:
        return (1, 1)
    whole = tuple(size // part for size, part in zip(before.shape[1:], following.kernel, strict=True))
    apart = following.padding == (0, 0) and following.dilation == (1, 1) and after.shape[1:] == whole
    return following.kernel if apart else (1, 1)


def candidates(request: Request, pool: Pair, target: Target = ECP5, widths: int = 1) -> Iterator[Unrolled]:
    """The narrowest engines within the limit, if there are any.

    Args:
        request: the layer; its stream is the network's input.
        pool: of the max-pool that the engine takes in.
        target: that the adders are written for.
        widths: how many engines, each with a wider output than the one before.
    """
    layer, stream = request.layer, request.stream
    assert isinstance(layer, Conv2d)
    window = window_of(layer, stream.map, request.result)
    outputs = layer.weight.shape[0]

    def cycles(pixels: int, lanes: int) -> int:
        beats = -(-outputs // lanes)
        return timing.window_sweep_interval(window.map, window.kernel, window.stride, pool, pixels, beats)

    divisors = [pixels for pixels in range(1, stream.map[1] + 1) if stream.map[1] % pixels == 0]
    pixels = next((pixels for pixels in divisors if cycles(pixels, outputs) <= request.limit), None)
    if pixels is None:
        return
    graph = graph_of(layer, stream.signed, target)
    wide_enough = [lanes for lanes in distinct_parts(outputs) if cycles(pixels, lanes) <= request.limit]
    for lanes in wide_enough[:widths]:
        yield Unrolled(
            name=layer.name,
            cycles=cycles(pixels, lanes),
            products=useful_products(request, window),
            mode="sparse-dense",
            window=window,
            pool=pool,
            signed=stream.signed,
            channels=stream.channels,
            pixels=pixels,
            adders=len(graph.nodes),
            adder_bits=graph.adder_bits,
            lanes=lanes,
            accumulator_bits=max(2, signed_bits(request.result)),
            layout=torch_layout(outputs, lanes),
        )


def graph_of(layer: Conv2d, signed: bool, target: Target = ECP5) -> AdderGraph:
    """The layer's weights as adders; found once for the same weights, since planning asks for every limit it tries.

    Args:
        layer: with the weights.
        signed: of an activation.
        target: that the adders are written for.
    """
    outputs = layer.weight.shape[0]
    return _graph(layer.weight.reshape(outputs, -1).tobytes(), outputs, signed, target.adder_operands, target.sharing)


@lru_cache(maxsize=64)
def _graph(weights: bytes, outputs: int, signed: bool, operands: int, sharing: int | None) -> AdderGraph:
    matrix = np.frombuffer(weights, np.int8).reshape(outputs, -1).T
    low, high = (-128, 127) if signed else (0, 255)
    return adder_graph(matrix, low, high, operands=operands, sharing=sharing)
