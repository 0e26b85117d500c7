# amaranth: UnusedElaboratable=no
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
from amaranth import Shape, signed, unsigned

from host import reference
from hwgen.format.network import MaxPool2d, SumPool2d
from rtl_templates.pool import Pool
from rtl_templates.walk import Walk
from sim.streams import pack
from tests.rtl_templates.layout_samples import shuffled, to_beats
from tests.rtl_templates.units import Expected, check_units, periodic

GAP, WORDS = 4, 6


@dataclass(frozen=True)
class Case:
    """One pool; `cycles` is what a word must take."""

    kind: Literal["max", "sum"]
    shape: Shape
    result: Shape
    channels: int
    lanes: int
    map: tuple[int, int]
    kernel: tuple[int, int]
    cycles: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil_mode: bool = False


CASES = [
    # The usual pool, bound by its input; odd sizes drop the remainder.
    Case("max", signed(9), signed(9), 5, 2, (5, 7), (2, 2), 5 * 7 * 3, stride=(2, 2)),
    # Negative values beside padding, overlapping windows.
    Case("max", signed(8), signed(8), 1, 1, (3, 5), (3, 3), 2 * 5 * 9 + GAP, stride=(2, 1), padding=(1, 1)),
    Case("max", unsigned(8), unsigned(8), 3, 3, (5, 5), (2, 3), 4 * 3 * 6 + GAP, padding=(0, 1), dilation=(1, 2)),
    Case("max", signed(4), signed(4), 2, 2, (4, 4), (3, 3), 2 * 2 * 9 + GAP, stride=(2, 2), ceil_mode=True),
    # Sums at both ends of the result's range.
    Case("sum", signed(8), signed(12), 3, 2, (4, 4), (4, 4), 2 * 16 + GAP, stride=(4, 4)),
    Case("sum", unsigned(8), unsigned(10), 2, 1, (3, 3), (2, 2), 2 * 4 * 4 + GAP, stride=(2, 2), padding=(1, 1)),
    # Windows that lie wholly in the padding sum to nothing.
    Case("sum", signed(8), signed(10), 1, 1, (2, 3), (2, 2), 3 * 4 * 4 + GAP, stride=(2, 1), padding=(2, 1)),
    # One value a window, and input that takes exactly as long: 12 positions of 1 beat, 8 windows of 1 cycle.
    Case("max", signed(8), signed(8), 1, 1, (3, 4), (1, 1), 12, stride=(2, 1)),
    # Input that takes longer than the pool.
    Case("max", signed(8), signed(8), 3, 1, (5, 2), (1, 2), 5 * 2 * 3, stride=(2, 2)),
    Case("sum", signed(8), signed(8), 1, 1, (1, 1), (1, 1), 1 + GAP),
]  # fmt: skip


def test_equals_the_reference():
    check_units([unit(case) for case in CASES])


def unit(case: Case) -> tuple[Pool, Expected]:
    layout = shuffled(case.channels, case.lanes)
    padding, dilation = case.padding, case.dilation
    layer: MaxPool2d | SumPool2d
    if case.kind == "max":
        layer = MaxPool2d("pool", case.kernel, case.stride, padding, dilation, case.ceil_mode)
    else:
        layer = SumPool2d("pool", case.kernel, case.stride, padding, case.ceil_mode)
    draw = np.random.default_rng(len(str(case)))
    low, high = _range(case.shape)
    x = draw.integers(low, high + 1, (WORDS, case.channels, *case.map))
    x[1], x[2], x[3] = low, high, draw.choice([low, high], x[3].shape)
    y = reference.apply(layer, x)
    assert _range(case.result)[0] <= y.min() and y.max() <= _range(case.result)[1]
    kernel_y, kernel_x = (part.reshape(1, -1, 1) for part in np.indices(case.kernel))
    steps, beats = case.kernel[0] * case.kernel[1], len(layout)
    walk = Walk(
        rows=y.shape[2],
        columns=y.shape[3],
        row_stride=case.stride[0],
        column_stride=case.stride[1],
        map_rows=case.map[0],
        map_columns=case.map[1],
        rows_per_pixel=beats,
        folds=beats,
        fold_stride=1,
        dy=kernel_y * dilation[0] - padding[0],
        dx=kernel_x * dilation[1] - padding[1],
        offset=np.zeros((1, steps, 1), np.int64),
        present=np.ones((1, steps, 1), bool),
        weight=None,
        interval=steps,
        gap=GAP,
    )
    positions, groups = case.map[0] * case.map[1], y.shape[2] * y.shape[3] * beats
    component = Pool(case.kind, case.shape, case.result, lanes=case.lanes, positions=positions, beats=beats, walk=walk)
    bits = case.result.width
    return component, Expected(
        name=str(case),
        x=to_beats(_pixels(x), layout, case.shape.width),
        y=to_beats(_pixels(y), layout, bits, nothing=0),
        care=[pack((0 if channel == -1 else -1 for channel in row), bits) for row in layout],
        cycles=periodic(range(0, groups * steps, steps), case.cycles, WORDS),
        latency=steps + 6,
        latency_from=positions * beats - 1,
    )


def _range(shape: Shape) -> tuple[int, int]:
    return (-(1 << shape.width - 1), (1 << shape.width - 1) - 1) if shape.signed else (0, (1 << shape.width) - 1)


def _pixels(maps: np.ndarray) -> list[list[int]]:
    """(N, C, H, W) as the positions of a stream, each in torch's order of channels."""
    return maps.transpose(0, 2, 3, 1).reshape(-1, maps.shape[1]).tolist()


def walk_of(readers: int, folds: int) -> Walk:
    table = np.zeros((1, 1, readers), np.int64)
    return Walk(
        rows=1, columns=1, row_stride=1, column_stride=1, map_rows=1, map_columns=1, rows_per_pixel=folds,
        folds=folds, fold_stride=1, dy=table, dx=table, offset=table, present=table == 0, weight=None, interval=1,
        gap=GAP,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "result", "walk", "message"),
    [
        ("mean", signed(8), walk_of(1, 1), "kind must be 'max' or 'sum', not 'mean'"),
        ("max", signed(9), walk_of(1, 1), "a maximum has the shape of its values, signed\\(8\\), not signed\\(9\\)"),
        ("max", signed(8), walk_of(2, 1), "the walk must have 1 reader and 1 folds, not 2 and 1"),
        ("sum", signed(8), walk_of(1, 2), "the walk must have 1 reader and 1 folds, not 1 and 2"),
    ],
)
def test_refuses(kind, result, walk, message):
    with pytest.raises(ValueError, match=message):
        Pool(kind, signed(8), result, lanes=1, positions=1, beats=1, walk=walk)
