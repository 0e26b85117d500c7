"""Networks that once gave wrong bits, wrong cycles, a deadlock or a crash; each goes the whole journey."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.errors import PlanError
from hwgen.format.network import Flatten, Input, IntegerNetwork, KWinners, Linear, Requantise, SumPool2d
from hwgen.packing import pack_network
from hwgen.plan import make_plan
from tests.random_networks import random_network
from tests.system.journey import check

MAP = Input((2, 3, 3), 1.0, True)


def linear(outputs: int, inputs: int) -> Linear:
    weight = np.random.default_rng(0).integers(-127, 128, (outputs, inputs)).astype(np.int8)
    return Linear("linear", weight, weight != 0, np.arange(outputs, dtype=np.int32))


def network(*layers, outputs: int) -> IntegerNetwork:
    return IntegerNetwork(MAP, layers, np.ones(outputs))


def pooled(multiplier: list[int]) -> IntegerNetwork:
    """A requantisation behind a Flatten: a multiplier for each channel and position."""
    scale = Requantise("scale", np.array(multiplier, np.int32), 2, True)
    return network(SumPool2d("pool", (2, 2), (1, 1)), Flatten("flatten"), scale, linear(3, 8), outputs=3)


def test_a_local_k_wta_keeps_up_with_the_burst_of_a_global_one():
    check(network(KWinners("all", 9, False), KWinners("each", 1, True), outputs=2), "dense", 2.0, 0, stalls=True)


@pytest.mark.parametrize("k", [18, 40])
def test_a_global_k_wta_that_keeps_everything(k):
    layers = (KWinners("all", k, False), Flatten("flatten"), linear(4, 18))
    check(network(*layers, outputs=4), "sparse-sparse", 1.0, 1, stalls=True)


def test_a_local_k_wta_of_a_flattened_map_is_one_over_the_vector():
    check(network(Flatten("flatten"), KWinners("each", 4, True), outputs=18), "dense", 1.0, 2, stalls=True)


def test_requantisation_behind_flatten():
    check(pooled([3, 3, 3, 3, 7, 7, 7, 7]), "sparse-dense", 1.0, 3, stalls=True)
    with pytest.raises(PlanError, match="'scale'.*flatten after the requantisation"):
        make_plan(pack_network(pooled([3, 3, 3, 4, 7, 7, 7, 7])))


@pytest.mark.parametrize("seed", [20058291, 3971872378173961784, 3869851348851211545])
def test_whoever_allows_more_cycles_still_gets_a_plan(seed):
    packed = pack_network(random_network(seed))
    fastest = make_plan(packed, mode="sparse-sparse").cycles_per_word
    for slack in (1, 2, 5):
        assert make_plan(packed, mode="sparse-sparse", cycles=slack * fastest).cycles_per_word <= slack * fastest
