"""Products of non-zero weights only: the activations that they meet are chosen from registers, byte by byte."""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from host.cpu.dots import QUAD, Dots
from host.cpu.ir import I8, I32, I64, Value, vector
from host.cpu.layout import LANES, Map, padded
from host.cpu.product import Ending, Product, Tile, byte_places, covered, positions, relative_bytes, tile_of
from host.cpu.steps import Context

# Bytes of a table.
TABLE = 64
# A load that crosses a line takes two: with a copy of a map, half a table further, tables that begin at a multiple of so
# many bytes cross none in the map or none in the copy.
HALF = 32
# Beyond every place.
_NOWHERE = 1 << 62
# So many slots are written out where there is more than one position; beyond that their code would leave the cache.
MOST_WRITTEN_OUT = 512
# So many choices and weights of a block are in registers, beside a tile's sums and tables.
MOST_HELD = 12
# Of more slots a position has two sums, which take turns: one alone would wait for itself.
ONE_SUM = 6
# Blocks whose sums a loop adds to in turn: one alone would wait for itself.
TOGETHER = 4
# So many tables are shared by such blocks.
SHARED = 4
# Bytes that a loop over slots asks for ahead: processors foresee reads in a row, but not beyond a page.
AHEAD = 2048


@dataclass(frozen=True, eq=False)
class Slots:
    """The schedule of one block of 16 outputs: each slot multiplies four weights of each output.

    Attributes:
        tables: int (slots, 1, 2 or 4): of each table the first byte, relative to a position's first pixel.
        choices: uint8 (slots, 16, 4): bytes of the tables.
        weights: int8 (slots, 16, 4): zero where an output has nothing to do.
    """

    tables: NDArray[np.int64]
    choices: NDArray[np.uint8]
    weights: NDArray[np.int8]

    def blocks(self) -> list[Slots]:
        """Those of each 16 outputs, where there are more."""
        parts = range(0, self.choices.shape[1], LANES)
        return [
            Slots(self.tables, self.choices[:, part : part + LANES], self.weights[:, part : part + LANES])
            for part in parts
        ]


def scheduled(
    places: NDArray[np.int64], weights: NDArray[np.int8], count: int, tables_of: Callable[[int], Sequence[int]]
) -> Slots:
    """Few slots for a block: each has the first weight that is left in its tables, and outputs take what they can of them.

    Args:
        places: (columns,): where each column's activation lies, in bytes.
        weights: int8 (outputs, columns); of more than 16 outputs, a multiple of 16 lanes takes the same tables.
        count: tables of a slot.
        tables_of: their first bytes, given the first byte that is needed.
    """
    padding = padded(len(weights))
    columns = [row[np.argsort(places[row], kind="stable")] for row in (np.flatnonzero(row) for row in weights)]
    # Of each output, what is left begins at `done`; there is nothing behind the last one.
    longest = max(len(row) for row in columns) + QUAD
    queue, values = np.full((len(columns), longest), _NOWHERE), np.zeros((len(columns), longest), np.int8)
    for output, row in enumerate(columns):
        queue[output, : len(row)], values[output, : len(row)] = places[row], weights[output, row]
    done, lanes, outputs = np.zeros(len(columns), np.int64), np.arange(QUAD), np.arange(len(columns))[:, None]
    tables: list[Sequence[int]] = []
    choices: list[NDArray[np.uint8]] = []
    chosen: list[NDArray[np.int8]] = []
    while True:
        following = outputs, done[:, None] + lanes
        wanted = queue[following]
        first = int(wanted[:, 0].min())
        if first == _NOWHERE:
            break
        tables.append(tables_of(first))
        choice, weight = np.zeros((padding, QUAD), np.uint8), np.zeros((padding, QUAD), np.int8)
        for number, start in enumerate(tables[-1]):
            served = (wanted >= start) & (wanted < start + TABLE)
            choice[: len(columns)][served] = TABLE * number + wanted[served] - start
            weight[: len(columns)][served] = values[following][served]
            done += served.sum(axis=1)
        choices.append(choice)
        chosen.append(weight)
    shape = (len(tables), padding, QUAD)
    return Slots(
        np.array(tables, np.int64).reshape(len(tables), count),
        np.array(choices, np.uint8).reshape(shape),
        np.array(chosen, np.int8).reshape(shape),
    )


