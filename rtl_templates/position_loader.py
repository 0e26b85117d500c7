"""From the beats of a position to all its values at once, in torch's order."""

from __future__ import annotations

from amaranth import Module, Shape, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl_templates import streams
from rtl_templates.layouts import channel_count, checked
from rtl_templates.streams import Layout


class PositionLoader(wiring.Component):
    """Collects the values of a position; the last beat passes straight through.

    So the next position can be collected from the cycle after the hand-over, whose consumer must register it.

    Arguments:
        layout: of the stream x.
        shape: of a value.

    Members:
        x: value stream.
        y: stream of positions: an array of all channels' values in torch's order.

    Latency: none. Initiation interval: a position in as many cycles as it has beats.
    """

    def __init__(self, layout: Layout, shape: Shape):
        self._layout = checked(layout)
        self._shape = shape
        super().__init__(
            {
                "x": In(streams.values(shape, len(self._layout[0]))),
                "y": Out(stream.Signature(data.ArrayLayout(shape, channel_count(self._layout)))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        last_beat = len(self._layout) - 1
        # One bit a beat.
        at = Signal(len(self._layout), init=1)
        last = at[last_beat]
        m.d.comb += [
            self.y.valid.eq(self.x.valid & last),
            self.x.ready.eq(~last | self.y.ready),
        ]
        with m.If(self.x.valid & self.x.ready):
            m.d.sync += at.eq(at.rotate_left(1))
        for number, row in enumerate(self._layout):
            for lane, channel in enumerate(row):
                if channel == -1:
                    continue
                value = self.x.payload[lane]
                if number == last_beat:
                    m.d.comb += self.y.payload[channel].eq(value)
                else:
                    held = Signal(self._shape, name=f"held_{channel}")
                    m.d.comb += self.y.payload[channel].eq(held)
                    # Until the beat has come: whether it has is known late, and would enable many registers.
                    with m.If(at[number]):
                        m.d.sync += held.eq(value)
        return m
