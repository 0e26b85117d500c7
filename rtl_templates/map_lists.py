"""What comes with the lists of a map: which pixel they are of, and the padding around it."""

from __future__ import annotations

import numpy as np
from amaranth.hdl import C, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray


def connect_lists(m: Module, source, sink, waiting: int) -> None:
    """Joins two streams of lists; while the sink writes padding so many wait: a producer without rest cannot make up for it.

    Args:
        m: that the FIFO becomes a submodule of.
        source: stream, as seen from within the component.
        sink: stream of the part that takes the lists.
        waiting: lists, 0 for none, and then no FIFO.
    """
    if not waiting:
        wiring.connect(m, source, sink)
        return
    m.submodules.waiting = fifo = SyncFIFOBuffered(width=len(source.payload.as_value()), depth=waiting)
    m.d.comb += [
        fifo.w_data.eq(source.payload),
        fifo.w_en.eq(source.valid),
        source.ready.eq(fifo.w_rdy),
        sink.payload.eq(fifo.r_data),
        sink.valid.eq(fifo.r_rdy),
        fifo.r_en.eq(sink.ready),
    ]


class PixelFlags(wiring.Component):
    """What holds for the rows and the columns of a map, pixel by pixel.

    Looked up while the pixel before is waited for; reset leads to the first pixel with the second looked up.

    Arguments:
        by_row, by_column: bool (rows, flags), (columns, flags).

    Members:
        advance: strobe: to the next pixel.
        row, column: flags of the pixel's row and column.

    Latency: 1 cycle. Initiation interval: 1 cycle.
    """

    def __init__(self, by_row: NDArray[np.bool_], by_column: NDArray[np.bool_]):
        self._by_row, self._by_column = by_row, by_column
        super().__init__(
            {"advance": In(1), "row": Out(unsigned(by_row.shape[1])), "column": Out(unsigned(by_column.shape[1]))}
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        height, width = len(self._by_row), len(self._by_column)
        second = divmod(1 % (height * width), width)
        # At least a bit: a selector of none selects nothing.
        y, x = Signal(range(max(2, height)), init=second[0]), Signal(range(max(2, width)), init=second[1])
        with m.If(self.advance):
            m.d.sync += x.eq(x + 1)
            with m.If(x == width - 1):
                m.d.sync += [x.eq(0), y.eq(Mux(y == height - 1, 0, y + 1))]
        for found, table, selector in ((self.row, self._by_row, y), (self.column, self._by_column, x)):
            flags = Signal(table.shape[1], name=f"{found.name}_flags", init=_number(table[0]))
            with m.If(self.advance):
                m.d.sync += flags.eq(Cat(C(_number(bits), len(table)).bit_select(selector, 1) for bits in table.T))
            m.d.comb += found.eq(flags)
        return m


def _number(bits: NDArray[np.bool_]) -> int:
    """The first bit is the lowest."""
    return sum(int(bit) << place for place, bit in enumerate(bits))