@dataclass(frozen=True, eq=False)
class Permuted:
    """A product whose zero weights take no time.

    Attributes:
        product: what is computed.
        tables: from which a slot's activations are chosen. One begins anywhere, or at a multiple of `HALF` where there is
            a copy of the map. Two stay where they are, except for a single position; to choose from two takes an Intel
            processor more operations (uops.info, vpermi2b). `SHARED` are for a single position alone: blocks that are
            computed together share them, so that there are fewer slots to fetch and hardly more tables to load.
        ahead: whether a loop over slots asks for what it will read: processors differ in whether that helps.
    """

    product: Product
    tables: int
    ahead: bool = True

    @property
    def name(self) -> str:
        return self.product.name

    @functools.cached_property
    def slots(self) -> list[Slots]:
        """The schedule of each block of outputs."""
        places = byte_places(self.product)
        starts = covered(places, TABLE)[0].tolist()

        def tables_of(place: int) -> Sequence[int]:
            if self.tables == 2 and self.product.several:
                first = max(0, min(bisect_right(starts, place) - 1, len(starts) - 2))
                return starts[first : first + 2]
            if self.product.apart:
                return [0]
            first = place if self.product.copy is None else place // HALF * HALF
            return [first + TABLE * number for number in range(self.tables)]

        rows = self.product.weight.reshape(self.product.outputs, -1)
        size = LANES * TOGETHER if self.tables == SHARED else LANES
        made = [scheduled(places, rows[at : at + size], self.tables, tables_of) for at in range(0, len(rows), size)]
        return [block for slots in made for block in slots.blocks()]

    def emit(self, context: Context) -> None:
        product = self.product
        blocks = self.slots
        if product.gather:
            product.gather.emit(context)
        if product.copy is not None and not (self.tables > 1 and product.several):
            _copy(context, product.source, product.copy)
            blocks = [replace(slots, tables=_of_copy(slots.tables, product.source, product.copy)) for slots in blocks]
        tile = tile_of(product, context.isa.permuted_positions)
        at_biases = context.tables.add(product.biases(product.source.offset))
        ending = Ending(context, product, tile)
        total = sum(len(block.tables) for block in blocks)
        if len(tile.places) > 1 and total <= MOST_WRITTEN_OUT:
            for number, slots in enumerate(blocks):
                self._written_out(context, slots, tile, ending, number * LANES, at_biases)
        else:
            self._looped(context, blocks, tile, ending)

    def _written_out(
        self, context: Context, slots: Slots, tile: Tile, ending: Ending, channel: int, at_biases: int
    ) -> None:
        """One block: the loop is over positions alone, and tables stay in registers from slot to slot."""
        code, product, source = context.code, self.product, self.product.source
        dots, kind = Dots(code, context.isa), vector(I8, TABLE)
        relative, at_weights = relative_bytes(product, tile), context.tables.add(slots.weights)
        # Positions that have a table in common choose other bytes of it.
        shifts = relative if product.apart else [0] * len(relative)
        at_choices = {shift: context.tables.add(slots.choices + np.uint8(shift)) for shift in dict.fromkeys(shifts)}
        bias = code.load(context.block, vector(I32, LANES), at_biases + 4 * channel)
        with positions(context, product, tile, source.row, source.pixel) as (distance, place):
            base = code.at(context.work, distance)
            pixels = [code.at(base, source.origin + apart) for apart in ([0] if product.apart else relative)]
            # A few slots stay in registers for all positions; many would only be moved to the stack.
            few = len(slots.tables) * (1 + len(at_choices)) <= MOST_HELD + len(relative) - len(pixels)
            block = context.block if few else code.anew(context.block)
            zero = code.constant(bias.type, 0)
            sums = [[bias] * len(relative)] + [[zero] * len(relative)] * (len(slots.tables) > ONE_SUM)
            held: dict[int, list[Value]] = {}
            for number, needed in enumerate(slots.tables.tolist()):
                held = {
                    table: held.get(table) or [code.load(pixel, kind, table) for pixel in pixels] for table in needed
                }
                weights = code.load(block, kind, at_weights + TABLE * number)
                choices = {shift: code.load(block, kind, at + TABLE * number) for shift, at in at_choices.items()}
                for position, shift in enumerate(shifts):
                    bytes_ = dots.choose(choices[shift], tuple(held[table][position % len(pixels)] for table in needed))
                    turn = sums[number % len(sums)]
                    turn[position] = dots.quads(turn[position], bytes_, weights)
            found = sums[0] if len(sums) == 1 else [code.builder.add(*both) for both in zip(*sums, strict=True)]
            ending.store(place, channel, found)

    def _looped(self, context: Context, blocks: list[Slots], tile: Tile, ending: Ending) -> None:
        """All blocks: loops over blocks, positions and slots."""
        code, product, source = context.code, self.product, self.product.source
        dots, kind, tables = Dots(code, context.isa), vector(I8, TABLE), blocks[0].tables.shape[1]
        together = max(1, TOGETHER // len(tile.places))
        # Blocks of a group take the slots of the longest.
        shared = self.tables == SHARED
        order = np.argsort([0 if shared else -len(block.tables) for block in blocks], kind="stable")
        sorted_ = [blocks[number] for number in order]
        groups = [
            _side_by_side(sorted_[start : start + together], together) for start in range(0, len(blocks), together)
        ]
        lengths = [len(group.tables) for group in groups]
        ends = np.cumsum(lengths)
        at_bounds = context.tables.add(np.stack([ends - lengths, ends], axis=1).astype(np.int64))
        # Of two tables that are always as far apart, the place of the first is enough.
        distances = np.unique(np.concatenate([block.tables - block.tables[:, :1] for block in blocks]), axis=0)
        known = tables if len(distances) != 1 else 1
        places = np.concatenate([group.tables for group in groups])[..., :known]
        at_places = context.tables.add(places.astype(np.int32))
        at_choices = context.tables.add(np.concatenate([group.choices for group in groups]))
        at_weights = context.tables.add(np.concatenate([group.weights for group in groups]))
        at_biases = context.tables.add(product.biases(source.offset))
        at_channels = context.tables.add(np.resize(LANES * order, (len(groups), together)).astype(np.int64))
        with code.loop(len(groups)) as number:
            group = code.at(context.block, code.offset((number, 16)))
            begin, end = (code.load(group, I64, at_bounds + part) for part in (0, 8))
            group = code.at(context.block, code.offset((number, 8 * together)))
            channels = [code.load(group, I64, at_channels + 8 * part) for part in range(together)]
            with positions(context, product, tile, source.row, source.pixel) as (distance, place):
                base = code.at(context.work, distance)
                pixels = [code.at(base, source.origin + apart) for apart in relative_bytes(product, tile)]
                sums = []
                for channel in channels:
                    bias = code.load(code.at(context.block, code.offset((channel, 4))), vector(I32, LANES), at_biases)
                    sums.append([code.variable(bias.type, bias) for _ in pixels])
                with code.loop(end, start=begin) as slot:
                    entry = code.at(context.block, code.offset((slot, 4 * known * together)))
                    row = code.at(context.block, code.offset((slot, TABLE * together)))
                    for table in (at_choices, at_weights) if self.ahead else ():
                        for part in range(together):
                            code.prefetch(code.at(row, table + TABLE * part + AHEAD))
                    held: list[tuple[Value, ...]] = []
                    for part in range(together):
                        if not (shared and part):
                            starts = [code.load(entry, I32, at_places + 4 * (known * part + n)) for n in range(known)]
                            wanted = [code.builder.sext(start, I64) for start in starts]
                            if known < tables:
                                wanted = [code.offset((wanted[0], 1), (apart, 1)) for apart in distances[0].tolist()]
                            held = [tuple(code.load(pixel, kind, start) for start in wanted) for pixel in pixels]
                        choices = code.load(row, kind, at_choices + TABLE * part)
                        weights = code.load(row, kind, at_weights + TABLE * part)
                        for from_, one in zip(held, sums[part], strict=True):
                            one.set(dots.quads(one.get(), dots.choose(choices, from_), weights))
                for part in range(together):
                    # The last group may have fewer blocks.
                    there = I64(len(blocks) - part)
                    with code.when(code.builder.icmp_signed("<", code.offset((number, together)), there)):
                        ending.store(place, channels[part], [one.get() for one in sums[part]])


def copyable(product: Product) -> bool:
    """Whether a copy of the map, half a table further, makes loads faster: the places of tables are those of lines."""
    source = product.source
    worth = source.pixel % TABLE == 0 if product.several else np.count_nonzero(product.weight) >= source.size
    return bool(worth) and source.origin % TABLE == 0 and source.start % TABLE == 0


def _copy(context: Context, source: Map, copy: int) -> None:
    """Copies a map to `HALF` bytes behind `copy`."""
    code = context.code
    with code.loop(source.size, step=TABLE) as byte:
        place = code.at(context.work, byte)
        code.store(code.load(place, vector(I8, TABLE), source.start), place, copy + HALF)


def _of_copy(tables: NDArray[np.int64], source: Map, copy: int) -> NDArray[np.int64]:
    """Places of tables, where those that begin in the middle of a line are the copy's."""
    return np.where(tables % TABLE == HALF, tables + copy + HALF - source.start, tables)


def _side_by_side(blocks: list[Slots], count: int) -> Slots:
    """Several blocks' schedules, each slot of all of them together: (slots, blocks, ...)."""
    length = max(1, *(len(block.tables) for block in blocks))
    tables = np.zeros((length, count, blocks[0].tables.shape[1]), np.int64)
    choices = np.zeros((length, count, LANES, QUAD), np.uint8)
    weights = np.zeros((length, count, LANES, QUAD), np.int8)
    for number, block in enumerate(blocks):
        slots = len(block.tables)
        tables[:slots, number], choices[:slots, number] = block.tables, block.choices
        weights[:slots, number] = block.weights
    return Slots(tables, choices, weights)
