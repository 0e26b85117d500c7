"""A layer of a torch model whose mask a schedule may change between two steps of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import prune

from hwgen.errors import InputError
from hwgen.sparsify.complementary import Complementary
from hwgen.sparsify.pattern import Pattern
from hwgen.sparsify.scores import magnitude

# Their weights have the outputs first, as patterns want them.
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class ScheduledLayer:
    """A pruned layer, its pattern, and what a schedule must know of both.

    The mask is that of torch.nn.utils.prune: `weight_orig` is trained, `weight_mask` belongs to the schedule, and
    `weight` is their product. A pruned weight keeps its value in `weight_orig`, so that it can come back with it.

    Attributes:
        name: path in the model.
        pattern, sparsity: of the final mask, as `Pattern.project` takes them.
        pruned_share: share of zeros in the final mask, as `prepare` finds it.
        sets: int64 (outputs,): the complementary sets of the last projection; None for other patterns.
        gradient: of the whole weight, pruned positions too, summed over all backward passes since `listen`; None
            before the first.
    """

    def __init__(self, name: str, module: nn.Module, pattern: Pattern, sparsity: float | None) -> None:
        self.name = name
        self.pattern = pattern
        self.sparsity = sparsity
        self.pruned_share = 0.0
        self.sets: NDArray[np.int64] | None = None
        self.gradient: Tensor | None = None
        self._module = module
        self._hook: torch.utils.hooks.RemovableHandle | None = None

    @property
    def weight(self) -> Tensor:
        """(outputs, ...), pruned positions with the values that they would have; the model's own memory."""
        parameters = self._module._parameters
        parameter = parameters.get("weight_orig", parameters.get("weight"))
        assert parameter is not None
        return parameter.detach()

    @property
    def parameter(self) -> nn.Parameter:
        """What the optimiser knows: `weight_orig`."""
        return self._module.get_parameter("weight_orig")

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(outputs, inputs)."""
        mask = self._module.get_buffer("weight_mask") != 0
        return mask.flatten(1).cpu().numpy()

    @mask.setter
    def mask(self, mask: NDArray[np.bool_]) -> None:
        self._module.get_buffer("weight_mask").copy_(torch.from_numpy(mask).reshape(self.weight.shape))

    def prepare(self) -> None:
        """Tries the final projection, so that what cannot be fails before training; changes nothing.

        Raises:
            InputError: the pattern or the sparsity does not suit the weight, or leaves nothing of it.
        """
        try:
            mask = self.project(magnitude(self.weight), self.sparsity)
        except InputError as error:
            raise type(error)(f"{self.name}: {error}") from None
        if not mask.any():
            raise InputError(
                f"{self.name}: {self.pattern} leaves none of {tuple(self.weight.shape)} weights at sparsity "
                f"{self.sparsity}; take a lower sparsity or a finer pattern"
            )
        self.pruned_share = 1 - float(mask.mean())

    def attach(self) -> None:
        """Gives the module a mask of ones, unless it has one already."""
        if "weight_mask" not in self._module._buffers:
            prune.identity(self._module, "weight")

    def project(
        self, score: NDArray[np.float64], sparsity: float | None, *, thorough: bool = False, keep_sets: bool = False
    ) -> NDArray[np.bool_]:
        """The pattern's mask for these scores; remembers its sets.

        Args:
            score: (outputs, inputs).
            sparsity: as `Pattern.project` takes it.
            thorough: search long for complementary sets; other patterns know no difference.
            keep_sets: do not search at all, but share out the columns of the sets that there are.
        """
        if not isinstance(self.pattern, Complementary):
            return self.pattern.project(score, sparsity)
        sets = self.sets if keep_sets else None
        mask, self.sets = self.pattern.project_sets(score, sparsity, sets=sets, thorough=thorough)
        return mask

    def listen(self, wanted: bool) -> None:
        """Forgets the gradient, and collects that of the backward passes to come if it is wanted."""
        self.gradient = None
        if wanted and self._hook is None:
            # `weight_orig.grad` is zero where the mask is. The product's gradient is not, and its hook, unlike one of
            # the parameter, sees it. This hook runs after torch.nn.utils.prune's, which makes the product.
            self._hook = self._module.register_forward_pre_hook(self._watch)
        elif not wanted and self._hook is not None:
            self._hook.remove()
            self._hook = None

    def settle(self) -> None:
        """Writes zeros wherever the mask is zero, and the product as a tensor without a history."""
        with torch.no_grad():
            self.weight.mul_(self._module.get_buffer("weight_mask"))
            self._module.weight = self.weight.clone()

    def _watch(self, module: nn.Module, inputs: Any) -> None:
        weight = module.weight
        if isinstance(weight, Tensor) and weight.requires_grad:
            weight.register_hook(self._add)

    def _add(self, gradient: Tensor) -> None:
        gradient = gradient.detach()
        self.gradient = gradient.clone() if self.gradient is None else self.gradient + gradient


def scheduled_layers(
    model: nn.Module, patterns: Mapping[str, Pattern], sparsity: float | Mapping[str, float] | None
) -> dict[str, ScheduledLayer]:
    """The layers that a schedule prunes, by name; the model is not changed yet.

    Args:
        model: any module.
        patterns: path of a Linear or convolution -> its pattern.
        sparsity: of every layer, or by name; None, or a name left out, is the pattern's own.

    Raises:
        InputError: a layer that does not exist or cannot be pruned, or a pattern or sparsity that does not suit it.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model: must be a torch.nn.Module, not {type(model).__name__}")
    if not isinstance(patterns, Mapping) or not patterns:
        raise InputError(f"patterns: must map names of layers to patterns, at least one, not {patterns!r}")
    modules = dict(model.named_modules())
    fit = [name for name, module in modules.items() if isinstance(module, KINDS)]
    for name, pattern in patterns.items():
        if name not in modules:
            raise InputError(f"patterns: the model has no layer {name!r}; it can prune {', '.join(map(repr, fit))}")
        _check_module(name, modules[name])
        if not isinstance(pattern, Pattern):
            raise InputError(f"patterns: {name!r} needs a pattern such as Unstructured(), not {pattern!r}")
    own = sparsity if isinstance(sparsity, Mapping) else dict.fromkeys(patterns, sparsity)
    if unknown := sorted(set(own) - set(patterns)):
        raise InputError(f"sparsity: names {unknown[0]!r}, which patterns does not; patterns has {sorted(patterns)}")
    layers = {name: ScheduledLayer(name, modules[name], patterns[name], own.get(name)) for name in patterns}
    for layer in layers.values():
        layer.prepare()
    return layers


def _check_module(name: str, module: nn.Module) -> None:
    kind = type(module).__name__
    if not isinstance(module, KINDS):
        raise InputError(f"patterns: {name!r} is a {kind}; only Linear and Conv layers can be pruned")
    weight = module._parameters.get("weight_orig", module._parameters.get("weight"))
    if weight is None or isinstance(weight, nn.UninitializedParameter):
        raise InputError(
            f"patterns: the weight of {name!r} is no plain parameter, but lazy or computed from others; run one batch "
            "first, or remove its parametrisation"
        )
