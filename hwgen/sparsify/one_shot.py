"""Pruning all at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwgen.errors import InputError
from hwgen.sparsify.layers import project_all
from hwgen.sparsify.pattern import Pattern
from hwgen.sparsify.schedule import Schedule, check_step
from hwgen.sparsify.scores import magnitude

if TYPE_CHECKING:
    from torch import nn


class OneShot(Schedule):
    """Prunes to the final masks after one step; training before it is dense, training after it fine-tunes.

    Args:
        model, patterns, sparsity: as for `Schedule`.
        at: the step after which the model is pruned; 0 is at once, for a model that is trained already.
        importance: "magnitude" is |weight|; "saliency" is (gradient x weight)^2, summed over all steps before `at`, of
            the gradient that the optimiser used and the weight that it left (Guo et al. 2020, arXiv 2008.13006).
        together: one threshold for all layers, as `project_all` has it; `sparsity` is then that of all together.

    Raises:
        InputError: as for `Schedule`, or an argument that is not as described.
    """

    def __init__(
        self,
        model: nn.Module,
        patterns: Mapping[str, Pattern],
        sparsity: float | Mapping[str, float] | None = None,
        *,
        at: int = 0,
        importance: Literal["magnitude", "saliency"] = "magnitude",
        together: bool = False,
    ) -> None:
        check_step(at, "at", 0)
        if importance not in ("magnitude", "saliency"):
            raise InputError(f'importance: must be "magnitude" or "saliency", not {importance!r}')
        if importance == "saliency" and at == 0:
            raise InputError("importance: saliency needs gradients of at least one step; prune at step 1 or later")
        if together:
            if sparsity is None or isinstance(sparsity, Mapping):
                raise InputError(f"sparsity: must be one number for layers pruned together, not {sparsity!r}")
            if not isinstance(patterns, Mapping) or not patterns:
                raise InputError(f"patterns: must map names of layers to patterns, at least one, not {patterns!r}")
            # Refuses patterns that do not rank over layers.
            project_all({name: np.ones((1, 1)) for name in patterns}, patterns, sparsity)
        super().__init__(model, patterns, sparsity)
        self._at = at
        self._importance = importance
        self._together = together
        self._saliency: dict[str, Tensor] = {}
        self._sparsity = sparsity
        if at == 0:
            self._prune()
        self._listen()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "saliency": {name: value.cpu() for name, value in self._saliency.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._saliency = {}
        for name, value in state["saliency"].items():
            weight = self._layers[name].weight if name in self._layers else None
            if weight is None or weight.shape != value.shape:
                raise InputError(f"state: has a saliency of {name!r}, which the schedule does not, or not of that size")
            self._saliency[name] = value.to(weight)

    def _advance(self) -> None:
        self._collect()
        if self._step >= self._at:
            self._prune()

    def _conclude(self) -> None:
        if self._importance == "saliency" and not self._saliency:
            raise InputError("finish: no gradient was collected yet, which saliency needs; train for a step or more")
        self._prune()

    def _needs_gradient(self, step: int) -> bool:
        return self._importance == "saliency"

    def _prune(self) -> None:
        """To the final masks."""
        scores = self._scores()
        if self._together:
            assert isinstance(self._sparsity, float | int)
            self._set_masks(self._project_together(scores, self._sparsity))
        else:
            self._set_masks(
                {
                    name: layer.project(scores[name], layer.sparsity, thorough=True)
                    for name, layer in self._layers.items()
                }
            )
        self._final = True

    def _project_together(
        self, scores: dict[str, NDArray[np.float64]], sparsity: float
    ) -> dict[str, NDArray[np.bool_]]:
        return project_all(scores, {name: layer.pattern for name, layer in self._layers.items()}, sparsity)

    def _set_masks(self, masks: dict[str, NDArray[np.bool_]]) -> None:
        for name, mask in masks.items():
            self._layers[name].mask = mask

    def _collect(self) -> None:
        """Adds what the last step says to the saliency."""
        if self._importance != "saliency":
            return
        for name, layer in self._layers.items():
            if layer.gradient is None:
                raise InputError(f"{name}: no gradient since the last step; call step after loss.backward()")
            term = (layer.gradient * layer.weight) ** 2
            # With mixed precision a step may overflow; its optimiser leaves such a step out too.
            if torch.isfinite(term).all():
                self._saliency[name] = self._saliency[name] + term if name in self._saliency else term

    def _scores(self) -> dict[str, NDArray[np.float64]]:
        """Name -> (outputs, inputs); begins the sums of saliency anew."""
        if self._importance == "magnitude":
            return {name: magnitude(layer.weight) for name, layer in self._layers.items()}
        zeros = {name: torch.zeros_like(layer.weight) for name, layer in self._layers.items()}
        sums, self._saliency = zeros | self._saliency, {}
        return {name: magnitude(value) for name, value in sums.items()}
