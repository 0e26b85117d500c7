"""Each stage of a plan placed and routed alone: the clock that it reaches, and where its slowest path is.

    python -m benchmarks.stage_timing --stage 9 --stage 11 --json

An upper bound for the whole: in a full FPGA a stage's parts lie farther apart. Minutes, where the whole takes an hour.
Wires are nextpnr's estimate of all of a placement, in tiles, with those of the shift register around the stage.
"""

from __future__ import annotations

import json as json_text
import re
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from benchmarks import gsc_network
from boards.catalogue import board
from boards.ecp5_flow import device_options
from boards.platforms import platform
from boards.tools import run_tool
from hwgen import ecp5, terminal
from hwgen.elaborate import stage_component
from hwgen.errors import HwgenError
from hwgen.plan import make_plan
from hwgen.verilog import write_verilog

TOP = "stage"


class FewPins(wiring.Component):
    """A component whose ports are shift registers: registered, as its neighbours would, and two pins in all."""

    def __init__(self, inside: wiring.Component):
        self.inside = inside
        super().__init__({"shift_in": In(1), "shift_out": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.inside = self.inside
        ports: dict[Any, list[Value]] = {In: [], Out: []}
        for _, member, value in self.inside.signature.flatten(self.inside):
            ports[member.flow].append(Value.cast(value))
        inputs, outputs = Cat(*ports[In]), Cat(*ports[Out])
        shifted, applied = Signal(len(inputs)), Signal(len(inputs))
        taken, leaving, take = Signal(len(outputs)), Signal(len(outputs)), Signal()
        m.d.comb += inputs.eq(applied)
        m.d.sync += [
            shifted.eq(Cat(self.shift_in, shifted)),
            applied.eq(shifted),
            taken.eq(outputs),
            take.eq(self.shift_in),
            leaving.eq(Mux(take, taken, leaving >> 1)),
            self.shift_out.eq(leaving[0]),
        ]
        return m


def main(
    mode: Annotated[str, typer.Option(help="dense, sparse-dense, sparse-sparse or auto.")] = "sparse-sparse",
    seed: Annotated[int, typer.Option(min=0, help="Of weights, masks and inputs.")] = 0,
    board_name: Annotated[str, typer.Option("--board", help="One that `hwgen build` knows.")] = "ulx3s-85f",
    cycles: Annotated[int | None, typer.Option(min=1, help="A word, at most; as fast as fits.")] = None,
    placer: Annotated[str, typer.Option(help="Of nextpnr: heap, static.")] = "heap",
    stage: Annotated[list[int] | None, typer.Option(metavar="NUMBER", help="Only this one; may be repeated.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Place and route the stages of the keyword-spotting network one by one."""
    try:
        packed = gsc_network.network(seed)
        plan = make_plan(packed, board=board(board_name), mode=mode, cycles=cycles)
        fpga = platform(board(board_name))
        options = [*device_options(fpga.device, fpga.package, fpga.speed), "--placer", placer]
        found = []
        for number, one in enumerate(plan.stages):
            if stage and number not in stage:
                continue
            figures = _placed(stage_component(plan, packed, one), options)
            found.append({"stage": number, "name": one.name, "kind": one.kind, **figures})
            terminal.say(
                f"{number:3} {one.name:24} {one.kind:14} {figures['fmax_mhz']:7.1f} MHz {figures['lut']:6,} LUTs "
                f"{figures['wires']:8,} tiles of wire  {figures['slowest']}"
            )
    except HwgenError as error:
        terminal.say(f"stage_timing: {error}")
        sys.exit(error.exit_code)
    if json:
        terminal.print_json(
            {"mode": mode, "seed": seed, "board": board_name, "cycles": cycles, "placer": placer, "stages": found}
        )


def _placed(component: wiring.Component, fpga: list[str]) -> dict[str, Any]:
    """The clock, LUTs, wires, and the cells at the ends of the slowest path; `fpga` and placer as nextpnr's options."""
    with tempfile.TemporaryDirectory(prefix="hwgen-stage-") as scratch:
        folder = Path(scratch)
        write_verilog(FewPins(component), folder, TOP)
        commands = [f"read_verilog {TOP}.v", *ecp5.synthesis(TOP, folder, "-json netlist.json")]
        (folder / "synthesis.ys").write_text("\n".join(commands) + "\n")
        run_tool("yosys", ["synthesis.ys"], folder, folder / "synthesis.log")
        netlist = folder / "netlist.json"
        netlist.write_text(json_text.dumps(ecp5.improved(json_text.loads(netlist.read_text()), TOP)))
        options = ["--freq", "150", "--lpf-allow-unconstrained", "--timing-allow-fail"]
        arguments = [*fpga, *options, "--json", netlist.name, "--report", "report.json"]
        run_tool("nextpnr-ecp5", arguments, folder, folder / "place_and_route.log")
        report = json_text.loads((folder / "report.json").read_text())
        wires = re.findall(r"wirelen = (\d+)", (folder / "place_and_route.log").read_text())
    clocked = [path["path"] for path in report["critical_paths"] if "<async>" not in (path["from"], path["to"])]
    slowest = max(clocked, key=lambda path: sum(piece["delay"] for piece in path))
    return {
        "fmax_mhz": round(min(clock["achieved"] for clock in report["fmax"].values()), 1),
        "lut": report["utilization"]["TRELLIS_COMB"]["used"],
        "wires": int(wires[-1]),
        "slowest": f"{slowest[0]['from']['cell']} -> {slowest[-1]['to']['cell']}",
    }


if __name__ == "__main__":
    typer.run(main)
