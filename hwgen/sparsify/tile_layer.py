"""A tile-wise weight as what is left of it: small dense tiles, and the single elements beside them.

Guo et al., "Accelerating Sparse DNN Models without Hardware-Support via Tile-Wise Sparsity" (SC 2020,
arXiv 2008.13006), section IV.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import DataError, InputError
from hwgen.sparsify.pattern import as_mask
from hwgen.sparsify.tile_element_wise import TileElementWise
from hwgen.sparsify.tile_wise import TileWise
from hwgen.sparsify.tiles import tile_part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn


@dataclass(frozen=True, eq=False)
class DenseTile:
    """A product over the inputs that a tile kept, for its outputs.

    Attributes:
        inputs: int64 (k,), ascending.
        outputs: int64 (n,), ascending.
        weight: float (k, n).
    """

    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]
    weight: NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Singles:
    """Weights beside the tiles, ordered by output and then by input.

    Attributes:
        outputs, inputs: int64 (count,).
        weight: float (count,).
    """

    outputs: NDArray[np.int64]
    inputs: NDArray[np.int64]
    weight: NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class TileLayer:
    """A weight (outputs, inputs) as dense tiles; no output is in two of them, and those in none are pruned.

    Attributes:
        outputs, inputs: of the weight.
        tiles: with at least one input and output each.
        singles: elements beside the tiles; none of a TileWise weight.
    """

    outputs: int
    inputs: int
    tiles: tuple[DenseTile, ...]
    singles: Singles

    @property
    def kept(self) -> NDArray[np.int64]:
        """The outputs of all tiles, tile after tile."""
        return np.concatenate([tile.outputs for tile in self.tiles] or [np.zeros(0, np.int64)])

    @property
    def products(self) -> int:
        """Multiplications for one vector of inputs."""
        return sum(tile.weight.size for tile in self.tiles) + len(self.singles.weight)

    def dense(self) -> NDArray[np.floating]:
        """(outputs, inputs): the weight with its zeros."""
        weight = np.zeros((self.outputs, self.inputs), self.singles.weight.dtype)
        for tile in self.tiles:
            weight[np.ix_(tile.outputs, tile.inputs)] = tile.weight.T
        weight[self.singles.outputs, self.singles.inputs] = self.singles.weight
        return weight


def compact(weight: Any, pattern: TileWise | TileElementWise, mask: Any = None) -> TileLayer:
    """The tiles of a pruned weight.

    Args:
        weight: (outputs, ...), numpy or torch, float. What lies outside the mask does not count. bfloat16 becomes
            float32, as numpy has none.
        pattern: that the mask keeps to.
        mask: bool, as many values as the weight; weight != 0 if there is none.

    Raises:
        DataError: arrays that are not such, or of different sizes.
        InputError: the mask does not keep to the pattern.
    """
    values = _as_float(weight)
    kept = as_mask(values != 0 if mask is None else mask)
    if kept.shape != values.shape:
        raise DataError(f"mask: must be {values.shape} like the weight, not {kept.shape}")
    if isinstance(pattern, TileWise):
        legal, part = pattern.check(kept), kept
    else:
        part = tile_part(kept, pattern.tile)
        legal = bool(np.count_nonzero(kept & ~part) <= pattern.most_singles(kept.shape))
    if not legal:
        raise InputError(f"mask: does not keep to {pattern}; project a score of the weight with it first")
    outputs = np.flatnonzero(part.any(axis=1))
    tiles = []
    for first in range(0, len(outputs), pattern.tile):
        members = outputs[first : first + pattern.tile]
        inputs = np.flatnonzero(part[members[0]])
        tiles.append(DenseTile(inputs, members, np.ascontiguousarray(values[np.ix_(members, inputs)].T)))
    rows, columns = np.nonzero(kept & ~part)
    return TileLayer(len(kept), kept.shape[1], tuple(tiles), Singles(rows, columns, values[rows, columns]))


def use_tiles(model: nn.Module, patterns: Mapping[str, TileWise | TileElementWise]) -> None:
    """Replaces pruned layers of `model`, in place, by modules that compute only what their tiles keep.

    The new modules give the results of the masked layers but for the order of float additions, on whatever device and
    in whatever dtype the layer was. They can be trained on; pruned weights are gone.

    Args:
        model: any module; not itself one of the layers.
        patterns: path of each Linear or Conv2d to replace -> pattern that its mask keeps to. The mask is that of
            torch.nn.utils.prune, or weight != 0.

    Raises:
        InputError: no such layer, a mask that does not keep to the pattern, or a convolution with groups or with a
            padding other than numbers of zeros.
    """
    from hwgen.sparsify.tile_modules import tile_module

    modules = dict(model.named_modules())
    replacements = {}
    for path, pattern in patterns.items():
        if not path or path not in modules:
            raise InputError(f"{path!r} is not a layer inside the model; there are {', '.join(filter(None, modules))}")
        replacements[path] = tile_module(modules[path], pattern, path)
    for path, module in replacements.items():
        parent, _, name = path.rpartition(".")
        setattr(modules[parent], name, module)


def _as_float(weight: Any) -> NDArray[np.floating]:
    if hasattr(weight, "detach"):
        weight = weight.detach().cpu()
        # numpy has neither bfloat16 nor much use for float16.
        weight = (weight.float() if weight.element_size() < 4 else weight).numpy()
    array = np.asarray(weight)
    if array.ndim < 2 or not array.size or array.dtype.kind != "f":
        raise DataError(f"weight: must be float (outputs, ...) and not empty, not {array.dtype} {array.shape}")
    return array.reshape(len(array), -1)
