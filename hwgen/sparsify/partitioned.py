"""Partitioned sparsity: every part of an output, of an input, or of both, holds the same number of non-zeros."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import InputError
from hwgen.sparsify.pattern import (
    Guarantee,
    Pattern,
    as_mask,
    as_score,
    check_size,
    check_sparsity,
    largest,
    matrix_shape,
    rounded,
)


@dataclass(frozen=True)
class Partitioned(Pattern):
    """Equal loads: hardware that works on all parts at once waits for none.

    Partitioned(inputs=4) cuts the inputs of every output into 4 parts, and each part holds the same number of non-zeros
    (X); Partitioned(outputs=4) cuts the outputs of every input (Y); with both, both hold (XY). Parts are neighbouring
    and of equal size, the first ones longer by 1 where the number of parts does not divide; with both it must.

    The projection is the optimum: the largest scores of each part, or, with both, a transportation problem for each
    tile where a part of outputs meets a part of inputs. Its time grows with the tile: tiles of 256 x 256 take half a
    second each, one of 1,500 x 1,600 half a minute.

    Attributes:
        inputs, outputs: number of parts along the inputs and along the outputs; None is no partition.
    """

    inputs: int | None = None
    outputs: int | None = None

    def __post_init__(self) -> None:
        if self.inputs is None and self.outputs is None:
            raise InputError("inputs, outputs: at least one must be a number of parts, but both are None")
        for name in ("inputs", "outputs"):
            if getattr(self, name) is not None:
                check_size(getattr(self, name), name)

    def check(self, mask: Any) -> bool:
        matrix = as_mask(mask)
        self._check_fits(matrix.shape)
        return all(
            len(np.unique(np.add.reduceat(axis, _starts(axis.shape[1], parts), axis=1, dtype=np.int64))) == 1
            for axis, parts in ((matrix, self.inputs), (matrix.T, self.outputs))
            if parts is not None
        )

    def project(self, score: Any, sparsity: float | None = None) -> NDArray[np.bool_]:
        matrix = as_score(score)
        self._check_fits(matrix.shape)
        wanted = self._steps(matrix.shape, check_sparsity(sparsity))
        steps = min(wanted, self._most(matrix.shape))
        if steps != wanted:
            raise InputError(
                f"sparsity: {sparsity} leaves more non-zeros than the smallest part of {matrix.shape} has room for; "
                f"the nearest is {self.nearest_sparsity(matrix.shape, check_sparsity(sparsity)):.4g}"
            )
        if self.outputs is None:
            return _largest_of_parts(matrix, self.inputs or 1, steps)
        if self.inputs is None:
            return _largest_of_parts(matrix.T, self.outputs, steps).T
        height, width = self._tile(matrix.shape)
        mask = np.zeros(matrix.shape, np.bool_)
        for top in range(0, matrix.shape[0], height):
            for left in range(0, matrix.shape[1], width):
                tile = slice(top, top + height), slice(left, left + width)
                mask[tile] = _balanced(matrix[tile], steps)
        return mask

    def nearest_sparsity(self, shape: tuple[int, ...], sparsity: float) -> float:
        outputs, inputs = self._check_fits(shape)
        steps = min(self._steps(shape, check_sparsity(sparsity)), self._most(shape))
        return 1 - steps * self._step(shape) / (outputs * inputs)

    def guarantee(self, shape: tuple[int, ...], sparsity: float) -> Guarantee:
        outputs, inputs = self._check_fits(shape)
        kept = rounded((1 - self.nearest_sparsity(shape, sparsity)) * outputs * inputs)
        return Guarantee(
            sets=outputs,
            slots=outputs * inputs,
            nonzeros_per_output=min(inputs, kept) if self.inputs is None else kept // outputs,
            nonzeros_per_input=min(outputs, kept) if self.outputs is None else kept // inputs,
        )

    def _check_fits(self, shape: tuple[int, ...]) -> tuple[int, int]:
        outputs, inputs = matrix_shape(shape)
        for name, size, parts in (("inputs", inputs, self.inputs), ("outputs", outputs, self.outputs)):
            if parts is not None and parts > size:
                raise InputError(f"{name}: {size} {name} cannot be cut into {parts} parts; take at most {size}")
            if self.inputs is not None and self.outputs is not None and parts is not None and size % parts:
                raise InputError(
                    f"{name}: with partitions both ways, {size} {name} must be a multiple of {parts}, the parts"
                )
        return outputs, inputs

    def _tile(self, shape: tuple[int, ...]) -> tuple[int, int]:
        outputs, inputs = matrix_shape(shape)
        return outputs // (self.outputs or 1), inputs // (self.inputs or 1)

    def _most(self, shape: tuple[int, ...]) -> int:
        """Steps from an empty mask to the densest."""
        height, width = self._tile(shape)
        if self.inputs is not None and self.outputs is not None:
            return gcd(height, width)
        return width if self.inputs is not None else height

    def _step(self, shape: tuple[int, ...]) -> int:
        """Non-zeros of the whole mask that one step adds: one in each part, or what balances both ways."""
        outputs, inputs = matrix_shape(shape)
        if self.inputs is not None and self.outputs is not None:
            return outputs * inputs // self._most(shape)
        return outputs * self.inputs if self.inputs is not None else inputs * (self.outputs or 1)

    def _steps(self, shape: tuple[int, ...], sparsity: float) -> int:
        outputs, inputs = matrix_shape(shape)
        return rounded((1 - sparsity) * outputs * inputs / self._step(shape))


def _starts(size: int, parts: int) -> NDArray[np.int64]:
    longer, length = size % parts, size // parts
    return np.arange(parts) * length + np.minimum(np.arange(parts), longer)


def _largest_of_parts(score: NDArray[np.float64], parts: int, count: int) -> NDArray[np.bool_]:
    starts = _starts(score.shape[1], parts)
    return np.hstack([largest(part, count) for part in np.split(score, starts[1:], axis=1)])


def _balanced(tile: NDArray[np.float64], steps: int) -> NDArray[np.bool_]:
    """The best mask of a tile with so many steps in every row and column."""
    # numba takes a moment to import, and no other pattern but complementary sets needs it.
    from hwgen.sparsify.transport import transport

    rows, columns = tile.shape
    if rows > columns:
        return _balanced(tile.T, steps).T
    common = gcd(rows, columns)
    quota = np.full(rows, steps * columns // common)
    return transport(tile, quota, steps * rows // common)[0]
