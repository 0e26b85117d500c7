"""Block sparsity: rectangles of weights stand or fall together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import InputError
from hwgen.sparsify.pattern import Guarantee, Pattern, as_mask, as_score, check_size, matrix_shape
from hwgen.sparsify.unstructured import Unstructured


@dataclass(frozen=True)
class Block(Pattern):
    """Blocks of outputs x inputs, each all zero or all non-zero; the grid of blocks keeps to a pattern of its own.

    Block(1, 4) lies along the inputs of one output (X), Block(4, 1) across the outputs (Y), Block(4, 4) both ways (XY).
    Combinations are grids with another pattern: Block(1, 4, Partitioned(inputs=8)) has as many blocks in each eighth of
    an output. Where a size is no multiple of the block's, the last blocks are smaller, as if the weight were padded
    with zeros; **sparsity counts blocks**, and so they count like the others.

    The projection gives a block the sum of its scores, and is the optimum if the grid's is.

    Attributes:
        outputs, inputs: size of a block.
        pattern: of the grid of blocks.
    """

    outputs: int
    inputs: int
    pattern: Pattern = field(default_factory=Unstructured)

    def __post_init__(self) -> None:
        check_size(self.outputs, "outputs")
        check_size(self.inputs, "inputs")
        if not isinstance(self.pattern, Pattern):
            raise InputError(f"pattern: must be a pattern such as Unstructured(), not {self.pattern!r}")

    def check(self, mask: Any) -> bool:
        matrix = as_mask(mask)
        grid = matrix[:: self.outputs, :: self.inputs]
        return np.array_equal(self._expand(grid, matrix.shape), matrix) and self.pattern.check(grid)

    def project(self, score: Any, sparsity: float | None = None) -> NDArray[np.bool_]:
        matrix = as_score(score)
        rows, columns = (range(0, size, step) for size, step in zip(matrix.shape, self._size, strict=True))
        sums = np.add.reduceat(np.add.reduceat(matrix, rows, axis=0), columns, axis=1)
        return self._expand(self.pattern.project(sums, sparsity), matrix.shape)

    def nearest_sparsity(self, shape: tuple[int, ...], sparsity: float) -> float:
        return self.pattern.nearest_sparsity(self._grid(shape), sparsity)

    def guarantee(self, shape: tuple[int, ...], sparsity: float) -> Guarantee:
        outputs, inputs = matrix_shape(shape)
        grid = self.pattern.guarantee(self._grid(shape), sparsity)
        # The outputs of one block collide wherever they are not zero.
        sets = min(outputs, grid.sets * self.outputs)
        return Guarantee(
            sets=sets,
            slots=sets * inputs,
            nonzeros_per_output=min(inputs, grid.nonzeros_per_output * self.inputs),
            nonzeros_per_input=min(outputs, grid.nonzeros_per_input * self.outputs),
            shared=grid.shared * self.outputs * self.inputs,
            singles=grid.singles * self.outputs * self.inputs,
        )

    @property
    def _size(self) -> tuple[int, int]:
        return self.outputs, self.inputs

    def _grid(self, shape: tuple[int, ...]) -> tuple[int, int]:
        outputs, inputs = matrix_shape(shape)
        return -(-outputs // self.outputs), -(-inputs // self.inputs)

    def _expand(self, grid: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
        return grid.repeat(self.outputs, axis=0).repeat(self.inputs, axis=1)[: shape[0], : shape[1]]
