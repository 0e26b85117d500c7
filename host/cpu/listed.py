"""Products of non-zero activations only: each fetches its row of weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from host.cpu.dots import Dots
from host.cpu.ir import I8, I16, I32, I64, Value, Variable, vector
from host.cpu.layout import LANES, padded
from host.cpu.product import Ending, Product, Tile, looped, positions, rounds
from host.cpu.steps import Context, Lists


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
        dots = Dots(code, context.isa)
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
        windows = Tile(tuple(np.ndindex(product.pool)), True) if product.pool else Tile(((0, 0),), False)
        ending = Ending(context, product, windows)
        low, high = _interleaved(halves)

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

                rounds(context, lists.slots // 2, pair)

            rounds(context, len(taps), tap)

        with looped(context, -(-lists.row_bytes // chunk)) as group:
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


def _interleaved(halves: int) -> tuple[list[int], list[int]]:
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
