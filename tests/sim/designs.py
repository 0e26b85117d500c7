"""Small designs with a stream `x` and a stream `y` whose behaviour is obvious, some of them broken on purpose."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl_templates.streams import values


class _Stage(wiring.Component):
    """One register between x and y; `compute` makes lane i of y."""

    in_shape, out_shape = signed(8), signed(9)

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__({"x": In(values(self.in_shape, lanes)), "y": Out(values(self.out_shape, lanes))})

    def compute(self, m, lane):
        return self.x.payload[lane] + 1

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.x.ready.eq(~self.y.valid | self.y.ready)
        with m.If(self.x.ready):
            m.d.sync += self.y.valid.eq(self.x.valid)
            with m.If(self.x.valid):
                m.d.sync += [self.y.payload[lane].eq(self.compute(m, lane)) for lane in range(self.lanes)]
        return m


class AddOne(_Stage):
    """y = x + 1, one beat a cycle."""


class Rectify(_Stage):
    """y = max(x, 0), one beat a cycle."""

    out_shape = signed(8)

    def compute(self, m, lane):
        return Mux(self.x.payload[lane] < 0, 0, self.x.payload[lane])


class LookUp(_Stage):
    """y = table[x], from a memory, of 256 entries, with an image."""

    in_shape, out_shape = unsigned(8), unsigned(8)

    def __init__(self, lanes: int, table: list[int]) -> None:
        self._table = table
        super().__init__(lanes)

    def compute(self, m, lane):
        m.submodules[f"table_{lane}"] = memory = Memory(shape=8, depth=256, init=self._table)
        port = memory.read_port(domain="comb")
        m.d.comb += port.addr.eq(self.x.payload[lane])
        return port.data


class Pairs(wiring.Component):
    """The sum of every two beats: remembers the first beat of a pair, so a reset between the two matters."""

    def __init__(self) -> None:
        super().__init__({"x": In(values(unsigned(8), 1)), "y": Out(values(unsigned(9), 1))})

    def elaborate(self, platform):
        m = Module()
        half, first = Signal(), Signal(8)
        m.d.comb += self.x.ready.eq(~self.y.valid | self.y.ready)
        with m.If(self.y.ready):
            m.d.sync += self.y.valid.eq(0)
        with m.If(self.x.valid & self.x.ready):
            m.d.sync += half.eq(~half)
            with m.If(half):
                m.d.sync += [self.y.payload[0].eq(first + self.x.payload[0]), self.y.valid.eq(1)]
            with m.Else():
                m.d.sync += first.eq(self.x.payload[0])
        return m


class Wires(wiring.Component):
    """y = x without a register: a design without a clock."""

    def __init__(self, lanes: int) -> None:
        super().__init__({"x": In(values(unsigned(8), lanes)), "y": Out(values(unsigned(8), lanes))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.y.payload.eq(self.x.payload), self.y.valid.eq(self.x.valid), self.x.ready.eq(self.y.ready)]
        return m


class StopsAfter(_Stage):
    """AddOne that takes `beats` beats and then no more."""

    def __init__(self, beats: int) -> None:
        self._beats = beats
        super().__init__(1)

    def elaborate(self, platform):
        m = Module()
        taken = Signal(16)
        m.d.comb += self.x.ready.eq((~self.y.valid | self.y.ready) & (taken < self._beats))
        with m.If(~self.y.valid | self.y.ready):
            m.d.sync += self.y.valid.eq(self.x.valid & self.x.ready)
            m.d.sync += self.y.payload[0].eq(self.x.payload[0] + 1)
        with m.If(self.x.valid & self.x.ready):
            m.d.sync += taken.eq(taken + 1)
        return m


class Fickle(wiring.Component):
    """Breaks the rules: what it offers changes although it was not taken."""

    def __init__(self) -> None:
        super().__init__({"x": In(values(unsigned(8), 1)), "y": Out(values(unsigned(8), 1))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.x.ready.eq(self.y.ready), self.y.valid.eq(self.x.valid)]
        m.d.sync += self.y.payload[0].eq(self.y.payload[0] + 1)
        return m
