# amaranth: UnusedElaboratable=no
from __future__ import annotations

import random

import pytest
from amaranth import signed, unsigned

from rtl_templates import timing
from rtl_templates.global_winners import GlobalWinners
from sim.bench import run_bench


@pytest.mark.parametrize(
    ("channels", "positions", "shape", "k", "emit", "wanted"),
    [
        (5, 9, signed(8), 30, "values", 256 + 2 + 2 * (45 + 2)),
        (64, 1, unsigned(8), 7, "entries", 256 + 2 + 64 + 2),
        (3, 7, signed(8), 100, "entries", 256 + 2 + 21 + 2),
        (1, 1, unsigned(8), 1, "values", 256 + 2 + 2 * 3),
    ],
)
def test_against_sorting(channels, positions, shape, k, emit, wanted):
    order = list(range(channels))
    random.Random(3).shuffle(order)
    layout = [[channel] for channel in order]
    assert timing.global_interval(channels, positions, emit) == wanted
    run_bench(
        GlobalWinners(layout, positions, shape, k, emit),
        "tests.rtl_templates.global_winners_bench",
        parameters={
            "layout": layout,
            "positions": positions,
            "signed": shape.signed,
            "k": k,
            "emit": emit,
            "in_order": True,
            "interval": wanted,
            "buffered": 2,
        },
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0, 1]], 4, signed(8), 1), "layout must have one lane"),
        (([[0], [-1]], 4, signed(8), 1), "layout must have one lane and a channel in every beat"),
        (([[0], [1]], 0, signed(8), 1), "positions must be at least 1, not 0"),
        (([[0], [1]], 4, signed(8), 0), "k must be at least 1, not 0"),
        (([[0], [1]], 4, signed(8), 1, "list"), "emit must be 'values' or 'entries', not 'list'"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        GlobalWinners(*arguments)
