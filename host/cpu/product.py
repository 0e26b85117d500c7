"""Convolutions and linear layers: what they compute, position by position, and what becomes of the sums.

How the products are formed is each way's own: dense.py, tiles.py, permuted.py, fetched.py and listed.py. A linear layer is
a convolution with one position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from host.cpu.ir import I64, Value
from host.cpu.layout import LANES, Map, padded
from host.cpu.requantise import Factors, factors, requantised
from host.cpu.steps import Context, Scale, Step, Window

# Loops of at most so many rounds are written out.
UNROLLED = 16


@dataclass(frozen=True, eq=False)
class Product:
    """What all ways compute, and where it goes.

    Attributes:
        name: of the layer.
        source, target: maps; the target's positions are those of the pool, if there is one.
        window: what a position sees of the source.
        weight: int8 (outputs, taps, channels).
        bias: int64 (outputs,); bytes' offsets are accounted for already where a way needs it.
        pool: (rows, columns) of positions of which the largest sum remains, or None.
        scale: requantisation of what remains, or None for int32 sums.
        copy: a byte of the workspace, from which on there is room for a copy of the source and two lines; or None.
        gather: makes the source of another map, or None; every way begins with it.
        windows: the same of a map of which each pixel is all that a window of the pool sees, or None.
        apart: of such a product: bytes between neighbouring positions (rows, columns) within a pixel.
        scratch: a byte of the workspace, from which on there is room for what `fetched` keeps; or None where it cannot serve.
    """

    name: str
    source: Map
    target: Map
    window: Window
    weight: NDArray[np.int8]
    bias: NDArray[np.int64]
    pool: tuple[int, int] | None
    scale: Scale | None
    copy: int | None = None
    gather: Step | None = None
    windows: Product | None = None
    apart: tuple[int, int] | None = None
    scratch: int | None = None

    @property
    def outputs(self) -> int:
        return self.weight.shape[0]

    @property
    def several(self) -> bool:
        """Whether it has more than one position."""
        return self.window.size != (1, 1)

    @property
    def blocks(self) -> int:
        """Of 16 outputs."""
        return padded(self.outputs) // LANES

    def biases(self, offset: int) -> NDArray[np.int32]:
        """Where every activation is too large by `offset`; sums wrap, as they may."""
        total = self.bias - offset * self.weight.reshape(self.outputs, -1).astype(np.int64).sum(axis=1)
        return np.pad(total, (0, LANES * self.blocks - self.outputs)).astype(np.int32)


def byte_places(product: Product) -> NDArray[np.int64]:
    """Of each column (taps, channels) of the weights, its byte relative to a position's first pixel."""
    source = product.source
    taps = np.array([y * source.row + x * source.pixel for y, x in product.window.taps], np.int64)
    return (taps[:, None] + source.unit * np.arange(product.weight.shape[2])).reshape(-1)


def covered(places: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The fewest runs of so many bytes that cover all places: first bytes, ascending, and the number of each place's run."""
    starts: list[int] = []
    for place in np.unique(places).tolist():
        if not starts or place >= starts[-1] + size:
            starts.append(place)
    found = np.array(starts, np.int64)
    return found, np.searchsorted(found, places, side="right") - 1


@dataclass(frozen=True)
class Tile:
    """Positions that are computed together.

    Attributes:
        places: (row, column) of each position, relative to the tile's first.
        pooled: whether they are a window of the pool, of which one value remains.
    """

    places: tuple[tuple[int, int], ...]
    pooled: bool


def tile_of(product: Product, most: int) -> Tile:
    """At most so many positions: a window of the pool, or neighbours of a row."""
    if product.pool is not None:
        return Tile(tuple(np.ndindex(product.pool)), True)
    width = product.window.size[1]
    count = min(range(min(width, most), 0, -1), key=lambda n: -(-width // n) * n)
    return Tile(tuple((0, column) for column in range(count)), False)


def relative_bytes(product: Product, tile: Tile) -> list[int]:
    """Of each position of a tile, its first pixel relative to the tile's."""
    source, (down, across) = product.source, product.window.stride
    row, column = product.apart or (down * source.row, across * source.pixel)
    return [y * row + x * column for y, x in tile.places]


@contextmanager
def positions(context: Context, product: Product, tile: Tile, row: int, pixel: int) -> Iterator[tuple[Value, Value]]:
    """Loops over the tiles: (bytes to a tile's first pixel, at these distances; bytes to its place in the target)."""
    code, target = context.code, product.target
    down, across = product.window.stride
    if tile.pooled and product.pool is not None:
        # Of `windows`, a window of the pool is a single pixel.
        rows, columns = (1, 1) if product.apart else product.pool
        down, across = down * rows, across * columns
        with code.loop(target.height) as y, code.loop(target.width) as x:
            yield code.offset((y, down * row), (x, across * pixel)), code.offset((y, target.row), (x, target.pixel))
        return
    count, width = len(tile.places), target.width
    with code.loop(target.height) as y, code.loop(width, step=count) as start:
        # The last tile of a row may compute some positions again.
        x = code.less(start, I64(width - count)) if width % count else start
        yield code.offset((y, down * row), (x, across * pixel)), code.offset((y, target.row), (x, target.pixel))


@dataclass(frozen=True)
class Ending:
    """What becomes of a tile's sums: bias, pool, requantisation, store."""

    context: Context
    product: Product
    tile: Tile
    factors: Factors | None = field(init=False)

    def __post_init__(self) -> None:
        scale = self.product.scale
        object.__setattr__(self, "factors", factors(self.context, scale) if scale else None)

    def store(self, place: Value, channel: int | Value, sums: list[Value], bias: Value = None) -> None:
        """Stores 16 channels, from `channel` on, of each position of the tile; `bias` if it is not in the sums yet."""
        code, target, scale = self.context.code, self.product.target, self.factors
        if self.tile.pooled:
            largest = sums[0]
            for value in sums[1:]:
                largest = code.greater(largest, value)
            sums = [largest]
        if bias is not None:
            sums = [code.builder.add(value, bias) for value in sums]
        row = scale.load(self.context, code.at(self.context.block, code.offset((channel, 4)))) if scale else ()
        origin = code.at(self.context.work, code.offset((place, 1), (channel, target.unit)))
        for number, value in enumerate(sums):
            stored = requantised(self.context, value, scale, row) if scale else value
            code.store(stored, origin, target.origin + number * target.pixel)


def looped(context: Context, count: int) -> Any:
    """A loop, or its only round."""
    return context.code.loop(count) if count > 1 else nullcontext(I64(0))


def rounds(context: Context, count: int, body: Callable[[int | Value], None]) -> None:
    """A loop, written out where it is short: its counter is a number then."""
    if count <= UNROLLED:
        for number in range(count):
            body(number)
    else:
        with context.code.loop(count) as number:
            body(number)
