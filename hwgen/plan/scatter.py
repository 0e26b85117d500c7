"""Choosing how a Conv2d runs on a scatter engine, behind a k-WTA over a whole map, and the tables it runs from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hwgen.format.network import Conv2d
from hwgen.format.packed import Packing
from hwgen.plan.mac import Request, distinct_parts, signed_bits, useful_products, window_of
from hwgen.plan.schedule import Slots
from hwgen.plan.stages import Scatter, Window
from hwgen.plan.stream import Stream
from rtl_templates import timing


def serves(layer: object, stream: Stream) -> bool:
    """Whether a layer takes the stream's list with a scatter engine: one list of a map of several positions."""
    return isinstance(layer, Conv2d) and stream.flat and stream.positions > 1


def candidates(request: Request) -> Iterator[Scatter]:
    """Every way to serve the layer within the limit; the caller chooses."""
    slots, stream = request.slots, request.stream
    assert isinstance(request.layer, Conv2d) and stream.entries is not None
    window = window_of(request.layer, stream.map, request.result)
    down, across = (reach(window, axis) for axis in (0, 1))
    sets, kernels, rows = slots.packing.sets, slots.packing.kernels, slots.rows_max
    accumulator_bits = max(2, signed_bits(request.result))
    for parallel in distinct_parts(sets):
        folds = -(-sets // parallel)
        steps = stream.entries * down.inside.shape[1] * across.inside.shape[1] * rows * folds
        places = window.positions * folds * kernels
        cycles = timing.scatter_interval(steps, places)
        if cycles > request.limit or parallel > request.most:
            continue
        weight_bits = 8 + (kernels - 1).bit_length()
        yield Scatter(
            name=request.layer.name,
            cycles=cycles,
            multipliers=parallel,
            products=useful_products(request, window),
            mode=request.mode,
            window=window,
            signed=stream.signed,
            channels=stream.channels,
            entries=stream.entries,
            sets=sets,
            kernels=kernels,
            parallel=parallel,
            folds=folds,
            list_rows=rows,
            steps=steps,
            places=places,
            accumulator_bits=accumulator_bits,
            weight_bits=slots.packing.columns * rows * folds * parallel * weight_bits,
            layout=slots.drain_layout(parallel),
        )


@dataclass(frozen=True, eq=False)
class Reach:
    """Which outputs each input reaches along one axis; arrays as in rtl_templates.scatter_engine.Reach."""

    inside: NDArray[np.bool_]
    output: NDArray[np.int64]
    kernel: NDArray[np.int64]


@lru_cache(maxsize=256)
def reach(window: Window, axis: int) -> Reach:
    """Along one axis: as many offsets as the input that reaches most outputs, which stride and dilation may make few."""
    place = (
        np.arange(window.size[axis])[:, None] * window.stride[axis]
        + np.arange(window.kernel[axis]) * window.dilation[axis]
        - window.padding[axis]
    )
    reached = [np.argwhere(place == at) for at in range(window.map[axis])]
    offsets = max(1, max(len(pairs) for pairs in reached))
    inside = np.zeros((window.map[axis], offsets), bool)
    pairs = np.zeros((*inside.shape, 2), np.int64)
    for at, found in enumerate(reached):
        inside[at, : len(found)], pairs[at, : len(found)] = True, found
    return Reach(inside, pairs[..., 0], pairs[..., 1])


def weights(stage: Scatter, packing: Packing) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
    """Weights and kernel IDs as in rtl_templates.scatter_engine.ScatterEngine."""
    shape = (stage.channels, *stage.window.kernel, stage.list_rows, stage.folds, stage.parallel)

    def arranged(content: NDArray) -> NDArray:
        return content[:, : packing.columns].transpose(1, 2, 0, 3).reshape(shape)

    by_fold, kernel_ids = Slots.of(packing).dense(stage.folds, stage.parallel)
    return arranged(by_fold), arranged(kernel_ids)
