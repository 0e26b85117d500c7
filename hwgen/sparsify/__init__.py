"""Which weights of a network may be non-zero: patterns of sparsity, scores, masks on torch models, and schedules.

Patterns work on numpy arrays and need no torch; schedules load it when they are asked for. docs/sparsify.md shows both.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hwgen.errors import ToolError, install
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

if TYPE_CHECKING:
    from hwgen.sparsify.fixed_random import FixedRandom
    from hwgen.sparsify.gradual import GradualMagnitude
    from hwgen.sparsify.one_shot import OneShot
    from hwgen.sparsify.rigl import RigL
    from hwgen.sparsify.schedule import Schedule

__all__ = [
    "Block",
    "Complementary",
    "DenseTile",
    "FixedRandom",
    "GradualMagnitude",
    "Guarantee",
    "NofM",
    "OneShot",
    "Partitioned",
    "Pattern",
    "RigL",
    "Schedule",
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

_SCHEDULES = {
    "FixedRandom": "fixed_random",
    "GradualMagnitude": "gradual",
    "OneShot": "one_shot",
    "RigL": "rigl",
    "Schedule": "schedule",
}


def __getattr__(name: str) -> Any:
    if name in _SCHEDULES:
        try:
            module = importlib.import_module(f"hwgen.sparsify.{_SCHEDULES[name]}")
        except ModuleNotFoundError as error:
            raise ToolError(f"hwgen.sparsify.{name} needs {error.name}: {install('torch')}") from error
        return getattr(module, name)
    raise AttributeError(f"module 'hwgen.sparsify' has no attribute {name!r}")
