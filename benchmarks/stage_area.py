"""What each stage of an accelerator takes of an ECP5, counted in the netlist of a build.

hwgen build build/net --json
python -m benchmarks.stage_area build/net/build/ulx3s-85f
"""

from __future__ import annotations

import json as json_text
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from boards.synthesis import ECP5_LUTS
from hwgen import terminal
from hwgen.errors import HwgenError, InputError

COLUMNS = {"ff": "TRELLIS_FF", "dsp": "MULT18X18D", "block_ram": "DP16KD"}
# A cell without a stage in its name drives a net that has one.
_STAGE = re.compile(r"accelerator\.(stage_\d+_\w+?)(?:_rst\w*|\..*)?$")


def areas(module: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """{stage: {lut, ff, dsp, block_ram}} of a flat module of Yosys' JSON netlist, the largest first; the rest is "other".

    LUTs are sites: two a carry cell, six a distributed memory.
    """
    stage_of_bit = {
        bit: found[1]
        for name, net in module["netnames"].items()
        if (found := _STAGE.match(name))
        for bit in net["bits"]
        if isinstance(bit, int)
    }
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for name, cell in module["cells"].items():
        driven = [
            bit
            for port, bits in cell["connections"].items()
            if cell["port_directions"].get(port) == "output"
            for bit in bits
        ]
        found = _STAGE.match(name)
        stage = found[1] if found else next((stage_of_bit[bit] for bit in driven if bit in stage_of_bit), "other")
        counts[stage][cell["type"]] += 1
    taken = {
        stage: {
            "lut": sum(ECP5_LUTS.get(kind, 0) * number for kind, number in of_stage.items()),
            **{column: of_stage[kind] for column, kind in COLUMNS.items()},
        }
        for stage, of_stage in counts.items()
    }
    return dict(sorted(taken.items(), key=lambda entry: -entry[1]["lut"]))


def main(
    folder: Annotated[Path, typer.Argument(metavar="BUILD", help="Of a build: a bundle's build/ulx3s-85f.")],
    json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Count what each stage takes."""
    try:
        found = areas(_module(folder / "netlist.json"))
    except HwgenError as error:
        terminal.say(f"stage_area: {error}")
        sys.exit(error.exit_code)
    if json:
        terminal.print_json(found)
        return
    rows = [(stage, *(f"{number:,}" for number in taken.values())) for stage, taken in found.items()]
    terminal.print_table("Of each stage", ("stage", "LUT", "FF", "DSP", "block RAM"), rows, left=1)


def _module(path: Path) -> Mapping[str, Any]:
    """The top module of a netlist; InputError if there is none."""
    try:
        modules = json_text.loads(path.read_text())["modules"]
        return next(module for module in modules.values() if module["attributes"].get("top"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, AttributeError, StopIteration):
        raise InputError(f"{path}: not a netlist of Yosys with a top module") from None


if __name__ == "__main__":
    typer.run(main)
