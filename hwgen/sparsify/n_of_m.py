"""N:M sparsity: at most N non-zeros in every M neighbouring inputs."""

from __future__ import annotations

from dataclasses import dataclass
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
class NofM(Pattern):
    """At most n non-zeros in every m consecutive inputs of an output; 2 of 4 is what NVIDIA's Ampere multiplies.

    Groups begin at input 0. A last group of fewer than m inputs holds at most n too. The projection keeps exactly n of
    each group (all of a smaller last one), which is the optimum for scores that are not negative.

    Attributes:
        n, m: 1 <= n <= m.
    """

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        check_size(self.n, "n")
        check_size(self.m, "m", least=self.n)

    def check(self, mask: Any) -> bool:
        matrix = as_mask(mask)
        starts = range(0, matrix.shape[1], self.m)
        return bool((np.add.reduceat(matrix, starts, axis=1, dtype=np.int64) <= self.n).all())

    def project(self, score: Any, sparsity: float | None = None) -> NDArray[np.bool_]:
        matrix = as_score(score)
        if sparsity is not None and not self._has(check_sparsity(sparsity), matrix.shape):
            raise InputError(
                f"sparsity: {self.n} of {self.m} has {1 - self.n / self.m:.4g}, not {sparsity}; leave it out, or take "
                "another n and m"
            )
        outputs, inputs = matrix.shape
        whole = inputs // self.m * self.m
        mask = np.ones(matrix.shape, np.bool_)
        mask[:, :whole] = largest(matrix[:, :whole].reshape(outputs, -1, self.m), self.n).reshape(outputs, whole)
        mask[:, whole:] = largest(matrix[:, whole:], min(self.n, inputs - whole))
        return mask

    def nearest_sparsity(self, shape: tuple[int, ...], sparsity: float) -> float:
        """The sparsity that the projection leaves: there is one for each shape."""
        check_sparsity(sparsity)
        return 1 - self._per_output(shape) / matrix_shape(shape)[1]

    def guarantee(self, shape: tuple[int, ...], sparsity: float) -> Guarantee:
        check_sparsity(sparsity)
        outputs, inputs = matrix_shape(shape)
        return Guarantee(outputs, outputs * inputs, self._per_output(shape), outputs)

    def _has(self, sparsity: float, shape: tuple[int, ...]) -> bool:
        """Whether this is the sparsity of a group, or of an output with a smaller last group."""
        of_output = rounded((1 - sparsity) * matrix_shape(shape)[1]) == self._per_output(shape)
        return of_output or rounded((1 - sparsity) * self.m) == self.n

    def _per_output(self, shape: tuple[int, ...]) -> int:
        groups, rest = divmod(matrix_shape(shape)[1], self.m)
        return groups * self.n + min(self.n, rest)
