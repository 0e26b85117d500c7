# amaranth: UnusedElaboratable=no
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from amaranth import signed

from rtl_templates import timing
from rtl_templates.mac_engine import MacEngine
from rtl_templates.serial_accumulators import SerialAccumulators
from rtl_templates.walk import Walk
from sim.bench import run_bench
from sim.streams import pack
from tests.rtl_templates.units import Expected, check_units

WORDS, GAP, BITS = 5, 4, 24


@pytest.mark.parametrize(
    ("bits", "lanes", "sets", "kernels", "lead", "latency"),
    [
        # Address, RAM, value, three of the FIFO.
        (18, 1, 1, 1, 1, 6),
        (19, 1, 3, 25, 8, 6),
        # And a register a level of the tree.
        (23, 3, 2, 5, 6, 6 + 2),
        (20, 2, 1, 8, 8, 6 + 1),
    ],
)
def test_sums(bits, lanes, sets, kernels, lead, latency):
    component = SerialAccumulators(signed(bits), lanes=lanes, sets=sets, kernels=kernels, lead=lead)
    assert component.latency == latency
    run_bench(
        component,
        "tests.rtl_templates.serial_accumulators_bench",
        parameters={
            "bits": bits,
            "lanes": lanes,
            "sets": sets,
            "kernels": kernels,
            "banks": 1,
            "lead": lead,
            "latency": latency,
            # Of the FIFO: a drain and what may still be on its way.
            "depth": 1 << (kernels + latency - 2).bit_length(),
        },
    )


