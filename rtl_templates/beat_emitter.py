"""From all values of a position to the beats of a value stream."""

from __future__ import annotations

from itertools import pairwise

from amaranth import Module, Shape, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl_templates import streams
from rtl_templates.layouts import channel_count, checked
from rtl_templates.pipe import StreamBuffer
from rtl_templates.streams import Layout


class BeatEmitter(wiring.Component):
    """Emits the values of a position beat by beat.

    Arguments:
        layout: of the stream y; lanes that carry nothing are 0.
        shape: of a value.

    Members:
        x: stream of positions: an array of all channels' values in torch's order.
        y: value stream.

    Latency: 2 cycles to the first beat. Initiation interval: a position in as many cycles as it has beats.
    """

    LATENCY = 2

    def __init__(self, layout: Layout, shape: Shape):
        self._layout = checked(layout)
        super().__init__(
            {
                "x": In(stream.Signature(data.ArrayLayout(shape, channel_count(self._layout)))),
                "y": Out(streams.values(shape, len(self._layout[0]))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        beat = self.y.payload.shape()
        m.submodules.buffer = buffer = StreamBuffer(beat)
        wiring.connect(m, buffer.y, wiring.flipped(self.y))

        rows = [Signal(beat, name=f"row_{number}") for number in range(len(self._layout))]
        emitted = Signal(range(len(rows)))
        busy, last = Signal(), Signal()
        m.d.comb += [
            last.eq(emitted == len(rows) - 1),
            self.x.ready.eq(~busy | (last & buffer.x.ready)),
            buffer.x.valid.eq(busy),
            buffer.x.payload.eq(rows[0]),
        ]
        with m.If(busy & buffer.x.ready):
            m.d.sync += emitted.eq(emitted + 1)
            # Shifting costs one multiplexer a bit; choosing a row would cost one a row.
            m.d.sync += [row.eq(following) for row, following in pairwise(rows)]
        with m.If(self.x.ready):
            m.d.sync += [busy.eq(self.x.valid), emitted.eq(0)]
            for row, channels in zip(rows, self._layout, strict=True):
                for lane, channel in enumerate(channels):
                    m.d.sync += row[lane].eq(0 if channel == -1 else self.x.payload[channel])
        return m
