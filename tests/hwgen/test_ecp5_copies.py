from __future__ import annotations

import copy
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from hwgen.ecp5_copies import MOST_READERS, READERS, with_copies

CLOCK, DATA, VALUE = 2, 3, 4


def netlist(readers: int) -> dict[str, Any]:
    """A flip-flop whose value goes to so many LUTs, twice to the last, and enables another flip-flop."""

    def register(connections: dict[str, list[Any]]) -> dict[str, Any]:
        directions = dict.fromkeys(connections, "input") | {"Q": "output"}
        return {
            "type": "TRELLIS_FF", "parameters": {"REGSET": "SET"}, "port_directions": directions,
            "connections": connections,
        }  # fmt: skip

    cells = {
        f"part.lane_{number}.lut": {
            "type": "LUT4", "parameters": {}, "port_directions": {"A": "input", "B": "input", "Z": "output"},
            "connections": {"A": [VALUE], "B": ["0"], "Z": [100 + number]},
        }
        for number in range(readers)
    }  # fmt: skip
    cells[f"part.lane_{readers - 1}.lut"]["connections"]["B"] = [VALUE]
    cells["value"] = register({"CLK": [CLOCK], "DI": [DATA], "Q": [VALUE]})
    cells["other"] = register({"CLK": [CLOCK], "CE": [VALUE], "DI": [DATA], "Q": [5]})
    return {"modules": {"top": {"ports": {}, "cells": cells, "netnames": {}}}}


def test_few_readers_keep_their_register():
    before = netlist(MOST_READERS - 1)
    assert with_copies(copy.deepcopy(before), "top") == before


@pytest.mark.parametrize("readers", [MOST_READERS, 100, 1000])
def test_neighbours_read_the_same_copy(readers):
    before, after = netlist(readers), with_copies(netlist(readers), "top")
    cells, origin = after["modules"]["top"]["cells"], {}
    for name, cell in cells.items():
        if cell["type"] == "TRELLIS_FF":
            (net,) = cell["connections"]["Q"]
            assert net not in origin
            origin[net] = original = name.partition("_copy_")[0]
            # All else is the original's.
            twin, first = copy.deepcopy(cell), copy.deepcopy(before["modules"]["top"]["cells"][original])
            twin["connections"]["Q"] = first["connections"]["Q"] = []
            assert twin == first
    assert cells["other"]["connections"]["CE"] == [VALUE]

    read = [cells[f"part.lane_{number}.lut"]["connections"]["A"][0] for number in range(readers)]
    read += cells[f"part.lane_{readers - 1}.lut"]["connections"]["B"]
    assert {origin[net] for net in read} == {"value"}
    shares = Counter(read)
    assert max(shares.values()) <= READERS and max(shares.values()) - min(shares.values()) <= 1
    assert sum(one != other for one, other in pairwise(read)) == len(shares) - 1
