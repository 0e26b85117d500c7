from __future__ import annotations

import pytest
from amaranth import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from boards.synthesis import count, counts
from boards.tools import run_tool
from hwgen.errors import InputError, ToolError
from hwgen.verilog import write_verilog


class Sample(wiring.Component):
    """One multiplier with registers around it, a block RAM and a distributed memory."""

    def __init__(self) -> None:
        super().__init__({"a": In(signed(8)), "b": In(signed(8)), "y": Out(signed(16)), "z": Out(32), "w": Out(8)})

    def elaborate(self, platform) -> Module:
        m = Module()
        a, b = Signal(signed(8)), Signal(signed(8))
        m.d.sync += [a.eq(self.a), b.eq(self.b), self.y.eq(a * b)]
        m.submodules.block = block = Memory(shape=32, depth=512, init=range(512), attrs={"no_rw_check": 1})
        m.submodules.small = small = Memory(shape=8, depth=16, init=[])
        read, write = block.read_port(), block.write_port()
        m.d.comb += [read.addr.eq(a), read.en.eq(1), self.z.eq(read.data)]
        m.d.comb += [write.addr.eq(b), write.en.eq(1), write.data.eq(self.z + 1)]
        read, write = small.read_port(domain="comb"), small.write_port()
        m.d.comb += [read.addr.eq(a), self.w.eq(read.data)]
        m.d.comb += [write.addr.eq(b), write.data.eq(a), write.en.eq(1)]
        return m


@pytest.mark.parametrize(("family", "dsp", "block_ram", "lutram"), [("ecp5", 1, 1, 2 * 6), ("ultrascale+", 1, 0.5, 8)])
def test_counts_a_design(family, dsp, block_ram, lutram, tmp_path):
    lines: list[str] = []
    verilog = write_verilog(Sample(), tmp_path, "sample")[0]
    found = counts(verilog, "sample", family, watch=lines.append)
    assert (found.dsp, found.block_ram, found.lutram) == (dsp, block_ram, lutram)
    assert found.lut >= found.lutram
    assert found.ff >= 8
    assert any("Executing" in line for line in lines)
    assert count(family, found.cells) == found


def test_what_is_counted():
    found = count("ecp5", {"LUT4": 10, "CCU2C": 3, "TRELLIS_DPR16X4": 2, "TRELLIS_FF": 7, "PFUMX": 5, "DP16KD": 1})
    assert (found.lut, found.lutram, found.ff, found.dsp, found.block_ram) == (10 + 6 + 12, 12, 7, 0, 1)
    found = count("ultrascale+", {"LUT6": 4, "LUT2": 1, "LUT6_2": 2, "RAM32M": 1, "RAMB18E2": 3, "RAMB36E2": 1})
    assert (found.lut, found.lutram, found.block_ram) == (7 + 4, 4, 2.5)


def test_another_family_is_refused(tmp_path):
    with pytest.raises(InputError, match="family 'ice40' cannot be counted; choose one of ecp5, ultrascale"):
        counts(tmp_path / "x.v", "x", "ice40")


def test_an_error_of_a_tool_is_one_line(tmp_path):
    (tmp_path / "x.v").write_text("module x(;\n")
    (tmp_path / "x.ys").write_text("read_verilog x.v\n")
    with pytest.raises(ToolError, match="yosys failed: .*syntax error.*; see .*log") as error:
        run_tool("yosys", ["x.ys"], tmp_path, tmp_path / "log")
    assert "\n" not in str(error.value)
