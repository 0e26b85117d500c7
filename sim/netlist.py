"""The synthesised netlist of a design, as Verilog that the compiled simulator takes.

Synthesis is what stands between the simulated source and a board. Here Yosys maps a design to the cells of the ECP5 -
LUTs, carry chains, flip-flops, distributed and block memories with their initial contents, multipliers - and the
netlist is completed by a model of every cell: Yosys' own where it has one, `sim/cells/ecp5.v` for the block memory and
the multiplier, which Yosys leaves as black boxes.

    manifest = read_manifest("build/net")
    netlist = synthesise(Path("build/net/accelerator.v"), manifest.top, Path("build"))
    with CompiledSimulator(netlist.verilog, manifest.top, manifest.input, manifest.output) as simulator:
        y, result = simulator.run(x)
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hwgen import ecp5
from hwgen.errors import ToolError, install
from hwgen.verilog import run_yosys

CELLS = Path(__file__).with_name("cells") / "ecp5.v"
YOSYS_CELLS = ("ecp5/common_sim.vh", "ecp5/ccu2c_sim.vh")


@dataclass(frozen=True)
class Netlist:
    """A synthesised design.

    Attributes:
        verilog: path of the netlist, followed by the models of its cells; it needs no other file.
        cells: how many of each kind there are, such as "LUT4" or "MULT18X18D".
    """

    verilog: Path
    cells: dict[str, int]


def synthesise(verilog: Path, top: str, out: Path, *, multiplier_blocks: bool = True) -> Netlist:
    """Synthesises a design for the ECP5 with Yosys' `synth_ecp5`.

    Args:
        verilog: the design's Verilog; its memory images lie beside it.
        top: name of its top module.
        out: an existing folder for `<top>_netlist.v`.
        multiplier_blocks: maps multiplications to MULT18X18D; to LUTs and carry chains if false.

    Raises:
        ToolError: Yosys is missing or failed.
    """
    target, cells = (out.absolute() / f"{top}_netlist.{suffix}" for suffix in ("v", "json"))
    run_yosys(
        [
            # Yosys looks for memory images beside the file that names them.
            f'read_verilog "{verilog.absolute()}"',
            *ecp5.synthesis(top, out.absolute(), "" if multiplier_blocks else "-nodsp"),
            "check -assert",
            f'write_json "{cells}"',
        ]
    )
    cells.write_text(json.dumps(ecp5.improved(json.loads(cells.read_text()), top, outputs=False)))
    run_yosys([f'read_json "{cells}"', f'write_verilog -noattr "{target}"'])
    cells.unlink()
    netlist = target.read_text()
    models = [*(_yosys_share() / name for name in YOSYS_CELLS), CELLS]
    # What Yosys' models include besides is not in its netlists.
    target.write_text("\n".join([netlist, "`define NO_INCLUDES", *(path.read_text() for path in models)]))
    return Netlist(target, _count_cells(netlist))


def _count_cells(netlist: str) -> dict[str, int]:
    return dict(Counter(re.findall(r"^  ([A-Z]\w+) (?:#|\S+ +)\($", netlist, re.MULTILINE)))


def _yosys_share() -> Path:
    specification = importlib.util.find_spec("pyosys")
    if specification is None or specification.origin is None:
        raise ToolError(f"synthesis needs Yosys: {install('sim')}")
    return Path(specification.origin).parent / "share"
