"""The torch index of every value of a word, in the order of a value stream."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import Out

from rtl_templates.constant_table import ConstantTable
from rtl_templates.layouts import checked
from rtl_templates.pipe import StreamBuffer
from rtl_templates.streams import Layout


class StreamOrder(wiring.Component):
    """Offers channel * positions + position for each beat of a word of one-lane beats, word after word.

    Arguments:
        layout: of the stream, with one lane.
        positions: of a word.

    Members:
        y: stream of indices without an end.

    Latency: 3 cycles from reset to the first. Initiation interval: 1 cycle.
    """

    def __init__(self, layout: Layout, positions: int):
        self._layout, self._positions = checked(layout), positions
        super().__init__({"y": Out(stream.Signature(range(len(self._layout) * positions)))})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.starts = starts = ConstantTable([[row[0] * self._positions] for row in self._layout])
        m.submodules.buffer = buffer = StreamBuffer(self.y.payload.shape())
        wiring.connect(m, buffer.y, wiring.flipped(self.y))
        beat, valid = Signal(range(len(self._layout))), Signal()
        position, position_before = Signal(range(self._positions)), Signal(range(self._positions))
        m.d.comb += [
            starts.row.eq(beat),
            starts.enable.eq(buffer.x.ready),
            buffer.x.valid.eq(valid),
            buffer.x.payload.eq(starts.constants[0] + position_before),
        ]
        with m.If(buffer.x.ready):
            m.d.sync += [valid.eq(1), position_before.eq(position), beat.eq(beat + 1)]
            with m.If(beat == len(self._layout) - 1):
                m.d.sync += [beat.eq(0), position.eq(Mux(position == self._positions - 1, 0, position + 1))]
        return m
