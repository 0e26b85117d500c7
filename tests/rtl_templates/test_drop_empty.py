# amaranth: UnusedElaboratable=no
from __future__ import annotations

import numpy as np
import pytest
from amaranth import signed

from rtl_templates.drop_empty import DropEmpty
from sim.streams import pack
from tests.rtl_templates.units import Expected, check_units, periodic

BITS, POSITIONS = 11, 40


def test_leaves_out_what_is_empty():
    layouts = [
        [[0, -1], [-1, -1], [2, 1], [-1, -1], [-1, 3]],
        [[-1, -1, -1], [-1, -1, -1], [-1, 0, -1]],
        [[0], [-1]],
        [[1, 0], [2, 3]],
        [[0]],
    ]
    check_units([expected(layout) for layout in layouts])


def expected(layout: list[list[int]]) -> tuple[DropEmpty, Expected]:
    kept = [i for i, row in enumerate(layout) if row != [-1] * len(row)]
    draw = np.random.default_rng(2)
    x = draw.integers(-(1 << (BITS - 1)), 1 << (BITS - 1), (POSITIONS, len(layout), len(layout[0]))).tolist()
    return DropEmpty(layout, signed(BITS)), Expected(
        name=str(layout),
        x=[pack(beat, BITS) for position in x for beat in position],
        y=[pack(position[i], BITS) for position in x for i in kept],
        care=[-1],
        cycles=periodic([i - kept[0] for i in kept], len(layout), POSITIONS),
        latency=DropEmpty.LATENCY,
        latency_from=kept[0],
    )


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ([[-1], [-1]], "layout must hold every channel from 0 on exactly once"),
        ([[0, 2]], "layout must hold every channel from 0 on exactly once"),
        ([[0], [1, 2]], "layout must be one or more beats of equally many lanes"),
    ],
)
def test_refuses(layout, message):
    with pytest.raises(ValueError, match=message):
        DropEmpty(layout, signed(8))
