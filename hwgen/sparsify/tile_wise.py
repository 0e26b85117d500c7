"""Tile-wise sparsity: whole outputs are pruned, then whole inputs of each tile of outputs.

Guo et al., "Accelerating Sparse DNN Models without Hardware-Support via Tile-Wise Sparsity" (SC 2020,
arXiv 2008.13006). Their weight matrix is inputs x outputs, so that their columns are our outputs and their rows our
inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
class TileWise(Pattern):
    """The outputs that are not empty, in tiles of `tile` in their order; all outputs of a tile have the same inputs.

    Each tile is a dense product over the inputs that it kept, and an input's index serves the whole tile. The last tile
    may be smaller.

    The projection prunes outputs and then inputs of tiles, each at the rate 1 - sqrt(1 - sparsity), the least scores
    first. Both steps are the best for their rate; which rate would be best for outputs it does not search.

    Attributes:
        tile: outputs of a tile, G in the paper.
    """

    tile: int = 128

    def __post_init__(self) -> None:
        check_size(self.tile, "tile")

    def check(self, mask: Any) -> bool:
        matrix = as_mask(mask)
        kept = matrix[matrix.any(axis=1)]
        heads = kept[:: self.tile].repeat(self.tile, axis=0)[: len(kept)]
        return np.array_equal(kept, heads)

    def project(self, score: Any, sparsity: float | None = None) -> NDArray[np.bool_]:
        matrix = as_score(score)
        survivors, kept = self._counts(matrix.shape, check_sparsity(sparsity))
        outputs = np.flatnonzero(largest(matrix.sum(axis=1), survivors))
        mask = np.zeros(matrix.shape, np.bool_)
        mask[outputs] = self._keep_inputs(matrix[outputs], kept).repeat(self.tile, axis=0)[:survivors]
        return mask

    def nearest_sparsity(self, shape: tuple[int, ...], sparsity: float) -> float:
        """The sparsity nearest to `sparsity` that the projection can reach with the outputs its rate leaves."""
        outputs, inputs = matrix_shape(shape)
        return 1 - self._counts(shape, check_sparsity(sparsity))[1] / (outputs * inputs)

    def guarantee(self, shape: tuple[int, ...], sparsity: float) -> Guarantee:
        inputs = matrix_shape(shape)[1]
        survivors, kept = self._counts(shape, check_sparsity(sparsity))
        sets = max(1, survivors)
        return Guarantee(sets, sets * inputs, min(inputs, kept), min(survivors, kept), shared=self.tile)

    def _counts(self, shape: tuple[int, ...], sparsity: float) -> tuple[int, int]:
        """Outputs and non-zeros that are kept."""
        outputs, inputs = matrix_shape(shape)
        survivors = outputs - rounded(per_dimension(sparsity) * outputs)
        _, _, kept = self._choices(survivors, inputs, (1 - sparsity) * outputs * inputs)
        return survivors, int(kept[0])

    def _choices(
        self, survivors: int, inputs: int, kept: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """All ways to keep a number of non-zeros nearest to `kept`.

        Returns:
            full, last, kept: inputs kept of all full tiles together, of the smaller last one, and the non-zeros of
            both; of two numbers equally near, the larger.
        """
        tiles, rest = divmod(survivors, self.tile)
        last = np.arange(inputs + 1 if rest else 1)
        full = np.floor((kept - last * rest) / self.tile + 0.5).astype(np.int64).clip(0, tiles * inputs)
        total = full * self.tile + last * rest
        distance = np.abs(total - kept)
        best = distance == distance.min()
        best &= total == total[best].max()
        return full[best], last[best], total[best]

    def _keep_inputs(self, score: NDArray[np.float64], kept: int) -> NDArray[np.bool_]:
        """bool (tiles, inputs): what each tile of the surviving outputs keeps, `kept` non-zeros in all."""
        survivors, inputs = score.shape
        sums = np.add.reduceat(score, range(0, survivors, self.tile), axis=0) if survivors else score
        tiles = survivors // self.tile
        full, last, _ = self._choices(survivors, inputs, kept)
        values = _best_sums(sums[:tiles])[full] + _best_sums(sums[tiles:])[last]
        choice = int(np.argmax(values))
        mask = np.zeros(sums.shape, np.bool_)
        mask[:tiles] = largest(sums[:tiles].ravel(), full[choice]).reshape(tiles, inputs)
        mask[tiles:] = largest(sums[tiles:].ravel(), last[choice]).reshape(-1, inputs)
        return mask


def per_dimension(sparsity: float) -> float:
    """The rate at which outputs and inputs are pruned, one after the other, so that both make up `sparsity`."""
    return 1 - sqrt(1 - sparsity)


def _best_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(count + 1,): the sum of the n largest values, for every n."""
    return np.concatenate([[0.0], np.cumsum(np.sort(values, axis=None)[::-1])])
