"""Products of non-zero weights only: the activations that they meet are chosen from registers, byte by byte."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from host.cpu.dots import QUAD, Dots
from host.cpu.ir import I8, I32, I64, Value, vector
from host.cpu.layout import LANES
from host.cpu.product import Ending, Product, Tile, byte_places, positions, relative_bytes, tile_of
from host.cpu.steps import Context

# Bytes of a table, and of two.
TABLE = 64
# So many slots are written out where there is more than one position; beyond that their code would leave the cache.
MOST_WRITTEN_OUT = 512
# So many slots of a block are in registers, beside a tile's sums and tables.
MOST_HELD = 6
# Blocks whose sums a loop adds to in turn: one alone would wait for itself.
TOGETHER = 4


@dataclass(frozen=True, eq=False)
class Slots:
    """The schedule of one block of 16 outputs: each slot multiplies four weights of each output.

    Attributes:
        pair: int (slots,): of two neighbouring tables, the first's number; they never decrease.
        choices: uint8 (slots, 16, 4): bytes of the two tables.
        weights: int8 (slots, 16, 4): zero where an output has nothing to do.
    """

    pair: NDArray[np.int64]
    choices: NDArray[np.uint8]
    weights: NDArray[np.int8]


def scheduled(table: NDArray[np.int64], byte: NDArray[np.int64], weights: NDArray[np.int8], tables: int) -> Slots:
    """The fewest slots for a block.

    A weight whose activation is in table t can be served with the pair (t - 1, t) or (t, t + 1). Whatever the first
    pair has room for is served there, so that outputs with many weights in one place have others' room later.

    Args:
        table, byte: (columns,): where each column's activation lies.
        weights: int8 (outputs, columns), outputs up to 16.
        tables: how many there are.
    """
    last = max(0, tables - 2)
    # Of each output, its non-zero columns in the order of the tables.
    queues = [sorted(np.flatnonzero(row), key=lambda column: int(table[column])) for row in weights]
    done = [0] * len(queues)
    pair: list[int] = []
    choices: list[NDArray[np.uint8]] = []
    chosen: list[NDArray[np.int8]] = []
    for first in range(last + 1):
        due = tables if first == last else first
        while any(n < len(queue) and table[queue[n]] <= due for n, queue in zip(done, queues, strict=True)):
            choice, weight = np.zeros((LANES, QUAD), np.uint8), np.zeros((LANES, QUAD), np.int8)
            for output, queue in enumerate(queues):
                for lane in range(QUAD):
                    n = done[output]
                    if n == len(queue) or table[queue[n]] > first + 1:
                        break
                    column = queue[n]
                    choice[output, lane] = TABLE * (table[column] - first) + byte[column]
                    weight[output, lane] = weights[output, column]
                    done[output] += 1
            pair.append(first)
            choices.append(choice)
            chosen.append(weight)
    shape = (len(pair), LANES, QUAD)
    return Slots(
        np.array(pair, np.int64),
        np.array(choices, np.uint8).reshape(shape),
        np.array(chosen, np.int8).reshape(shape),
    )


@dataclass(frozen=True, eq=False)
class Permuted:
    """A product whose zero weights take no time."""

    product: Product

    @property
    def name(self) -> str:
        return self.product.name

    def tables(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Each table's first byte, relative to a position's first pixel, and each column's table and byte in it."""
        places = byte_places(self.product)
        starts: list[int] = []
        table = np.zeros(len(places), np.int64)
        for column in np.argsort(places, kind="stable"):
            if not starts or places[column] >= starts[-1] + TABLE:
                starts.append(int(places[column]))
            table[column] = len(starts) - 1
        found = np.array(starts, np.int64)
        return found, table, places - found[table]

    def slots(self) -> list[Slots]:
        """The schedule of each block of outputs."""
        starts, table, byte = self.tables()
        rows = self.product.weight.reshape(self.product.outputs, -1)
        return [
            scheduled(table, byte, rows[start : start + LANES], len(starts))
            for start in range(0, self.product.outputs, LANES)
        ]

    def emit(self, context: Context) -> None:
        product = self.product
        starts = self.tables()[0]
        blocks = self.slots()
        tile = tile_of(product, context.isa.permuted_positions)
        at_biases = context.tables.add(product.biases(product.source.offset))
        ending = Ending(context, product, tile)
        total = sum(len(block.pair) for block in blocks)
        if len(tile.places) > 1 and total <= MOST_WRITTEN_OUT:
            for number, slots in enumerate(blocks):
                self._written_out(context, slots, starts, tile, ending, number * LANES, at_biases)
        else:
            self._looped(context, blocks, starts, tile, ending)

    def _written_out(
        self, context: Context, slots: Slots, starts: NDArray[np.int64], tile: Tile, ending: Ending, channel: int,
        at_biases: int,
    ) -> None:  # fmt: skip
        """One block: the loop is over positions alone, and tables stay in registers from slot to slot."""
        code, product, source = context.code, self.product, self.product.source
        dots, kind = Dots(code, context.isa), vector(I8, TABLE)
        at_choices, at_weights = context.tables.add(slots.choices), context.tables.add(slots.weights)
        bias = code.load(context.block, vector(I32, LANES), at_biases + 4 * channel)
        with positions(context, product, tile, source.row, source.pixel) as (distance, place):
            base = code.at(context.work, distance)
            pixels = [code.at(base, source.origin + apart) for apart in relative_bytes(product, tile)]
            # A few slots stay in registers for all positions; many would only be moved to the stack.
            block = context.block if len(slots.pair) <= MOST_HELD else code.anew(context.block)
            # With many slots each position has two sums, which take turns: one alone would wait for itself.
            zero = code.constant(bias.type, 0)
            sums = [[bias] * len(pixels)] + [[zero] * len(pixels)] * (len(slots.pair) > MOST_HELD)
            held: dict[int, list[Value]] = {}
            for number, first in enumerate(slots.pair.tolist()):
                needed = range(first, min(first + 2, len(starts)))
                held = {
                    table: held.get(table) or [code.load(pixel, kind, int(starts[table])) for pixel in pixels]
                    for table in needed
                }
                choices = code.load(block, kind, at_choices + TABLE * number)
                weights = code.load(block, kind, at_weights + TABLE * number)
                for position in range(len(pixels)):
                    bytes_ = dots.choose(choices, tuple(held[table][position] for table in needed))
                    turn = sums[number % len(sums)]
                    turn[position] = dots.quads(turn[position], bytes_, weights)
            found = sums[0] if len(sums) == 1 else [code.builder.add(*both) for both in zip(*sums, strict=True)]
            ending.store(place, channel, found)

    def _looped(
        self, context: Context, blocks: list[Slots], starts: NDArray[np.int64], tile: Tile, ending: Ending
    ) -> None:
        """All blocks: loops over blocks, positions and slots."""
        code, product, source = context.code, self.product, self.product.source
        dots, kind, single = Dots(code, context.isa), vector(I8, TABLE), len(starts) == 1
        together = max(1, TOGETHER // len(tile.places))
        groups = [
            _side_by_side(blocks[start : start + together], together) for start in range(0, len(blocks), together)
        ]
        lengths = [len(group.pair) for group in groups]
        ends = np.cumsum(lengths)
        at_bounds = context.tables.add(np.stack([ends - lengths, ends], axis=1).astype(np.int64))
        pairs = np.concatenate([group.pair for group in groups])
        places = np.stack([starts[pairs], starts[np.minimum(pairs + 1, len(starts) - 1)]], axis=-1)
        at_places = context.tables.add(places)
        at_choices = context.tables.add(np.concatenate([group.choices for group in groups]))
        at_weights = context.tables.add(np.concatenate([group.weights for group in groups]))
        spare = LANES * (together * len(groups) - product.blocks)
        at_biases = context.tables.add(np.pad(product.biases(source.offset), (0, spare)))
        with code.loop(len(groups)) as number:
            channel = code.offset((number, LANES * together))
            begin, end = (
                code.load(code.at(context.block, code.offset((number, 16))), I64, at_bounds + part) for part in (0, 8)
            )
            with positions(context, product, tile, source.row, source.pixel) as (distance, place):
                base = code.at(context.work, distance)
                pixels = [code.at(base, source.origin + apart) for apart in relative_bytes(product, tile)]
                biases = code.at(context.block, code.offset((channel, 4)))
                sums = [
                    [code.variable(vector(I32, LANES), code.load(biases, vector(I32, LANES), at_biases + 4 * LANES * part))
                     for _ in pixels]
                    for part in range(together)
                ]  # fmt: skip
                with code.loop(end, start=begin) as slot:
                    entry = code.at(context.block, code.offset((slot, 16 * together)))
                    row = code.at(context.block, code.offset((slot, TABLE * together)))
                    for part in range(together):
                        first, other = (code.load(entry, I64, at_places + 16 * part + word) for word in (0, 8))
                        choices = code.load(row, kind, at_choices + TABLE * part)
                        weights = code.load(row, kind, at_weights + TABLE * part)
                        for pixel, one in zip(pixels, sums[part], strict=True):
                            wanted = (first,) if single else (first, other)
                            bytes_ = dots.choose(choices, tuple(code.load(pixel, kind, start) for start in wanted))
                            one.set(dots.quads(one.get(), bytes_, weights))
                for part in range(together):
                    # The last group may have fewer blocks.
                    there = I64(len(blocks) - part)
                    with code.when(code.builder.icmp_signed("<", code.offset((number, together)), there)):
                        ending.store(place, code.offset((channel, 1), (part, LANES)), [one.get() for one in sums[part]])


def _side_by_side(blocks: list[Slots], count: int) -> Slots:
    """Several blocks' schedules, each slot of all of them together: (slots, blocks, ...)."""
    length = max(1, *(len(block.pair) for block in blocks))
    pair = np.zeros((length, count), np.int64)
    choices = np.zeros((length, count, LANES, QUAD), np.uint8)
    weights = np.zeros((length, count, LANES, QUAD), np.int8)
    for number, block in enumerate(blocks):
        slots = len(block.pair)
        pair[:slots, number], choices[:slots, number], weights[:slots, number] = (
            block.pair,
            block.choices,
            block.weights,
        )
    return Slots(pair, choices, weights)
