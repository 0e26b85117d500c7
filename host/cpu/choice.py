"""How a product is formed: the way that takes the least time by a model of each path.

Nanoseconds a unit, of quiet hours of the processors in docs/cpu.md; `python -m benchmarks.cpu_ways` prints what it measures
beside them. Only their ratios matter, and those of close ways are measured again while they run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from host.cpu.dense import Dense
from host.cpu.fetched import Fetched
from host.cpu.isa import Isa
from host.cpu.layout import LANES
from host.cpu.listed import Listed
from host.cpu.measured import Measured
from host.cpu.permuted import SHARED, TABLE, Permuted
from host.cpu.product import Product, byte_places, covered
from host.cpu.steps import Lists, Step
from host.cpu.tiles import Tiles, tileable

# Ways up to so many times slower than the fastest, by the model, are measured.
CLOSE = 4
# But not in layers of fewer nanoseconds: each way takes time to compile.
LEAST = 500


@dataclass(frozen=True)
class Costs:
    """Of 16 outputs and, but for tiles, of one position.

    Attributes:
        quad: four bytes against their weights; on paths that widen bytes, two.
        pair: two entries of a list.
        slot: four weights an output, their activations chosen from one table.
        pair_slot: the same, chosen from two.
        shared_slot: from four, which four blocks share.
        tile: 16 positions and 64 bytes, in tiles.
        register: 64 products of winners, whose weights were chosen from one table.
    """

    quad: float
    pair: float
    slot: float = 0.0
    pair_slot: float = 0.0
    shared_slot: float = 0.0
    tile: float = 0.0
    register: float = 0.0


# Of permuted weights, by the number of tables.
_UNITS = {1: "slot", 2: "pair_slot", SHARED: "shared_slot"}
_AVX512 = Costs(quad=0.36, pair=0.95, slot=0.5, pair_slot=0.76, shared_slot=0.9, register=0.5)
_AMX = replace(_AVX512, tile=12.0)
COSTS = {
    "amx": _AMX,
    "amx-emulated": _AMX,
    "avx512": _AVX512,
    "avx512-emulated": _AVX512,
    "avx2": Costs(quad=0.3, pair=1.1),
    "portable": Costs(quad=2.5, pair=8.0),
}


@dataclass(frozen=True, eq=False)
class Way:
    """A way of forming a product.

    Attributes:
        unit: of its costs, an attribute of `Costs`.
        units: that a position takes.
        step: that computes it.
    """

    unit: str
    units: float
    step: Step

    def nanoseconds(self, isa: Isa) -> float:
        """Of a position, by the model."""
        return self.units * getattr(COSTS[isa.name], self.unit)


def dense(product: Product, lists: Lists | None, isa: Isa) -> Step:
    """Every weight meets every activation, listed or not: the faster way of doing so, by the model."""
    return min(_dense_ways(product, isa), key=lambda way: way.nanoseconds(isa)).step


def best(product: Product, lists: Lists | None, isa: Isa) -> Step:
    """The fastest way; where the model does not tell, several that are measured while the program runs."""
    steps = tuple(way.step for way in candidates(product, lists, isa))
    return steps[0] if len(steps) == 1 else Measured(steps)


def candidates(product: Product, lists: Lists | None, isa: Isa) -> list[Way]:
    """The fastest way by the model, among those that the processor and the activations allow, and those close to it.

    A way with lists is alone: a k-WTA makes them or does not.
    """
    fastest, *others = sorted(ways(product, lists, isa), key=lambda way: way.nanoseconds(isa))
    least, (rows, columns) = fastest.nanoseconds(isa), product.window.size
    # Emulation, which is there for tests, takes turns in layers of any size.
    small = rows * columns * least < LEAST and not isa.emulated
    if small or isinstance(fastest.step, Listed):
        return [fastest]
    close = (way for way in others if way.nanoseconds(isa) <= CLOSE * least)
    return [fastest, *(way for way in close if not isinstance(way.step, Listed))]


def wherever_possible(unit: str) -> Callable[[Product, Lists | None, Isa], Step]:
    """Products in the way of that unit, and densely where there is none: to measure and to test it."""

    def form(product: Product, lists: Lists | None, isa: Isa) -> Step:
        found = ways(product, lists, isa)
        return next((way for way in found if way.unit == unit), found[0]).step

    return form


def ways(product: Product, lists: Lists | None, isa: Isa) -> list[Way]:
    """All ways."""
    found = _dense_ways(product, isa)
    if lists is not None:
        pairs = len(product.window.taps) * lists.slots / 2
        if product.scratch is not None:
            fetched = Fetched(product, lists.slots)
            found.append(Way("register", fetched.units, fetched))
        found.append(Way("pair", pairs * lists.row_bytes / LANES, Listed(product, lists)))
    if isa.permutes:
        found += _permuted_ways(product)
    return found


def _permuted_ways(product: Product) -> list[Way]:
    seen = product.windows or product
    most = len(covered(byte_places(seen), TABLE)[0])
    if product.several or most == 1:
        steps = [Permuted(seen, tables) for tables in (1, 2) if tables <= most]
    else:
        # Bound by the fetching of slots, of which there are fewer the more tables they choose from.
        tables = [2, SHARED] if most > 2 else [2]
        steps = [Permuted(seen, count, ahead) for ahead in (True, False) for count in tables]
    return [Way(_UNITS[step.tables], sum(len(block.tables) for block in step.slots), step) for step in steps]


def _dense_ways(product: Product, isa: Isa) -> list[Way]:
    plain = Dense(product)
    found = [Way("quad", product.blocks * len(plain.groups()[0]) * (2 if isa.wide else 1), plain)]
    if isa.tiles and tileable(product):
        tiles = Tiles(product)
        found.append(Way("tile", tiles.full_tiles(), tiles))
    return found
