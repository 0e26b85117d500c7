# amaranth: UnusedElaboratable=no
from __future__ import annotations

import pytest
from amaranth import signed, unsigned

from rtl_templates import timing
from rtl_templates.local_winners import LocalWinners
from sim.bench import run_bench
from tests.rtl_templates.layout_samples import shuffled


@pytest.mark.parametrize(
    ("channels", "lanes", "shape", "k", "emit", "stages", "emitters", "wanted"),
    [
        (13, 3, signed(8), 4, "values", 1, 1, 36),
        (64, 8, unsigned(8), 8, "entries", 1, 1, 24),
        (64, 16, signed(8), 4, "entries", 2, 1, 12),
        (5, 1, signed(8), 9, "values", 3, 1, 12),
        (37, 4, signed(8), 37, "entries", 1, 1, 37),
        (1, 1, unsigned(8), 1, "values", 1, 1, 24),
        (1, 1, signed(8), 1, "entries", 8, 1, 3),
        (64, 16, signed(8), 8, "lists", 8, 2, 4),
        (13, 5, unsigned(8), 7, "lists", 4, 3, 6),
        (21, 21, signed(8), 5, "lists", 8, 5, 3),
        (11, 4, signed(8), 30, "lists", 1, 1, 24),
        (1, 1, unsigned(8), 1, "lists", 1, 1, 24),
        (64, 11, unsigned(8), 8, "lists", 4, 2, 6),
        (19, 4, signed(8), 6, "entries", 3, 1, 9),
        (30, 2, signed(8), 3, "values", 13, 1, 15),
    ],
)
def test_against_sorting(channels, lanes, shape, k, emit, stages, emitters, wanted):
    layout = shuffled(channels, lanes)
    interval = timing.local_interval(len(layout), k, emit, channels=channels, stages=stages, emitters=emitters)
    assert interval == wanted
    run_bench(
        LocalWinners(layout, shape, k, emit, stages, emitters),
        "tests.rtl_templates.winners_bench",
        parameters={
            "layout": layout,
            "signed": shape.signed,
            "k": k,
            "emit": emit,
            "interval": interval,
            "latency": timing.local_latency(channels, emit, k=k),
        },
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0, 1]], signed(8), 0), "k must be at least 1, not 0"),
        (([[0, 1]], signed(8), 1, "list"), "emit must be 'values', 'entries' or 'lists', not 'list'"),
        (([[0, 1]], signed(8), 2, "lists", 1, 3), "emitters must be 1 to 2, the entries of a list, not 3"),
        (([[0, 1]], signed(8), 2, "entries", 1, 2), "emitters must be 1, not 2: they share lists"),
        (([[0, 1]], signed(8), 1, "values", 10), "stages must be 1 to 9, the number of steps, not 10"),
        (([[0, 2]], signed(8), 1), "layout must hold every channel from 0 on exactly once"),
        (([[0], [1, 2]], signed(8), 1), "layout must be one or more beats of equally many lanes"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        LocalWinners(*arguments)
