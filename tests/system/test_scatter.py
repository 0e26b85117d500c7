"""Networks whose convolution behind a global k-WTA runs on a scatter engine, which decides the cycles or does not."""

from __future__ import annotations

import numpy as np
import pytest

from host import reference
from hwgen.format.network import (
    Conv2d,
    Flatten,
    Input,
    IntegerNetwork,
    KWinners,
    Layer,
    Linear,
    MaxPool2d,
    Requantise,
)
from hwgen.generator import write
from hwgen.packing import pack_network
from hwgen.plan import make_plan
from sim.compiled import CompiledSimulator
from tests.random_networks import inputs

WORDS = 12


def convolution(name: str, outputs: int, inputs_: int, kernel: int, density: float, **geometry) -> Conv2d:
    rng = np.random.default_rng(outputs)
    mask = rng.random((outputs, inputs_, kernel, kernel)) < density
    weight = np.where(mask, rng.integers(-127, 128, mask.shape), 0).astype(np.int8)
    return Conv2d(name, weight, mask, rng.integers(-500, 500, outputs).astype(np.int32), **geometry)


def requantise(name: str, channels: int, signed: bool) -> Requantise:
    return Requantise(name, np.random.default_rng(2).integers(1, 200, channels).astype(np.int32), 13, signed)


def network(k: int, conv: Conv2d, tail: tuple[Layer, ...]) -> IntegerNetwork:
    head = (
        convolution("conv1", 4, 1, 1, 1.0),
        requantise("requantise1", 4, True),
        KWinners("winners1", k, False),
        conv,
    )
    outputs = tail[-1].weight.shape[0] if tail and isinstance(tail[-1], Linear) else conv.weight.shape[0]
    return IntegerNetwork(Input((1, 5, 4), 1.0, True), (*head, *tail), np.ones(outputs))


def linear(outputs: int, columns: int) -> Linear:
    layer = convolution("linear", outputs, columns, 1, 0.2)
    return Linear("linear", layer.weight.reshape(outputs, -1), layer.mask.reshape(outputs, -1), layer.bias)


FILLING = network(
    11,
    convolution("conv2", 6, 4, 3, 0.4, padding=(1, 1)),
    (requantise("requantise2", 6, False), KWinners("winners2", 9, False), Flatten("flatten"), linear(5, 120)),
)
DRAINING = network(
    2,
    convolution("conv2", 24, 4, 1, 1.0, padding=(1, 0)),
    (requantise("requantise2", 24, True), KWinners("winners2", 3, True), Flatten("flatten"), linear(7, 24 * 28)),
)
WAITING = network(
    7,
    convolution("conv2", 10, 4, 3, 0.2, stride=(2, 1), dilation=(1, 2), padding=(0, 2)),
    (MaxPool2d("pool", (2, 2), (1, 1)), requantise("requantise2", 10, True), KWinners("winners2", 2, True)),
)


@pytest.mark.parametrize(
    ("net", "cycles", "slowest"),
    [
        pytest.param(FILLING, 700, "scatter", id="filling decides"),
        pytest.param(DRAINING, 28 * 24, "scatter", id="draining decides"),
        pytest.param(WAITING, 400, "global k-WTA", id="the k-WTA decides"),
    ],
)
def test_equals_the_reference_in_the_planned_cycles(net, cycles, slowest, tmp_path):
    packed = pack_network(net)
    plan = make_plan(packed, mode="sparse-sparse", cycles=cycles)
    assert "scatter" in [stage.kind for stage in plan.stages]
    assert plan.slowest.kind == slowest
    bundle = write(plan, packed, tmp_path / "bundle").path
    x = inputs(net, WORDS, seed=3)
    expected = reference.run_int(net, x)
    with CompiledSimulator.from_bundle(bundle) as simulator:
        y, result = simulator.run(x)
        np.testing.assert_array_equal(y, expected)
        assert result.cycles_per_word == plan.cycles_per_word
        for at in (100, plan.cycles_per_word * 3, plan.cycles_per_word * 5 + 50):
            y, _ = simulator.run(x, input_stalls=0.3, output_stalls=0.6, seed=at, reset_at=at)
            np.testing.assert_array_equal(y, expected)
