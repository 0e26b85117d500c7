# amaranth: UnusedElaboratable=no
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from amaranth import signed

from hwgen.plan.mac import BANK_LATENCY
from hwgen.plan.stages import WORD_GAP
from rtl_templates.mac_engine import MacEngine
from rtl_templates.target import ULTRASCALE
from rtl_templates.walk import Walk
from tests.rtl_templates.mac_units import Case, convolution, linear, round_trip, stage_of, starts, tile_wise, unit
from tests.rtl_templates.units import check_units

VALUES = [
    Case("one product", linear(1, 1), (1, 1, 1), dense=True),
    Case("prime sizes", linear(13, 7), (13, 1, 1), lanes=3, dense=True, choose={"beats_per_row": 2, "parallel": 3}),
    Case("unsigned", linear(17, 5, 0.4), (17, 1, 1), signed=False, lanes=4, choose={"beats_per_row": 5}),
    Case("several readers", convolution(3, 6, (2, 3), 0.4), (3, 4, 4), lanes=2, choose={"readers": 4}),
    Case("no non-zeros", linear(6, 3, 0.0), (6, 1, 1), lanes=2),
    Case("all at the bound", linear(8, 3), (8, 1, 1), lanes=8, dense=True, choose={"parallel": 3}),
    Case(
        "stride, padding, dilation",
        convolution(3, 6, (3, 2), 0.3, stride=(2, 1), padding=(2, 1), dilation=(1, 2)),
        (3, 5, 4), lanes=2, choose={"beats_per_row": 2},
    ),
    Case("groups", convolution(4, 4, (2, 2), groups=2, padding=(1, 0)), (4, 3, 3), lanes=4, choose={"parallel": 2}),
    Case("tile-wise", tile_wise(20, 36, 8), (20, 1, 1), choose={"parallel": 8, "routed": False}),
    Case("tile-wise, several readers", tile_wise(20, 36, 8), (20, 1, 1), signed=False, lanes=2,
         choose={"parallel": 4, "readers": 3, "routed": False}),
    Case("tile-wise, folds across tiles", tile_wise(20, 36, 8), (20, 1, 1), choose={"parallel": 9, "routed": False}),
    Case("tile-wise convolution", tile_wise(3, 32, 8, (2, 3), padding=(1, 0)), (3, 4, 4),
         choose={"parallel": 8, "beats_per_row": 1, "routed": False}),
    Case("input is slower", convolution(3, 2, (1, 1), stride=(2, 2)), (3, 5, 5), dense=True,
         choose={"beats_per_row": 3}),
]  # fmt: skip

LISTS = [
    Case("a list of one", linear(9, 4, 0.5), (9, 1, 1), entries=1),
    Case("several rows a column", linear(12, 6, 0.3), (12, 1, 1), signed=False, entries=4),
    Case(
        "stride, padding, dilation of lists",
        convolution(6, 4, (3, 3), 0.2, stride=(1, 2), padding=(1, 2), dilation=(2, 1)),
        (6, 5, 4), entries=2, choose={"readers": 2},
    ),
    Case("a reader for each pixel", convolution(5, 4, (2, 3), 0.3, padding=(1, 1)), (5, 3, 4), entries=3,
         choose={"readers": 6}),
    Case("tile-wise lists", tile_wise(20, 36, 8), (20, 1, 1), entries=5, choose={"parallel": 9, "routed": False}),
    Case("sets in folds", convolution(5, 6, (2, 2), 0.5), (5, 3, 3), entries=2, choose={"parallel": 1, "readers": 4}),
]  # fmt: skip


# Engines whose accumulators could hold up the walk: short groups, and enough of them to use up all banks.
PIXELS = convolution(4, 4, (1, 1), 0.5, seed=3)
WINDOWS = convolution(3, 4, (2, 2), 0.5, seed=5, padding=(1, 1))
SHORT = [
    Case("values, one kernel", PIXELS, (4, 4, 4), dense=True, lanes=4, choose={"parallel": 4}),
    Case("values, one kernel, one lane", convolution(1, 2, (1, 1)), (1, 4, 4), dense=True, choose={"parallel": 2}),
    Case("values, many lanes", WINDOWS, (3, 4, 4), dense=True, lanes=3, choose={"parallel": 4, "readers": 4}),
    Case("values, many kernels", PIXELS, (4, 3, 4), lanes=4),
    Case("values, many kernels and lanes", WINDOWS, (3, 4, 4), lanes=3, choose={"readers": 3}),
    Case("lists, one kernel", PIXELS, (4, 4, 4), dense=True, entries=1, choose={"parallel": 4}),
    Case("lists, many lanes", WINDOWS, (3, 4, 4), dense=True, entries=1, choose={"parallel": 4, "readers": 4}),
    Case("lists, many kernels", PIXELS, (4, 4, 4), entries=1),
    Case("lists, many kernels and lanes", WINDOWS, (3, 4, 4), entries=1, choose={"readers": 4}),
]
NARROWED = [
    Case("narrow, one kernel", PIXELS, (4, 3, 4), dense=True, entries=2, narrow=1, choose={"parallel": 4}),
    Case("narrow, many kernels", WINDOWS, (3, 3, 4), entries=1, narrow=1, choose={"parallel": 2, "readers": 2}),
]


