"""Gradual pruning along a cubic ramp.

Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression" (2017,
arXiv 1710.01878), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from hwgen.errors import InputError
from hwgen.sparsify.one_shot import OneShot
from hwgen.sparsify.pattern import Pattern, rounded
from hwgen.sparsify.schedule import check_step
from hwgen.sparsify.scheduled_layer import ScheduledLayer
from hwgen.sparsify.tile_element_wise import restore

if TYPE_CHECKING:
    from torch import nn


class GradualMagnitude(OneShot):
    """Prunes more and more between two steps, fast at first and slowly at last.

    After step t the share 1 - (1 - (t - begin) / (end - begin))^3 of what will be pruned is pruned; masks change every
    `every` steps, and at `end` for the last time. Pruned weights keep their values and can come back until then.

    A mask of the ramp is the pattern's own at the nearest sparsity that it has, with the best single weights beside it
    up to the count of the ramp. A pattern with one sparsity only, such as N:M and complementary sets, so has its final
    mask from the start, in the middle of ever fewer other weights. The final mask is found anew with each change; of
    complementary sets by a short search, and by the long one at the end.

    Args:
        model, patterns, sparsity, importance, together: as for `OneShot`; saliency is summed from one change of the
            masks to the next, and layers pruned together follow the ramp together.
        begin, end: steps between which the ramp runs; all training after `end` is with the final masks.
        every: steps from one change to the next.

    Raises:
        InputError: as for `OneShot`, or an argument that is not as described.
    """

    def __init__(
        self,
        model: nn.Module,
        patterns: Mapping[str, Pattern],
        sparsity: float | Mapping[str, float] | None = None,
        *,
        end: int,
        begin: int = 0,
        every: int = 100,
        importance: Literal["magnitude", "saliency"] = "magnitude",
        together: bool = False,
    ) -> None:
        check_step(begin, "begin", 0)
        check_step(end, "end", 1)
        check_step(every, "every", 1)
        if end <= begin:
            raise InputError(f"end: must be a step after begin, {begin}, not {end}")
        self._begin = begin
        self._every = every
        super().__init__(model, patterns, sparsity, at=end, importance=importance, together=together)

    def ramp(self, step: int) -> float:
        """The share of what will be pruned that is pruned after a step, from 0 to 1."""
        passed = (step - self._begin) / (self._at - self._begin)
        return 1 - (1 - min(1.0, max(0.0, passed))) ** 3

    def _advance(self) -> None:
        super()._advance()
        passed = self._step - self._begin
        if not self._final and passed > 0 and passed % self._every == 0:
            self._thin(self.ramp(self._step))

    def _needs_gradient(self, step: int) -> bool:
        # What is summed before the ramp serves its first change only: one interval of it is enough.
        return super()._needs_gradient(step) and step > self._begin

    def _collect(self) -> None:
        if self._step > self._begin:
            super()._collect()

    def _thin(self, share: float) -> None:
        """Sets masks that prune this share of what will be pruned."""
        scores = self._scores()
        if self._together:
            assert isinstance(self._sparsity, float | int)
            self._set_masks(self._project_together(scores, share * self._sparsity))
        else:
            self._set_masks({name: _around(layer, scores[name], share) for name, layer in self._layers.items()})


def _around(layer: ScheduledLayer, score: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    """The mask of a ramp; see `GradualMagnitude`."""
    sparsity = share * layer.pruned_share
    mask = layer.project(score, layer.pattern.nearest_sparsity(score.shape, sparsity))
    missing = rounded((1 - sparsity) * mask.size) - int(mask.sum())
    return restore(score, mask, max(0, missing))
