"""From the non-zero values of each position to a list of fixed length."""

from __future__ import annotations

from amaranth import Module, Shape, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl_templates import streams, timing
from rtl_templates.entry_emitter import EntryEmitter
from rtl_templates.layouts import channel_count, checked
from rtl_templates.position_loader import PositionLoader
from rtl_templates.streams import Layout


class Compact(wiring.Component):
    """Emits the non-zero values of each position by increasing index, then (0, 0) up to a fixed number of entries.

    Arguments:
        layout: of the stream x.
        shape: of a value.
        size: entries of a position; the producer guarantees that no position has more non-zero values.

    Members:
        x: value stream.
        y: list stream.

    Latency: from a position's last beat to its first entry `LATENCY` cycles.
    Initiation interval: see `rtl_templates.timing.compact_interval`.
    """

    LATENCY = EntryEmitter.LATENCY

    def __init__(self, layout: Layout, shape: Shape, size: int):
        self._layout = checked(layout)
        self._channels = channel_count(self._layout)
        if size < 1:
            raise ValueError(f"size must be at least 1, not {size!r}")
        self._shape, self._size = shape, size
        super().__init__(
            {
                "x": In(streams.values(shape, len(self._layout[0]))),
                "y": Out(streams.entries(shape, self._channels)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.loader = loader = PositionLoader(self._layout, unsigned(1))
        ahead = timing.COMPACT_POSITIONS
        m.submodules.emitter = emitter = EntryEmitter(self._layout, self._shape, self._size, ahead)
        wiring.connect(m, emitter.y, wiring.flipped(self.y))
        m.d.comb += [
            loader.x.valid.eq(self.x.valid),
            self.x.ready.eq(loader.x.ready),
            *(loader.x.payload[lane].eq(self.x.payload[lane].any()) for lane in range(len(self._layout[0]))),
            emitter.write.eq(self.x.valid & self.x.ready),
            emitter.values.eq(self.x.payload),
            emitter.x.valid.eq(loader.y.valid),
            loader.y.ready.eq(emitter.x.ready),
            emitter.x.payload.first.eq(loader.y.payload.as_value()),
            emitter.x.payload.then.eq(0),
        ]
        return m
