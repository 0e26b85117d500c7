"""Choosing how a Conv2d runs on lanes that take its windows in turn, behind winner lists."""

from __future__ import annotations

from collections.abc import Iterator

from hwgen.plan.lanes import windows_of
from hwgen.plan.mac import Request, signed_bits, useful_products, window_of
from hwgen.plan.stages import Window, WindowLanes
from rtl_templates.window_parts import WindowParts

# More parts of a window save memory for weights, and cost lanes.
MOST_CHAINS = 4


def candidates(request: Request) -> Iterator[WindowLanes]:
    """For each number of chains the fewest lanes that serve the layer within the limit, all sets at once."""
    slots, stream = request.slots, request.stream
    entries = stream.entries
    assert entries is not None
    window = window_of(request.layer, stream.map, request.result)
    sets, kernels = slots.packing.sets, slots.packing.kernels
    longest = request.limit // window.positions
    if longest < kernels:
        return
    fewest = None
    for chains in range(1, MOST_CHAINS + 1):
        try:
            parts = WindowParts(windows_of(window), entries, slots.rows_max, kernels, int(longest), chains)
        except ValueError:
            # No part for each chain.
            return
        # As many lanes as the limit asks for may be faster than it asks.
        interval = max(kernels, -(-parts.busy // parts.lanes))
        parts = WindowParts(windows_of(window), entries, slots.rows_max, kernels, interval, chains)
        lanes = chains * parts.lanes
        if parts.cycles > request.limit or lanes * sets > request.most:
            continue
        if fewest is not None and lanes >= 2 * fewest:
            return
        fewest = min(lanes, fewest or lanes)
        yield WindowLanes(
            name=request.layer.name,
            cycles=parts.cycles,
            multipliers=lanes * sets,
            products=useful_products(request, window),
            mode=request.mode,
            window=window,
            signed=stream.signed,
            entries=entries,
            index_size=stream.index_size,
            sets=sets,
            kernels=kernels,
            list_rows=slots.rows_max,
            interval=interval,
            chains=chains,
            accumulator_bits=max(2, signed_bits(request.result)),
            weight_bits=window.area * stream.index_size * slots.rows_max * sets * (8 + (kernels - 1).bit_length()),
            layout=slots.drain_layout(sets),
        )


def parts_of(stage: WindowLanes) -> WindowParts:
    """How the stage's lanes divide its windows."""
    window: Window = stage.window
    return WindowParts(windows_of(window), stage.entries, stage.list_rows, stage.kernels, stage.interval, stage.chains)
