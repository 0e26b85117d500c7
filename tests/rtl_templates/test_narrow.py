# amaranth: UnusedElaboratable=no
from __future__ import annotations

import random

import pytest
from amaranth import signed

from hwgen.plan.stream import narrowed
from rtl_templates import timing
from rtl_templates.narrow import Narrow
from sim.bench import run_bench
from sim.streams import pack


@pytest.mark.parametrize(("lanes_in", "lanes_out", "interval"), [(7, 3, 3), (8, 2, 4), (3, 3, 1), (5, 4, 2)])
def test_splits(lanes_in, lanes_out, interval):
    assert timing.narrow_interval(lanes_in, lanes_out) == interval
    draw = random.Random(6)
    x = [[draw.randrange(-16, 16) for _ in range(lanes_in)] for _ in range(80)]
    y = []
    for values in x:
        padded = values + [0] * (interval * lanes_out - lanes_in)
        y += [padded[i * lanes_out : (i + 1) * lanes_out] for i in range(interval)]
    run_bench(
        Narrow(signed(5), lanes_in, lanes_out),
        "tests.rtl_templates.stream_bench",
        parameters={
            "x": [pack(values, 5) for values in x],
            "y": [pack(values, 5) for values in y],
            "care": [pack([-1] * lanes_out, 5)],
            "interval": interval,
            "latency": Narrow.LATENCY,
        },
    )


def test_layout():
    assert narrowed(((4, 0, 2), (1, -1, 3)), 2) == ((4, 0), (2, -1), (1, -1), (3, -1))


@pytest.mark.parametrize("lanes_out", [0, 4])
def test_refuses(lanes_out):
    with pytest.raises(ValueError, match="lanes_out must be 1 to lanes_in = 3, not"):
        Narrow(signed(8), 3, lanes_out)
