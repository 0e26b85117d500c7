"""Which activation meets which weights in which cycle: the contents of a MAC engine's tables and weight memories.

The augmented weight tensor of the paper is a Packing; here it is cut into folds (sets served at the same time), into
steps (buffer rows read one after the other) and among readers. Planning needs only the number of steps, generation the
tables; both come from the same functions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwgen.format.network import Conv2d, Linear
from hwgen.format.packed import Packing
from hwgen.plan.stages import Layout, Mac


def dense_packing(layer: Linear | Conv2d) -> Packing:
    """Every output channel a set of its own and every connection a slot: nothing is skipped."""
    weight = layer.weight.reshape(layer.weight.shape[0], -1)
    outputs, inputs = weight.shape
    groups = layer.groups if isinstance(layer, Conv2d) else 1
    columns = inputs * groups
    weights = np.zeros((columns, outputs), np.int8)
    occupied = np.zeros((columns, outputs), bool)
    for group in range(groups):
        rows = slice(group * inputs, (group + 1) * inputs)
        channels = slice(group * outputs // groups, (group + 1) * outputs // groups)
        weights[rows, channels] = weight[channels].T
        occupied[rows, channels] = True
    return Packing(
        set_of=np.arange(outputs, dtype=np.int32),
        kernel_of=np.zeros(outputs, np.int32),
        row_start=np.arange(columns + 1, dtype=np.int32),
        weights=weights,
        kernel_ids=np.zeros((columns, outputs), np.uint16),
        occupied=occupied,
    )


@dataclass(frozen=True, eq=False)
class Slots:
    """A packing by column and set.

    Attributes:
        packing: whose slots they are.
        count: int (columns, sets): slots of a column in a set.
    """

    packing: Packing
    count: NDArray[np.int64]
    # Planning asks the same questions for every limit that it tries.
    _deepest: dict[int, NDArray[np.int64]] = field(default_factory=dict, repr=False)
    _activations: dict[int, int] = field(default_factory=dict, repr=False)
    _longest: dict[tuple, int] = field(default_factory=dict, repr=False)
    _layouts: dict[int, Layout] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, packing: Packing) -> Slots:
        columns, sets = len(packing.row_start) - 1, packing.sets
        count = np.zeros((columns, sets), np.int64)
        used = np.flatnonzero(np.diff(packing.row_start))
        if len(used):
            count[used] = np.add.reduceat(packing.occupied.astype(np.int64), packing.row_start[used], axis=0)
        return cls(packing, count)

    @cached_property
    def rows_max(self) -> int:
        return max(1, int(self.count.max(initial=0)))

    def deepest(self, parallel: int) -> NDArray[np.int64]:
        """int (folds, columns): rows that a column takes in each fold."""
        if parallel in self._deepest:
            return self._deepest[parallel]
        folds = -(-self.count.shape[1] // parallel)
        if self.full:
            self._deepest[parallel] = np.ones((folds, self.count.shape[0]), np.int64)
            return self._deepest[parallel]
        padded = np.zeros((self.count.shape[0], folds * parallel), np.int64)
        padded[:, : self.count.shape[1]] = self.count
        self._deepest[parallel] = padded.reshape(-1, folds, parallel).max(axis=2).T
        return self._deepest[parallel]

    @cached_property
    def tile(self) -> int:
        """So many sets each, from the first on, have their slots in the same columns; 1 where all sets have."""
        changes = np.flatnonzero((self.count[:, 1:] != self.count[:, :-1]).any(axis=0)) + 1
        return int(np.gcd.reduce(changes)) if len(changes) else 1

    @cached_property
    def full(self) -> bool:
        """Whether every set has one slot in every column, as in a dense packing."""
        return bool((self.count == 1).all())

    def activations(self, parallel: int) -> int:
        """That the longest fold has slots for."""
        if parallel not in self._activations:
            self._activations[parallel] = int(self.deepest(parallel).sum(axis=1).max())
        return self._activations[parallel]

    def drain_layout(self, parallel: int) -> Layout:
        """Fold by fold, kernel by kernel: the output channel in each set's accumulator."""
        if parallel not in self._layouts:
            packing = self.packing
            layout = np.full((-(-packing.sets // parallel), packing.kernels, parallel), -1, np.int64)
            fold, lane = np.divmod(packing.set_of, parallel)
            layout[fold, packing.kernel_of, lane] = np.arange(len(packing.set_of))
            self._layouts[parallel] = tuple(map(tuple, layout.reshape(-1, parallel).tolist()))
        return self._layouts[parallel]

    def dense(self, folds: int, parallel: int) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
        """Weights and kernel IDs, (folds, columns + 1, rows_max, parallel): slots moved up, holes 0.

        The last column is empty: it is what index -1 picks, for places that carry nothing.
        """
        packing = self.packing
        columns = self.count.shape[0]
        weights = np.zeros((columns + 1, self.rows_max, folds * parallel), np.int16)
        kernel_ids = np.zeros(weights.shape, np.uint16)
        row, member = np.nonzero(packing.occupied)
        column = np.repeat(np.arange(columns), np.diff(packing.row_start))[row]
        # Level of a slot: how many slots of the same column and set stand above it.
        above: NDArray[np.int64] = np.cumsum(packing.occupied, axis=0) - packing.occupied
        level: NDArray[np.int64] = above[row, member] - above[packing.row_start[column], member]
        weights[column, level, member] = packing.weights[row, member]
        kernel_ids[column, level, member] = packing.kernel_ids[row, member]
        shape = (columns + 1, self.rows_max, folds, parallel)
        return (
            weights.reshape(shape).transpose(2, 0, 1, 3),
            kernel_ids.reshape(shape).transpose(2, 0, 1, 3),
        )


def pixel_rows(layout: Layout, beats_per_row: int) -> NDArray[np.int64]:
    """int (rows a pixel, values a row): torch channel of each place of the buffer's rows, -1 where there is none."""
    beats, lanes = len(layout), len(layout[0])
    rows = -(-beats // beats_per_row)
    places = np.full((rows * beats_per_row, lanes), -1, np.int64)
    places[:beats] = np.asarray(layout, np.int64)
    return places.reshape(rows, beats_per_row * lanes)


def value_rows(slots: Slots, area: int, layout: Layout, beats_per_row: int, parallel: int) -> NDArray[np.int64]:
    """int (folds, area, rows a pixel): times that each buffer row of the window is read, for dense activations."""
    places = pixel_rows(layout, beats_per_row)
    deepest = slots.deepest(parallel)
    by_channel = deepest.reshape(deepest.shape[0], -1, area)
    padded = np.concatenate([by_channel, np.zeros_like(by_channel[:, :1])], axis=1)
    # Index -1 meets the zeros appended for places that carry nothing.
    return padded[:, places].max(axis=2).transpose(0, 2, 1)


def value_steps(slots: Slots, area: int, layout: Layout, beats_per_row: int, parallel: int, readers: int) -> int:
    """Steps a group takes: those of the longest fold, dealt among the readers; at least one, to clear accumulators."""
    key = (area, layout, beats_per_row, parallel)
    if key not in slots._longest:
        if slots.full:
            used = (pixel_rows(layout, beats_per_row) >= 0).any(axis=1)
            slots._longest[key] = int(used.sum()) * area
        else:
            rows = value_rows(slots, area, layout, beats_per_row, parallel).sum(axis=(1, 2))
            slots._longest[key] = int(rows.max())
    return max(1, -(-slots._longest[key] // readers))


def list_steps(area: int, size: int, list_rows: int, readers: int) -> int:
    """Steps a group takes with winner lists of `size` entries at each of `area` pixels."""
    return -(-area // readers) * size * list_rows


@dataclass(frozen=True, eq=False)
class Tables:
    """What the generator puts into a MAC engine; arrays as in rtl_templates.walk.Walk and mac_engine.MacEngine.

    Attributes:
        kernel_y, kernel_x, offset, present: (tables, steps, readers).
        weight: (tables, steps, readers) or None.
        weights, kernel_ids: (readers, depth, lanes, parallel).
    """

    kernel_y: NDArray[np.int64]
    kernel_x: NDArray[np.int64]
    offset: NDArray[np.int64]
    present: NDArray[np.bool_]
    weight: NDArray[np.int64] | None
    weights: NDArray[np.int16]
    kernel_ids: NDArray[np.uint16]


def tables(stage: Mac, packing: Packing) -> Tables:
    """The tables of a planned stage."""
    slots = Slots.of(packing)
    return _list_tables(stage, slots) if stage.stream_lanes is None else _value_tables(stage, slots)


def _value_tables(stage: Mac, slots: Slots) -> Tables:
    area, width = stage.window.area, stage.window.kernel[1]
    places = pixel_rows(stage.in_layout, stage.beats_per_row)
    reads = value_rows(slots, area, stage.in_layout, stage.beats_per_row, stage.parallel)
    shape = (stage.folds, stage.steps, stage.readers)
    pixel, offset, present = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, bool)
    all_weights, all_ids = slots.dense(stage.folds, stage.parallel)
    lanes = places.shape[1]
    weights = np.zeros((stage.folds, stage.steps, stage.readers, lanes, stage.parallel), np.int16)
    kernel_ids = np.zeros(weights.shape, np.uint16)
    for fold in range(stage.folds):
        times = reads[fold].ravel()
        number = np.arange(times.sum())
        at, row = np.divmod(np.repeat(np.arange(times.size), times), places.shape[0])
        level = number - np.repeat(np.cumsum(times) - times, times)
        # Consecutive reads go to different readers: they share out evenly, whatever the number.
        step, reader = np.divmod(number, stage.readers)
        pixel[fold, step, reader], offset[fold, step, reader] = at, row
        present[fold, step, reader] = True
        channel = places[row]
        column = np.where(channel >= 0, channel * area + at[:, None], -1)
        weights[fold, step, reader] = all_weights[fold][column, level[:, None]]
        kernel_ids[fold, step, reader] = all_ids[fold][column, level[:, None]]
    if all((part == part[:1]).all() for part in (pixel, offset, present)):
        pixel, offset, present = pixel[:1], offset[:1], present[:1]
    memory = (stage.readers, stage.folds * stage.steps, lanes, stage.parallel)
    return Tables(
        kernel_y=pixel // width,
        kernel_x=pixel % width,
        offset=offset,
        present=present,
        weight=None,
        weights=weights.transpose(2, 0, 1, 3, 4).reshape(memory),
        kernel_ids=kernel_ids.transpose(2, 0, 1, 3, 4).reshape(memory),
    )


def _list_tables(stage: Mac, slots: Slots) -> Tables:
    area, width, size = stage.window.area, stage.window.kernel[1], stage.index_size
    pixels, entries, rows = -(-area // stage.readers), stage.beats, stage.list_rows
    # The order of a reader's steps: its pixels, the entries of each list, the rows of a column.
    at, entry, row = (part.ravel() for part in np.indices((pixels, entries, rows)))
    pixel = at[:, None] + pixels * np.arange(stage.readers)
    present = pixel < area
    pixel = np.where(present, pixel, 0)
    block = pixels * rows * size
    weight = np.arange(stage.folds)[:, None, None] * block + ((at * rows + row) * size)[None, :, None]
    weight = np.broadcast_to(weight, (stage.folds, stage.steps, stage.readers)).copy()
    offset = np.broadcast_to(entry[:, None], pixel.shape)

    # A reader's memory: fold, own pixel, row of the column, channel; pixels that do not exist hold nothing.
    place = np.arange(stage.readers * pixels)
    column = np.where(place < area, np.arange(size)[:, None] * area + place, -1)
    memory = (stage.readers, stage.folds * block, 1, stage.parallel)

    def arranged(content: NDArray) -> NDArray:
        parts = content[:, column].reshape(stage.folds, size, stage.readers, pixels, rows, stage.parallel)
        return parts.transpose(2, 0, 3, 4, 1, 5).reshape(memory)

    weights, kernel_ids = slots.dense(stage.folds, stage.parallel)
    repeat = (stage.folds, 1, 1)
    return Tables(
        kernel_y=np.tile(pixel // width, repeat),
        kernel_x=np.tile(pixel % width, repeat),
        offset=np.tile(offset, repeat),
        present=np.tile(present, repeat),
        weight=weight,
        weights=arranged(weights),
        kernel_ids=arranged(kernel_ids),
    )
