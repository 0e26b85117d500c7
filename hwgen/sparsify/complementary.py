"""Complementary sparsity: sets of kernels whose non-zeros never meet in a column.

Hunter, Spracklen and Ahmad, "Two Sparsities Are Better Than One: Unlocking the Performance Benefits of Sparse-Sparse
Networks" (2021), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import DataError, InputError
from hwgen.sparsify.pattern import (
    Guarantee,
    Pattern,
    as_mask,
    as_score,
    check_size,
    check_sparsity,
    matrix_shape,
    rounded,
)


@dataclass(frozen=True)
class Complementary(Pattern):
    """Outputs in sets of `kernels`; a set uses every column at most once, and every output has equally many non-zeros.

    An output has columns // kernels non-zeros, so that a set fills one dense row of weights: the mask packs with an
    efficiency of 1.0 if `kernels` divides outputs and columns. Otherwise the rest of the division stays empty: 2
    kernels with 12 of 25 columns each fill 24 of 25 slots. There are as few sets as that allows,
    ceil(outputs / kernels), and which outputs form one is free, since the packer permutes them.

    The projection is the optimum for the sets that it finds, and finds them by a bounded search, which is the same for
    equal scores (`hwgen.sparsify.grouping`).

    Attributes:
        kernels: most outputs of a set.
    """

    kernels: int

    def __post_init__(self) -> None:
        check_size(self.kernels, "kernels")

    def check(self, mask: Any, sets: NDArray[np.integer] | None = None) -> bool:
        """Whether a bool mask (outputs, ...) keeps to the pattern.

        Args:
            sets: (outputs,), as `project_sets` returns them. None is a search, which can miss sets of a legal mask
                where hundreds of outputs share less than some fifty columns, or thousands some hundreds.

        Raises:
            DataError, InputError: as for every pattern, or `sets` is not an array of so many integers.
        """
        from hwgen.sparsify.sets import are_sets, find_sets

        matrix = as_mask(mask)
        if (matrix.sum(axis=1) != self._nonzeros(matrix.shape)).any():
            return False
        if sets is None:
            return find_sets(matrix, self.kernels) is not None
        return are_sets(matrix, self.kernels, _as_sets(sets, len(matrix)))

    def project(self, score: Any, sparsity: float | None = None) -> NDArray[np.bool_]:
        return self.project_sets(score, sparsity)[0]

    def project_sets(
        self,
        score: Any,
        sparsity: float | None = None,
        *,
        sets: NDArray[np.integer] | None = None,
        thorough: bool = True,
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """The mask of `project` together with its sets.

        Args:
            score, sparsity: as for `project`.
            sets: (outputs,), sets that are kept: only their columns are chosen, which is exact and takes a moment.
            thorough: False ends the search for sets early, in less than a second for most layers; such a mask keeps
                somewhat less of the score.

        Returns:
            mask: bool (outputs, inputs).
            sets: int64 (outputs,): the set of each output, from 0.

        Raises:
            DataError, InputError: as `project`, or `sets` are not such sets.
        """
        # numba takes a moment to import.
        from hwgen.sparsify.grouping import columns_of_sets, complementary_projection

        matrix = as_score(score)
        columns, nonzeros = matrix.shape[1], self._nonzeros(matrix.shape)
        if sparsity is not None and rounded((1 - check_sparsity(sparsity)) * columns) != nonzeros:
            raise InputError(
                f"sparsity: sets of {self.kernels} kernels leave {nonzeros} of {columns} non-zeros an output, "
                f"{1 - nonzeros / columns:.4g}, not {sparsity}; leave it out, or take other sets"
            )
        if sets is None:
            return complementary_projection(matrix, nonzeros, self.kernels, thorough)
        kept = _as_sets(sets, len(matrix))
        count = -(-len(kept) // self.kernels)
        if kept.min() < 0 or kept.max() >= count or np.bincount(kept).max() > self.kernels:
            raise InputError(f"sets: must be from 0 to {count - 1}, each of at most {self.kernels} outputs")
        return columns_of_sets(matrix, nonzeros, kept), kept

    def nearest_sparsity(self, shape: tuple[int, ...], sparsity: float) -> float:
        """The only sparsity of the pattern for this shape."""
        check_sparsity(sparsity)
        return 1 - self._nonzeros(shape) / matrix_shape(shape)[1]

    def guarantee(self, shape: tuple[int, ...], sparsity: float) -> Guarantee:
        check_sparsity(sparsity)
        outputs, columns = matrix_shape(shape)
        sets = -(-outputs // self.kernels)
        return Guarantee(sets, sets * columns, self._nonzeros(shape), sets)

    def _nonzeros(self, shape: tuple[int, ...]) -> int:
        """Non-zeros of each output."""
        columns = matrix_shape(shape)[1]
        if self.kernels > columns:
            raise InputError(
                f"kernels: sets of {self.kernels} kernels need as many columns, but the weight has {columns}; "
                f"take at most {columns}"
            )
        return columns // self.kernels


def _as_sets(sets: Any, outputs: int) -> NDArray[np.int64]:
    """The sets as int64 (outputs,); raises DataError if they are not so many integers."""
    given = np.asarray(sets)
    if given.shape != (outputs,) or given.dtype.kind not in "iu":
        raise DataError(f"sets: must be {outputs} integers, one an output, not {given.dtype} {given.shape}")
    return given.astype(np.int64)
