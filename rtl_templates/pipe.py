"""A two-entry stream buffer: the register between components that keeps both directions' paths short."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.hdl import ShapeLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class StreamBuffer(wiring.Component):
    """Registers payload, valid and ready, at full throughput.

    Arguments:
        shape: of the payload.

    Members:
        x, y: streams of that payload; x.ready, y.valid and y.payload come from registers.

    Latency: 1 cycle. Initiation interval: 1 cycle.
    """

    LATENCY = 1

    def __init__(self, shape: ShapeLike):
        self.shape = shape
        super().__init__({"x": In(stream.Signature(shape)), "y": Out(stream.Signature(shape))})

    def elaborate(self, platform) -> Module:
        m = Module()
        # Takes the beat that arrives in the cycle in which the consumer stops; x.ready falls one cycle later.
        spare = Signal(self.shape)
        spare_valid = Signal()
        m.d.comb += self.x.ready.eq(~spare_valid)
        with m.If(self.y.ready | ~self.y.valid):
            m.d.sync += [self.y.valid.eq(self.x.valid | spare_valid), spare_valid.eq(0)]
            with m.If(spare_valid):
                m.d.sync += self.y.payload.eq(spare)
            with m.Else():
                m.d.sync += self.y.payload.eq(self.x.payload)
        with m.Elif(self.x.ready):
            m.d.sync += [spare.eq(self.x.payload), spare_valid.eq(self.x.valid)]
        return m
