# amaranth: UnusedElaboratable=no
from __future__ import annotations

import pytest
from amaranth import signed, unsigned

from rtl_templates.relu import ReLU
from sim.bench import run_bench
from sim.streams import pack


def test_rectifies():
    x = [[value, -value - 1] for value in range(-128, 128)]
    y = [[max(a, 0), max(b, 0)] for a, b in x]
    run_bench(
        ReLU(signed(8), 2, unsigned(7)),
        "tests.rtl_templates.stream_bench",
        parameters={
            "x": [pack(values, 8) for values in x],
            "y": [pack(values, 7) for values in y],
            "care": [pack([-1, -1], 7)],
            "interval": 1,
            "latency": ReLU.LATENCY,
        },
    )


def test_refuses():
    with pytest.raises(ValueError, match="out_shape must hold every non-negative value"):
        ReLU(signed(8), 1, unsigned(6))
    with pytest.raises(ValueError, match="lanes must be at least 1, not 0"):
        ReLU(signed(8), 0)
