"""Leaves out the beats that carry nothing."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Shape, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl_templates import streams
from rtl_templates.layouts import checked
from rtl_templates.pipe import StreamBuffer
from rtl_templates.streams import Layout


class DropEmpty(wiring.Component):
    """Passes the beats of a position in which at least one lane carries a channel.

    Complementary sets of unequal size leave holes in the stream that drains them; a component that counts values, or
    pays for each beat, wants them gone.

    Arguments:
        layout: of the stream x.
        shape: of a value.

    Members:
        x, y: value streams of the same number of lanes.

    Latency: 1 cycle. Initiation interval: 1 cycle for a beat, also for a dropped one.
    """

    LATENCY = StreamBuffer.LATENCY

    def __init__(self, layout: Layout, shape: Shape):
        self._kept = [any(channel >= 0 for channel in row) for row in checked(layout)]
        if not any(self._kept):
            raise ValueError("layout must carry at least one channel")
        beat = streams.values(shape, len(layout[0]))
        super().__init__({"x": In(beat), "y": Out(beat)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.buffer = buffer = StreamBuffer(self.y.payload.shape())
        wiring.connect(m, buffer.y, wiring.flipped(self.y))
        beat, kept = Signal(range(len(self._kept))), Signal()
        m.d.comb += [
            # A dropped beat waits for the buffer too, which keeps ready out of the choice.
            self.x.ready.eq(buffer.x.ready),
            buffer.x.valid.eq(self.x.valid & kept),
            buffer.x.payload.eq(self.x.payload),
        ]
        with m.Switch(beat):
            for index, keep in enumerate(self._kept):
                with m.Case(index):
                    m.d.comb += kept.eq(keep)
        with m.If(self.x.valid & self.x.ready):
            m.d.sync += beat.eq(Mux(beat == len(self._kept) - 1, 0, beat + 1))
        return m
