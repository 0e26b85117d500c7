"""Constants that belong to a beat of a value stream."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import Module, Shape
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for


class ConstantTable(wiring.Component):
    """A read-only memory with a row of constants a beat.

    Arguments:
        rows: constants of each beat, equally many.
        shape: of a constant; the narrowest that holds them all unless given.

    Members:
        row: number of the row.
        enable: whether to read it.
        constants: the row of the last cycle in which `enable` was 1.

    Latency: 1 cycle. Initiation interval: 1 cycle.
    """

    def __init__(self, rows: Sequence[Sequence[int]], shape: Shape | None = None):
        self._rows = [list(row) for row in rows]
        flat = [constant for row in self._rows for constant in row]
        self._shape = shape or Shape.cast(range(min(flat), max(flat) + 1))
        if not self._shape.width:
            self._shape = Shape(1)
        super().__init__(
            {
                "row": In(max(1, bits_for(len(self._rows) - 1))),
                "enable": In(1),
                "constants": Out(data.ArrayLayout(self._shape, len(self._rows[0]))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        if len(self._rows) == 1:
            m.d.comb += [self.constants[lane].eq(constant) for lane, constant in enumerate(self._rows[0])]
            return m
        m.submodules.memory = memory = Memory(shape=self.constants.shape(), depth=len(self._rows), init=self._rows)
        port = memory.read_port()
        m.d.comb += [port.addr.eq(self.row), port.en.eq(self.enable), self.constants.eq(port.data)]
        return m


def by_beat(layout: Sequence[Sequence[int]], constants: Sequence[int], nothing: int) -> list[list[int]]:
    """Rows of constants in a layout's order; `nothing` for lanes that carry nothing."""
    return [[nothing if channel == -1 else int(constants[channel]) for channel in row] for row in layout]
