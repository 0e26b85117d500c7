# amaranth: UnusedElaboratable=no
from __future__ import annotations

import numpy as np
import pytest
from amaranth import signed, unsigned

from hwgen.plan.unrolled_graph import adder_graph
from rtl_templates.adder_pipeline import AdderPipeline
from sim.bench import run_bench

DRAW = np.random.default_rng(8)
COLUMN = DRAW.integers(-127, 128, 6)
MATRICES = {
    # Zero, equal, opposite and shifted columns, and one that is a single input.
    "special": np.stack([0 * COLUMN, COLUMN, -COLUMN, 4 * COLUMN, COLUMN, np.eye(6, dtype=int)[2]], axis=1),
    "dense": DRAW.integers(-127, 128, (7, 9)),
    "positive": DRAW.integers(1, 128, (5, 4)),
    "one": np.array([[-1]]),
}


@pytest.mark.parametrize(
    ("name", "low", "high", "operands"),
    [
        ("special", -128, 127, 2),
        ("special", 0, 255, 2),
        ("special", -1, 0, 3),
        ("dense", -128, 127, 2),
        ("dense", -128, 127, 3),
        ("positive", 0, 255, 2),
        ("positive", 0, 9, 3),
        ("one", -128, 127, 3),
    ],
)
def test_against_numpy(name, low, high, operands):
    weights = MATRICES[name]
    graph = adder_graph(weights, low, high, operands=operands)
    component = AdderPipeline(graph, signed(24))
    assert component.latency == graph.depth
    run_bench(
        component,
        "tests.rtl_templates.adder_pipeline_bench",
        parameters={
            "weights": weights.tolist(),
            "low": low,
            "high": high,
            "bits": graph.input_bits,
            "accumulator": 24,
            "latency": component.latency,
        },
    )


@pytest.mark.parametrize(
    ("low", "high", "shape", "fitting"),
    [
        (-128, 127, signed(16), True),
        (-129, 0, signed(16), False),
        (-1, 129, signed(16), False),
        (0, 257, unsigned(16), True),
        (0, 258, unsigned(16), False),
        (-1, 0, unsigned(16), False),
    ],
)
def test_refuses_narrow_accumulators(low, high, shape, fitting):
    # 255 * 128 is the last that fits.
    graph = adder_graph(np.array([[255]]), low, high)
    if fitting:
        AdderPipeline(graph, shape)
    else:
        with pytest.raises(ValueError, match="accumulator must hold"):
            AdderPipeline(graph, shape)
