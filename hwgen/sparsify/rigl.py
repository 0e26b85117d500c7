"""Sparse training that moves its weights.

Evci, Gale, Menick, Castro and Elsen, "Rigging the Lottery: Making All Tickets Winners" (2020, arXiv 1911.11134),
section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import cos, pi
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from hwgen.errors import InputError
from hwgen.sparsify.fixed_random import draw_masks
from hwgen.sparsify.pattern import Pattern, check_share, check_size, rounded
from hwgen.sparsify.schedule import Schedule, check_step
from hwgen.sparsify.scheduled_layer import ScheduledLayer
from hwgen.sparsify.scores import magnitude

if TYPE_CHECKING:
    from torch import nn

# Projections tried for one change of a mask.
TRIALS = 12


class RigL(Schedule):
    """Random legal masks from the start, whose weakest weights give way to those that the gradient asks for.

    Every `every` steps before `end`, the share `share` / 2 * (1 + cos(pi * step / end)) of the non-zeros moves: weights
    of small magnitude are dropped, pruned ones with a large gradient take their place, with the value 0. The mask stays
    legal and keeps its number of non-zeros. Without a pattern that is the algorithm of the paper, but that a dropped
    weight never comes back in the same change; with one, see `exchange`. Complementary sets keep their members: what
    moves are their columns.

    Gradients are those of all backward passes since the last step, of pruned weights too; they are collected only in
    the one step before each change. Magnitudes are those after it.

    Args:
        model, patterns, sparsity: as for `Schedule`.
        end: step after which the masks stay; the paper takes three quarters of the training.
        every: steps from one change to the next.
        share: of non-zeros that move at the start, alpha in the paper.
        seed: of the first masks.
        rescale: as for `FixedRandom`.
        optimiser: its state (momentum, mean squares) is set to 0 for each weight that comes in. Without it the state
            stays as it is: the gradient of a pruned weight is 0, so that momentum has mostly decayed by itself, but a
            mean square of Adam decays slowly and makes the first steps of such a weight smaller.

    Raises:
        InputError: as for `Schedule`, or an argument that is not as described.
    """

    def __init__(
        self,
        model: nn.Module,
        patterns: Mapping[str, Pattern],
        sparsity: float | Mapping[str, float] | None = None,
        *,
        end: int,
        every: int = 100,
        share: float = 0.3,
        seed: int = 0,
        rescale: bool = False,
        optimiser: torch.optim.Optimizer | None = None,
    ) -> None:
        check_step(end, "end", 1)
        check_step(every, "every", 1)
        check_share(share, "share")
        check_size(seed, "seed", least=0)
        super().__init__(model, patterns, sparsity)
        self._end = end
        self._every = every
        self._share = share
        self._optimiser = optimiser
        draw_masks(self._layers, seed, rescale)
        self._listen()

    def moving(self, step: int) -> float:
        """The share of non-zeros that moves after a step at which masks change."""
        return self._share / 2 * (1 + cos(pi * min(step, self._end) / self._end))

    def _advance(self) -> None:
        if self._needs_gradient(self._step):
            for layer in self._layers.values():
                self._move(layer)
        self._final = self._step >= self._end

    def _needs_gradient(self, step: int) -> bool:
        return step % self._every == 0 and step < self._end

    def _move(self, layer: ScheduledLayer) -> None:
        if layer.gradient is None:
            raise InputError(f"{layer.name}: no gradient since the last step; call step after loss.backward()")
        # With mixed precision a step may overflow; its optimiser leaves such a step out too.
        if not torch.isfinite(layer.gradient).all():
            return
        before = layer.mask
        after = exchange(
            before,
            magnitude(layer.weight),
            magnitude(layer.gradient),
            self.moving(self._step),
            lambda score: layer.project(score, layer.sparsity, keep_sets=True),
        )
        layer.mask = after
        came = torch.from_numpy(after & ~before).reshape(layer.weight.shape).to(layer.weight.device)
        layer.weight[came] = 0
        state = self._optimiser.state.get(layer.parameter, {}) if self._optimiser is not None else {}
        for value in state.values():
            if isinstance(value, torch.Tensor) and value.shape == came.shape:
                value[came] = 0


def exchange(
    mask: NDArray[np.bool_],
    kept: NDArray[np.float64],
    candidate: NDArray[np.float64],
    share: float,
    project: Callable[[NDArray[np.float64]], NDArray[np.bool_]],
) -> NDArray[np.bool_]:
    """A legal mask that differs from `mask` in about a given share of its non-zeros.

    Both kinds of scores are divided by their means. Those of non-zeros get a bonus, and the projection of all is the
    new mask: the greater the bonus, the fewer non-zeros leave, the weakest first, for the strongest candidates that the
    pattern allows. Bisection finds the bonus for which as many leave as should, or nearly: blocks and tiles move as
    wholes.

    Args:
        mask: bool (outputs, inputs), legal.
        kept: (outputs, inputs), at least 0: what speaks for each non-zero; elsewhere it is not read.
        candidate: the same for each zero.
        share: of non-zeros that should leave, 0 .. 1.
        project: score (outputs, inputs) -> legal mask with the number of non-zeros of `mask`.

    Returns:
        bool (outputs, inputs); `mask` itself if no trial comes nearer.
    """
    wanted = rounded(share * int(mask.sum()))
    if wanted == 0 or mask.all():
        return mask
    score = np.where(mask, kept, 0) / _mean(kept[mask]) + np.where(mask, 0, candidate) / _mean(candidate[~mask])
    # With the one everything moves, with the other nothing.
    low, high = -score[mask].max(), score[~mask].max()
    best, nearest = mask, wanted
    for _ in range(TRIALS):
        bonus = (low + high) / 2
        trial = project(score + bonus * mask)
        left = int((mask & ~trial).sum())
        if abs(left - wanted) < nearest:
            best, nearest = trial, abs(left - wanted)
        if nearest == 0:
            break
        if left > wanted:
            low = bonus
        else:
            high = bonus
    return best


def _mean(values: NDArray[np.float64]) -> float:
    """Their mean; 1 where all are 0 and nothing needs a scale."""
    return float(values.mean()) or 1.0
