"""Fixed weight masks that pack perfectly: groups of kernels whose non-zeros never meet in a column.

Complementary sparsity: Hunter, Spracklen, Ahmad, "Two Sparsities Are Better Than One: Unlocking the Performance
Benefits of Sparse-Sparse Networks" (2021), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwgen.errors import DataError, InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def complementary_mask(outputs: int, columns: int, nonzeros: int, generator: torch.Generator) -> Tensor:
    """A random mask with exactly `nonzeros` positions an output, whose kernels form complementary sets.

    Each group of columns // nonzeros consecutive outputs shares out one random permutation of the columns, so that no
    two of them use the same column; a last group may be smaller.

    Args:
        outputs: output units (rows).
        columns: inputs of a unit; of a convolution input channels * kernel height * kernel width.
        nonzeros: non-zeros of each unit, 1 <= nonzeros <= columns.
        generator: torch's random generator on the CPU; the same seed gives the same mask.

    Returns:
        bool (outputs, columns).

    Raises:
        InputError: a size that cannot be, or no torch.Generator.
    """
    import torch

    if outputs < 1 or columns < 1:
        raise InputError(f"a mask needs at least one output and one column, not {outputs} and {columns}")
    if not 1 <= nonzeros <= columns:
        raise InputError(f"nonzeros must be from 1 to {columns}, the number of columns, not {nonzeros}")
    if not isinstance(generator, torch.Generator):
        raise InputError(
            f"generator: must be a torch.Generator, such as torch.Generator().manual_seed(0), not {generator!r}"
        )
    set_size = columns // nonzeros
    mask = torch.zeros(outputs, columns, dtype=torch.bool)
    for first in range(0, outputs, set_size):
        shuffled = torch.randperm(columns, generator=generator)
        for member, row in enumerate(range(first, min(first + set_size, outputs))):
            mask[row, shuffled[member * nonzeros : (member + 1) * nonzeros]] = True
    return mask


def apply_masks(model: nn.Module, masks: Mapping[str, Any]) -> None:
    """Prunes the weights of `model` in place with torch.nn.utils.prune. A mask that a layer has already is replaced.

    Args:
        model: any module.
        masks: path of each module to prune -> mask, a tensor or a numpy array with as many values as its weight, which
            gives the shape.

    Raises:
        InputError: no such layer, or one without a weight.
        DataError: a mask of another size.
    """
    import torch
    from torch import Tensor
    from torch.nn.utils import prune

    modules = {
        path: module for path, module in model.named_modules() if isinstance(getattr(module, "weight", None), Tensor)
    }
    for path, given in masks.items():
        if path not in modules:
            # Batch norms have a weight too, but none that one prunes.
            fit = ", ".join(repr(name) for name, module in modules.items() if module.weight.dim() > 1)
            raise InputError(f"masks: the model has no layer {path!r} with a weight; it can prune {fit or 'none'}")
        weight, mask = modules[path].weight, torch.as_tensor(given)
        if mask.numel() != weight.numel():
            raise DataError(
                f"masks: that of {path!r} has {mask.numel()} values, but its weight {weight.numel()}, "
                f"{tuple(weight.shape)}"
            )
        module, shaped = modules[path], mask.reshape(weight.shape).to(weight)
        # `prune.custom_from_mask` would let a second mask pass only what both do.
        if not hasattr(module, "weight_mask"):
            prune.identity(module, "weight")
        module.get_buffer("weight_mask").copy_(shaped)
        module.weight = module.get_parameter("weight_orig") * shaped
