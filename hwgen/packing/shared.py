"""Masks in which many outputs have their non-zeros in the same columns, as the outputs of a tile have.

Tile-wise sparsity: Guo et al. (SC 2020, arXiv 2008.13006). Such outputs share each activation without any kernel ID.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Outputs with the same columns, as many as the mean output is among. With fewer, sets that combine outputs keep more
# multipliers busy.
SHARED = 6
# Mean non-zeros of an output by those of the fullest, whose time all folds take: so many of the multipliers are busy.
# Sets that combine outputs reached more than this on blocks of 8 x 8 with 90 % zeros, and no more on 75 %.
BALANCE = 0.6


def shares_columns(mask: NDArray[np.bool_]) -> bool:
    """Whether outputs share their columns with so many others that sets of one output each are best."""
    sizes = np.bincount(first_alike(mask))
    nonzeros = mask.sum(axis=1)
    return bool((sizes**2).sum() >= SHARED * len(mask) and nonzeros.mean() >= BALANCE * nonzeros.max())


def first_alike(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """int (outputs,): the first output with the same columns, perhaps the output itself."""
    _, first, inverse = np.unique(np.packbits(mask, axis=1), axis=0, return_index=True, return_inverse=True)
    return first[inverse.ravel()]
