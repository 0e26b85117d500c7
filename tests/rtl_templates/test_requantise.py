# amaranth: UnusedElaboratable=no
from __future__ import annotations

import numpy as np
import pytest
from amaranth import signed, unsigned

from host.reference import requantise
from hwgen.format import network
from rtl_templates.requantise import Requantise
from sim.bench import run_bench
from sim.streams import pack
from tests.rtl_templates.layout_samples import shuffled, to_beats


@pytest.mark.parametrize(
    ("channels", "lanes", "in_shape", "out_shape", "shift", "largest"),
    [
        (7, 3, signed(23), signed(8), 20, 65535),
        (4, 4, signed(18), unsigned(8), 13, 900),
        (5, 2, signed(19), signed(8), 17, 65535),
        (3, 3, signed(19), signed(8), 17, 65535),
        (6, 2, signed(12), signed(8), 0, 1),
        (5, 1, signed(32), unsigned(8), 47, 65535),
        (3, 1, unsigned(11), unsigned(8), 3, 1),
        (2, 1, signed(4), signed(8), 2, 3),
    ],
)
def test_equals_the_reference(channels, lanes, in_shape, out_shape, shift, largest):
    draw = np.random.default_rng(1)
    layout = shuffled(channels, lanes)
    multipliers = draw.integers(max(1, largest // 2), largest + 1, channels)
    low, high = (-(1 << (in_shape.width - 1)), (1 << (in_shape.width - 1)) - 1) if in_shape.signed else (0, 2047)
    biases = draw.integers(-high // 2, high // 2 + 1, channels)
    # Around zero, around the saturation of either side, at the ends of the range, and anywhere.
    edge = [0, -1, 1, low, high]
    for target in (-129, -128, -127, -0.5, 0.5, 127, 128, 254.5, 255, 256):
        edge += [round(target * (1 << shift) / multipliers[0]) + step for step in (-1, 0, 1)]
    centred = np.array(edge)[:, None] - biases[None] * draw.integers(0, 2, (len(edge), 1))
    rows = np.concatenate([centred, draw.integers(low, high + 1, (60, channels))]).clip(low, high)
    layer = network.Requantise("r", multipliers.astype(np.int32), shift, out_shape.signed)
    wanted = requantise(layer, rows.astype(np.int64) + biases)
    assert wanted.min() < wanted.max()
    dut = Requantise(layout, multipliers.tolist(), biases.tolist(), shift, in_shape, out_shape)
    run_bench(
        dut,
        "tests.rtl_templates.stream_bench",
        parameters={
            "x": to_beats(rows.tolist(), layout, in_shape.width),
            "y": to_beats(wanted.tolist(), layout, 8),
            "care": [pack([0 if channel == -1 else -1 for channel in row], 8) for row in layout],
            "interval": 1,
            "latency": dut.latency,
        },
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multipliers": [1]}, "multipliers must be 2 numbers from 1 to 65535"),
        ({"multipliers": [0, 1]}, "multipliers must be 2 numbers from 1 to 65535"),
        ({"multipliers": [1, 65536]}, "multipliers must be 2 numbers from 1 to 65535"),
        ({"biases": [1]}, "biases must be 2 numbers"),
        ({"shift": 48}, "shift must be 0 to 47, not 48"),
        ({"out_shape": signed(9)}, "out_shape must be signed"),
        ({"layout": [[0, 0]]}, "layout must hold every channel"),
    ],
)
def test_refuses(change, message):
    arguments = {
        "layout": [[0], [1]],
        "multipliers": [1, 1],
        "biases": [0, 0],
        "shift": 0,
        "in_shape": signed(9),
        "out_shape": signed(8),
    }
    with pytest.raises(ValueError, match=message):
        Requantise(**{**arguments, **change})
