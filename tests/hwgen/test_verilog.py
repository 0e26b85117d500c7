"""Tests of the conversion to Verilog: the quick conversion writes what Amaranth's own does."""

from __future__ import annotations

import gc
import re

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, signed, unsigned
from amaranth.hdl._nir import Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwgen import verilog
from rtl_templates.shared import Shared


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


class Delay(wiring.Component):
    """A value, a cycle later."""

    def __init__(self, width: int):
        super().__init__({"x": In(width), "y": Out(width)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.d.sync += self.y.eq(self.x)
        return m


class Delays(wiring.Component):
    """A value, that many cycles later, in components that equal ones are written once with."""

    def __init__(self, width: int, cycles: int):
        self._width, self._cycles = width, cycles
        super().__init__({"x": In(width), "y": Out(width)})

    def elaborate(self, platform) -> Module:
        m = Module()
        value = self.x
        for cycle in range(self._cycles):
            m.submodules[f"delay_{cycle}"] = delay = Shared(Delay, width=self._width)
            m.d.comb += delay.component.x.eq(value)
            value = delay.component.y
        m.d.comb += self.y.eq(value)
        return m


class Lanes(wiring.Component):
    """Two lanes of equal delays and one of another width."""

    def __init__(self):
        super().__init__({"x": In(11), "y": Out(11)})

    def elaborate(self, platform) -> Module:
        m = Module()
        for index, (start, width) in enumerate([(0, 4), (4, 4), (8, 3)]):
            m.submodules[f"lane_{index}"] = lane = Shared(Delays, width=width, cycles=3)
            m.d.comb += lane.component.x.eq(self.x[start : start + width])
            m.d.comb += self.y[start : start + width].eq(lane.component.y)
        return m


def test_equal_components_are_written_once(tmp_path):
    (file,) = verilog.write_verilog(Lanes(), tmp_path, "lanes")
    text = file.read_text()
    modules = re.findall(r"^module (\S+?)\(", text, re.MULTILINE)
    assert modules == ["Delay_2", "Delay_3", "Delays_0", "Delays_1", "lanes"]
    assert len(re.findall(r"^  Delays_0 lane_", text, re.MULTILINE)) == 2
    assert len(re.findall(r"^  Delay_2 delay_", text, re.MULTILINE)) == 3
    # Tools take the module with this attribute for the top.
    assert len(re.findall(r"\btop =", text)) == 1


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


def test_large_memories_are_written_as_others_are(tmp_path, monkeypatch):
    rows = list(range(64))
    written = []
    for bits in (64 * 8 - 1, 1 << 22):
        monkeypatch.setattr(verilog, "_LARGE", bits)
        folder = tmp_path / str(bits)
        folder.mkdir()
        written.append(
            [path.read_bytes() for path in verilog.write_verilog(Rows(unsigned(8), rows, 64), folder, "rows")]
        )
    assert written[0] == written[1]


def test_what_was_changed_for_the_conversion_is_restored():
    before, new = rtlil.ModuleEmitter.emit_memory, Value.__new__
    with pytest.raises(TypeError):
        verilog._rtlil(object(), "nothing", None)
    assert (rtlil.ModuleEmitter.emit_memory, Value.__new__) == (before, new)
    assert gc.isenabled()