def test_values_equal_the_reference():
    check_units([unit(case) for case in VALUES])


def test_lists_equal_the_reference():
    check_units([unit(case) for case in LISTS])


def test_two_products_in_a_multiplier():
    check_units([unit(case) for case in VALUES + LISTS], ULTRASCALE)


@pytest.mark.parametrize("case", VALUES + LISTS, ids=lambda case: case.name)
def test_a_word_takes_the_planned_cycles(case):
    """With `every_beat_comes_in_its_cycle`, which measures the cycles that are compared here."""
    stage, _ = stage_of(case)
    beats = stage.window.map[0] * stage.window.map[1] * stage.beats
    groups = stage.window.positions * stage.folds
    assert np.diff(starts(stage, 4)[::groups]).tolist() == [max(stage.cycles, beats)] * 3


def test_a_group_never_waits_for_the_drain():
    for case in SHORT + NARROWED:
        stage, _ = stage_of(case)
        assert starts(stage, 2)[-1] == 2 * stage.cycles - WORD_GAP - stage.interval, case.name
    check_units([unit(case) for case in SHORT + NARROWED])


def test_a_bank_less_than_needed_costs_time():
    few = []
    for case in SHORT:
        stage, _ = stage_of(case)
        few.append(replace(case, banks=-(-round_trip(stage) // stage.interval) - 1))
        slow, _ = stage_of(few[-1])
        assert starts(slow, 2)[-1] > starts(stage, 2)[-1], case.name
    check_units([unit(case) for case in few])


def test_no_smaller_bank_latency_would_do():
    """What the round trip takes beside the steps, the drain and the planner's allowance for adder trees."""
    needed = []
    for case in SHORT:
        stage, _ = stage_of(case)
        levels = (stage.multipliers // stage.parallel - 1).bit_length()
        needed.append(round_trip(stage) - stage.steps - stage.kernels - 2 * levels)
    assert max(needed) == BANK_LATENCY


def engine(**change) -> MacEngine:
    table = np.zeros((1, 1, 1), np.int64)
    walk = Walk(
        rows=1, columns=1, row_stride=1, column_stride=1, map_rows=1, map_columns=1, rows_per_pixel=1, folds=1,
        fold_stride=0, dy=table, dx=table, offset=table, present=table == 0, weight=None, interval=1, gap=WORD_GAP,
    )  # fmt: skip
    arguments = {
        "shape": signed(8), "stream_lanes": 2, "index_size": 2, "positions": 1, "beats": 1, "beats_per_row": 1,
        "walk": walk, "weights": np.zeros((1, 1, 2, 3), int), "kernel_ids": np.zeros((1, 1, 2, 3), int), "kernels": 1,
        "accumulator": signed(18), "banks": 2,
    }  # fmt: skip
    return MacEngine(**{**arguments, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": np.zeros((1, 1, 2, 2), int)}, "weights and kernel IDs must be \\(readers, depth, lanes, sets\\)"),
        ({"stream_lanes": 3}, "weights must have 3 lanes, not 2"),
        ({"stream_lanes": None}, "weights must have 1 lanes, not 2"),
        ({"kernel_ids": np.ones((1, 1, 2, 3), int)}, "kernel IDs must be below 1"),
        ({"kernel_ids": -np.ones((1, 1, 2, 3), int)}, "kernel IDs must be below 1"),
        ({"kernel_ids": np.ones((1, 1, 2, 3), int), "kernels": 2, "routed": False}, "must be 0 .* not routed, not 1"),
        ({"kernels": 2, "routed": False, "serial": True, "banks": 1}, "serial accumulators route their products"),
        ({"weights": np.full((1, 1, 2, 3), -128)}, "weights must be in \\[-127, 127\\]"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        engine(**change)
