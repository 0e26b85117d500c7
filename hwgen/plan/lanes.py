"""Choosing how a Conv2d runs as a chain of lanes behind winner lists, and the weights of its lanes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hwgen.format.network import Conv2d
from hwgen.format.packed import Packing
from hwgen.plan.mac import Request, signed_bits, useful_products, window_of
from hwgen.plan.schedule import Slots
from hwgen.plan.stages import Lanes, ListLanes, Window
from hwgen.plan.stream import Stream
from rtl_templates.sub_lists import SubLists
from rtl_templates.windows import Windows


def serves(layer: object, stream: Stream) -> bool:
    """Whether a layer takes the stream with a chain of lanes: whole lists, one for each pixel of a map."""
    return isinstance(layer, Conv2d) and stream.entries is not None and stream.whole


def candidates(request: Request) -> Iterator[Lanes]:
    """The shortest chain that serves the layer within the limit, all sets at once; of those, one that cuts lists least."""
    slots, stream = request.slots, request.stream
    entries = stream.entries
    assert entries is not None
    window = window_of(request.layer, stream.map, request.result)
    sets, kernels, rows = slots.packing.sets, slots.packing.kernels, slots.rows_max
    pixels = windows_of(window).pixels

    chains = []
    for split in SubLists(entries).splits():
        lists, total = SubLists(entries, split), window.area * split
        most = request.limit // max(window.positions * lists.reads * rows, pixels * lists.rows)
        if most:
            lanes = -(-total // most)
            # No more of them in a lane than this number of lanes needs.
            chains.append((lanes, split, -(-total // lanes)))
    if not chains or window.positions * kernels > request.limit:
        return
    lanes, split, parts = min(chains)
    lists, multipliers = SubLists(entries, split), lanes * sets
    if multipliers > request.most:
        return
    interval = max(lists.reads * rows * parts, kernels)
    yield Lanes(
        name=request.layer.name,
        cycles=max(window.positions * interval, pixels * lists.rows * parts),
        multipliers=multipliers,
        products=useful_products(request, window),
        mode=request.mode,
        window=window,
        signed=stream.signed,
        entries=entries,
        index_size=stream.index_size,
        sets=sets,
        kernels=kernels,
        list_rows=rows,
        interval=interval,
        parts=parts,
        split=split,
        accumulator_bits=max(2, signed_bits(request.result)),
        weight_bits=window.area * split * stream.index_size * rows * sets * (8 + (kernels - 1).bit_length()),
        layout=slots.drain_layout(sets),
    )


def windows_of(window: Window) -> Windows:
    """The window as the lanes see it: over a map that comes pixel by pixel."""
    return Windows(window.map, window.kernel, window.stride, window.padding, window.dilation)


def weights(stage: ListLanes, packing: Packing) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
    """Weights and kernel IDs of every lane: (area, rows of a column, channels, sets)."""
    all_weights, all_ids = Slots.of(packing).dense(1, stage.sets)

    def arranged(content: NDArray) -> NDArray:
        shape = (stage.index_size, stage.window.area, stage.list_rows, stage.sets)
        return content[0, :-1].reshape(shape).transpose(1, 2, 0, 3)

    return arranged(all_weights), arranged(all_ids)
