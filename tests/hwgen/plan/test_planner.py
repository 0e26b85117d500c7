from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from boards.catalogue import board as board_named
from hwgen.errors import PlanError
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
from hwgen.packing import pack_network
from hwgen.plan import MODES, make_plan
from hwgen.plan.resources import total
from hwgen.plan.stages import LocalWinners, Mac, Pool
from hwgen.sparsify import TileWise
from tests.random_networks import random_network


def board(dsp: int, lut: int, blocks: int):
    return SimpleNamespace(name="small", dsp=dsp, lut=lut, block_ram_bits=blocks * (18 << 10))


def two_layers() -> IntegerNetwork:
    """Sparse layers, one behind local winners."""
    draw = np.random.default_rng(8)

    def weights(shape, density):
        mask = draw.random(shape) < density
        return np.where(mask, draw.integers(-127, 128, shape), 0).astype(np.int8), mask

    return IntegerNetwork(
        Input((2, 9, 9), 1.0, True),
        (
            Conv2d("conv1", *weights((24, 2, 3, 3), 0.4), np.zeros(24, np.int32)),
            Requantise("requantise1", draw.integers(1, 200, 24).astype(np.int32), 14, True),
            KWinners("winners1", 3, True),
            Conv2d("conv2", *weights((16, 24, 3, 3), 0.2), np.zeros(16, np.int32)),
            MaxPool2d("pool", (5, 5), (5, 5)),
            Flatten("flatten"),
        ),
        np.ones(16),
    )


def winners_in_a_row(channels: int, *between: Layer) -> IntegerNetwork:
    """Local winners behind those of the whole map, whose values come in a burst."""
    return IntegerNetwork(
        Input((channels, 6, 6), 1.0, True),
        (KWinners("all", 9, False), *between, KWinners("each", 1, True)),
        np.ones(channels),
    )


def test_a_board_has_a_name():
    packed = pack_network(two_layers())
    plan = make_plan(packed, board="ulx3s-85f", cycles=2000)
    assert plan == make_plan(packed, board=board_named("ulx3s-85f"), cycles=2000)
    assert str(plan).startswith("Plan(board='ulx3s-85f', mode='auto', ")
    assert str(packed).startswith(f"PackedNetwork({len(packed.network.layers)} layers, ")
    with pytest.raises(PlanError, match="'no-board'"):
        make_plan(packed, board="no-board")


@pytest.mark.parametrize("mode", MODES)
def test_fits_the_board_and_is_the_same_every_time(mode):
    packed = pack_network(two_layers())
    seen = []
    for small in (board(40, 40_000, 60), board(24, 12_000, 60), board(300, 9_000, 300)):
        plan = make_plan(packed, board=small, mode=mode)
        assert plan == make_plan(packed, board=small, mode=mode)
        taken = total(plan.stages)
        assert (
            taken.dsp <= small.dsp
            and taken.lut <= 0.9 * small.lut
            and taken.block_ram * (18 << 10) <= small.block_ram_bits
        )
        # The same goal as a limit is reached too, and one cycle less is not.
        assert (
            make_plan(packed, board=small, mode=mode, cycles=plan.cycles_per_word).cycles_per_word
            == plan.cycles_per_word
        )
        with pytest.raises(PlanError):
            make_plan(packed, board=small, mode=mode, cycles=plan.cycles_per_word - 1)
        seen.append(plan.cycles_per_word)
    assert len(set(seen)) > 1


def test_more_cycles_take_no_more_of_the_board():
    packed = pack_network(two_layers())
    small = board(150, 80_000, 200)
    fastest = make_plan(packed, board=small, mode="auto").cycles_per_word
    prices = []
    for slack in (1, 2, 4, 8, 32):
        plan = make_plan(packed, board=small, mode="auto", cycles=slack * fastest)
        assert plan.cycles_per_word <= slack * fastest
        taken = total(plan.stages)
        prices.append(taken.dsp / 150 + taken.lut / 80_000 + taken.block_ram / 200)
    assert all(later <= 1.1 * earlier for earlier, later in pairwise(prices))
    assert prices[-1] < 0.8 * prices[0]


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ({"board": board(1, 40_000, 60)}, "the smallest plan in mode 'dense' takes .* multipliers, but small has 1"),
        ({"board": board(40, 700, 60)}, "look-up tables, but small has 630; choose a larger board"),
        ({"board": board(40, 40_000, 1)}, "blocks of block memory, but small has 1; choose a larger board"),
        ({"cycles": 7}, "'input': 81 beats a word are more than the 7 cycles asked for"),
        (
            {"cycles": 90, "board": board(8, 40_000, 60)},
            "'conv1'.* in 90 cycles a word with the 8 multipliers of small",
        ),
    ],
)
def test_says_what_stands_in_the_way(goal, message):
    with pytest.raises(PlanError, match=message):
        make_plan(pack_network(two_layers()), mode="dense", **goal)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_burst_faster_than_the_search_is_buffered(channels):
    # A local k-WTA takes 3 cycles a position at least; the burst brings one in as many as it has channels.
    plan = make_plan(pack_network(winners_in_a_row(channels)), mode="dense")
    kinds = [stage.kind for stage in plan.stages]
    assert kinds[-2:] == ["pool", "local k-WTA"]
    buffer = plan.stages[-2]
    assert isinstance(buffer, Pool) and buffer.window.area == 1 and buffer.cycles == channels * 36 + 4


