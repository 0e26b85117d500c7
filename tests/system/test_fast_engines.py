"""Networks at speeds that only the chain of lanes, the unrolled convolution and the parallel k-WTA reach."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.format.network import (
    Conv2d,
    Flatten,
    Input,
    IntegerNetwork,
    KWinners,
    Linear,
    MaxPool2d,
    Requantise,
)
from hwgen.packing import pack_network
from hwgen.plan import lanes, mac, make_plan, window_lanes
from tests.system.journey import check_plan


def weights(draw, shape, density):
    mask = draw.random(shape) < density
    return np.where(mask, draw.integers(-127, 128, shape), 0).astype(np.int8), mask


def requantise(draw, name, channels, shift, signed=True):
    return Requantise(name, draw.integers(128, 1 << 10, channels).astype(np.int32), shift, signed)


def network(seed: int, *, signed: bool, padding: int, stride: int, pool: tuple[int, int], density: float):
    """Unrolled convolution with a pool, local k-WTA, convolution, pool, local k-WTA, Linear, global k-WTA, Linear."""
    draw = np.random.default_rng(seed)
    rows, columns = (11 // pool[0], 14 // pool[1])
    size = [(extent + 2 * padding - 3) // stride + 1 for extent in (rows, columns)]
    features = 12 * (size[0] // 2) * (size[1] // 2)

    def bias(n: int):
        return draw.integers(-300, 300, n).astype(np.int32)

    return IntegerNetwork(
        Input((1, 13, 16), 1.0, signed),
        (
            Conv2d("conv1", *weights(draw, (16, 1, 3, 3), 0.4), bias(16)),
            MaxPool2d("pool1", pool, pool),
            requantise(draw, "requantise1", 16, 17),
            KWinners("winners1", 4, True),
            Conv2d("conv2", *weights(draw, (12, 16, 3, 3), density), bias(12), (stride,) * 2, (padding,) * 2),
            MaxPool2d("pool2", (2, 2), (2, 2)),
            requantise(draw, "requantise2", 12, 17, False),
            KWinners("winners2", 3, True),
            Flatten("flatten"),
            Linear("linear", *weights(draw, (300, features), 0.1), bias(300)),
            requantise(draw, "requantise3", 300, 17),
            KWinners("winners3", 20, False),
            Linear("output", *weights(draw, (5, 300), 1.0), bias(5)),
        ),
        np.ones(5),
    )


@pytest.mark.parametrize(
    ("arguments", "cycles", "units", "parts"),
    [
        ({"signed": True, "padding": 0, "stride": 1, "pool": (2, 2), "density": 0.25}, None, 2, []),
        ({"signed": False, "padding": 1, "stride": 1, "pool": (1, 1), "density": 0.2}, None, 2, [(1, 2)]),
        ({"signed": False, "padding": 1, "stride": 2, "pool": (1, 2), "density": 0.5}, None, 2, [(1, 1)]),
        # Parts that are halves of kernel offsets.
        ({"signed": False, "padding": 1, "stride": 1, "pool": (1, 1), "density": 0.2}, 949, 1, [(3, 2)]),
        ({"signed": False, "padding": 1, "stride": 2, "pool": (1, 2), "density": 0.5}, 624, 1, [(5, 2)]),
    ],
)
def test_networks_of_fast_engines(arguments, cycles, units, parts, monkeypatch):
    made = network(5, **arguments)
    monkeypatch.setattr(window_lanes, "candidates", lambda request: ())
    if arguments["padding"] == 1:
        # Lanes also where a MAC engine would do, which is cheaper.
        every = mac.candidates
        monkeypatch.setattr(mac, "candidates", lambda request: () if request.layer.name == "conv2" else every(request))
    packed = pack_network(made)
    plan = make_plan(packed, mode="sparse-sparse", cycles=cycles)
    kinds = {stage.kind for stage in plan.stages}
    assert {"unrolled", "stream pool"} <= kinds
    assert [(stage.parts, stage.split) for stage in plan.stages if stage.kind == "lanes"] == parts
    assert [stage.units for stage in plan.stages if stage.kind == "global k-WTA"] == [units]
    check_plan(made, packed, plan, seed=1, stalls=True)


@pytest.mark.parametrize(
    ("arguments", "cycles", "most_chains"),
    [
        ({"signed": False, "padding": 1, "stride": 1, "pool": (1, 1), "density": 0.2}, 2000, 1),
        ({"signed": True, "padding": 0, "stride": 1, "pool": (2, 2), "density": 0.25}, None, 1),
        ({"signed": False, "padding": 1, "stride": 2, "pool": (1, 2), "density": 0.5}, 400, 2),
    ],
)
def test_networks_on_lanes_of_windows(arguments, cycles, most_chains, monkeypatch):
    made = network(6, **arguments)
    every = window_lanes.candidates
    monkeypatch.setattr(
        mac,
        "candidates",
        lambda request, all_of=mac.candidates: () if request.layer.name == "conv2" else all_of(request),
    )
    monkeypatch.setattr(lanes, "candidates", lambda request: ())
    monkeypatch.setattr(
        window_lanes, "candidates", lambda request: [way for way in every(request) if way.chains == most_chains]
    )
    packed = pack_network(made)
    plan = make_plan(packed, mode="sparse-sparse", cycles=cycles)
    assert [stage.chains for stage in plan.stages if stage.kind == "window lanes"] == [most_chains]
    check_plan(made, packed, plan, seed=1, stalls=True)
