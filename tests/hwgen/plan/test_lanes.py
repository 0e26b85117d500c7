from __future__ import annotations

import numpy as np
import pytest

from hwgen.format.network import Conv2d, Input, IntegerNetwork
from hwgen.format.shapes import tensors
from hwgen.packing import pack_network
from hwgen.plan.lanes import candidates
from hwgen.plan.mac import Request
from hwgen.plan.schedule import Slots
from hwgen.plan.stages import Lanes
from hwgen.plan.stream import Stream


def request(
    entries: int, kernel: tuple[int, int], extent: tuple[int, int], padding: int = 0, sets: int = 2, kernels: int = 8
) -> Request:
    """A convolution of 16 channels whose weights fill `sets` complementary sets, behind lists of a map."""
    draw = np.random.default_rng(entries)
    owner = draw.integers(0, kernels, (sets, 16, *kernel))
    mask = np.concatenate([owner == number for number in range(kernels)])
    weight = np.where(mask, draw.integers(1, 9, mask.shape), 0).astype(np.int8)
    layer = Conv2d("conv", weight, mask, np.zeros(len(mask), np.int32), padding=(padding, padding))
    network = IntegerNetwork(Input((16, *extent), 1.0, False), (layer,), np.ones(len(mask)))
    slots = Slots.of(pack_network(network).packings["conv"])
    stream = Stream(
        channels=16,
        map=extent,
        bits=8,
        signed=False,
        layout=(),
        most=entries,
        most_word=entries * extent[0] * extent[1],
        entries=entries,
        whole=True,
    )
    return Request(layer, slots, tensors(network)[-1], "sparse-sparse", stream, 0, float("inf"))


def chosen(made: Request, limit: int, most: float = float("inf")) -> Lanes | None:
    values = {name: getattr(made, name) for name in ("layer", "slots", "result", "mode", "stream")}
    return next(candidates(Request(**values, limit=limit, most=most)), None)


def test_paces_between_whole_offsets():
    """The second convolution of the keyword-spotting network: 25 offsets, 100 positions of 196 lists of eight."""
    made = request(8, (5, 5), (14, 14))
    found = {limit: chosen(made, limit) for limit in (799, 800, 999, 1000, 1200, 1399, 1400, 1600)}
    assert found.pop(799) is None
    assert {limit: (stage.lanes, stage.parts, stage.split, stage.cycles) for limit, stage in found.items()} == {
        800: (25, 1, 1, 800),
        999: (25, 1, 1, 800),
        1000: (20, 5, 4, 1000),
        1200: (17, 3, 2, 1200),
        1399: (17, 3, 2, 1200),
        1400: (15, 7, 4, 1400),
        1600: (13, 2, 1, 1600),
    }
    assert found[1200].multipliers == 17 * made.slots.packing.sets
    assert chosen(made, 1200, most=found[1200].multipliers - 1) is None


@pytest.mark.parametrize("entries", range(1, 10))
@pytest.mark.parametrize("padding", [0, 1])
def test_no_chain_within_the_limit_is_shorter(entries, padding):
    made = request(entries, (3, 2), (6, 7), padding, sets=1, kernels=4)
    positions, pixels = (4 + 2 * padding) * (6 + 2 * padding), (6 + 2 * padding) * (7 + 2 * padding)
    sets, kernels, rows = made.slots.packing.sets, made.slots.packing.kernels, made.slots.rows_max
    list_rows = -(-entries // 2)
    every = []
    for split in (split for split in range(1, list_rows + 1) if list_rows % split == 0):
        read = entries if split == 1 else 2 * list_rows // split
        for parts in range(1, 6 * split + 1):
            interval = max(read * rows * parts, kernels)
            cycles = max(positions * interval, pixels * list_rows // split * parts)
            every.append((-(-6 * split // parts), split, cycles))
    for limit in range(min(cycles for *_, cycles in every), 6 * entries * rows * pixels + 2, 7):
        stage = chosen(made, limit)
        assert (stage.lanes, stage.split, stage.cycles) == min(way for way in every if way[-1] <= limit)
        assert stage.multipliers == stage.lanes * sets
    assert chosen(made, min(cycles for *_, cycles in every) - 1) is None
