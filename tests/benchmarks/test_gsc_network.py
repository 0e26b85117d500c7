from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gsc_network
from host import reference
from hwgen.format.io import quantise_input
from hwgen.format.network import Conv2d, KWinners, Linear


@pytest.fixture(scope="module")
def packed():
    return gsc_network.network(5)


def test_the_configuration_is_the_papers(packed):
    kinds = [type(layer).__name__ for layer in packed.network.layers]
    convolution = ["Conv2d", "MaxPool2d", "Requantise", "KWinners"]
    assert kinds == [*convolution, *convolution, "Flatten", "Linear", "Requantise", "KWinners", "Linear"]
    layers = {layer.name: layer for layer in packed.network.layers}
    for name, nonzeros in (("conv1", 12), ("conv2", 200), ("linear", 64), ("output", 1500)):
        layer = layers[name]
        assert isinstance(layer, Conv2d | Linear)
        rows = layer.mask.reshape(len(layer.mask), -1)
        assert (rows.sum(axis=1) == nonzeros).all()
        assert (np.abs(layer.weight.reshape(rows.shape).astype(int)).max(axis=1) == 127).all()
        assert layer.bias.any()
    assert [(layer.k, layer.local) for layer in packed.network.layers if isinstance(layer, KWinners)] == [
        (8, True),
        (8, True),
        (150, False),
    ]
    assert gsc_network.nonzeros(packed) == 127_696


def test_packing_leaves_no_slot_empty_but_one_of_25_in_conv1(packed):
    sets = {layer.name: (layer.sets, layer.kernels) for layer in packed.report()}
    assert sets == {"conv1": (32, 2), "conv2": (8, 8), "linear": (60, 25), "output": (12, 1)}
    assert {layer.name: layer.efficiency for layer in packed.report()} == {
        "conv1": 24 / 25,
        "conv2": 1.0,
        "linear": 1.0,
        "output": 1.0,
    }


def test_the_winners_are_as_many_as_the_paper_says(packed):
    x = quantise_input(packed.network.input, gsc_network.inputs(5, 3))
    winners = {
        layer.name: np.count_nonzero(y.reshape(len(y), -1), axis=1)
        for layer, y in reference.trace(packed.network, x)
        if isinstance(layer, KWinners)
    }
    # A winner may be worth 0, but hardly ever is.
    for name, most in (("winners1", 14 * 14 * 8), ("winners2", 5 * 5 * 8), ("winners3", 150)):
        assert (winners[name] <= most).all() and (winners[name] >= 0.99 * most).all()


def test_the_seed_changes_weights_masks_and_inputs_and_nothing_else_does(packed):
    again, other = gsc_network.network(5), gsc_network.network(6)
    assert packed.content_hash() == again.content_hash() != other.content_hash()
    for mine, others in zip(packed.network.layers, other.network.layers, strict=True):
        if isinstance(mine, Conv2d | Linear) and mine.name != "output":
            assert isinstance(others, Conv2d | Linear)
            assert (mine.mask != others.mask).any()
    x = gsc_network.inputs(5, 3)
    assert x.shape == (3, 1, 32, 32) and x.dtype == np.float32
    np.testing.assert_array_equal(x, gsc_network.inputs(5, 9)[:3])
    assert (x != gsc_network.inputs(6, 3)).all()


@pytest.mark.slow
def test_the_hardware_is_bit_exact_in_the_planned_cycles(tmp_path):
    command = [
        *(sys.executable, "-m", "benchmarks.gsc_hardware", "--mode", "sparse-sparse"),
        *("--simulate", "4", "--seed", "11", "--bundle", tmp_path / "bundle", "--json"),
    ]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=1800, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["bit_exact"] is True and result["words"] == 4 and result["seed"] == 11
    assert result["cycles_per_word"] == result["cycles_planned"]
    assert result["nonzeros"] == 127_696
    products = {stage["name"]: stage["products"] for stage in result["stages"] if stage["layer"]}
    assert products == {"conv1": 602_112, "conv2": 160_000, "linear": 12_000, "output": 1_800}
