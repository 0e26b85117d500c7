"""Complementary sets: how the weights of one Linear or Conv2d layer lie in rows that all sets walk together.

Several output channels whose non-zeros do not collide form a *complementary set*: together they are one dense row of
weights, each with the *kernel ID* of its output channel (Hunter, Spracklen, Ahmad, "Two sparsities are better than
one", 2022, section 3). The rows of all sets, side by side, are the *augmented weight tensor*. A column that holds more
than one non-zero of a set takes more than one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import DataError
from hwgen.format.network import Conv2d, Linear

MAX_KERNELS = 1 << 16
MAX_ACCUMULATORS = 1 << 26


@dataclass(frozen=True, eq=False)
class Packing:
    """One layer's weights in complementary sets.

    A column is an input of the full layer in torch's order: the feature of a Linear; (input channel over all groups,
    kernel y, kernel x), flattened, of a Conv2d.

    Attributes:
        set_of, kernel_of: int32 (outputs,): each output channel's set, and its kernel ID in that set.
        row_start: int32 (columns + 1,): rows row_start[c] .. row_start[c + 1] belong to column c.
        weights: int8 (rows, sets).
        kernel_ids: uint16 (rows, sets).
        occupied: bool (rows, sets): slots that hold a non-zero; the others are holes, (0, 0).

    Raises:
        DataError: if the arrays do not describe a packing.
    """

    set_of: NDArray[np.int32]
    kernel_of: NDArray[np.int32]
    row_start: NDArray[np.int32]
    weights: NDArray[np.int8]
    kernel_ids: NDArray[np.uint16]
    occupied: NDArray[np.bool_]

    def __post_init__(self) -> None:
        _check_arrays(self)
        _check_places(self)

    @property
    def outputs(self) -> int:
        return len(self.set_of)

    @property
    def columns(self) -> int:
        return len(self.row_start) - 1

    @property
    def rows(self) -> int:
        return self.weights.shape[0]

    @property
    def sets(self) -> int:
        return self.weights.shape[1]

    @cached_property
    def kernels(self) -> int:
        """Most kernels in one set."""
        return int(self.kernel_of.max(initial=-1)) + 1

    @cached_property
    def routed(self) -> bool:
        """Whether kernels other than the first of each set have weights."""
        return bool(self.kernel_ids.any())

    @property
    def slots(self) -> int:
        return self.rows * self.sets

    @cached_property
    def nonzeros(self) -> int:
        return int(np.count_nonzero(self.occupied))

    @property
    def efficiency(self) -> float:
        """Non-zeros / slots; 1.0 where there are no slots."""
        return self.nonzeros / self.slots if self.slots else 1.0

    @cached_property
    def rows_max(self) -> int:
        """Most rows of one column."""
        return int(np.diff(self.row_start).max(initial=0))

    @cached_property
    def output_at(self) -> NDArray[np.int32]:
        """int32 (sets, kernels): the output channel at a place, -1 where there is none."""
        table = np.full((self.sets, self.kernels), -1, np.int32)
        table[self.set_of, self.kernel_of] = np.arange(self.outputs, dtype=np.int32)
        return table


def _check_arrays(packing: Packing) -> None:
    shape = packing.weights.shape
    if len(shape) != 2 or packing.row_start.ndim != 1 or packing.set_of.ndim != 1:
        raise DataError("packing: set_of and row_start must be vectors and weights a matrix (rows, sets)")
    expected = {
        "set_of": (np.int32, packing.set_of.shape),
        "kernel_of": (np.int32, packing.set_of.shape),
        "row_start": (np.int32, packing.row_start.shape),
        "weights": (np.int8, shape),
        "kernel_ids": (np.uint16, shape),
        "occupied": (np.bool_, shape),
    }
    for name, (dtype, size) in expected.items():
        array = getattr(packing, name)
        if array.dtype != dtype or array.shape != size:
            raise DataError(f"packing: {name} must be {np.dtype(dtype)} {size}, not {array.dtype} {array.shape}")
    starts = packing.row_start
    if len(starts) < 2 or starts[0] != 0 or starts[-1] != packing.rows or np.any(starts[1:] < starts[:-1]):
        raise DataError(f"packing: row_start must rise from 0 to {packing.rows}, the number of rows")


def _check_places(packing: Packing) -> None:
    outputs, sets = packing.outputs, packing.sets
    if not 1 <= sets <= outputs:
        raise DataError(f"packing: {outputs} output channels need 1 to {outputs} sets, not {sets}")
    if packing.set_of.min() < 0 or packing.set_of.max() >= sets:
        raise DataError(f"packing: set_of must be in 0 .. {sets - 1}")
    if packing.kernel_of.min() < 0 or packing.kernel_of.max() >= min(outputs, MAX_KERNELS):
        raise DataError(f"packing: kernel IDs must be in 0 .. {min(outputs, MAX_KERNELS) - 1}")
    if sets * packing.kernels > MAX_ACCUMULATORS:
        raise DataError(
            f"packing: {sets} sets of {packing.kernels} kernels are more than {MAX_ACCUMULATORS} accumulators"
        )
    places = np.unique(packing.set_of.astype(np.int64) * MAX_KERNELS + packing.kernel_of)
    if len(places) != outputs:
        raise DataError("packing: two output channels have the same set and kernel ID")
    if np.any(packing.weights == -128):
        raise DataError("packing: weights must be in [-127, 127]")
    holes = ~packing.occupied
    if packing.weights[holes].any() or packing.kernel_ids[holes].any():
        raise DataError("packing: a hole must have weight 0 and kernel ID 0")
    rows, slot_sets = np.nonzero(packing.occupied)
    used = slot_sets * MAX_KERNELS + packing.kernel_ids[rows, slot_sets]
    at = np.minimum(np.searchsorted(places, used), outputs - 1)
    if np.any(places[at] != used):
        raise DataError("packing: a slot's kernel ID belongs to no output channel of its set")
    positions = at * packing.columns + _column_of_row(packing)[rows]
    seen = np.zeros(outputs * packing.columns, bool)
    seen[positions] = True
    if np.count_nonzero(seen) != len(positions):
        raise DataError("packing: a weight is held by two slots")


def _column_of_row(packing: Packing) -> NDArray[np.int64]:
    return np.repeat(np.arange(packing.columns), np.diff(packing.row_start))


def expand(layer: Linear | Conv2d) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """Weight and mask of the full layer, (outputs, columns); the blocks beside a group's own are empty."""
    outputs = layer.weight.shape[0]
    weight, mask = layer.weight.reshape(outputs, -1), layer.mask.reshape(outputs, -1)
    groups = layer.groups if isinstance(layer, Conv2d) else 1
    if groups == 1:
        return weight, mask
    own = weight.shape[1]
    full_weight = np.zeros((outputs, groups * own), np.int8)
    full_mask = np.zeros((outputs, groups * own), np.bool_)
    columns = _first_column(outputs, groups, own)[:, None] + np.arange(own)
    np.put_along_axis(full_weight, columns, weight, axis=1)
    np.put_along_axis(full_mask, columns, mask, axis=1)
    return full_weight, full_mask


