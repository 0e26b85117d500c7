"""Choosing how a Linear or Conv2d layer runs on a MAC engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from hwgen.format.network import Conv2d, Linear
from hwgen.format.shapes import Tensor
from hwgen.plan.schedule import Slots, list_steps, value_steps
from hwgen.plan.stages import WORD_GAP, Mac, Pair, Window
from hwgen.plan.stream import Stream
from rtl_templates import timing

# Cycles from the last step of a group to the moment its bank of accumulators can be used again, without the drain
# itself and without the adder trees; measured in tests/rtl_templates/test_mac_engine.py.
BANK_LATENCY = 13


@dataclass(frozen=True, eq=False)
class Request:
    """One MAC layer to plan.

    Attributes:
        layer, slots: what it computes; for mode "dense" the packing multiplies every zero.
        result: the accumulator's proven range.
        mode: of the stage.
        stream: what arrives.
        limit: cycles a word that the stage may take.
        most: multipliers that it may have.
    """

    layer: Linear | Conv2d
    slots: Slots
    result: Tensor
    mode: str
    stream: Stream
    limit: int
    most: float


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
    """For each number of sets served at once the fewest multipliers within the limit, with either kind of accumulators."""
    slots, stream = request.slots, request.stream
    window = window_of(request.layer, stream.window_map, request.result)
    sets, kernels = slots.packing.sets, slots.packing.kernels
    listed = stream.entries is not None
    useful = useful_products(request, window)
    # Folds that lie within a tile read only what its outputs have in common.
    for parallel in sorted({*distinct_parts(sets), *divisors(slots.tile)}):
        groups = window.positions * -(-sets // parallel)
        longest = (request.limit - WORD_GAP) // groups
        # A group cannot take less than its drain, even with all lanes at once.
        if longest < kernels:
            continue
        most_lanes = request.most / parallel
        read = _fewest_lanes(slots, window, stream, parallel, longest, most_lanes)
        if read is not None:
            yield _engine(request, window, useful, parallel, *read)
        if slots.packing.routed:
            rest = timing.serial_interval(0, kernels, listed)
            read = _fewest_lanes(slots, window, stream, parallel, longest - rest, most_lanes)
            if read is not None:
                mac = _engine(request, window, useful, parallel, *read)
                yield with_drain(replace(mac, serial=True), kernels)


def _engine(
    request: Request, window: Window, useful: int, parallel: int, beats_per_row: int, readers: int, steps: int
) -> Mac:
    slots, stream = request.slots, request.stream
    sets, kernels = slots.packing.sets, slots.packing.kernels
    listed = stream.entries is not None
    folds = -(-sets // parallel)
    rows_max = slots.rows_max if listed else 1
    lanes = readers * (1 if listed else beats_per_row * stream.lanes)
    interval = max(steps, kernels)
    return Mac(
        name=request.layer.name,
        cycles=window.positions * folds * interval + WORD_GAP,
        multipliers=lanes * parallel,
        products=useful,
        mode=request.mode,
        window=window,
        signed=stream.signed,
        stream_lanes=None if listed else stream.lanes,
        beats=len(stream.layout) if stream.entries is None else stream.entries,
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
        banks=banks_for(steps, interval, kernels, int(lanes - 1).bit_length()),
        accumulator_bits=max(2, signed_bits(request.result)),
        weight_bits=_weight_bits(
            slots.packing, folds, steps, readers, lanes, parallel, listed, stream, window, rows_max
        ),
        in_layout=stream.layout,
        layout=slots.drain_layout(parallel),
        routed=slots.packing.routed or kernels == 1,
        nonzeros=int(np.count_nonzero(request.layer.mask)),
    )


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


def _fewest_lanes(
    slots: Slots, window: Window, stream: Stream, parallel: int, most_steps: int, most_lanes: float
) -> tuple[int, int, int] | None:
    """(beats a row, readers, steps) of the fewest lanes within so many steps: wider rows first, then more readers.

    A wider row also brings columns that a tile has no weights for: for tiles, readers of single beats are tried too.
    """
    if most_steps < 1 or most_lanes < 1:
        return None
    if stream.entries is not None:
        for readers in distinct_parts(window.area):
            steps = list_steps(window.area, stream.entries, slots.rows_max, readers)
            if steps <= most_steps:
                return (1, readers, steps) if readers <= most_lanes else None
        return None
    wide = _wide_rows(slots, window, stream, parallel, most_steps, most_lanes)
    if slots.tile == 1:
        return wide
    single = _readers(slots, window, stream, parallel, most_steps, most_lanes, beats_per_row=1)
    return min((read for read in (wide, single) if read), key=lambda read: read[0] * read[1], default=None)


def _wide_rows(
    slots: Slots, window: Window, stream: Stream, parallel: int, most_steps: int, most_lanes: float
) -> tuple[int, int, int] | None:
    """As `_fewest_lanes`: one reader of rows as wide as it takes, or several of the widest."""
    beats = len(stream.layout)
    # No row brings more activations than it has places.
    least_lanes = -(-slots.activations(parallel) // most_steps)
    if least_lanes > most_lanes:
        return None
    for beats_per_row in distinct_parts(beats):
        lanes = beats_per_row * stream.lanes
        if lanes > most_lanes:
            return None
        if lanes >= least_lanes:
            steps = value_steps(slots, window.area, stream.layout, beats_per_row, parallel, 1)
            if steps <= most_steps:
                return beats_per_row, 1, steps
    return _readers(slots, window, stream, parallel, most_steps, most_lanes, beats)


def _readers(
    slots: Slots, window: Window, stream: Stream, parallel: int, most_steps: int, most_lanes: float, beats_per_row: int
) -> tuple[int, int, int] | None:
    """As `_fewest_lanes`: as many readers of such rows as it takes."""
    total = value_steps(slots, window.area, stream.layout, beats_per_row, parallel, 1)
    readers = -(-total // most_steps)
    if readers * beats_per_row * stream.lanes > most_lanes:
        return None
    return beats_per_row, readers, -(-total // readers)


@lru_cache(maxsize=4096)
def distinct_parts(total: int) -> tuple[int, ...]:
    """The sizes worth choosing for parts of `total`: the smallest for each number of parts, ascending."""
    numbers = np.arange(1, max(total, 1) + 1)
    return tuple(np.unique(-(-max(total, 1) // numbers)).tolist())


def divisors(total: int) -> tuple[int, ...]:
    return tuple(part for part in range(1, total + 1) if total % part == 0)


def useful_products(request: Request, window: Window) -> int:
    """Products a word that the mode does not skip."""
    stream = request.stream
    products = request.slots.packing.nonzeros * window.positions
    if stream.entries is None:
        return products
    return round(products * stream.entries / stream.index_size)


def signed_bits(tensor: Tensor) -> int:
    return tensor.bits + (0 if tensor.signed else 1)


def _weight_bits(packing, folds, steps, readers, lanes, parallel, listed, stream, window, rows_max) -> int:
    width = 8 + ((packing.kernels - 1).bit_length() if packing.routed else 0)
    if listed:
        return folds * -(-window.area // readers) * readers * rows_max * stream.index_size * parallel * width
    return folds * steps * lanes * parallel * width
