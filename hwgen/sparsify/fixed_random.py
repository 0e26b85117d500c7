"""Masks that are drawn once and never change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from hwgen.sparsify.pattern import Pattern, check_size
from hwgen.sparsify.schedule import Schedule
from hwgen.sparsify.scheduled_layer import ScheduledLayer

if TYPE_CHECKING:
    from torch import nn


class FixedRandom(Schedule):
    """Random legal masks from the start: the network is never dense.

    Ahmad and Scheinkman, "How Can We Be So Dense? The Benefits of Using Highly Sparse Representations" (2019,
    arXiv 1903.11257). What is left to train are the values; `step` changes nothing.

    Args:
        model, patterns, sparsity: as for `Schedule`.
        seed: of the masks.
        rescale: multiply the weights that are kept by sqrt(inputs / non-zeros) of their output, so that its variance
            is what the dense layer's initialisation made it. For models that have not been trained.

    Raises:
        InputError: as for `Schedule`.
    """

    def __init__(
        self,
        model: nn.Module,
        patterns: Mapping[str, Pattern],
        sparsity: float | Mapping[str, float] | None = None,
        *,
        seed: int = 0,
        rescale: bool = False,
    ) -> None:
        check_size(seed, "seed", least=0)
        super().__init__(model, patterns, sparsity)
        draw_masks(self._layers, seed, rescale)
        self._final = True

    def _advance(self) -> None:
        """The masks are final from the start."""


def draw_masks(layers: Mapping[str, ScheduledLayer], seed: int, rescale: bool) -> None:
    """Gives each layer the projection of random scores; arguments as for `FixedRandom`."""
    for index, layer in enumerate(layers.values()):
        rng = np.random.default_rng([seed, index])
        mask = layer.project(rng.random((len(layer.weight), layer.weight[0].numel())), layer.sparsity)
        layer.mask = mask
        if rescale:
            # An output without weights has none to rescale.
            factors = np.sqrt(mask.shape[1] / np.maximum(1, mask.sum(axis=1)))
            shape = (-1, *[1] * (layer.weight.dim() - 1))
            layer.weight.mul_(torch.from_numpy(factors).to(layer.weight).reshape(shape))
