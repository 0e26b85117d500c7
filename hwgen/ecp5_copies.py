"""Copies of registers that many cells read, so that each is near its readers.

A placer puts a register somewhere between its readers; where these fill a quarter of the chip, all of their paths are
long, and the router leads some of them on detours. Synthesis merges copies that a design describes, so they are made
in the netlist.
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from typing import Any

# Readers of a copy; a register with few more stays as it is.
READERS, MOST_READERS = 24, 32
# These go to whole slices and have wires of their own.
_CONTROL = ("CLK", "CE", "LSR")


def with_copies(netlist: dict[str, Any], top: str) -> dict[str, Any]:
    """The netlist, changed in place: flip-flops with many readers become several with the same input.

    Readers whose names follow each other read the same copy: names are paths in the design. What clocks, enables or
    resets flip-flops still comes from the first.

    Args:
        netlist: as Yosys' `write_json` makes it.
        top: its only module.
    """
    module = netlist["modules"][top]
    cells = module["cells"]
    readers: dict[Any, list[tuple[str, str, int]]] = defaultdict(list)
    for name, cell in cells.items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"].get(port) == "input" and port not in _CONTROL:
                for place, bit in enumerate(bits):
                    readers[bit].append((name, port, place))
    nets = (bit for cell in cells.values() for bits in cell["connections"].values() for bit in bits)
    following = 1 + max((net for net in nets if isinstance(net, int)), default=0)
    for name in [name for name, cell in cells.items() if cell["type"] == "TRELLIS_FF"]:
        reading = sorted(readers[cells[name]["connections"]["Q"][0]], key=_natural)
        if len(reading) <= MOST_READERS:
            continue
        # As many each.
        groups = -(-len(reading) // READERS)
        for number in range(1, groups):
            cells[f"{name}_copy_{number}"] = twin = copy.deepcopy(cells[name])
            twin["connections"]["Q"] = [following]
            for reader, port, place in reading[number * len(reading) // groups : (number + 1) * len(reading) // groups]:
                cells[reader]["connections"][port][place] = following
            module["netnames"][f"{name}_copy_{number}_Q"] = {"hide_name": 1, "bits": [following], "attributes": {}}
            following += 1
    return netlist


def _natural(reader: tuple[str, str, int]) -> tuple[list[tuple[int, str]], str, int]:
    """Orders lane_2 before lane_10."""
    name, port, place = reader
    return [(len(part), part) for part in re.findall(r"[0-9]+|[A-Za-z]+", name)], port, place
