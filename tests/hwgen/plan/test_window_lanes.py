from __future__ import annotations

import pytest

from hwgen.plan.mac import Request
from hwgen.plan.stages import WindowLanes
from hwgen.plan.window_lanes import MOST_CHAINS, candidates, parts_of
from tests.hwgen.plan.test_lanes import request


def found(made: Request, limit: int, most: float = float("inf")) -> list[WindowLanes]:
    values = {name: getattr(made, name) for name in ("layer", "slots", "result", "mode", "stream")}
    return list(candidates(Request(**values, limit=limit, most=most)))


def test_paces_of_a_large_window():
    """The second convolution of the keyword-spotting network: 25 offsets, 100 positions of 196 lists of eight."""
    made = request(8, (5, 5), (14, 14))
    ways = {
        limit: [(stage.chains, stage.lanes, stage.cycles) for stage in found(made, limit)]
        for limit in (799, 1000, 1199)
    }
    assert ways == {
        799: [],
        1000: [(1, 21, 1000), (2, 22, 1000), (3, 24, 1000), (4, 24, 1000)],
        1199: [(1, 19, 1100), (2, 20, 1100), (3, 21, 1100), (4, 24, 1000)],
    }


@pytest.mark.parametrize("entries", [1, 3, 4])
@pytest.mark.parametrize("padding", [0, 1])
def test_no_chains_within_the_limit_have_fewer_lanes(entries, padding):
    made = request(entries, (3, 2), (6, 7), padding, sets=1, kernels=4)
    positions = (4 + 2 * padding) * (6 + 2 * padding)
    kernels = made.slots.packing.kernels
    assert not found(made, positions * kernels - 1)
    for limit in range(positions * kernels, 40 * positions, 17):
        for stage in found(made, limit):
            parts = parts_of(stage)
            assert stage.chains <= MOST_CHAINS
            assert stage.multipliers == stage.lanes * stage.sets
            assert stage.cycles == parts.cycles <= limit
            # A lane less would be too slow.
            assert (parts.lanes - 1) * (limit // positions) < parts.busy


def test_multipliers_are_bounded():
    made = request(8, (5, 5), (14, 14))
    sets = made.slots.packing.sets
    assert [stage.chains for stage in found(made, 1000, most=22 * sets)] == [1, 2]
    assert not found(made, 1000, most=21 * sets - 1)
