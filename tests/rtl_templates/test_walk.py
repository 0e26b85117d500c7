# amaranth: UnusedElaboratable=no
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rtl_templates.walk import Walk, Walker
from sim.bench import run_bench

DRAW = np.random.default_rng(11)


def walk(tables: int, steps: int, readers: int, **change) -> Walk:
    """A walk over one pixel, unless changed."""
    nothing = np.zeros((tables, steps, readers), np.int64)
    base = Walk(
        rows=1, columns=1, row_stride=1, column_stride=1, map_rows=1, map_columns=1, rows_per_pixel=1, folds=1,
        fold_stride=0, dy=nothing, dx=nothing, offset=nothing, present=nothing == 0, weight=None, interval=steps, gap=4,
    )  # fmt: skip
    return replace(base, **change)


def random_table(low: int, high: int, *shape: int) -> np.ndarray:
    return DRAW.integers(low, high, shape)


# One step, and nothing has more than one value: no address, no weight address.
SINGLE = walk(1, 1, 1)
# A window with padding on every side, strides, rest cycles, readers that rest, weights of their own for each fold.
CONVOLUTION = walk(
    2, 5, 2, rows=3, columns=4, row_stride=2, column_stride=1, map_rows=6, map_columns=4, rows_per_pixel=3, folds=2,
    dy=random_table(-2, 3, 2, 5, 2), dx=random_table(-2, 3, 2, 5, 2), offset=random_table(0, 3, 2, 5, 2),
    present=random_table(0, 3, 2, 5, 2) > 0, weight=random_table(0, 500, 2, 5, 2), interval=7,
)  # fmt: skip
# The folds of a pool: one table, and an address that moves on.
FOLDS = walk(
    1, 4, 1, rows=2, columns=3, row_stride=2, column_stride=2, map_rows=4, map_columns=7, rows_per_pixel=3, folds=3,
    fold_stride=1, dy=np.array([0, 0, 1, 1]).reshape(1, 4, 1), dx=np.array([0, 1, 0, 1]).reshape(1, 4, 1), gap=2,
)  # fmt: skip
# Tables of all folds in one row after the other, without weight rows of their own; a table row of more than 64 bits.
WIDE = walk(
    3, 3, 1, rows=1, columns=2, column_stride=3, map_rows=1, map_columns=5, rows_per_pixel=1 << 20, folds=3,
    dx=random_table(-1, 3, 3, 3, 1), offset=random_table(0, 1 << 20, 3, 3, 1),
    weight=random_table(0, 1 << 50, 3, 3, 1), interval=4,
)  # fmt: skip


def steps_of(walk: Walk) -> list[list[list[int]]]:
    """For every step of a word and every reader [inside, address, weight], from the definition of a Walk."""
    result = []
    for group in range(walk.rows * walk.columns * walk.folds):
        position, fold = divmod(group, walk.folds)
        row, column = divmod(position, walk.columns)
        for step in range(walk.dy.shape[1]):
            readers = []
            for reader in range(walk.dy.shape[2]):
                at = (fold % walk.dy.shape[0], step, reader)
                y = row * walk.row_stride + int(walk.dy[at])
                x = column * walk.column_stride + int(walk.dx[at])
                inside = bool(walk.present[at]) and 0 <= y < walk.map_rows and 0 <= x < walk.map_columns
                address = (y * walk.map_columns + x) * walk.rows_per_pixel + int(walk.offset[at])
                weight = fold * walk.dy.shape[1] + step if walk.weight is None else int(walk.weight[at])
                readers.append([int(inside), address + fold * walk.fold_stride if inside else 0, weight])
            result.append(readers)
    return result


@pytest.mark.parametrize(
    ("walk", "credits", "unhindered"),
    # A group's credit comes back two cycles after its last step at the earliest.
    [(SINGLE, 1, False), (CONVOLUTION, 2, True), (FOLDS, 2, True), (WIDE, 3, True)],
    ids=["single", "convolution", "folds", "wide"],
)
def test_walks(walk, credits, unhindered):
    wanted = steps_of(walk)
    if walk is CONVOLUTION:
        inside = np.array(wanted)[..., 0]
        assert 0.2 < inside.mean() < 0.8
    assert walk.cycles == walk.rows * walk.columns * walk.folds * walk.interval + walk.gap
    rows = walk.map_rows * walk.map_columns * walk.rows_per_pixel
    run_bench(
        Walker(walk, (rows - 1).bit_length(), credits),
        "tests.rtl_templates.walk_bench",
        parameters={
            "steps": wanted,
            "groups": walk.groups,
            "interval": walk.interval,
            "gap": walk.gap,
            "credits": credits,
            "readers": walk.readers,
            "latency": Walker.LATENCY,
            "unhindered": unhindered,
        },
    )


@pytest.mark.parametrize(
    ("change", "credits", "message"),
    [
        ({"interval": 3}, 1, "interval must be at least the 4 steps, not 3"),
        ({"folds": 3, "dy": np.zeros((2, 4, 1), np.int64)}, 1, "there must be 1 or 3 step tables, not 2"),
        ({"gap": 1}, 1, "interval and gap must leave 2 cycles after the 4 steps of a word's last group, not 1"),
        ({}, 0, "credits must be positive, not 0"),
    ],
)
def test_refuses(change, credits, message):
    with pytest.raises(ValueError, match=message):
        Walker(replace(FOLDS, **change), 7, credits)
