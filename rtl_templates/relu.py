"""Rectification of a value stream."""

from __future__ import annotations

from amaranth import Module, Mux, Shape
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl_templates import streams, timing
from rtl_templates.pipe import StreamBuffer


class ReLU(wiring.Component):
    """y = max(x, 0).

    Arguments:
        shape: of an input value.
        lanes: values a beat.
        out_shape: of an output value, wide enough for every non-negative one; `shape` unless given.

    Members:
        x, y: value streams.

    Latency: 1 cycle. Initiation interval: 1 cycle a beat.
    """

    LATENCY = timing.RELU_LATENCY

    def __init__(self, shape: Shape, lanes: int, out_shape: Shape | None = None):
        out_shape = out_shape or shape
        if lanes < 1:
            raise ValueError(f"lanes must be at least 1, not {lanes!r}")
        if out_shape.width - out_shape.signed < shape.width - shape.signed:
            raise ValueError(f"out_shape must hold every non-negative value of {shape!r}, not {out_shape!r}")
        super().__init__({"x": In(streams.values(shape, lanes)), "y": Out(streams.values(out_shape, lanes))})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.buffer = buffer = StreamBuffer(self.y.payload.shape())
        wiring.connect(m, buffer.y, wiring.flipped(self.y))
        m.d.comb += [buffer.x.valid.eq(self.x.valid), self.x.ready.eq(buffer.x.ready)]
        for lane, value in enumerate(self.x.payload):
            m.d.comb += buffer.x.payload[lane].eq(Mux(value < 0, 0, value))
        return m
