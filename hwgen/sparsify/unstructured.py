"""Unstructured sparsity: any weight may be zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgen.sparsify.pattern import (
    Guarantee,
    Pattern,
    as_mask,
    as_score,
    check_sparsity,
    largest,
    matrix_shape,
    rounded,
)


@dataclass(frozen=True)
class Unstructured(Pattern):
    """Any mask. The projection keeps the largest scores of the whole weight, which is the optimum."""

    def check(self, mask: Any) -> bool:
        as_mask(mask)
        return True

    def project(self, score: Any, sparsity: float | None = None) -> NDArray[np.bool_]:
        matrix = as_score(score)
        kept = rounded((1 - check_sparsity(sparsity)) * matrix.size)
        return largest(matrix.ravel(), kept).reshape(matrix.shape)

    def nearest_sparsity(self, shape: tuple[int, ...], sparsity: float) -> float:
        outputs, inputs = matrix_shape(shape)
        positions = outputs * inputs
        return 1 - rounded((1 - check_sparsity(sparsity)) * positions) / positions

    def guarantee(self, shape: tuple[int, ...], sparsity: float) -> Guarantee:
        outputs, inputs = matrix_shape(shape)
        kept = rounded((1 - check_sparsity(sparsity)) * outputs * inputs)
        return Guarantee(outputs, outputs * inputs, min(kept, inputs), min(kept, outputs))
