# amaranth: UnusedElaboratable=no
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
from amaranth import Shape, signed, unsigned
from numpy.typing import NDArray

from rtl_templates import timing
from rtl_templates.stream_pool import StreamPool
from sim.streams import pack
from tests.rtl_templates.layout_samples import shuffled, to_beats
from tests.rtl_templates.units import Expected, check_units

WORDS = 6


@dataclass(frozen=True)
class Case:
    """One pool."""

    kind: Literal["max", "sum"]
    shape: Shape
    result: Shape
    channels: int
    lanes: int
    map: tuple[int, int]
    kernel: tuple[int, int]


CASES = [
    # Eight beats a position: nothing is handed on within the pipeline.
    Case("max", signed(21), signed(21), 64, 8, (10, 10), (2, 2)),
    Case("max", unsigned(8), unsigned(8), 5, 2, (5, 7), (2, 2)),
    Case("max", signed(8), signed(8), 4, 1, (7, 8), (3, 2)),
    # Beats of a window that follow each other in 1, 2 and 3 cycles.
    Case("max", signed(9), signed(9), 3, 3, (6, 9), (2, 3)),
    Case("sum", signed(8), signed(10), 4, 2, (4, 5), (2, 2)),
    Case("max", signed(8), signed(8), 3, 1, (4, 4), (2, 2)),
    # The same within a column of windows.
    Case("sum", unsigned(8), unsigned(10), 1, 1, (7, 1), (3, 1)),
    Case("max", signed(8), signed(8), 1, 1, (6, 2), (3, 1)),
    Case("max", signed(8), signed(8), 2, 1, (4, 3), (2, 2)),
    Case("sum", signed(4), signed(6), 1, 1, (5, 3), (2, 1)),
    # One window for the whole map; windows of one row; windows of one value.
    Case("sum", signed(8), signed(13), 3, 2, (5, 6), (5, 6)),
    Case("max", signed(8), signed(8), 2, 2, (3, 8), (1, 3)),
    Case("sum", signed(8), signed(9), 5, 2, (3, 2), (1, 1)),
    Case("max", signed(8), signed(8), 1, 1, (1, 1), (1, 1)),
]


def test_equals_the_reference():
    check_units([unit(case) for case in CASES])


def pooled(case: Case, x: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N, C, H, W) to (N, C, H // kernel, W // kernel)."""
    (rows, columns), (high, wide) = (np.array(case.map) // case.kernel).tolist(), case.kernel
    whole = x[:, :, : rows * high, : columns * wide]
    windows = whole.reshape(*x.shape[:2], rows, high, columns, wide)
    return windows.max(axis=(3, 5)) if case.kind == "max" else windows.sum(axis=(3, 5))


def unit(case: Case) -> tuple[StreamPool, Expected]:
    layout = shuffled(case.channels, case.lanes)
    draw = np.random.default_rng(len(str(case)))
    low, high = bounds(case.shape)
    x = draw.integers(low, high + 1, (WORDS, case.channels, *case.map))
    x[1], x[2], x[3] = low, high, draw.choice([low, high], x[3].shape)
    # Any place of the window may hold the largest value, also among very small ones.
    x[4] = np.where(draw.random(x[4].shape) < 0.2, x[4], low)
    y = pooled(case, x)
    assert bounds(case.result)[0] <= y.min() and y.max() <= bounds(case.result)[1]
    bits, beats = case.result.width, len(layout)
    interval = timing.stream_pool_interval(case.map[0] * case.map[1], beats)
    # Cycles of a word, a beat of the input in each, in which a window is complete.
    rows, columns = (range(size - 1, extent, size) for size, extent in zip(case.kernel, case.map, strict=True))
    ends = [(row * case.map[1] + column) * beats + beat for row in rows for column in columns for beat in range(beats)]
    component = StreamPool(
        case.kind, case.shape, case.result, lanes=case.lanes, beats=beats, map=case.map, kernel=case.kernel
    )
    assert component.LATENCY == 6
    return component, Expected(
        name=str(case),
        x=to_beats(pixels(x), layout, case.shape.width),
        y=to_beats(pixels(y), layout, bits, nothing=0),
        care=[pack((0 if channel == -1 else -1 for channel in row), bits) for row in layout],
        cycles=[word * interval + end - ends[0] for word in range(WORDS) for end in ends],
        latency=6,
        latency_from=ends[0],
    )


def bounds(shape: Shape) -> tuple[int, int]:
    return (-(1 << shape.width - 1), (1 << shape.width - 1) - 1) if shape.signed else (0, (1 << shape.width) - 1)


def pixels(maps: NDArray[np.int64]) -> list[list[int]]:
    """(N, C, H, W) as the positions of a stream, each in torch's order of channels."""
    return maps.transpose(0, 2, 3, 1).reshape(-1, maps.shape[1]).tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "mean"}, "kind must be 'max' or 'sum', not 'mean'"),
        ({"result": signed(9)}, "a maximum has the shape of its values, signed\\(8\\), not signed\\(9\\)"),
        ({"lanes": 0}, "lanes must be positive, not 0"),
        ({"beats": 0}, "beats must be positive, not 0"),
        ({"kernel": (3, 4)}, "kernel must be \\(1, 1\\) to map = \\(4, 3\\), not \\(3, 4\\)"),
        ({"kernel": (0, 1)}, "kernel must be \\(1, 1\\) to map = \\(4, 3\\), not \\(0, 1\\)"),
    ],
)
def test_refuses(change, message):
    arguments = {
        "kind": "max", "shape": signed(8), "result": signed(8), "lanes": 1, "beats": 1, "map": (4, 3), "kernel": (2, 2)
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        StreamPool(**{**arguments, **change})
