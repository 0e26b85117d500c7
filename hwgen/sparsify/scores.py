"""How much a weight matters, as patterns want to know it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import DataError
from hwgen.sparsify.pattern import as_score


def magnitude(weight: Any) -> NDArray[np.float64]:
    """|weight|.

    Args:
        weight: (outputs, ...), numpy or torch.

    Returns:
        (outputs, inputs).

    Raises:
        DataError: no such array, or not finite.
    """
    return np.abs(as_score(weight, "weight"))


def add_saliency(weight: Any, gradient: Any, saliency: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """(gradient * weight)^2, summed over batches: to the first order, the square of what the weight does to the loss.

    The score of tile-wise sparsity (Guo et al. 2020, arXiv 2008.13006).

    Args:
        weight, gradient: (outputs, ...), numpy or torch, of one batch; of a pruned torch module `weight_orig` and its
            gradient, so that pruned weights get a score too.
        saliency: (outputs, inputs), what this function returned for the batches before; None before the first.

    Returns:
        (outputs, inputs).

    Raises:
        DataError: arrays that are not such, not finite, or of different sizes.
    """
    weights, gradients = as_score(weight, "weight"), as_score(gradient, "gradient")
    before = np.zeros_like(weights) if saliency is None else as_score(saliency, "saliency")
    for name, array in (("gradient", gradients), ("saliency", before)):
        if array.shape != weights.shape:
            raise DataError(f"{name}: must be {weights.shape} like the weight, not {array.shape}")
    return before + (gradients * weights) ** 2
