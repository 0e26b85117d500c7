from __future__ import annotations

import numpy as np
import pytest

from hwgen.format.network import Conv2d, Input, IntegerNetwork, KWinners, Layer, MaxPool2d, ReLU, Requantise
from hwgen.packing import pack_network
from hwgen.plan import Plan, make_plan
from hwgen.plan.scatter import reach
from hwgen.plan.stages import GlobalWinners, Mac, Scatter, Window


@pytest.mark.parametrize(
    ("extent", "kernel", "stride", "padding", "dilation", "offsets"),
    [
        (8, 3, 1, 1, 1, 3),
        (9, 3, 2, 0, 1, 2),
        (9, 3, 3, 0, 1, 1),
        (9, 2, 3, 0, 1, 1),
        # Taps lie 2 apart, as windows do: an even input meets all three, an odd one none.
        (9, 3, 2, 0, 2, 3),
        (10, 4, 2, 3, 3, 2),
        # A window for each end of the kernel only.
        (5, 5, 1, 0, 1, 1),
        # Windows in the padding alone.
        (1, 1, 2, 3, 1, 1),
    ],
)
def test_reach_holds_every_product_once(extent, kernel, stride, padding, dilation, offsets):
    outputs = (extent + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    wanted = set()
    for output in range(outputs):
        for tap in range(kernel):
            place = output * stride + tap * dilation - padding
            if 0 <= place < extent:
                wanted.add((place, output, tap))
    window = Window(
        map=(2, extent),
        kernel=(1, kernel),
        stride=(1, stride),
        padding=(0, padding),
        dilation=(1, dilation),
        size=(2, outputs),
    )
    table = reach(window, 1)
    assert table.inside.shape == (extent, offsets)
    places, columns = np.nonzero(table.inside)
    found = list(zip(places, table.output[places, columns], table.kernel[places, columns], strict=True))
    assert len(found) == len(wanted) and set(found) == wanted


def network(k: int, between: tuple[Layer, ...] = (), local: bool = False) -> IntegerNetwork:
    """k winners of a map of 4 x 6 x 6 values before 9 products each in 8 channels."""
    rng = np.random.default_rng(4)
    first, second = rng.integers(1, 9, (4, 1, 1, 1)).astype(np.int8), rng.integers(1, 9, (8, 4, 3, 3)).astype(np.int8)
    return IntegerNetwork(
        Input((1, 6, 6), 1.0, False),
        (
            Conv2d("conv1", first, first != 0, np.zeros(4, np.int32)),
            Requantise("requantise1", np.ones(4, np.int32), 3, True),
            KWinners("winners", k, local),
            *between,
            Conv2d("conv2", second, second != 0, np.zeros(8, np.int32)),
        ),
        np.ones(8),
    )


def second(plan: Plan) -> Mac | Scatter:
    stage = next(stage for stage in plan.stages if stage.name == "conv2")
    assert isinstance(stage, Mac | Scatter)
    return stage


@pytest.mark.parametrize("mode", ["sparse-sparse", "auto"])
def test_few_winners_scatter(mode):
    plan = make_plan(pack_network(network(5)), mode=mode, cycles=500)
    stage = second(plan)
    assert isinstance(stage, Scatter)
    # 5 winners, 9 offsets, 8 channels by one multiplier; dense activations would need 4 * 4 * 36 * 8 steps.
    assert (stage.multipliers, stage.steps, stage.places, stage.cycles) == (1, 360, 128, 371)
    winners = next(stage for stage in plan.stages if isinstance(stage, GlobalWinners))
    assert winners.emit == "entries"


def test_draining_the_map_can_take_longest():
    assert second(make_plan(pack_network(network(1)), mode="sparse-sparse", cycles=410)).cycles == 4 * 4 * 8


@pytest.mark.parametrize("mode", ["sparse-sparse", "auto"])
def test_many_winners_do_not_scatter(mode):
    # 143 of 144 values with 9 offsets, most of which lead out of the map, against 36 values at 16 positions.
    stage = second(make_plan(pack_network(network(143)), mode=mode, cycles=1310))
    assert isinstance(stage, Mac)
    assert (stage.mode, stage.multipliers) == ("sparse-dense", 4)


@pytest.mark.parametrize("mode", ["dense", "sparse-dense"])
def test_other_modes_skip_no_activations(mode):
    assert isinstance(second(make_plan(pack_network(network(5)), mode=mode, cycles=2000)), Mac)


@pytest.mark.parametrize(
    "changed",
    [
        network(5, between=(ReLU("relu"),)),
        network(5, between=(MaxPool2d("pool", (2, 2), (1, 1)),)),
        network(2, local=True),
        network(144),
    ],
    ids=["relu between", "pool between", "local", "all win"],
)
def test_only_directly_behind_winners_of_a_whole_map(changed):
    assert isinstance(second(make_plan(pack_network(changed), mode="sparse-sparse", cycles=5000)), Mac)


def test_a_list_keeps_up_where_values_would_not():
    # The k-WTA reads its map once for a list, twice for values.
    plan = make_plan(pack_network(network(2)), mode="auto", cycles=256 + 2 + 144 + 2)
    assert isinstance(second(plan), Scatter)
