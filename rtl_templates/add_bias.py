"""Adds the bias of the last layer, whose accumulators leave unscaled."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import Module, Mux, Shape, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl_templates import streams, timing
from rtl_templates.constant_table import ConstantTable, by_beat
from rtl_templates.layouts import channel_count, checked
from rtl_templates.pipe import StreamBuffer
from rtl_templates.streams import Layout


class AddBias(wiring.Component):
    """y = x + bias[c], which the caller has proven to fit `out_shape`.

    Arguments:
        layout: of both streams; what a lane that carries nothing yields is arbitrary.
        biases: of each channel.
        in_shape, out_shape: of the values.

    Members:
        x, y: value streams.

    Latency: 2 cycles. Initiation interval: 1 cycle a beat.
    """

    LATENCY = timing.ADD_BIAS_LATENCY

    def __init__(self, layout: Layout, biases: Sequence[int], in_shape: Shape, out_shape: Shape):
        self._layout = checked(layout)
        channels = channel_count(self._layout)
        if len(biases) != channels:
            raise ValueError(f"biases must be {channels} numbers, not {biases!r}")
        self._biases = [int(value) for value in biases]
        lanes = len(self._layout[0])
        super().__init__({"x": In(streams.values(in_shape, lanes)), "y": Out(streams.values(out_shape, lanes))})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.buffer = buffer = StreamBuffer(self.y.payload.shape())
        m.submodules.biases = biases = ConstantTable(by_beat(self._layout, self._biases, 0))
        wiring.connect(m, buffer.y, wiring.flipped(self.y))
        advance = buffer.x.ready
        beat = Signal(range(len(self._layout)))
        values, valid = Signal(self.x.payload.shape()), Signal()
        m.d.comb += [
            self.x.ready.eq(advance),
            biases.row.eq(beat),
            biases.enable.eq(advance),
            buffer.x.valid.eq(valid),
        ]
        with m.If(advance):
            m.d.sync += [values.eq(self.x.payload), valid.eq(self.x.valid)]
            with m.If(self.x.valid):
                m.d.sync += beat.eq(Mux(beat == len(self._layout) - 1, 0, beat + 1))
        for lane in range(len(self._layout[0])):
            m.d.comb += buffer.x.payload[lane].eq(values[lane] + biases.constants[lane])
        return m
