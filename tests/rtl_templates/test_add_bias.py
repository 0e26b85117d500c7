# amaranth: UnusedElaboratable=no
from __future__ import annotations

import numpy as np
import pytest
from amaranth import signed

from rtl_templates.add_bias import AddBias
from sim.bench import run_bench
from sim.streams import pack
from tests.rtl_templates.layout_samples import to_beats


def test_adds():
    layout = [[2, 0], [1, 3], [5, 4]]
    biases = [-70000, 5, 0, 69999, -1, 1]
    rows = np.random.default_rng(4).integers(-(1 << 15), 1 << 15, (50, 6))
    rows[0], rows[1] = -(1 << 15), (1 << 15) - 1
    run_bench(
        AddBias(layout, biases, signed(16), signed(18)),
        "tests.rtl_templates.stream_bench",
        parameters={
            "x": to_beats(rows.tolist(), layout, 16),
            "y": to_beats((rows + np.array(biases)).tolist(), layout, 18),
            "care": [pack([-1, -1], 18)],
            "interval": 1,
            "latency": AddBias.LATENCY,
        },
    )


def test_refuses():
    with pytest.raises(ValueError, match="biases must be 2 numbers"):
        AddBias([[0, 1]], [1], signed(8), signed(9))
