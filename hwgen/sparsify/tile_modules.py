"""torch modules that compute tile-wise layers tile by tile.

Guo et al., "Accelerating Sparse DNN Models without Hardware-Support via Tile-Wise Sparsity" (SC 2020,
arXiv 2008.13006), section IV: each tile gathers its inputs and is one dense product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hwgen.errors import InputError
from hwgen.sparsify.tile_element_wise import TileElementWise
from hwgen.sparsify.tile_layer import TileLayer, compact
from hwgen.sparsify.tile_wise import TileWise


class _Tiles(nn.Module):
    """The tiles, the bias and what single elements are beside them; all of one layer.

    Outputs are computed in the order of the tiles and brought into the layer's own by one gather at the end. The
    pruned outputs, which are their bias, come last.
    """

    place: Tensor
    single_places: Tensor

    def __init__(self, layer: TileLayer, bias: Tensor | None, like: Tensor) -> None:
        super().__init__()
        device, dtype = like.device, like.dtype
        self.weights = nn.ParameterList(torch.as_tensor(tile.weight).to(device, dtype) for tile in layer.tiles)
        for number, tile in enumerate(layer.tiles):
            self.register_buffer(f"inputs_{number}", torch.as_tensor(tile.inputs).to(device))
        kept = torch.as_tensor(layer.kept)
        pruned = torch.ones(layer.outputs, dtype=torch.bool).index_fill_(0, kept, False).nonzero().ravel()
        order = torch.cat([kept, pruned])
        self.register_buffer("place", order.argsort().to(device))
        self.sizes = [len(tile.outputs) for tile in layer.tiles] + [len(pruned)]
        ordered = torch.zeros(layer.outputs) if bias is None else bias.detach().cpu()[order]
        # In the order of the tiles. A layer without bias must not learn one.
        self.bias = nn.Parameter(ordered.to(device, dtype), requires_grad=bias is not None)
        self.shape = layer.outputs, layer.inputs
        places = torch.as_tensor(np.stack([layer.singles.outputs, layer.singles.inputs]))
        self.register_buffer("single_places", places.to(device))
        self.singles = nn.Parameter(torch.as_tensor(layer.singles.weight).to(device, dtype))

    def rows(self, x: Tensor) -> Tensor:
        """(m, inputs) -> (m, outputs)."""
        *biases, rest = self.bias.split(self.sizes)
        parts = [
            torch.addmm(bias, x.index_select(1, self.get_buffer(f"inputs_{number}")), weight)
            for number, (weight, bias) in enumerate(zip(self.weights, biases, strict=True))
        ]
        y = torch.cat([*parts, rest.expand(len(x), -1)], 1).index_select(1, self.place)
        return y + self._beside(x.T).T.contiguous() if len(self.singles) else y

    def columns_of(self, x: Tensor) -> Tensor:
        """(n, inputs, m) -> (n, outputs, m)."""
        *biases, rest = self.bias[:, None].split(self.sizes)
        parts = [
            weight.T @ x.index_select(1, self.get_buffer(f"inputs_{number}")) + bias
            for number, (weight, bias) in enumerate(zip(self.weights, biases, strict=True))
        ]
        y = torch.cat([*parts, rest.expand(len(x), -1, x.shape[2])], 1).index_select(1, self.place)
        return y + torch.stack([self._beside(one) for one in x]) if len(self.singles) else y

    def _beside(self, x: Tensor) -> Tensor:
        """(inputs, m) -> (outputs, m): the products of the single elements, added up in float32 at least."""
        wide = torch.promote_types(x.dtype, torch.float32)
        matrix = torch.sparse_coo_tensor(
            self.single_places, self.singles.to(wide), self.shape, check_invariants=False, is_coalesced=True
        )
        # Rows that lie together are several times faster, here and where the result is added.
        return torch.sparse.mm(matrix, x.to(wide).contiguous()).to(x.dtype)


class TileWiseLinear(_Tiles):
    """A tile-wise Linear.

    Members:
        forward: (..., inputs) -> (..., outputs).
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.rows(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], self.shape[0])


class TileWiseConv2d(_Tiles):
    """A tile-wise Conv2d without groups, as a product of its unfolded windows.

    Members:
        forward: (n, channels, height, width) or without n -> (n, outputs, height, width).
    """

    def __init__(self, layer: TileLayer, conv: nn.Conv2d, like: Tensor) -> None:
        super().__init__(layer, conv.bias, like)
        self.window = {name: getattr(conv, name) for name in ("kernel_size", "dilation", "padding", "stride")}

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            return self.forward(x[None])[0]
        sizes = [
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, dilation, padding, stride in zip(x.shape[2:], *self.window.values(), strict=True)
        ]
        return self.columns_of(functional.unfold(x, **self.window)).unflatten(2, sizes)


def tile_module(layer: nn.Module, pattern: TileWise | TileElementWise, name: str) -> _Tiles:
    """The module that stands in for a Linear or Conv2d; arguments and errors as `tile_layer.use_tiles`."""
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise InputError(f"{name}: must be a Linear or a Conv2d, not {type(layer).__name__}")
    if isinstance(layer, nn.Conv2d) and (
        layer.groups != 1 or isinstance(layer.padding, str) or layer.padding_mode != "zeros"
    ):
        raise InputError(
            f"{name}: tiles need a convolution without groups whose padding is given in numbers of zeros, not groups "
            f"{layer.groups}, padding {layer.padding!r}, {layer.padding_mode!r}"
        )
    weight, mask = _weight_and_mask(layer)
    try:
        tiles = compact(weight, pattern, mask)
    except InputError as error:
        raise type(error)(f"{name}: {error}") from None
    if isinstance(layer, nn.Linear):
        return TileWiseLinear(tiles, layer.bias, weight)
    return TileWiseConv2d(tiles, layer, weight)


def _weight_and_mask(layer: Any) -> tuple[Tensor, Tensor | None]:
    """Those of torch.nn.utils.prune where there are: its `weight` is that of the last call, before the last training
    step, and may be 0 where nothing is pruned.
    """
    mask = getattr(layer, "weight_mask", None)
    return (layer.weight, None) if mask is None else (layer.weight_orig, mask != 0)
