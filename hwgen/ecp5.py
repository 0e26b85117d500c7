"""Yosys' synthesis for the ECP5, with carry chains that waste no cell and registers inside the blocks.

A CCU2C adds two bits. Where a chain begins, Yosys' own mapping leaves the carry into it to place and route, which puts a
cell in front for it, and one behind for the carry out, used or not: four LUTs a chain, and a pipelined network consists
of short chains.

Registers with many readers get copies (`hwgen.ecp5_copies`).

A MULT18X18D has registers at its operands and at its product, a DP16KD has registers behind what it reads, which Yosys
does not use: they save a flip-flop a bit, and the block alone is most of a cycle.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

from hwgen.ecp5_copies import with_copies

# ABC's own check of its result takes longer than all else on some designs, and does not end on others.
UNVERIFIED = "scratchpad -set abc9.verify false"

# Of what this file does to a netlist: finished builds of another version are done again.
VERSION = 3

ARITHMETIC_FILE = "ecp5_arithmetic.v"
# The first half of the first cell makes a constant carry: LUT4 = 0, LUT2 = the constant. Bit i follows in half i + 1.
ARITHMETIC = """\
(* techmap_celltype = "$alu" *)
module hwgen_ccu2c_alu (A, B, CI, BI, X, Y, CO);
    parameter A_SIGNED = 0;
    parameter B_SIGNED = 0;
    parameter A_WIDTH = 1;
    parameter B_WIDTH = 1;
    parameter Y_WIDTH = 1;
    parameter _TECHMAP_CONSTMSK_CI_ = 0;
    parameter _TECHMAP_CONSTVAL_CI_ = 0;

    (* force_downto *) input [A_WIDTH-1:0] A;
    (* force_downto *) input [B_WIDTH-1:0] B;
    input CI, BI;
    (* force_downto *) output [Y_WIDTH-1:0] X, Y, CO;

    wire _TECHMAP_FAIL_ = Y_WIDTH <= 4 || !_TECHMAP_CONSTMSK_CI_;

    localparam CELLS = Y_WIDTH / 2 + 1;

    (* force_downto *) wire [Y_WIDTH-1:0] A_wide, B_wide;
    \\$pos #(.A_SIGNED(A_SIGNED), .A_WIDTH(A_WIDTH), .Y_WIDTH(Y_WIDTH)) A_conv (.A(A), .Y(A_wide));
    \\$pos #(.A_SIGNED(B_SIGNED), .A_WIDTH(B_WIDTH), .Y_WIDTH(Y_WIDTH)) B_conv (.A(B), .Y(B_wide));
    (* force_downto *) wire [Y_WIDTH-1:0] BB = BI ? ~B_wide : B_wide;
    // Half h holds bit h - 1.
    (* force_downto *) wire [2*CELLS-1:0] AA = {A_wide, 1'b0};
    (* force_downto *) wire [2*CELLS-1:0] BX = {B_wide, 1'b0};
    (* force_downto *) wire [2*CELLS-1:0] S;
    (* force_downto *) wire [CELLS:0] carry;

    CCU2C #(
        .INIT0(_TECHMAP_CONSTVAL_CI_ ? 16'h000f : 16'h0000),
        .INIT1(16'b1001011010101010),
        .INJECT1_0("NO"),
        .INJECT1_1("NO")
    ) first (
        .A0(1'b0), .B0(1'b0), .C0(1'b0), .D0(1'b1),
        .A1(AA[1]), .B1(BX[1]), .C1(BI), .D1(1'b1),
        .S1(S[1]),
        .COUT(carry[1])
    );
    genvar i;
    generate for (i = 1; i < CELLS; i = i + 1) begin:cells
        if (i + 1 < CELLS) begin
            CCU2C #(
                .INIT0(16'b1001011010101010),
                .INIT1(16'b1001011010101010),
                .INJECT1_0("NO"),
                .INJECT1_1("NO")
            ) middle (
                .CIN(carry[i]),
                .A0(AA[2*i]), .B0(BX[2*i]), .C0(BI), .D0(1'b1),
                .A1(AA[2*i+1]), .B1(BX[2*i+1]), .C1(BI), .D1(1'b1),
                .S0(S[2*i]), .S1(S[2*i+1]),
                .COUT(carry[i+1])
            );
        end else begin
            CCU2C #(
                .INIT0(16'b1001011010101010),
                .INIT1(16'b1001011010101010),
                .INJECT1_0("NO"),
                .INJECT1_1("NO")
            ) last (
                .CIN(carry[i]),
                .A0(AA[2*i]), .B0(BX[2*i]), .C0(BI), .D0(1'b1),
                .A1(AA[2*i+1]), .B1(BX[2*i+1]), .C1(BI), .D1(1'b1),
                .S0(S[2*i]), .S1(S[2*i+1])
            );
        end
    end endgenerate

    // Carries that are asked for: at a cell's end its own, else logic behind that of the bit before.
    generate for (i = 0; i < Y_WIDTH; i = i + 1) begin:outputs
        if (i % 2 == 0 && i / 2 + 1 < CELLS)
            assign CO[i] = carry[i/2+1];
        else if (i == 0)
            assign CO[i] = (A_wide[0] && BB[0]) || (CI && (A_wide[0] || BB[0]));
        else
            assign CO[i] = (A_wide[i] && BB[i]) || (CO[i-1] && (A_wide[i] || BB[i]));
    end endgenerate

    assign Y = S[Y_WIDTH:1];
    assign X = A_wide ^ BB;
endmodule
"""


def synthesis(top: str, folder: Path, options: str = "") -> list[str]:
    """The commands of Yosys, run in `folder`, into which this writes the file that they need.

    Args:
        top: name of the top module.
        folder: where Yosys runs.
        options: more arguments of `synth_ecp5`.
    """
    (folder / ARITHMETIC_FILE).write_text(ARITHMETIC)
    return [
        UNVERIFIED,
        f"synth_ecp5 -top {top} {options} -run begin:map_gates",
        f'techmap -map "{folder / ARITHMETIC_FILE}"',
        f"synth_ecp5 -top {top} {options} -run map_gates:",
    ]


def improved(netlist: dict[str, Any], top: str, *, outputs: bool = True) -> dict[str, Any]:
    """The netlist, changed in place, in what Yosys does not do itself.

    Args:
        netlist: as `write_json` makes it.
        top: its only module.
        outputs: leaves outputs that nothing reads open, which Verilog cannot say.
    """
    return with_copies(with_block_registers(without_idle_carries(netlist, top, outputs), top), top)


def without_idle_carries(netlist: dict[str, Any], top: str, outputs: bool) -> dict[str, Any]:
    """The netlist, changed in place, with the ends of carry chains left open: what drives or reads nothing there.

    Yosys connects every pin, and place and route adds a cell to a chain for each end that something is connected to.

    Args:
        netlist: as `write_json` makes it.
        top: its only module.
        outputs: those as well.
    """
    module = netlist["modules"][top]
    cells = module["cells"].values()
    readers: Counter[Any] = Counter()
    for cell in cells:
        for port, bits in cell["connections"].items():
            if cell["port_directions"].get(port) == "input":
                readers.update(bits)
    for port in module["ports"].values():
        readers.update(port["bits"])
    for cell in cells:
        if cell["type"] != "CCU2C":
            continue
        connections = cell["connections"]
        if _makes_its_carry(cell):
            connections["CIN"] = ["x"]
        if outputs and "COUT" in connections and not readers[connections["COUT"][0]]:
            connections["COUT"] = ["x"]
    return netlist


def with_block_registers(netlist: dict[str, Any], top: str) -> dict[str, Any]:
    """The netlist, changed in place, with the registers around multipliers and behind memories moved into the blocks.

    An operand is moved if all its bits come from flip-flops without reset and with one clock and enable; a product, or
    what a memory reads, if all its bits go to such flip-flops and nowhere else.
    """
    module = netlist["modules"][top]
    cells = module["cells"]
    drivers: dict[Any, str] = {}
    readers: dict[Any, list[str]] = defaultdict(list)
    for name, cell in cells.items():
        for port, bits in cell["connections"].items():
            for bit in bits:
                if cell["port_directions"].get(port) == "input":
                    readers[bit].append(name)
                else:
                    drivers[bit] = name
    for port in module["ports"].values():
        for bit in port["bits"]:
            readers[bit].append("")

    def take_in(cell: dict[str, Any], pins: Iterable[str], clock: Any = None) -> _Control | None:
        """Lets pins drive what the flip-flops behind them drive; None if there are others, or of another clock."""
        connections = cell["connections"]
        read = [pin for pin in pins if readers[connections[pin][0]]]
        behind = [readers[connections[pin][0]] for pin in read]
        if not read or any(len(names) != 1 for names in behind):
            return None
        control = _common_control([cells.get(names[0], {}) for names in behind])
        if control is None or clock not in (None, control[0]):
            return None
        for pin, names in zip(read, behind, strict=True):
            connections[pin] = cells.pop(names[0])["connections"]["Q"]
        return control

    for cell in list(cells.values()):
        if cell["type"] == "DP16KD":
            _with_output_registers(cell, take_in)
        if cell["type"] != "MULT18X18D":
            continue
        connections = cell["connections"]
        for number, operand in enumerate("AB"):
            pins = [f"{operand}{i}" for i in range(18)]
            nets = {connections[pin][0] for pin in pins} - {"0"}
            sources = {net: cells.get(drivers.get(net, ""), {}) for net in nets}
            control = _common_control(sources.values())
            if control is None:
                continue
            for pin in pins:
                if connections[pin] != ["0"]:
                    connections[pin] = sources[connections[pin][0]]["connections"]["DI"]
            _register(cell, f"REG_INPUT{operand}", number, control)
        if control := take_in(cell, [f"P{i}" for i in range(36)]):
            _register(cell, "REG_OUTPUT", 2, control)
    _remove_unread(module)
    return netlist


def _with_output_registers(cell: dict[str, Any], take_in: Callable[..., _Control | None]) -> None:
    """Turns the registers of a memory's ports on where `take_in` finds flip-flops for them."""
    connections, parameters = cell["connections"], cell["parameters"]
    # 36 bits are read by port B, through the pins of both; nextpnr sets both registers for such a memory too.
    wide = int(parameters["DATA_WIDTH_B"], 2) == 36
    for port, pins in (("B", "AB"),) if wide else (("A", "A"), ("B", "B")):
        clocked = parameters[f"CLK{port}MUX"] == f"CLK{port}" and connections[f"RST{port}"] == ["0"]
        if not clocked:
            continue
        control = take_in(cell, [f"DO{pin}{i}" for pin in pins for i in range(18)], connections[f"CLK{port}"][0])
        if control is None:
            continue
        for pin in pins:
            parameters[f"REGMODE_{pin}"] = "OUTREG"
            connections[f"OCE{pin}"] = [control[1]]


# A clock, and an enable or "1".
_Control: TypeAlias = tuple[Any, Any]


def _common_control(cells: Iterable[dict[str, Any]]) -> _Control | None:
    """Of flip-flops that a block can take in: without reset, with one clock and enable; None for any others."""
    controls = set()
    for cell in cells:
        if cell.get("type") != "TRELLIS_FF":
            return None
        parameters, connections = cell["parameters"], cell["connections"]
        if connections.get("LSR") not in (None, ["0"]) or parameters.get("REGSET") != "RESET":
            return None
        if parameters.get("CLKMUX") != "CLK" or parameters.get("CEMUX") not in ("CE", "1 ", "1"):
            return None
        controls.add((connections["CLK"][0], connections["CE"][0] if parameters["CEMUX"] == "CE" else "1"))
    return controls.pop() if len(controls) == 1 else None


def _register(cell: dict[str, Any], name: str, number: int, control: _Control) -> None:
    """Turns a multiplier's register on, with clock 0 and the enable and reset of that number."""
    clock, enable = control
    cell["parameters"] |= {f"{name}_CLK": "CLK0", f"{name}_CE": f"CE{number}", f"{name}_RST": f"RST{number}"}
    for pin, bit in (("CLK0", clock), (f"CE{number}", enable), (f"RST{number}", "0")):
        cell["connections"][pin] = [bit]
        cell["port_directions"][pin] = "input"


def _remove_unread(module: dict[str, Any]) -> None:
    """Removes the flip-flops that nothing reads any more."""
    cells = module["cells"]
    read = {
        bit
        for cell in cells.values()
        for port, bits in cell["connections"].items()
        if cell["port_directions"].get(port) == "input"
        for bit in bits
    }
    read |= {bit for port in module["ports"].values() for bit in port["bits"]}
    for name in [name for name, cell in cells.items() if cell["type"] == "TRELLIS_FF"]:
        if cells[name]["connections"]["Q"][0] not in read:
            del cells[name]


def _makes_its_carry(cell: dict[str, Any]) -> bool:
    """Whether the first half ignores the carry in: LUT4 is 0, LUT2 a constant."""
    first = int(cell["parameters"]["INIT0"], 2)
    constant = all(
        cell["connections"].get(pin) == [bit] for pin, bit in zip(("A0", "B0", "C0", "D0"), "0001", strict=True)
    )
    return constant and first in (0x0000, 0x000F)