def _first_column(outputs: int, groups: int, own: int) -> NDArray[np.int64]:
    """The first column of each output channel's group."""
    return np.arange(outputs) // (outputs // groups) * own


def lay_out(
    weight: NDArray[np.int8], mask: NDArray[np.bool_], set_of: NDArray[np.integer], kernel_of: NDArray[np.integer]
) -> Packing:
    """The packing that puts every output channel at its (set, kernel ID).

    Args:
        weight, mask: (outputs, columns) of the full layer, see `expand`.
        set_of, kernel_of: (outputs,); the sets are 0 .. set_of.max().

    Raises:
        DataError: if a weight outside the mask is not 0, or two output channels have the same place.
    """
    if weight[~mask].any():
        raise DataError("a weight outside the mask is not 0")
    if max(set_of.max(initial=0), kernel_of.max(initial=0)) >= MAX_KERNELS:
        raise DataError(f"a layer can have {MAX_KERNELS} sets of {MAX_KERNELS} kernels at most")
    columns, sets = mask.shape[1], int(set_of.max(initial=0)) + 1
    output, column = np.nonzero(mask)
    order = np.lexsort((kernel_of[output], set_of[output], column))
    output, column = output[order], column[order]
    owner = column * sets + set_of[output]
    # The rank of a non-zero among those of its column and set is its row within the column.
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    height = np.diff(starts, append=len(owner))
    rank = np.arange(len(owner)) - np.repeat(starts, height)
    rows = np.zeros(columns, np.int64)
    np.maximum.at(rows, column[starts], height)
    row_start = np.concatenate(([0], np.cumsum(rows))).astype(np.int32)
    shape = (int(row_start[-1]), sets)
    weights, kernel_ids, occupied = np.zeros(shape, np.int8), np.zeros(shape, np.uint16), np.zeros(shape, np.bool_)
    slot = row_start[column] + rank, set_of[output]
    weights[slot] = weight[output, column]
    kernel_ids[slot] = kernel_of[output]
    occupied[slot] = True
    return Packing(set_of.astype(np.int32), kernel_of.astype(np.int32), row_start, weights, kernel_ids, occupied)


def unpack(packing: Packing, shape: tuple[int, ...], groups: int = 1) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """The layer's dense weight and mask: the inverse of `lay_out`.

    Args:
        packing: of the layer.
        shape: of the layer's weight, (outputs, inputs) or (outputs, inputs / groups, kernel height, kernel width).
        groups: of the convolution.

    Returns:
        weight int8 and mask bool, of the shape given.

    Raises:
        DataError: if the packing is of another shape or has non-zeros outside the groups.
    """
    outputs, own = shape[0], int(np.prod(shape[1:], dtype=np.int64))
    if packing.outputs != outputs or packing.columns != own * groups or outputs % groups:
        raise DataError(
            f"packing: {packing.outputs} outputs and {packing.columns} columns do not make weights {tuple(shape)}"
            f" in {groups} groups"
        )
    rows, sets = np.nonzero(packing.occupied)
    output = packing.output_at[sets, packing.kernel_ids[rows, sets]]
    column = _column_of_row(packing)[rows] - _first_column(outputs, groups, own)[output]
    if np.any((column < 0) | (column >= own)):
        raise DataError("packing: a weight lies outside its output channel's group")
    weight, mask = np.zeros((outputs, own), np.int8), np.zeros((outputs, own), np.bool_)
    weight[output, column] = packing.weights[rows, sets]
    mask[output, column] = True
    return weight.reshape(shape), mask.reshape(shape)
