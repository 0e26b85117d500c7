from __future__ import annotations

import json

from boards.tools import run_tool
from hwgen.ultrascale import synthesis

# Sums of three words, of which up to two are subtracted, and of two words and two bits: their width, and the LUTs with
# two outputs that they take. Of 14 bits the last may be the sign again. No two share a sum of two.
SUMS = {
    "a + c + b": (14, 14),
    "a - b + (c <<< 2)": (14, 14),
    "c - a - b": (14, 13),
    "a + b + $signed({1'b0, p}) + $signed({1'b0, q})": (14, 14),
    "{1'b0, a[7:0]} + b[7:0] + c[7:0]": (9, 9),
    # Nothing that is mapped here.
    "b - a": (13, 0),
    "b + c + a + $signed({1'b0, p})": (14, 0),
}


def test_a_sum_of_three_takes_a_lut_a_bit_and_is_right(tmp_path):
    inputs = "input signed [9:0] a, input signed [11:0] b, input signed [8:0] c, input p, q"
    outputs = [f"output signed [{width - 1}:0] y{i}" for i, (width, _) in enumerate(SUMS.values())]
    sums = [f"assign y{i} = {expression};" for i, expression in enumerate(SUMS)]
    source = "\n".join([f"module sums({inputs}, {', '.join(outputs)});", *sums, "endmodule", ""])
    (tmp_path / "sums.v").write_text(source)
    commands = [
        "read_verilog sums.v",
        *synthesis("sums", tmp_path, "-noiopad -noclkbuf"),
        "tee -q -o cells.json stat -json",
        "write_verilog -noattr netlist.v",
        "design -reset",
        "read_verilog sums.v",
        "prep",
        "rename sums wanted",
        "design -stash wanted",
        "read_verilog netlist.v",
        "read_verilog +/xilinx/cells_sim.v",
        "prep -flatten -top sums",
        "rename sums made",
        "design -copy-from wanted wanted",
        "miter -equiv -flatten wanted made compared",
        "sat -verify -prove trigger 0 compared",
    ]
    (tmp_path / "sums.ys").write_text("\n".join(commands) + "\n")
    run_tool("yosys", ["sums.ys"], tmp_path, tmp_path / "log")
    cells = json.loads((tmp_path / "cells.json").read_text())["design"]["num_cells_by_type"]
    # A bit or two more are constant or alike.
    assert 0.95 <= cells["LUT6_2"] / sum(luts for _, luts in SUMS.values()) <= 1
