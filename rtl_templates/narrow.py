"""Fewer values a beat, more beats."""

from __future__ import annotations

from amaranth import Module, Shape, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl_templates import streams, timing
from rtl_templates.pipe import StreamBuffer
from rtl_templates.trees import any_of


class Narrow(wiring.Component):
    """Splits a beat of `lanes_in` values into beats of `lanes_out`; the last is padded with zeros.

    Arguments:
        shape: of a value.
        lanes_in, lanes_out: values a beat, 1 <= lanes_out <= lanes_in.

    Members:
        x, y: value streams.

    Latency: 2 cycles. Initiation interval: ceil(lanes_in / lanes_out) cycles an input beat.
    """

    LATENCY = timing.NARROW_LATENCY

    def __init__(self, shape: Shape, lanes_in: int, lanes_out: int):
        if not 1 <= lanes_out <= lanes_in:
            raise ValueError(f"lanes_out must be 1 to lanes_in = {lanes_in!r}, not {lanes_out!r}")
        self._parts = timing.narrow_interval(lanes_in, lanes_out)
        self._lanes_out = lanes_out
        super().__init__({"x": In(streams.values(shape, lanes_in)), "y": Out(streams.values(shape, lanes_out))})

    def elaborate(self, platform) -> Module:
        m = Module()
        part = self.y.payload.shape()
        m.submodules.buffer = buffer = StreamBuffer(part)
        wiring.connect(m, buffer.y, wiring.flipped(self.y))
        parts = Signal(data.ArrayLayout(part, self._parts), reset_less=True)
        # One by one they are let through: of a beat that is shifted, every bit would take a look-up table.
        chosen, busy = Signal(self._parts, init=1), Signal()
        m.d.comb += [
            self.x.ready.eq(~busy | (chosen[-1] & buffer.x.ready)),
            buffer.x.valid.eq(busy),
            buffer.x.payload.as_value().eq(
                any_of([parts[i].as_value() & chosen[i].replicate(part.size) for i in range(self._parts)])
            ),
        ]
        with m.If(busy & buffer.x.ready):
            m.d.sync += chosen.eq(chosen.rotate_left(1))
        with m.If(self.x.ready):
            m.d.sync += [busy.eq(self.x.valid), parts.as_value().eq(self.x.payload.as_value())]
        return m
