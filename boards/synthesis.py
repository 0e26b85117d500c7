"""What a design takes of a family of FPGAs, by Yosys' synthesis alone: nothing is placed."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from boards.tools import run_tool
from hwgen import ecp5, ultrascale
from hwgen.errors import InputError

FAMILIES = ("ecp5", "ultrascale+")

# Look-up tables that one cell occupies.
ECP5_LUTS = {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6}
ECP5_MEMORIES = ("TRELLIS_DPR16X4",)
ULTRASCALE_MEMORIES = {
    "RAM32X1S": 1, "RAM32X1D": 2, "RAM32M": 4, "RAM32M16": 8, "RAM64X1S": 1, "RAM64X1D": 2, "RAM64M": 4, "RAM64M8": 8,
    "RAM64X8SW": 8, "RAM32X16DR8": 8, "RAM128X1S": 2, "RAM128X1D": 4, "RAM256X1S": 4, "RAM256X1D": 8, "RAM512X1S": 8, "SRL16E": 1,
    "SRLC16E": 1, "SRLC32E": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Counts:
    """What a synthesised design takes.

    Attributes:
        family: of the FPGA.
        lut: look-up tables, those that carry chains and distributed memory occupy included.
        lutram: of these, the ones of distributed memory and shift registers.
        ff: flip-flops.
        dsp: multiplier blocks (MULT18X18D, DSP48E2).
        block_ram: blocks of 18 kbit (DP16KD), or of 36 kbit on UltraScale+, where a RAMB18E2 is half a block.
        cells: how many of each kind the netlist has.
        ultra_ram: blocks of UltraRAM.
    """

    family: str
    lut: int
    lutram: int
    ff: int
    dsp: int
    block_ram: float
    cells: dict[str, int]
    ultra_ram: int = 0


def counts(
    verilog: str | Path, top: str, family: str, *, watch: Callable[[str], None] = lambda line: None
) -> Counts:  # fmt: skip
    """Synthesises a design and counts.

    On the ECP5 the look-up tables are LUT4s and the halves of carry cells (two a CCU2C) and of distributed memory (six
    sites a TRELLIS_DPR16X4). On UltraScale+ a LUT of any size is one, though two small ones may share a LUT6_2 once
    they are packed, and carry chains (CARRY4, CARRY8) are beside the LUTs that feed them.

    Args:
        verilog: the design; its memory images lie beside it.
        top: name of its top module.
        family: "ecp5" or "ultrascale+".
        watch: is given every line of Yosys' log.

    Raises:
        InputError: no such family.
        ToolError: Yosys is missing or failed.
    """
    if family not in FAMILIES:
        raise InputError(f"family {family!r} cannot be counted; choose one of {', '.join(FAMILIES)}")
    with tempfile.TemporaryDirectory(prefix="hwgen-counts-") as scratch:
        folder = Path(scratch)
        synthesis = ecp5.synthesis if family == "ecp5" else ultrascale.synthesis
        commands = (
            f'read_verilog "{Path(verilog).absolute()}"',
            *synthesis(top, folder),
            "tee -q -o cells.json stat -json",
        )
        (folder / "counts.ys").write_text("\n".join(commands) + "\n")
        run_tool("yosys", ["counts.ys"], folder, folder / "counts.log", watch)
        return count(family, cells_of((folder / "cells.json").read_text()))


def cells_of(statistics: str) -> dict[str, int]:
    """Kinds of cells and their numbers, from Yosys' `stat -json`."""
    found = json.loads(statistics)["design"]["num_cells_by_type"]
    # Names of scopes and parameters are no cells.
    return {kind: number for kind, number in found.items() if not kind.startswith("$")}


def count(family: str, cells: dict[str, int]) -> Counts:
    """Adds the cells of a netlist up."""

    def total(names: dict[str, int] | tuple[str, ...]) -> int:
        weights = names if isinstance(names, dict) else dict.fromkeys(names, 1)
        return sum(cells.get(name, 0) * weight for name, weight in weights.items())

    if family == "ecp5":
        lutram = total({name: ECP5_LUTS[name] for name in ECP5_MEMORIES})
        return Counts(
            family, total(ECP5_LUTS), lutram, total(("TRELLIS_FF",)), total(("MULT18X18D",)), total(("DP16KD",)), cells
        )
    lutram = total(ULTRASCALE_MEMORIES)
    luts = sum(number for kind, number in cells.items() if re.fullmatch(r"LUT[1-6](_2)?", kind))
    block_ram = total(("RAMB36E2",)) + total(("RAMB18E2",)) / 2
    flip_flops = total(("FDRE", "FDSE", "FDCE", "FDPE"))
    ultra_ram = total(("URAM288",))
    return Counts(family, luts + lutram, lutram, flip_flops, total(("DSP48E2",)), block_ram, cells, ultra_ram)
