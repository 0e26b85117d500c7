"""The schedule by which an engine reads its word buffer, and the counters that carry it out.

A *group* is the work that ends in one result: one output position, one fold. Its *steps* are the reads it takes. The
schedule is static: every group takes `interval` cycles, a word takes `positions * folds * interval + gap`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from amaranth.hdl import C, Module, Mux, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Walk:
    """What a Walker does; addresses are rows of a word buffer.

    Attributes:
        rows, columns: output positions.
        row_stride, column_stride: pixels between windows.
        map_rows, map_columns: extent of the map under the windows.
        rows_per_pixel: word buffer rows of one pixel.
        folds: groups at each position, one after the other.
        fold_stride: added to the address from one fold to the next.
        dy, dx: int (tables, steps, readers): pixel of each step relative to position * stride, negative in the padding.
        offset: int, same shape: row within the pixel.
        present: bool, same shape: false for a step in which a reader rests.
        weight: int, same shape: first weight row of a step, or None where weight rows simply follow each other.
        interval: cycles a group takes, at least `steps`.
        gap: cycles between the last group of a word and the first of the next; interval and gap together exceed the
            steps by 2 at least.

    `tables` is 1 where all folds take the same steps, else it equals `folds`.
    """

    rows: int
    columns: int
    row_stride: int
    column_stride: int
    map_rows: int
    map_columns: int
    rows_per_pixel: int
    folds: int
    fold_stride: int
    dy: NDArray[np.int64]
    dx: NDArray[np.int64]
    offset: NDArray[np.int64]
    present: NDArray[np.bool_]
    weight: NDArray[np.int64] | None
    interval: int
    gap: int

    @property
    def steps(self) -> int:
        return self.dy.shape[1]

    @property
    def readers(self) -> int:
        return self.dy.shape[2]

    @property
    def groups(self) -> int:
        return self.rows * self.columns * self.folds

    @property
    def cycles(self) -> int:
        """Cycles from the start of a word to the start of the next, when nothing makes it wait."""
        return self.groups * self.interval + self.gap


class Walker(wiring.Component):
    """Issues the reads of a Walk, one step a cycle, never stalled inside a group.

    A group starts when the buffer holds its word and one of `credits` result places is free; so nothing behind the
    walker needs to be stopped, and no enable runs through the engine.

    Arguments:
        walk: the schedule.
        address_bits: of the word buffer.
        credits: groups that may be under way (started, result not yet taken).

    Members:
        available, release: of the word buffer.
        returned: strobe: a result was taken.
        valid: this cycle carries a step; with it `first` and `last` of the group.
        address, inside: of each reader: row to read, and whether the step exists and lies inside the map.
        weight: of each reader: `walk.weight` of the step; or of all: the number of the step, fold by fold.

    Latency: 2 cycles from the decision to start a group to its first step. Initiation interval: `walk.interval` cycles
    a group, `walk.cycles` a word, while words and credits are there.
    """

    LATENCY = 2

    def __init__(self, walk: Walk, address_bits: int, credits: int):
        if walk.interval < walk.steps:
            raise ValueError(f"interval must be at least the {walk.steps} steps, not {walk.interval!r}")
        rest = walk.interval + walk.gap - walk.steps
        if rest < self.LATENCY:
            # The first group of the next word would see the buffer as it was before the release.
            raise ValueError(
                f"interval and gap must leave {self.LATENCY} cycles after the {walk.steps} steps of a word's last "
                f"group, not {rest}"
            )
        if credits < 1:
            raise ValueError(f"credits must be positive, not {credits!r}")
        if walk.dy.shape[0] not in (1, walk.folds):
            raise ValueError(f"there must be 1 or {walk.folds} step tables, not {walk.dy.shape[0]!r}")
        self.walk, self.address_bits, self.credits = walk, address_bits, credits
        if walk.weight is None:
            self.weight_bits = (walk.folds * walk.steps - 1).bit_length()
        else:
            self.weight_bits = int(walk.weight.max(initial=0)).bit_length()
        super().__init__(
            {
                "available": In(1),
                "release": Out(1),
                "returned": In(1),
                "valid": Out(1),
                "first": Out(1),
                "last": Out(1),
                "address": Out(unsigned(address_bits)).array(walk.readers),
                "inside": Out(1).array(walk.readers),
                "weight": Out(unsigned(self.weight_bits)).array(walk.readers),
            }
        )

    def elaborate(self, platform):
        m = Module()
        walk = self.walk
        word_end = walk.interval + walk.gap - 1

        # Stage 0: counters. The last group of a word lasts longer by the gap.
        step = Signal(range(word_end + 1))
        fold, column, row = Signal(range(walk.folds)), Signal(range(walk.columns)), Signal(range(walk.rows))
        under_way = Signal(range(self.credits + 1))
        last_fold, last_column, last_row = (
            fold == walk.folds - 1,
            column == walk.columns - 1,
            row == walk.rows - 1,
        )
        last_group = Signal()
        start, run = Signal(), Signal()
        first_group = Signal(init=1)
        m.d.comb += [
            last_group.eq(last_fold & last_column & last_row),
            start.eq((step == 0) & (self.available | ~first_group) & (under_way != self.credits)),
            run.eq(start | (step != 0)),
        ]
        m.d.sync += under_way.eq(under_way + start - self.returned)

        # Address of the window's origin; it may wrap below 0, only rows inside the map are ever used.
        origin = Signal(self.address_bits)
        pixel_y, pixel_x = (
            Signal(range(walk.rows * walk.row_stride + 1)),
            Signal(range(walk.columns * walk.column_stride + 1)),
        )
        along = walk.column_stride * walk.rows_per_pixel
        back = (walk.row_stride * walk.map_columns - (walk.columns - 1) * walk.column_stride) * walk.rows_per_pixel
        with m.If(run):
            m.d.sync += step.eq(step + 1)
            with m.If(Mux(last_group, step == word_end, step == walk.interval - 1)):
                m.d.sync += [step.eq(0), fold.eq(fold + 1), first_group.eq(last_group)]
                with m.If(last_fold):
                    m.d.sync += [fold.eq(0), column.eq(column + 1)]
                    m.d.sync += [pixel_x.eq(pixel_x + walk.column_stride), origin.eq(origin + along)]
                    with m.If(last_column):
                        m.d.sync += [column.eq(0), row.eq(row + 1), pixel_x.eq(0)]
                        m.d.sync += [pixel_y.eq(pixel_y + walk.row_stride), origin.eq(origin + back)]
                        with m.If(last_row):
                            m.d.sync += [row.eq(0), pixel_y.eq(0), origin.eq(0)]

        issue = Signal()
        m.d.comb += issue.eq(run & (step < walk.steps))
        # Number of the step, fold by fold: address of the tables, and of weight rows that simply follow each other.
        number = Signal(range(walk.folds * walk.steps))
        with m.If(issue):
            m.d.sync += number.eq(number + 1)
            with m.If((step == walk.steps - 1) & last_fold):
                m.d.sync += number.eq(0)

        # Stage 1: the step's table row, beside what belongs to it.
        valid_1, first_1, last_1, release_1 = Signal(), Signal(), Signal(), Signal()
        origin_1, pixel_y_1, pixel_x_1 = Signal.like(origin), Signal.like(pixel_y), Signal.like(pixel_x)
        number_1, step_1 = Signal.like(number), Signal(range(max(2, walk.steps)))
        m.d.sync += [
            valid_1.eq(issue),
            first_1.eq(step == 0),
            last_1.eq(step == walk.steps - 1),
            release_1.eq(issue & (step == walk.steps - 1) & last_group),
            origin_1.eq(origin + (fold * walk.fold_stride if walk.fold_stride else 0)),
            pixel_y_1.eq(pixel_y),
            pixel_x_1.eq(pixel_x),
            number_1.eq(number),
            step_1.eq(step),
        ]
        table_address = number if walk.dy.shape[0] > 1 else step
        m.d.sync += [
            self.valid.eq(valid_1),
            self.first.eq(first_1),
            self.last.eq(last_1),
            self.release.eq(release_1),
        ]

        # Stage 2: addresses, registered.
        for reader in range(walk.readers):
            delta, dy, dx, present, weight = self._table(m, reader, table_address, step_1)
            m.d.sync += [
                self.address[reader].eq(origin_1 + delta),
                self.inside[reader].eq(
                    present
                    & self._within(pixel_y_1, dy, walk.dy[..., reader], walk.rows, walk.row_stride, walk.map_rows)
                    & self._within(
                        pixel_x_1, dx, walk.dx[..., reader], walk.columns, walk.column_stride, walk.map_columns
                    )
                ),
                self.weight[reader].eq(number_1 if weight is None else weight),
            ]
        return m

    def _table(self, m, reader, address, step):
        """The step table of one reader as a memory; constant fields cost no bits, nor do rows that follow each other."""
        walk = self.walk
        dy, dx = walk.dy[..., reader].ravel(), walk.dx[..., reader].ravel()
        delta = (dy * walk.map_columns + dx) * walk.rows_per_pixel + walk.offset[..., reader].ravel()
        delta &= (1 << self.address_bits) - 1
        present = walk.present[..., reader].ravel().astype(np.int64)
        fields = [
            (delta, unsigned(self.address_bits)),
            (dy, _shape_of(dy)),
            (dx, _shape_of(dx)),
            (present, unsigned(1)),
        ]
        if walk.weight is not None:
            fields.append((walk.weight[..., reader].ravel(), unsigned(self.weight_bits)))
        # Python integers: a row may be wider than 64 bits.
        rows, width = [0] * len(delta), 0
        places: list[tuple] = []
        for values, shape in fields:
            if (values == values[0]).all():
                places.append((None, C(int(values[0]), shape)))
                continue
            if (values == np.arange(len(values)) % walk.steps).all():
                places.append((None, step))
                continue
            mask = (1 << shape.width) - 1
            rows = [row | ((int(value) & mask) << width) for row, value in zip(rows, values, strict=True)]
            places.append(((width, shape), None))
            width += shape.width
        if width:
            memory = Memory(shape=unsigned(width), depth=len(rows), init=rows)
            m.submodules[f"table_{reader}"] = memory
            port = memory.read_port()
            # What is read while nothing is issued, nobody looks at.
            m.d.comb += [port.addr.eq(address), port.en.eq(1)]
        result = []
        for place, constant in places:
            if place is None:
                result.append(constant)
                continue
            start, shape = place
            field = Signal(shape)
            m.d.comb += field.eq(port.data[start : start + shape.width])
            result.append(field)
        return [*result, None] if walk.weight is None else result

    @staticmethod
    def _within(pixel, step, steps, positions, stride, extent):
        """Whether pixel + step lies in [0, extent); constant where it always does."""
        if steps.min() >= 0 and (positions - 1) * stride + steps.max() < extent:
            return C(1, 1)
        place = pixel + step
        return (place >= 0) & (place < extent)


def _shape_of(values: NDArray[np.int64]):
    low, high = int(values.min()), int(values.max())
    if low >= 0:
        return unsigned(max(1, high.bit_length()))
    return signed(1 + max(high.bit_length() if high > 0 else 0, (-low - 1).bit_length()))
