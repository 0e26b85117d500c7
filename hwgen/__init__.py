"""hwgen turns a pruned, k-WTA-sparse PyTorch network into an FPGA accelerator.

    packed = hwgen.pack(model, calibration=x)
    bundle = hwgen.generate(packed, out="build/net", board="ulx3s-85f")

Importing the package is cheap: torch, amaranth and the rest load when a function that needs them is called.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwgen.api import load, pack
    from hwgen.finetune import quantisation_aware
    from hwgen.generator import generate
    from hwgen.plan import make_plan

__all__ = ["generate", "load", "make_plan", "pack", "quantisation_aware"]

_FUNCTIONS = {
    "generate": "hwgen.generator",
    "load": "hwgen.api",
    "make_plan": "hwgen.plan",
    "pack": "hwgen.api",
    "quantisation_aware": "hwgen.finetune",
}
_MODULES = ("audit", "errors", "examples", "nn", "plan", "sparsify")


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"hwgen.{name}")
    raise AttributeError(f"module 'hwgen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_MODULES])
