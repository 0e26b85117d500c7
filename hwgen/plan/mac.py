"""Choosing how a Linear or Conv2d layer runs on a MAC engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from hwgen.format.network import Conv2d, Linear
from hwgen.format.packed import Packing
from hwgen.format.shapes import Tensor
from hwgen.plan.schedule import Slots, list_steps, value_steps
from hwgen.plan.stages import WORD_GAP, Layout, Mac, Pair, Window
from hwgen.plan.stream import Stream
from rtl_templates import timing

# Cycles from the last step of a group to the moment its bank of accumulators can be used again, without the drain
# itself and without the adder trees; measured in tests/rtl_templates/test_mac_engine.py.
BANK_LATENCY = 11


@dataclass(frozen=True, eq=False)
class Request:
    """One MAC layer to plan.

    Attributes:
        layer, slots: what it computes; for mode "dense" the packing multiplies every zero.
        result: the accumulator's proven range.
        mode: of the stage.
        stream: what arrives.
        limit: cycles a word that the stage may take.
    """

    layer: Linear | Conv2d
    slots: Slots
    result: Tensor
    mode: str
    stream: Stream
    limit: int


def window_of(layer: Linear | Conv2d, extent: Pair, result: Tensor) -> Window:
    """The layer's window over a map of (height, width); a Linear layer sees its whole input at one position."""
    if isinstance(layer, Linear):
        return Window(map=extent, kernel=extent, stride=(1, 1), padding=(0, 0), dilation=(1, 1), size=(1, 1))
    return Window(
        map=extent,
        kernel=(layer.weight.shape[2], layer.weight.shape[3]),
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        size=(result.shape[1], result.shape[2]),
    )


def candidates(request: Request) -> Iterator[Mac]:
    """Every way to serve the layer within the limit; the caller chooses."""
    slots, stream = request.slots, request.stream
    window = window_of(request.layer, stream.window_map, request.result)
    sets, kernels = slots.packing.sets, slots.packing.kernels
    listed = stream.entries is not None
    beats = len(stream.layout) if stream.entries is None else stream.entries
    rows_max = slots.rows_max if listed else 1
    useful = useful_products(request, window)
    # A group cannot take less than its drain, even with all lanes at once.
    for parallel in distinct_parts(sets):
        folds = -(-sets // parallel)
        groups = window.positions * folds
        longest = (request.limit - WORD_GAP) // groups
        if longest < kernels:
            continue
        for beats_per_row, readers, steps in _reads(slots, window, stream, parallel, longest, rows_max):
            if steps > longest:
                continue
            lanes = readers * (1 if listed else beats_per_row * stream.lanes)
            interval = max(steps, kernels)
            levels = int(lanes - 1).bit_length()
            mac = Mac(
                name=request.layer.name,
                cycles=groups * interval + WORD_GAP,
                multipliers=lanes * parallel,
                products=useful,
                mode=request.mode,
                window=window,
                signed=stream.signed,
                stream_lanes=None if listed else stream.lanes,
                beats=beats,
                beats_per_row=beats_per_row,
                index_size=stream.index_size,
                readers=readers,
                sets=sets,
                kernels=kernels,
                parallel=parallel,
                folds=folds,
                list_rows=rows_max,
                steps=steps,
                interval=interval,
                banks=banks_for(steps, interval, kernels, levels),
                accumulator_bits=max(2, signed_bits(request.result)),
                weight_bits=_weight_bits(
                    folds, steps, readers, lanes, parallel, kernels, listed, stream, window, rows_max
                ),
                in_layout=stream.layout,
                layout=drain_layout(slots.packing, parallel),
            )
            yield mac
            alone = with_drain(replace(mac, serial=True), kernels)
            if kernels > 1 and alone.cycles <= request.limit:
                yield alone


def banks_for(steps: int, interval: int, drain: int, levels: int) -> int:
    """Accumulator banks at which a group never waits for an earlier group's drain."""
    return max(2, -(-(steps + BANK_LATENCY + 2 * levels + drain) // interval))


def with_drain(stage: Mac, drain: int) -> Mac:
    """The stage with a drain of `drain` cycles a group, where narrower beats make it longer."""
    lanes = stage.multipliers // stage.parallel
    if stage.serial:
        interval = max(timing.serial_interval(stage.steps, stage.kernels, stage.stream_lanes is None), drain)
        return replace(
            stage, interval=interval, cycles=stage.window.positions * stage.folds * interval + WORD_GAP, banks=1
        )
    interval = max(stage.steps, drain)
    return replace(
        stage,
        interval=interval,
        cycles=stage.window.positions * stage.folds * interval + WORD_GAP,
        banks=banks_for(stage.steps, interval, drain, int(lanes - 1).bit_length()),
    )


def _reads(slots, window, stream, parallel, longest, rows_max) -> Iterator[tuple[int, int, int]]:
    """(beats a row, readers, steps), fewest lanes first: wider rows, then more readers of the widest."""
    if stream.entries is not None:
        for readers in distinct_parts(window.area):
            yield 1, readers, list_steps(window.area, stream.entries, rows_max, readers)
        return
    beats = len(stream.layout)
    for beats_per_row in distinct_parts(beats):
        yield beats_per_row, 1, value_steps(slots, window.area, stream.layout, beats_per_row, parallel, 1)
    total = value_steps(slots, window.area, stream.layout, beats, parallel, 1)
    for readers in distinct_parts(total)[1:]:
        yield beats, readers, -(-total // readers)


def distinct_parts(total: int) -> list[int]:
    """The sizes worth choosing for parts of `total`: the smallest for each number of parts, ascending."""
    numbers = np.arange(1, max(total, 1) + 1)
    return sorted({int(size) for size in -(-max(total, 1) // numbers)})


def drain_layout(packing: Packing, parallel: int) -> Layout:
    """Fold by fold, kernel by kernel: the output channel in each set's accumulator."""
    folds = -(-packing.sets // parallel)
    layout = np.full((folds, packing.kernels, parallel), -1, np.int64)
    fold, lane = np.divmod(packing.set_of, parallel)
    layout[fold, packing.kernel_of, lane] = np.arange(len(packing.set_of))
    return tuple(tuple(int(channel) for channel in row) for row in layout.reshape(-1, parallel))


def useful_products(request: Request, window: Window) -> int:
    """Products a word that the mode does not skip."""
    stream = request.stream
    products = request.slots.packing.nonzeros * window.positions
    if stream.entries is None:
        return products
    return round(products * stream.entries / stream.index_size)


def signed_bits(tensor: Tensor) -> int:
    return tensor.bits + (0 if tensor.signed else 1)


def _weight_bits(folds, steps, readers, lanes, parallel, kernels, listed, stream, window, rows_max) -> int:
    width = 8 + (kernels - 1).bit_length()
    if listed:
        return folds * -(-window.area // readers) * readers * rows_max * stream.index_size * parallel * width
    return folds * steps * lanes * parallel * width
