# amaranth: UnusedElaboratable=no
from __future__ import annotations

import pytest
from amaranth import signed, unsigned

from rtl_templates import timing
from rtl_templates.parallel_winners import ParallelGlobalWinners
from sim.bench import run_bench
from tests.rtl_templates.layout_samples import shuffled


@pytest.mark.parametrize(
    ("channels", "lanes", "positions", "shape", "k", "units", "wanted", "emit"),
    [
        # Limited by the search, by the readers with empty lanes, by the beats, and by the entries.
        (5, 2, 9, signed(8), 30, 2, 256 + 4 + 5, "entries"),
        (90, 4, 7, signed(8), 20, 2, -(-(90 * 7 + 6) // 2), "entries"),
        (200, 1, 2, unsigned(8), 7, 3, 400, "entries"),
        (450, 3, 1, signed(8), 1000, 3, 450, "entries"),
        (450, 3, 1, signed(8), 20, 3, 450, "values"),
        (70, 1, 1, unsigned(8), 9, 2, 256 + 3 + 5, "values"),
        (1, 1, 1, unsigned(8), 1, 2, 256 + 3 + 5, "entries"),
    ],
)
def test_against_sorting(channels, lanes, positions, shape, k, units, wanted, emit):
    layout = shuffled(channels, lanes)
    beats = len(layout) * positions
    assert timing.parallel_global_interval(channels, positions, beats, emit, units, k=k) == wanted
    run_bench(
        ParallelGlobalWinners(layout, positions, shape, k, emit, units=units),
        "tests.rtl_templates.global_winners_bench",
        parameters={
            "layout": layout,
            "positions": positions,
            "signed": shape.signed,
            "k": k,
            "emit": emit,
            "in_order": False,
            "interval": wanted,
            "latency": timing.parallel_global_latency(channels, positions, lanes),
            "buffered": 12 * units,
        },
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0, 2]], 4, signed(8), 1), "layout must hold every channel from 0 on exactly once"),
        (([[0], [1]], 0, signed(8), 1), "positions must be at least 1, not 0"),
        (([[0], [1]], 4, signed(8), 0), "k must be at least 1, not 0"),
        (([[0], [1]], 4, signed(8), 1, "values"), "emit must be 'entries', or of one position 'values', not 'values'"),
        (([[0], [1]], 4, signed(8), 1, "entries", 1), "units must be at least 2, not 1"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        ParallelGlobalWinners(*arguments)
