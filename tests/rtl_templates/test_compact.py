# amaranth: UnusedElaboratable=no
from __future__ import annotations

import pytest
from amaranth import signed, unsigned

from rtl_templates import timing
from rtl_templates.compact import Compact
from sim.bench import run_bench
from tests.rtl_templates.layout_samples import shuffled


@pytest.mark.parametrize(
    ("channels", "lanes", "shape", "size", "wanted"),
    [(23, 4, signed(8), 9, 9), (16, 2, unsigned(8), 5, 8), (2, 1, signed(8), 4, 4)],
)
def test_against_sorting(channels, lanes, shape, size, wanted):
    layout = shuffled(channels, lanes)
    assert timing.compact_interval(len(layout), size) == wanted
    run_bench(
        Compact(layout, shape, size),
        "tests.rtl_templates.winners_bench",
        parameters={
            "layout": layout,
            "signed": shape.signed,
            "k": size,
            "emit": "compact",
            "interval": wanted,
            "latency": Compact.LATENCY,
        },
    )


def test_refuses():
    with pytest.raises(ValueError, match="size must be at least 1, not 0"):
        Compact([[0, 1]], signed(8), 0)
