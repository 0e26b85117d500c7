"""What all schedules of pruning have in common: counting steps, finishing, saving and going on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from hwgen.errors import InputError
from hwgen.sparsify.pattern import Pattern
from hwgen.sparsify.scheduled_layer import scheduled_layers

if TYPE_CHECKING:
    from torch import nn


class Schedule(ABC):
    """Changes the masks of a model while the user's own loop trains it.

    Call `step` after each step of the optimiser, and `finish` after the last. Masks are those of torch.nn.utils.prune:
    `hwgen.pack` takes the model as it is, and its state_dict contains them. An optimiser made before or after the
    schedule trains the same parameters.

    The constructor refuses what cannot be, by projecting the weights as they are: nothing fails after hours.

    Args:
        model: any module; its pruned layers are changed in place.
        patterns: path of a Linear or convolution, as in `named_modules` -> its pattern. Other layers stay dense.
        sparsity: share of zeros in every one of these layers, or a mapping by name; each is rounded to the nearest
            legal one, as `Pattern.project` does. None, or a name left out, is the pattern's own.

    Raises:
        InputError: a layer that does not exist or cannot be pruned, or a pattern or sparsity that does not suit it.
    """

    def __init__(
        self, model: nn.Module, patterns: Mapping[str, Pattern], sparsity: float | Mapping[str, float] | None = None
    ) -> None:
        self._layers = scheduled_layers(model, patterns, sparsity)
        self._step = 0
        self._final = False
        for layer in self._layers.values():
            layer.attach()

    @property
    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """Name -> bool (outputs, inputs), as they are now."""
        return {name: layer.mask for name, layer in self._layers.items()}

    @property
    def sets(self) -> dict[str, NDArray[np.int64]]:
        """Of each layer with the pattern Complementary: name -> (outputs,), the sets of the last projection.

        `Complementary.check` takes them. While a ramp runs, weights beside the sets are still there.
        """
        return {name: layer.sets for name, layer in self._layers.items() if layer.sets is not None}

    def step(self) -> None:
        """To be called once after each step of the optimiser; once the masks are final it changes nothing.

        Raises:
            InputError: the schedule needs gradients, and no backward pass has made any.
        """
        self._step += 1
        if not self._final:
            self._advance()
            self._listen()

    def finish(self) -> None:
        """Makes the masks final and legal, and writes exact zeros where they are zero.

        If the last step has not been reached, what is left happens at once. Training may go on: the masks stay.
        """
        if not self._final:
            self._conclude()
        self._listen()
        for layer in self._layers.values():
            layer.settle()

    def state_dict(self) -> dict[str, Any]:
        """All that the schedule needs to go on, as numbers and tensors; the masks are in the model's own state_dict."""
        return {
            "schedule": type(self).__name__,
            "step": self._step,
            "final": self._final,
            "sets": {name: torch.from_numpy(sets.copy()) for name, sets in self.sets.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was called; the model's state must be loaded too, before or after.

        Raises:
            InputError: the state of another schedule, or of other layers.
        """
        found = state.get("schedule") if isinstance(state, Mapping) else None
        if found != type(self).__name__:
            raise InputError(f"state: is of {found or 'no schedule'}, not of {type(self).__name__}")
        sets = {name: value.numpy() for name, value in state["sets"].items()}
        if {name: value.shape for name, value in sets.items()} != {n: value.shape for n, value in self.sets.items()}:
            raise InputError(
                f"state: has complementary sets of {sorted(sets)}, but the schedule of {sorted(self.sets)}, or they "
                "differ in size; make the schedule with the same model and patterns"
            )
        for name, value in sets.items():
            self._layers[name].sets = value.copy()
        self._step, self._final = int(state["step"]), bool(state["final"])
        self._listen()

    @abstractmethod
    def _advance(self) -> None:
        """What happens after step `self._step`; sets `self._final` when nothing is left to do."""

    def _conclude(self) -> None:
        """Makes the masks final; here they are legal at all times."""
        self._final = True

    def _needs_gradient(self, step: int) -> bool:
        """Whether `_advance` will ask for gradients after that step."""
        return False

    def _listen(self) -> None:
        wanted = not self._final and self._needs_gradient(self._step + 1)
        for layer in self._layers.values():
            layer.listen(wanted)


def check_step(value: int, name: str, least: int) -> None:
    """Raises InputError if `value` is not an integer of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name}: must be a number of steps of at least {least}, not {value!r}")
