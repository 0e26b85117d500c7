"""The values of the latest positions of a stream, in memory, while their marks are made."""

from __future__ import annotations

from amaranth import Cat, Module, Shape, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl_templates.layouts import checked
from rtl_templates.result_fifo import ram_style
from rtl_templates.streams import Layout


class PositionStore(wiring.Component):
    """A ring of positions: what decides about a position carries bits, and its values wait here.

    Arguments:
        layout: of the beats.
        shape: of a value.
        positions: kept at least, the one that is being written included; rounded up to a power of two.

    Members:
        write, values: strobe and beat; the beats of each position in turn.
        beat, position: which row to read; positions count from 0 and wrap at `positions`.
        enable: whether to read it.
        row: the row of the last cycle in which `enable` was 1. It must not be read in the cycle in which it is written.

    Latency: 1 cycle. Initiation interval: 1 cycle.
    """

    def __init__(self, layout: Layout, shape: Shape, positions: int):
        self._layout = checked(layout)
        beats, lanes = len(self._layout), len(self._layout[0])
        self._row = data.ArrayLayout(shape, lanes)
        self._beat_bits, self._position_bits = (beats - 1).bit_length(), max(1, (positions - 1).bit_length())
        super().__init__(
            {
                "write": In(1),
                "values": In(self._row),
                "beat": In(self._beat_bits),
                "position": In(self._position_bits),
                "enable": In(1),
                "row": Out(self._row),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        depth = 1 << (self._beat_bits + self._position_bits)
        style = {"no_rw_check": 1, "ram_style": ram_style(depth, platform)}
        m.submodules.memory = memory = Memory(shape=self._row, depth=depth, init=[], attrs=style)
        writer, reader = memory.write_port(), memory.read_port()
        beat, position = Signal(self._beat_bits), Signal(self._position_bits)
        with m.If(self.write):
            m.d.sync += beat.eq(beat + 1)
            with m.If(beat == len(self._layout) - 1):
                m.d.sync += [beat.eq(0), position.eq(position + 1)]
        m.d.comb += [
            writer.en.eq(self.write),
            writer.addr.eq(Cat(beat, position)),
            writer.data.eq(self.values),
            reader.en.eq(self.enable),
            reader.addr.eq(Cat(self.beat, self.position)),
            self.row.eq(reader.data),
        ]
        return m