@pytest.mark.parametrize("name", ["lanes", "sets", "kernels", "lead"])
def test_refuses(name):
    arguments = {"lanes": 1, "sets": 1, "kernels": 1, "lead": 2, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be positive, not 0"):
        SerialAccumulators(signed(20), **arguments)


@dataclass(frozen=True)
class Case:
    """An engine that at each of `positions` goes through all of the pixel, fold by fold.

    Attributes:
        beats: of a pixel.
        lanes: values a beat, or None for a list stream, whose indices are below `size`.
        readers: share the beats of a pixel.
        hurry: cycles less than an interval should have.
    """

    beats: int
    sets: int
    kernels: int
    folds: int = 1
    positions: int = 1
    lanes: int | None = None
    size: int = 8
    readers: int = 1
    hurry: int = 0

    @property
    def steps(self) -> int:
        return -(-self.beats // self.readers)

    @property
    def least(self) -> int:
        return timing.serial_interval(self.steps, self.kernels, self.lanes is None)

    @property
    def interval(self) -> int:
        return max(self.steps, self.least - self.hurry)

    @property
    def sweep(self) -> int:
        """Cycles that the first word waits for the sweep after reset."""
        return max(0, self.kernels - self.positions * self.beats)

    def starts(self) -> list[int]:
        """First cycle of each group, when input comes a beat a cycle and output is taken at once."""
        groups, result = self.positions * self.folds, [0]
        for number in range(1, WORDS * groups):
            new_word = number % groups == 0
            ready = result[-1] + max(self.least, self.interval + (GAP if new_word else 0))
            # The first word comes at once, the next in its beats, into the other bank.
            arrived = (number // groups) * self.positions * self.beats - self.sweep
            result.append(max(ready, arrived) if new_word else ready)
        return result


CASES = [
    # The drain decides, the latency of the engine decides; lists and values.
    Case(beats=30, sets=3, kernels=11, folds=2),
    Case(beats=9, sets=2, kernels=3, folds=3),
    Case(beats=24, sets=2, kernels=9, lanes=3, positions=3),
    Case(beats=12, sets=1, kernels=4, lanes=2, positions=2, folds=2),
    Case(beats=5, sets=2, kernels=1, lanes=2, positions=2),
    # Sums over lanes; readers that do not come out even.
    Case(beats=7, sets=2, kernels=6, lanes=2, readers=3, positions=2, folds=2),
    Case(beats=13, sets=2, kernels=5, readers=2, folds=2),
    # The input decides.
    Case(beats=40, sets=1, kernels=2, readers=4),
    # A walk in a hurry waits for the credit and nothing else changes.
    Case(beats=20, sets=2, kernels=9, folds=3, hurry=7),
    Case(beats=20, sets=2, kernels=3, lanes=1, folds=2, hurry=6),
    # Words that come before the sweep after reset is over.
    Case(beats=2, sets=1, kernels=21, lanes=1),
    Case(beats=1, sets=1, kernels=16, folds=2),
]  # fmt: skip


def test_engines_equal_the_reference_in_the_stated_cycles():
    check_units([unit(case) for case in CASES])


def test_a_long_list_in_three_folds():
    case = Case(beats=200, sets=2, kernels=25, folds=3, size=400)
    assert np.diff(case.starts()[::3]).tolist() == [3 * 225 + GAP] * (WORDS - 1)
    check_units([unit(case)])


def unit(case: Case) -> tuple[MacEngine, Expected]:
    draw = np.random.default_rng(len(str(case)))
    lists, steps = case.lanes is None, case.steps
    lanes = case.lanes or 1
    depth = case.folds * (case.size if lists else steps)
    weights = draw.integers(-127, 128, (case.readers, depth, lanes, case.sets))
    kernel_ids = draw.integers(0, case.kernels, weights.shape)
    offset = np.arange(steps * case.readers).reshape(1, steps, case.readers).repeat(case.folds, axis=0)
    present = offset < case.beats
    offset = np.where(present, offset, 0)
    zeros = np.zeros_like(offset)
    walk = Walk(
        rows=1, columns=case.positions, row_stride=1, column_stride=1, map_rows=1, map_columns=case.positions,
        rows_per_pixel=case.beats, folds=case.folds, fold_stride=0, dy=zeros, dx=zeros, offset=offset, present=present,
        weight=zeros + np.arange(case.folds)[:, None, None] * case.size if lists else None,
        interval=case.interval, gap=GAP,
    )  # fmt: skip
    engine = MacEngine(
        shape=signed(8), stream_lanes=case.lanes, index_size=case.size, positions=case.positions, beats=case.beats,
        beats_per_row=1, walk=walk, weights=weights, kernel_ids=kernel_ids, kernels=case.kernels,
        accumulator=signed(BITS), banks=1, serial=True,
    )  # fmt: skip

    values = draw.integers(-128, 128, (WORDS, case.positions, case.beats, lanes))
    values[1], values[2] = -128, 127
    indices = draw.integers(0, case.size, values.shape)
    y = np.zeros((WORDS, case.positions, case.folds, case.kernels, case.sets), np.int64)
    word, position = np.indices((WORDS, case.positions))
    for fold in range(case.folds):
        for beat in range(case.beats):
            step, reader = divmod(beat, case.readers)
            for lane in range(lanes):
                row = fold * case.size + indices[:, :, beat, lane] if lists else np.full_like(word, fold * steps + step)
                for index in range(case.sets):
                    product = values[:, :, beat, lane] * weights[reader, row, lane, index]
                    kernel = kernel_ids[reader, row, lane, index]
                    # Each word and position occurs once.
                    y[word, position, fold, kernel, index] += product
    index_bits = (case.size - 1).bit_length()
    if lists:
        x = [
            index | pack([value], 8) << index_bits
            for index, value in zip(indices.ravel().tolist(), values.ravel().tolist(), strict=True)
        ]
    else:
        x = [pack(beat, 8) for beat in values.reshape(-1, lanes)]
    levels = (case.readers * lanes - 1).bit_length()
    return engine, Expected(
        name=str(case),
        x=x,
        y=[pack(beat, BITS) for beat in y.reshape(-1, case.sets)],
        care=[-1],
        cycles=[start + beat for start in case.starts() for beat in range(case.kernels)],
        latency=case.sweep + steps + (12 if lists else 9) + 6 + levels,
        latency_from=case.positions * case.beats - 1,
    )


def test_refuses_banks():
    table = np.zeros((1, 1, 1), np.int64)
    walk = Walk(
        rows=1, columns=1, row_stride=1, column_stride=1, map_rows=1, map_columns=1, rows_per_pixel=1, folds=1,
        fold_stride=0, dy=table, dx=table, offset=table, present=table == 0, weight=None, interval=1, gap=GAP,
    )  # fmt: skip
    with pytest.raises(ValueError, match="serial accumulators have 1 bank, not 2"):
        MacEngine(
            shape=signed(8), stream_lanes=1, index_size=2, positions=1, beats=1, beats_per_row=1, walk=walk,
            weights=np.zeros((1, 1, 1, 1), int), kernel_ids=np.zeros((1, 1, 1, 1), int), kernels=1,
            accumulator=signed(18), banks=2, serial=True,
        )  # fmt: skip