def test_a_slower_burst_needs_no_buffer():
    for channels in (3, 9):
        plan = make_plan(pack_network(winners_in_a_row(channels)), mode="dense")
        local = plan.stages[-1]
        assert isinstance(local, LocalWinners) and local.cycles == 36 * channels
        assert "pool" not in [stage.kind for stage in plan.stages]


def test_a_burst_goes_on_behind_a_pool_without_a_buffer():
    plan = make_plan(pack_network(winners_in_a_row(5, MaxPool2d("pool", (2, 1), (2, 1)))), mode="dense")
    assert "stream pool" in [stage.kind for stage in plan.stages]
    local = plan.stages[-1]
    # In the second row of each window its positions come one after the other, a beat a cycle.
    assert isinstance(local, LocalWinners) and local.cycles == 18 * 5


def test_a_limit_below_the_search_is_refused():
    made = IntegerNetwork(Input((8, 3, 3), 1.0, True), (KWinners("each", 2, True),), np.ones(8))
    assert make_plan(pack_network(made), mode="dense", cycles=27).cycles_per_word == 27
    with pytest.raises(PlanError, match="'each': its local k-WTA stage takes 27 cycles a word, more than the 26 asked"):
        make_plan(pack_network(made), mode="dense", cycles=26)


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_have_plans_at_every_slack(seed):
    packed = pack_network(random_network(seed))
    for mode in MODES:
        fastest = make_plan(packed, mode=mode)
        for slack in (1, 1.5, 3, 20):
            cycles = int(slack * fastest.cycles_per_word)
            assert make_plan(packed, mode=mode, cycles=cycles).cycles_per_word <= cycles


def test_plans_need_no_amaranth():
    script = "import sys, hwgen.plan.planner; assert not {'amaranth', 'torch', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def tile_wise_layer(outputs: int, inputs: int, tile: int) -> IntegerNetwork:
    rng = np.random.default_rng(0)
    mask = TileWise(tile).project(rng.random((outputs, inputs)), 0.75)
    weight = np.where(mask, rng.integers(1, 128, mask.shape), 0).astype(np.int8)
    layer = Linear("linear", weight, mask, np.zeros(outputs, np.int32))
    return IntegerNetwork(Input((inputs,), 1.0, True), (layer,), np.ones(outputs))


@pytest.mark.parametrize("tile", [32, 24])
@pytest.mark.parametrize("multipliers", [8, 24, 72])
def test_tiles_skip_the_inputs_that_they_have_pruned(tile, multipliers):
    # 120 outputs are left: of tiles of 32 the last has 24, and no number of equal folds keeps to the tiles.
    network = tile_wise_layer(240, 200, tile)
    packed = pack_network(network)
    nonzeros = packed.packings["linear"].nonzeros
    plan = make_plan(packed, mode="sparse-dense", cycles=int(1.2 * nonzeros / multipliers))
    mac = next(stage for stage in plan.stages if isinstance(stage, Mac))
    assert mac.multipliers <= multipliers
    # Beside the tiles' products: tiles that keep fewer inputs than the largest, and steps that are not full.
    assert mac.multipliers * mac.cycles < 1.3 * nonzeros
    assert not mac.routed and mac.weight_bits < 8 * 1.25 * nonzeros
    # Dense, every multiplier of every cycle has three products in four to skip.
    dense = make_plan(packed, mode="dense", cycles=plan.cycles_per_word)
    assert dense.multipliers > 3 * plan.multipliers
