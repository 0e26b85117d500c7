"""How a product is formed: the way that takes the least time by a model of each path.

Nanoseconds a unit, measured with `python -m benchmarks.cpu_ways`; only their ratios matter.
"""

from __future__ import annotations

from dataclasses import dataclass

from host.cpu.dense import Dense
from host.cpu.isa import Isa
from host.cpu.layout import LANES
from host.cpu.listed import Listed
from host.cpu.permuted import Permuted
from host.cpu.product import Product
from host.cpu.steps import Lists, Step


@dataclass(frozen=True)
class Costs:
    """Of a position and 16 outputs.

    Attributes:
        quad: four bytes against their weights; on paths that widen bytes, two.
        pair: two entries of a list.
        slot: four weights an output, their activations chosen.
    """

    quad: float
    pair: float
    slot: float = 0.0


COSTS = {
    "avx512": Costs(quad=0.13, pair=0.40, slot=0.25),
    "avx512-emulated": Costs(quad=0.13, pair=0.40, slot=0.25),
    "avx2": Costs(quad=0.3, pair=1.1),
    "portable": Costs(quad=2.5, pair=8.0),
}


def dense(product: Product, lists: Lists | None, isa: Isa) -> Step:
    """Every weight meets every activation."""
    return Dense(product)


def best(product: Product, lists: Lists | None, isa: Isa) -> Step:
    """The fastest way, among those that the processor and the activations allow."""
    return min(ways(product, lists, isa), key=lambda way: way[0])[1]


def ways(product: Product, lists: Lists | None, isa: Isa) -> list[tuple[float, Step]]:
    """All ways, with their cost: nanoseconds a position."""
    costs, plain = COSTS[isa.name], Dense(product)
    found: list[tuple[float, Step]] = [
        (costs.quad * product.blocks * len(plain.groups()[0]) * (2 if isa.wide else 1), plain)
    ]
    if lists is not None:
        pairs = len(product.window.taps) * lists.slots / 2
        found.append((costs.pair * pairs * lists.row_bytes / LANES, Listed(product, lists)))
    if isa.permutes:
        permuted = Permuted(product)
        found.append((costs.slot * sum(len(block.pair) for block in permuted.slots()), permuted))
    return found
