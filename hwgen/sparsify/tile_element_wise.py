"""Tile-wise sparsity with single elements beside the tiles (TEW).

Guo et al., "Accelerating Sparse DNN Models without Hardware-Support via Tile-Wise Sparsity" (SC 2020,
arXiv 2008.13006).
"""

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
    check_share,
    check_size,
    check_sparsity,
    largest,
    matrix_shape,
    rounded,
)
from hwgen.sparsify.tile_wise import TileWise


@dataclass(frozen=True)
class TileElementWise(Pattern):
    """A tile-wise mask and single elements beside it.

    The projection prunes tile-wise to sparsity + restored and then brings back the best single elements, the share
    `restored` of all.

    Attributes:
        tile: outputs of a tile.
        restored: share of all elements; delta in the paper.
    """

    tile: int = 128
    restored: float = 0.01

    def __post_init__(self) -> None:
        check_size(self.tile, "tile")
        check_share(self.restored, "restored")

    def check(self, mask: Any) -> bool:
        """Whether taking at most the share `restored` of elements away leaves a tile-wise mask.

        A beam search decides which outputs and tiles remain. It is exact for small masks; of a large one that is legal
        only by an unlikely choice of tiles it may say no.
        """
        from hwgen.sparsify.tiles import fewest_singles

        matrix = as_mask(mask)
        return fewest_singles(matrix, self.tile) <= self.most_singles(matrix.shape)

    def project(self, score: Any, sparsity: float | None = None) -> NDArray[np.bool_]:
        matrix = as_score(score)
        wanted, singles = check_sparsity(sparsity), self.most_singles(matrix.shape)
        if rounded((1 - wanted) * matrix.size) < singles:
            raise InputError(
                f"sparsity: with the share {self.restored} of elements restored it is at most "
                f"{1 - singles / matrix.size:.4g}, not {sparsity}"
            )
        mask = self._tiles.project(matrix, self._tile_sparsity(matrix.shape, wanted))
        return restore(matrix, mask, singles)

    def nearest_sparsity(self, shape: tuple[int, ...], sparsity: float) -> float:
        """The sparsity of the projection, of which the restored elements are a fixed number."""
        outputs, inputs = matrix_shape(shape)
        tiles = self._tiles.nearest_sparsity(shape, self._tile_sparsity(shape, check_sparsity(sparsity)))
        return max(0.0, tiles - self.most_singles(shape) / (outputs * inputs))

    def guarantee(self, shape: tuple[int, ...], sparsity: float) -> Guarantee:
        outputs, inputs = matrix_shape(shape)
        tiles = self._tiles.guarantee(shape, self._tile_sparsity(shape, check_sparsity(sparsity)))
        singles = self.most_singles(shape)
        return Guarantee(
            sets=outputs,
            slots=outputs * inputs,
            nonzeros_per_output=min(inputs, tiles.nonzeros_per_output + singles),
            nonzeros_per_input=min(outputs, tiles.nonzeros_per_input + singles),
            shared=self.tile,
            singles=singles,
        )

    @property
    def _tiles(self) -> TileWise:
        return TileWise(self.tile)

    def _tile_sparsity(self, shape: tuple[int, ...], sparsity: float) -> float:
        outputs, inputs = matrix_shape(shape)
        return min(1.0, sparsity + self.most_singles(shape) / (outputs * inputs))

    def most_singles(self, shape: tuple[int, ...]) -> int:
        """Elements beside the tiles that a weight of this shape may have."""
        outputs, inputs = matrix_shape(shape)
        return rounded(self.restored * outputs * inputs)


def restore(score: NDArray[np.float64], mask: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """The mask with the `count` best pruned elements, or all there are."""
    pruned = np.flatnonzero(~mask)
    restored = mask.ravel().copy()
    restored[pruned[largest(score.ravel()[pruned], min(count, len(pruned)))]] = True
    return restored.reshape(mask.shape)
