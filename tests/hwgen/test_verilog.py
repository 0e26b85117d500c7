"""Tests of the conversion to Verilog: the quick conversion writes what Amaranth's own does."""

from __future__ import annotations

import gc

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwgen import verilog


class Rows(wiring.Component):
    """A memory of given contents, with one port of each kind."""

    def __init__(self, shape, rows: list[int], depth: int):
        self._shape, self._rows, self._depth = shape, rows, depth
        super().__init__({"address": In(range(max(depth, 2))), "x": In(shape), "y": Out(shape)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=self._shape, depth=self._depth, init=self._rows)
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [
            write.addr.eq(self.address),
            write.data.eq(self.x),
            write.en.eq(1),
            read.addr.eq(self.address),
            read.en.eq(1),
            self.y.eq(read.data),
        ]
        return m


@pytest.mark.parametrize(
    ("shape", "rows", "depth"),
    [
        (unsigned(7), [1, 0, 127, 64], 4),
        (signed(5), [-1, -16, 15, 0, 3], 5),
        (unsigned(3), [5], 6),
        (unsigned(1), [], 3),
        (unsigned(70), [1 << 69, 3], 2),
        (unsigned(0), [], 4),
    ],
)
def test_memories_are_written_as_amaranth_writes_them(shape, rows, depth):
    expected = rtlil.convert(Rows(shape, rows, depth), name="rows", emit_src=False)
    assert verilog._rtlil(Rows(shape, rows, depth), "rows", None) == expected


def test_what_was_changed_for_the_conversion_is_restored():
    before = rtlil.ModuleEmitter.emit_memory
    with pytest.raises(TypeError):
        verilog._rtlil(object(), "nothing", None)
    assert rtlil.ModuleEmitter.emit_memory is before
    assert gc.isenabled()
