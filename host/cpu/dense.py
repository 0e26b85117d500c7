"""Products of all weights and all activations, four bytes of a pixel at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from host.cpu.dots import QUAD, Dots
from host.cpu.ir import I8, I16, I32, I64, Code, Value, vector
from host.cpu.layout import LANES
from host.cpu.product import (
    UNROLLED,
    Ending,
    Product,
    byte_places,
    covered,
    looped,
    positions,
    relative_bytes,
    rounds,
    tile_of,
)
from host.cpu.steps import Context

# Sums that a loop has under way: each addition waits for the one before to the same sum.
IN_TURN = 4


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
        starts, group = covered(places, QUAD)
        place = (places - starts[group]) // product.source.unit
        weights = np.zeros((product.blocks * LANES, len(starts), together), np.int8)
        weights[: product.outputs, group, place] = product.weight.reshape(product.outputs, -1)
        blocks = weights.reshape(product.blocks, LANES, len(starts), together).transpose(0, 2, 1, 3)
        return starts, np.ascontiguousarray(blocks)

    def emit(self, context: Context) -> None:
        product, code, source = self.product, context.code, self.product.source
        tile = tile_of(product, context.isa.accumulators)
        if product.gather:
            product.gather.emit(context)
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

        with looped(context, product.blocks // together) as group:
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

                rounds(context, count // turns, multiply)
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


def _together(blocks: int, most: int) -> int:
    """The largest divisor of `blocks` up to `most`."""
    return max(n for n in range(1, min(blocks, most) + 1) if blocks % n == 0)
