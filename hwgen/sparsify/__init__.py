"""Which weights of a network may be non-zero: patterns of sparsity, scores, and masks on torch models.

Patterns work on numpy arrays and need no torch. docs/sparsify.md shows them.
"""

from __future__ import annotations

from hwgen.sparsify.block import Block
from hwgen.sparsify.complementary import Complementary
from hwgen.sparsify.layers import project_all
from hwgen.sparsify.masks import apply_masks, complementary_mask
from hwgen.sparsify.n_of_m import NofM
from hwgen.sparsify.partitioned import Partitioned
from hwgen.sparsify.pattern import Guarantee, Pattern
from hwgen.sparsify.scores import add_saliency, magnitude
from hwgen.sparsify.tile_element_wise import TileElementWise
from hwgen.sparsify.tile_layer import DenseTile, Singles, TileLayer, compact, use_tiles
from hwgen.sparsify.tile_wise import TileWise
from hwgen.sparsify.unstructured import Unstructured

__all__ = [
    "Block",
    "Complementary",
    "DenseTile",
    "Guarantee",
    "NofM",
    "Partitioned",
    "Pattern",
    "Singles",
    "TileElementWise",
    "TileLayer",
    "TileWise",
    "Unstructured",
    "add_saliency",
    "apply_masks",
    "compact",
    "complementary_mask",
    "magnitude",
    "project_all",
    "use_tiles",
]
