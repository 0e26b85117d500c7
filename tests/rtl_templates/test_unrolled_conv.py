# amaranth: UnusedElaboratable=no
from __future__ import annotations

import numpy as np
import pytest
from amaranth import signed, unsigned

from hwgen.plan.unrolled_graph import adder_graph
from rtl_templates import timing
from rtl_templates.unrolled_conv import UnrolledConv
from rtl_templates.window_sweep import Blocks
from sim.bench import run_bench


def weights_of(inputs: int, outputs: int, kept: int) -> np.ndarray:
    """Random, `kept` non-zeros a column."""
    draw = np.random.default_rng(inputs + outputs)
    order = draw.random((inputs, outputs)).argsort(axis=0)
    return np.where(order < kept, draw.integers(-127, 128, (inputs, outputs)), 0)


def check(weights, shape, *, channels, map, kernel, stride, pool, pixels, lanes, wanted, large=False):
    interval = timing.window_sweep_interval(map, kernel, stride, pool, pixels, -(-weights.shape[1] // lanes))
    assert interval == wanted
    low, high = (-128, 127) if shape.signed else (0, 255)
    blocks = Blocks(map, kernel, stride, pool)
    component = UnrolledConv(
        adder_graph(weights, low, high),
        shape=shape,
        accumulator=signed(24),
        channels=channels,
        map=map,
        kernel=kernel,
        stride=stride,
        pool=pool,
        pixels=pixels,
        lanes=lanes,
    )
    run_bench(
        component,
        "tests.rtl_templates.unrolled_conv_bench",
        parameters={
            "weights": weights.tolist(),
            "low": low,
            "high": high,
            "bits": 8,
            "accumulator": 24,
            "channels": channels,
            "map": map,
            "kernel": kernel,
            "stride": stride,
            "pool": pool,
            "pixels": pixels,
            "lanes": lanes,
            "rows": max(blocks.extent[0], blocks.step[0]),
            "interval": interval,
            "latency": component.latency,
            "large": large,
        },
    )


@pytest.mark.parametrize(
    ("channels", "map", "kernel", "stride", "pool", "pixels", "outputs", "lanes", "shape", "wanted"),
    [
        # The positions decide.
        (1, (8, 8), (3, 3), (1, 1), (2, 2), 2, 5, 2, signed(8), 36),
        # The beats of the results decide, and the last is not full.
        (1, (8, 8), (3, 3), (1, 1), (2, 2), 2, 7, 1, signed(8), 63),
        # The input decides.
        (2, (6, 8), (3, 3), (1, 1), (2, 2), 1, 3, 3, unsigned(8), 48),
        # Without a pool; a result a cycle, from one beat.
        (3, (7, 6), (2, 3), (1, 1), (1, 1), 1, 4, 4, signed(8), 42),
        # Several reads of a beat; the first block of a row takes more reads than positions.
        (1, (9, 12), (3, 5), (1, 1), (1, 1), 4, 2, 2, signed(8), 7 * 12),
        # Parts of beats that no block needs; rows and columns that fill no window.
        (1, (11, 12), (3, 2), (1, 1), (2, 3), 2, 4, 2, unsigned(8), 72),
        # Strides, also beyond the kernel.
        (2, (11, 12), (3, 3), (2, 2), (1, 2), 3, 3, 2, signed(8), 45),
        (1, (10, 9), (1, 2), (3, 4), (1, 1), 3, 2, 1, signed(8), 30),
        # One position; a kernel of one pixel.
        (2, (3, 2), (3, 2), (1, 1), (1, 1), 1, 1, 1, signed(8), 6),
        (4, (3, 4), (1, 1), (1, 1), (1, 1), 1, 6, 3, unsigned(8), 24),
    ],
)
def test_against_numpy(channels, map, kernel, stride, pool, pixels, outputs, lanes, shape, wanted):
    inputs = channels * kernel[0] * kernel[1]
    check(
        weights_of(inputs, outputs, max(1, inputs // 2)),
        shape,
        channels=channels,
        map=map,
        kernel=kernel,
        stride=stride,
        pool=pool,
        pixels=pixels,
        lanes=lanes,
        wanted=wanted,
    )


def test_first_layer_of_a_keyword_network():
    # 28 x 28 positions, one a cycle.
    check(
        weights_of(25, 64, 12),
        signed(8),
        channels=1,
        map=(32, 32),
        kernel=(5, 5),
        stride=(1, 1),
        pool=(2, 2),
        pixels=2,
        lanes=16,
        wanted=784,
        large=True,
    )


@pytest.mark.parametrize(
    "weights",
    [
        # Kernels without weights, equal and opposite ones.
        [[0, 3, 3, -3], [0, -5, -5, 5], [0, 0, 0, 0], [0, 1, 1, -1]],
        # No adder at all.
        [[4, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]],
    ],
)
def test_special_kernels(weights):
    check(
        np.array(weights),
        signed(8),
        channels=1,
        map=(5, 6),
        kernel=(2, 2),
        stride=(1, 1),
        pool=(2, 2),
        pixels=2,
        lanes=3,
        wanted=16,
    )


GRAPH = adder_graph(np.array([[1, 2]] * 4), -128, 127)
GOOD = {"shape": signed(8), "accumulator": signed(12), "channels": 1, "map": (4, 6), "kernel": (2, 2)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 2}, "the graph must have 8 inputs, the weights of a kernel, not 4"),
        ({"shape": signed(7)}, "shape must hold the graph's inputs, -128 to 127"),
        ({"accumulator": signed(10)}, "accumulator must hold -1024 to 1016"),
        ({"lanes": 3}, "lanes must be 1 to 2, the outputs, not 3"),
        ({"pixels": 4}, "pixels must divide the 6 columns of the map, not be 4"),
        ({"stride": (0, 1)}, "stride must be positive"),
        ({"pool": (4, 1)}, r"a block of \(5, 2\) pixels does not fit into a map of \(4, 6\)"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        UnrolledConv(GRAPH, **{**GOOD, **changes})
