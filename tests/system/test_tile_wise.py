"""Tile-wise layers in simulated hardware: shared activations, no kernel IDs."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.format.network import Conv2d, Flatten, Input, IntegerNetwork, Linear, Requantise
from hwgen.packing import pack_network
from hwgen.plan import make_plan
from hwgen.plan.stages import Mac
from hwgen.sparsify import TileWise
from tests.system.journey import check_plan


def network() -> IntegerNetwork:
    """Half of the outputs of both layers are pruned, and half of each tile's inputs."""
    rng = np.random.default_rng(0)

    def weights(shape: tuple[int, ...], tile: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mask = TileWise(tile).project(rng.random(shape), 0.75).reshape(shape)
        weight = np.where(mask, rng.integers(-127, 128, shape), 0).astype(np.int8)
        return weight, mask, rng.integers(-5000, 5000, shape[0]).astype(np.int32)

    return IntegerNetwork(
        Input((4, 6, 5), 1.0, True),
        (
            Conv2d("conv", *weights((32, 4, 3, 3), 8)),
            Requantise("scale", np.full(32, 90, np.int32), 14, True),
            Flatten("flatten"),
            Linear("linear", *weights((45, 384), 8)),
        ),
        np.ones(45),
    )


@pytest.mark.parametrize(("mode", "cycles"), [("sparse-dense", 1500), ("auto", 900)])
def test_tile_wise_layers_are_bit_exact_in_the_planned_cycles(mode, cycles):
    packed = pack_network(network())
    plan = make_plan(packed, mode=mode, cycles=cycles)
    macs = [stage for stage in plan.stages if isinstance(stage, Mac)]
    assert [stage.name for stage in macs] == ["conv", "linear"]
    assert not any(stage.routed for stage in macs) and all(stage.kernels > 1 for stage in macs)
    # Folds lie within tiles: most inputs that a fold does not need are skipped.
    assert 8 % macs[1].parallel == 0 and macs[1].steps * macs[1].readers < 0.6 * 384
    check_plan(network(), packed, plan, seed=1, stalls=True)
