"""Convolutions and linear layers: sums of products, in three ways.

- dense: every weight meets every activation, four bytes of a pixel at a time.
- permuted: only non-zero weights; the activations that they meet are chosen from registers, byte by byte.
- listed: only non-zero activations; each fetches its row of weights.

A linear layer is a convolution with one position. The best way follows from counts (`cost`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from host.cpu.dots import QUAD, Dots
from host.cpu.ir import I8, I16, I32, I64, Code, Value, Variable, vector
from host.cpu.layout import LANES, Map, padded
from host.cpu.requantise import multipliers, requantised
from host.cpu.steps import Context, Lists, Scale, Window

# Loops of at most so many rounds are written out.
UNROLLED = 16
# Sums that a loop has under way: each addition waits for the one before to the same sum.
IN_TURN = 4


@dataclass(frozen=True, eq=False)
class Product:
    """What all three ways compute, and where it goes.

    Attributes:
        name: of the layer.
        source, target: maps; the target's positions are those of the pool, if there is one.
        window: what a position sees of the source.
        weight: int8 (outputs, taps, channels).
        bias: int64 (outputs,); bytes' offsets are accounted for already where a way needs it.
        pool: (rows, columns) of positions of which the largest sum remains, or None.
        scale: requantisation of what remains, or None for int32 sums.
    """

    name: str
    source: Map
    target: Map
    window: Window
    weight: NDArray[np.int8]
    bias: NDArray[np.int64]
    pool: tuple[int, int] | None
    scale: Scale | None

    @property
    def outputs(self) -> int:
        return self.weight.shape[0]

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
    return [y * down * source.row + x * across * source.pixel for y, x in tile.places]


@contextmanager
def positions(context: Context, product: Product, tile: Tile, row: int, pixel: int) -> Iterator[tuple[Value, Value]]:
    """Loops over the tiles: (bytes to a tile's first pixel, at these distances; bytes to its place in the target)."""
    code, target = context.code, product.target
    down, across = product.window.stride
    if tile.pooled and product.pool is not None:
        down, across = down * product.pool[0], across * product.pool[1]
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
    table: int = field(init=False)

    def __post_init__(self) -> None:
        scale = self.product.scale
        object.__setattr__(self, "table", multipliers(self.context, scale) if scale else 0)

    def store(self, place: Value, channel: int | Value, sums: list[Value]) -> None:
        """Stores 16 channels, from `channel` on, of each position of the tile."""
        code, target, scale = self.context.code, self.product.target, self.product.scale
        if self.tile.pooled:
            largest = sums[0]
            for value in sums[1:]:
                largest = code.greater(largest, value)
            sums = [largest]
        multiplier = None
        if scale:
            row = code.at(self.context.block, code.offset((channel, 4)))
            multiplier = code.load(row, vector(I32, LANES), self.table)
        origin = code.at(self.context.work, code.offset((place, 1), (channel, target.unit)))
        for number, value in enumerate(sums):
            stored = requantised(self.context, value, scale, multiplier) if scale else value
            code.store(stored, origin, target.origin + number * target.pixel)


def _looped(context: Context, count: int) -> Any:
    """A loop, or its only round."""
    return context.code.loop(count) if count > 1 else nullcontext(I64(0))


def _rounds(context: Context, count: int, body: Callable[[int | Value], None]) -> None:
    """A loop, written out where it is short: its counter is a number then."""
    if count <= UNROLLED:
        for number in range(count):
            body(number)
    else:
        with context.code.loop(count) as number:
            body(number)


@dataclass(frozen=True, eq=False)
class Dense:
    """Every weight, four bytes at a time."""

    product: Product

    @property
    def name(self) -> str:
        return self.product.name

    @property
    def together(self) -> int:
        """Values that are multiplied at a time: four bytes of them."""
        return QUAD // self.product.source.unit

    def groups(self) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
        """Places of groups of values, relative to a position's first pixel; weights int8 (blocks, groups, 16, values)."""
        product, places, together = self.product, byte_places(self.product), self.together
        starts: list[int] = []
        group, place = np.zeros(len(places), np.int64), np.zeros(len(places), np.int64)
        for number in np.argsort(places, kind="stable"):
            if not starts or places[number] >= starts[-1] + QUAD:
                starts.append(int(places[number]))
            group[number], place[number] = len(starts) - 1, (places[number] - starts[-1]) // product.source.unit
        weights = np.zeros((product.blocks * LANES, len(starts), together), np.int8)
        weights[: product.outputs, group, place] = product.weight.reshape(product.outputs, -1)
        blocks = weights.reshape(product.blocks, LANES, len(starts), together).transpose(0, 2, 1, 3)
        return np.array(starts, np.int64), np.ascontiguousarray(blocks)

    def emit(self, context: Context) -> None:
        product, code, source = self.product, context.code, self.product.source
        tile = tile_of(product, context.isa.accumulators)
        together = _together(product.blocks, max(1, context.isa.accumulators // len(tile.places)))
        turns = -(-IN_TURN // (len(tile.places) * together))
        starts, weights = self.groups()
        # A multiple of the turns: the groups that are added multiply the last one's values with zeros.
        spare = -len(starts) % turns
        starts, weights = np.pad(starts, (0, spare), mode="edge"), np.pad(weights, ((0, 0), (0, spare), (0, 0), (0, 0)))
        count, row_bytes = len(starts), weights[0, 0].size
        grouped = weights.reshape(-1, together, *weights.shape[1:]).transpose(0, 2, 1, 3, 4)
        at_weights, at_starts = context.tables.add(grouped), context.tables.add(starts)
        at_biases = context.tables.add(product.biases(source.offset))
        ending, relative = Ending(context, product, tile), relative_bytes(product, tile)
        sum_kind, row_kind = vector(I32, LANES), vector(I8, row_bytes)

        with _looped(context, product.blocks // together) as group:
            channel = code.offset((group, together * LANES))
            biases = code.at(context.block, code.offset((channel, 4)))
            first = [code.load(biases, sum_kind, at_biases + 4 * LANES * block) for block in range(together)]
            matrix = code.at(context.block, code.offset((group, count * together * row_bytes)))
            with positions(context, product, tile, source.row, source.pixel) as (distance, place):
                base = code.at(context.work, distance)
                zeros = [code.constant(sum_kind, 0)] * together
                sums = [
                    [[code.variable(sum_kind, value) for value in (zeros if turn else first)] for _ in tile.places]
                    for turn in range(turns)
                ]
                # Few rounds are no loop, and their weights would be read before that over the positions.
                rows = code.anew(matrix) if count // turns <= UNROLLED else matrix

                def multiply(number: int | Value, sums=sums, base=base, rows=rows) -> None:
                    for turn in range(turns):
                        index = code.offset((number, turns), (turn, 1))
                        if isinstance(index, int):
                            start: int | Value = int(starts[index])
                        else:
                            start = code.load(code.at(context.block, code.offset((index, 8))), I64, at_starts)
                        pixel, row = code.at(base, start), code.at(rows, code.offset((index, together * row_bytes)))
                        loaded = [code.load(row, row_kind, at_weights + block * row_bytes) for block in range(together)]
                        for position, apart in enumerate(relative):
                            values = code.splat(code.load(pixel, I32, source.origin + apart), LANES)
                            for one, weights in zip(sums[turn][position], loaded, strict=True):
                                one.set(self._added(context, one.get(), values, weights))

                _rounds(context, count // turns, multiply)
                for block in range(together):
                    found = [
                        _added_up(code, [of[position][block].get() for of in sums]) for position in range(len(relative))
                    ]
                    ending.store(place, code.offset((channel, 1), (block, LANES)), found)

    def _added(self, context: Context, sums: Value, values: Value, weights: Value) -> Value:
        """Sums of 16 outputs and the products of four bytes of values, the same for all, with their weights."""
        code, dots = context.code, Dots(context.code, context.isa)
        if self.product.source.unit == 1:
            return dots.quads(sums, code.builder.bitcast(values, weights.type), weights)
        wide = code.builder.sext(weights, vector(I16, weights.type.count))
        return dots.pairs(sums, code.builder.bitcast(values, wide.type), wide)


def _added_up(code: Code, values: list[Value]) -> Value:
    total = values[0]
    for value in values[1:]:
        total = code.builder.add(total, value)
    return total


@dataclass(frozen=True, eq=False)
class Listed:
    """Rows of weights, fetched by the non-zero activations, two at a time."""

    product: Product
    lists: Lists

    @property
    def name(self) -> str:
        return self.product.name

    def emit(self, context: Context) -> None:
        product, code, lists = self.product, context.code, self.lists
        dots, tile = Dots(code, context.isa), Tile(((0, 0),), False)
        # Of two int16 rows, interleaved in two registers.
        lanes = context.isa.register // 2
        halves = lanes // 2
        chunk = min(context.isa.accumulators * LANES, -(-padded(product.outputs) // lanes) * lanes)
        parts = chunk // lanes
        at_rows = context.tables.add(self.rows(lanes, lists.row_bytes))
        spare = lists.row_bytes - LANES * product.blocks
        at_biases = context.tables.add(np.pad(product.biases(0), (0, spare)))
        taps = product.window.taps
        channels = product.weight.shape[2]
        places = [(y * lists.row + x * lists.pixel, number * channels * lists.row_bytes)
                  for number, (y, x) in enumerate(taps)]  # fmt: skip
        at_places = context.tables.add(np.array(places, np.int64))
        pooled = product.pool is not None
        windows = Tile(tuple(np.ndindex(product.pool)), True) if product.pool else tile
        ending = Ending(context, product, windows)
        low, high = _interleaved(halves, context.isa.register)

        def walk(base: Value, rows: Value, sums: list[Variable]) -> None:
            def tap(number: int | Value) -> None:
                row = code.at(context.block, code.offset((number, 16)))
                to_list, to_rows = (code.load(row, I64, at_places + 8 * part) for part in (0, 1))
                pixel, matrix = code.at(base, to_list), code.at(rows, to_rows)

                def pair(number: int | Value) -> None:
                    named = code.at(pixel, code.offset((number, 8)))
                    first, second = (
                        code.at(matrix, code.builder.zext(code.load(named, I32, lists.origin + 4 * which), I64))
                        for which in (0, 1)
                    )
                    values = code.load(code.at(pixel, code.offset((number, 4))), I32, lists.origin + lists.values)
                    spread = code.builder.bitcast(code.splat(values, halves), vector(I16, lanes))
                    for part in range(parts):
                        left, right = (
                            code.builder.sext(
                                code.load(row, vector(I8, lanes), at_rows + part * lanes), vector(I16, lanes)
                            )
                            for row in (first, second)
                        )
                        for half, order in enumerate((low, high)):
                            one = sums[2 * part + half]
                            one.set(dots.pairs(one.get(), spread, code.shuffle(left, right, order)))

                _rounds(context, lists.slots // 2, pair)

            _rounds(context, len(taps), tap)

        with _looped(context, -(-lists.row_bytes // chunk)) as group:
            # The last chunk may compute some outputs again.
            channel = code.offset((group, chunk))
            if lists.row_bytes % chunk:
                channel = code.less(channel, I64(lists.row_bytes - chunk))
            rows = code.at(context.block, channel)
            with positions(context, product, windows, lists.row, lists.pixel) as (distance, place):
                found: list[list[Value]] = []
                for y, x in windows.places:
                    step = y * product.window.stride[0] * lists.row + x * product.window.stride[1] * lists.pixel
                    sums = [
                        code.variable(
                            vector(I32, halves),
                            code.load(code.at(context.block, code.offset((channel, 4))), vector(I32, halves),
                                      at_biases + 4 * halves * part),
                        )
                        for part in range(2 * parts)
                    ]  # fmt: skip
                    walk(code.at(context.work, code.builder.add(distance, I64(step))), rows, sums)
                    found.append(_sixteens(context, [one.get() for one in sums]))
                for block in range(chunk // LANES):
                    ending.store(place, code.offset((channel, 1), (block, LANES)), [of[block] for of in found])
        assert pooled == windows.pooled

    def rows(self, lanes: int, row_bytes: int) -> NDArray[np.int8]:
        """Weights int8 (taps * channels, row_bytes), in the order that interleaving undoes."""
        product = self.product
        outputs, taps, channels = product.weight.shape
        rows = np.zeros((taps * channels, row_bytes), np.int8)
        rows[:, :outputs] = product.weight.reshape(outputs, -1).T
        order = stored_order(lanes)
        return rows.reshape(len(rows), -1, lanes)[:, :, order].reshape(len(rows), row_bytes)


def listed_row_bytes(outputs: int, register: int) -> int:
    """Of a row of weights, and of the chunk that is computed at once at least."""
    lanes = register // 2
    unit = max(lanes, LANES)
    return -(-outputs // unit) * unit


def stored_order(lanes: int) -> NDArray[np.int64]:
    """Where each of `lanes` weights comes from, so that interleaving within 16 bytes gives them in order.

    Registers interleave the lower, or the upper, 4 of each 8 int16: what the lower halves give comes first.
    """
    groups = lanes // 8
    order = np.zeros(lanes, np.int64)
    for group in range(groups):
        for lane in range(4):
            order[8 * group + lane] = 4 * group + lane
            order[8 * group + 4 + lane] = lanes // 2 + 4 * group + lane
    return order


def _interleaved(halves: int, register: int) -> tuple[list[int], list[int]]:
    """Lanes of two vectors of 2 * halves int16, interleaved within 16 bytes: of the lower and of the upper halves."""
    lanes = 2 * halves
    low, high = [], []
    for group in range(0, lanes, 8):
        for lane in range(4):
            low += [group + lane, lanes + group + lane]
            high += [group + 4 + lane, lanes + group + 4 + lane]
    return low, high


def _sixteens(context: Context, parts: list[Value]) -> list[Value]:
    """Vectors of fewer lanes, joined to vectors of 16."""
    while parts[0].type.count < LANES:
        parts = [context.code.join(*parts[start : start + 2]) for start in range(0, len(parts), 2)]
    return parts


def _together(blocks: int, most: int) -> int:
    """The largest divisor of `blocks` up to `most`."""
    return max(n for n in range(1, min(blocks, most) + 1) if blocks % n == 0)
