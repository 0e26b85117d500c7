"""Boards as data: what their FPGAs offer to an accelerator.

The figures are the vendors' device tables: LUTs as the family counts them (four inputs on Lattice and Gowin, six on
Xilinx), DSP blocks that hold at least one 8x8 product, and block RAM alone, without distributed memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwgen.errors import PlanError

KIBIT = 1 << 10


@dataclass(frozen=True)
class Board:
    """A board that can carry an accelerator.

    Attributes:
        name: by which `board` finds it.
        title: as its maker calls it.
        family: of the FPGA, which decides the tools and how a multiplier is best made.
        part: the FPGA's order code without speed grade options that do not change its size.
        lut: look-up tables.
        lut_inputs: inputs of one look-up table.
        dsp: multipliers: DSP blocks of which each forms at least one 8x8 product a cycle.
        block_ram_bits: all block RAM, parity bits included.
        ultra_ram: blocks of UltraRAM.
        clock_hz: the board's oscillator that reaches the FPGA's logic, or None where only a processor system or a
            PCIe shell supplies the clock.
        toolchain: "open" where open tools place and route the part, else "vivado".
        platform: the definition of its pins in amaranth-boards, "module:class"; None where `hwgen build` makes no
            bitstream.
    """

    name: str
    title: str
    family: str
    part: str
    lut: int
    lut_inputs: int
    dsp: int
    block_ram_bits: int
    clock_hz: int | None
    toolchain: str
    platform: str | None = None
    ultra_ram: int = 0


BOARDS = (
    Board(
        "ulx3s-85f", "ULX3S 85F", "ecp5", "LFE5U-85F-6BG381C", 83_640, 4, 156, 208 * 18 * KIBIT,
        25_000_000, "open", "amaranth_boards.ulx3s:ULX3S_85F_Platform",
    ),
    Board(
        "ulx3s-25f", "ULX3S 25F", "ecp5", "LFE5U-25F-6BG381C", 24_288, 4, 28, 56 * 18 * KIBIT,
        25_000_000, "open", "amaranth_boards.ulx3s:ULX3S_25F_Platform",
    ),
    Board(
        "orangecrab-85f", "OrangeCrab 85F", "ecp5", "LFE5U-85F-8MG285C", 83_640, 4, 156, 208 * 18 * KIBIT,
        48_000_000, "open", "amaranth_boards.orangecrab_r0_2:OrangeCrabR0_2_85FPlatform",
    ),
    Board(
        "ecpix5-85f", "ECPIX-5 85F", "ecp5", "LFE5UM5G-85F-8BG554I", 83_640, 4, 156, 208 * 18 * KIBIT,
        100_000_000, "open", "amaranth_boards.ecpix5:ECPIX585Platform",
    ),
    Board("icebreaker", "iCEBreaker", "ice40", "iCE40UP5K-SG48", 5_280, 4, 8, 30 * 4 * KIBIT, 12_000_000, "open"),
    Board(
        "tang-nano-20k", "Sipeed Tang Nano 20K", "gowin", "GW2AR-LV18QN88C8/I7", 20_736, 4, 96, 46 * 18 * KIBIT,
        27_000_000, "open",
    ),
    Board(
        "tang-mega-138k", "Sipeed Tang Mega 138K", "gowin", "GW5AST-LV138FPG676A", 138_240, 4, 596,
        340 * 18 * KIBIT, 50_000_000, "open",
    ),
    Board(
        "arty-a7-100", "Digilent Arty A7-100T", "xilinx7", "XC7A100T-1CSG324C", 63_400, 6, 240, 135 * 36 * KIBIT,
        100_000_000, "vivado",
    ),
    Board(
        "pynq-z2", "TUL PYNQ-Z2", "xilinx7", "XC7Z020-1CLG400C", 53_200, 6, 220, 140 * 36 * KIBIT, 125_000_000,
        "vivado",
    ),
    Board(
        "ultra96", "Avnet Ultra96", "ultrascale+", "XCZU3EG-1SBVA484E", 70_560, 6, 360, 216 * 36 * KIBIT, None,
        "vivado",
    ),
    Board(
        "alveo-u250", "AMD Alveo U250", "ultrascale+", "XCU250-2LFIGD2104E", 1_728_000, 6, 12_288,
        2_688 * 36 * KIBIT, None, "vivado", ultra_ram=1_280,
    ),
)  # fmt: skip

_BY_NAME = {entry.name: entry for entry in BOARDS}


def board(name: str) -> Board:
    """The board of that name.

    Raises:
        PlanError: there is none; the line names those that exist.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise PlanError(f"board {name!r} does not exist; choose one of {', '.join(_BY_NAME)}") from None
