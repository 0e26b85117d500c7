"""Products of all weights and all activations in AMX's tiles: 16 positions, 16 outputs and 64 bytes at a time.

A tile has 16 rows of 64 bytes. One holds the activations of 16 positions, one the weights of 16 outputs, four bytes of
each in a row, one the sums (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from host.cpu.dots import QUAD, Dots
from host.cpu.ir import I8, I32, I64, POINTER, Code, Value, vector
from host.cpu.layout import LANES
from host.cpu.product import Ending, Product, Tile, byte_places, covered, looped, rounds
from host.cpu.steps import Context, Window

# Of a tile: rows, bytes of a row, and how many tiles there are.
ROWS, ROW_BYTES, TILES = 16, 64, 8
# Tiles of sums that are under way: with those of their operands, all that there are.
MOST_SUMS = 4
_VOID, _SUMS = ir.VoidType(), vector(I32, LANES)


@dataclass(frozen=True, eq=False)
class Tiles:
    """Every weight, 64 bytes at a time."""

    product: Product

    @property
    def name(self) -> str:
        return self.product.name

    def chunks(self) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
        """Places of up to 64 bytes, relative to a position's first pixel; weights int8 (blocks, chunks, quads, 16, 4)."""
        product, places = self.product, byte_places(self.product)
        starts, chunk = covered(places, ROW_BYTES)
        byte = places - starts[chunk]
        quads = -(-(int(byte.max()) + 1) // QUAD)
        weights = np.zeros((product.blocks * LANES, len(starts), quads * QUAD), np.int8)
        weights[: product.outputs, chunk, byte] = product.weight.reshape(product.outputs, -1)
        blocks = weights.reshape(product.blocks, LANES, len(starts), quads, QUAD)
        return starts, np.ascontiguousarray(blocks.transpose(0, 2, 3, 1, 4))

    @property
    def columns(self) -> int:
        """Places of the target, side by side, that one tile computes: all tiles of a row are alike."""
        product = in_one_row(self.product)
        width, most = product.target.width, ROWS // _pool(product)[1]
        return -(-width // -(-width // most))

    def full_tiles(self) -> float:
        """As many products of three full tiles take the time of a position; those of a single row take half of it."""
        rows = self.columns * _pool(self.product)[1]
        return (ROWS + rows) / (2 * ROWS) / rows * self.product.blocks * len(self.chunks()[0])

    def emit(self, context: Context) -> None:
        product, code = in_one_row(self.product), context.code
        if product.gather:
            product.gather.emit(context)
        source, target, (down, across) = product.source, product.target, product.window.stride
        (pool_rows, pool_columns), columns = _pool(product), self.columns
        # Blocks of outputs, rows of the target and tiles of positions at a time.
        together = 2 if product.blocks % 2 == 0 and 2 * pool_rows <= MOST_SUMS else 1
        lines = min(target.height, MOST_SUMS // together // pool_rows)
        tiles, apart = lines * pool_rows, down * source.row
        starts, weights = self.chunks()
        tile_bytes = weights[0, 0].size
        grouped = weights.reshape(-1, together, *weights.shape[1:]).transpose(0, 2, 1, 3, 4, 5)
        at_weights, at_starts = context.tables.add(grouped), context.tables.add(starts)
        at_biases = context.tables.add(product.biases(source.offset))
        registers = Registers(context, _shapes(together, tiles, columns * pool_columns, weights.shape[2]))
        sums, of_weights, of_values = _numbers(together, tiles)
        scratch = [[registers.memory() for _ in range(tiles)] for _ in range(together)]
        ending = Ending(context, product, Tile((), product.pool is not None))

        with looped(context, product.blocks // together) as group:
            channel = code.offset((group, together * LANES))
            biases = code.at(context.block, code.offset((channel, 4)))
            matrix = code.at(context.block, code.offset((group, len(starts) * together * tile_bytes)))
            if len(starts) == 1:
                for block, register in enumerate(of_weights):
                    registers.load(register, code.at(matrix, at_weights + block * tile_bytes), ROW_BYTES)
            with code.loop(target.height, step=lines) as line, code.loop(target.width, step=columns) as start:
                # The last tiles may compute some positions again.
                y = code.less(line, I64(target.height - lines)) if target.height % lines else line
                x = code.less(start, I64(target.width - columns)) if target.width % columns else start
                distance = code.offset((y, pool_rows * apart), (x, pool_columns * across * source.pixel))
                base = code.at(context.work, distance)
                for of in sums:
                    for register in of:
                        registers.clear(register)

                def multiply(number: int | Value, base=base, matrix=matrix) -> None:
                    if isinstance(number, int):
                        first: int | Value = int(starts[number])
                    else:
                        first = code.load(code.at(context.block, code.offset((number, 8))), I64, at_starts)
                    pixel = code.at(base, first)
                    row = code.at(matrix, code.offset((number, together * tile_bytes)))
                    for block, register in enumerate(of_weights if len(starts) > 1 else ()):
                        registers.load(register, code.at(row, at_weights + block * tile_bytes), ROW_BYTES)
                    for tile, register in enumerate(of_values):
                        values = code.at(pixel, source.origin + tile * apart)
                        registers.load(register, values, across * source.pixel)
                        for of, other in zip(sums, of_weights, strict=True):
                            registers.multiply(of[tile], register, other)

                rounds(context, len(starts), multiply)
                for of, places in zip(sums, scratch, strict=True):
                    for register, memory in zip(of, places, strict=True):
                        registers.store(register, memory)
                place = code.offset((y, target.row), (x, target.pixel))
                with code.loop(columns) as column:
                    first_row = code.offset((column, pool_columns * ROW_BYTES))
                    for block, places in enumerate(scratch):
                        bias = code.load(biases, _SUMS, at_biases + 4 * LANES * block)
                        for number in range(lines):
                            window = places[number * pool_rows : (number + 1) * pool_rows]
                            found = [
                                code.load(code.at(memory, first_row), _SUMS, ROW_BYTES * n)
                                for memory in window
                                for n in range(pool_columns)
                            ]
                            to = code.offset((place, 1), (number, target.row), (column, target.pixel))
                            ending.store(to, code.offset((channel, 1), (block, LANES)), found, bias)
        registers.release()


def _numbers(together: int, tiles: int) -> tuple[list[list[int]], list[int], list[int]]:
    """Registers of sums (by block and tile of positions), of each block's weights and of each tile's values.

    Sums and weights have their own; values share what is left.
    """
    sums = [[block * tiles + tile for tile in range(tiles)] for block in range(together)]
    spare = range((tiles + 1) * together, TILES)
    return sums, list(range(tiles * together, spare.start)), [spare[tile % len(spare)] for tile in range(tiles)]


def _shapes(together: int, tiles: int, positions: int, quads: int) -> list[tuple[int, int]]:
    """Rows and bytes of a row of each register."""
    _, of_weights, of_values = _numbers(together, tiles)
    shapes = [(positions, ROW_BYTES)] * TILES
    for register in of_weights:
        shapes[register] = (quads, ROW_BYTES)
    for register in of_values:
        shapes[register] = (positions, quads * QUAD)
    return shapes


def tileable(product: Product) -> bool:
    """Whether values are bytes, a window of the pool fits the tiles and its sums do not wrap without their bias."""
    rows, columns = _pool(product)
    fits = rows <= MOST_SUMS and columns <= ROWS and product.weight[0].size * 128 * 255 < 1 << 31
    return product.source.unit == 1 and (product.pool is None or fits)


def _pool(product: Product) -> tuple[int, int]:
    return product.pool or (1, 1)


def in_one_row(product: Product) -> Product:
    """The same positions as one row, if they are equally far apart in both maps."""
    source, target, (height, width) = product.source, product.target, product.window.size
    down, across = product.window.stride
    even = down * source.row == width * across * source.pixel and target.row == width * target.pixel
    if product.pool is not None or height == 1 or not even:
        return product
    row = replace(target, height=1, width=height * width, border=(0, 0, 0, 0), start=target.origin)
    return replace(product, target=row, window=Window((1, height * width), (1, across), product.window.taps))


class Registers:
    """The tiles of a step, configured: AMX's, or memory where operations are emulated.

    Arguments:
        context: where the code goes.
        shapes: (rows, bytes of a row) of each tile.
    """

    def __init__(self, context: Context, shapes: Sequence[tuple[int, int]]):
        self._context, self._code, self._shapes = context, context.code, shapes
        self._emulated = [self.memory() for _ in shapes] if context.isa.emulated else None
        if self._emulated is None:
            configuration = np.zeros(ROW_BYTES, np.uint8)
            configuration[0] = 1
            for number, (rows, row_bytes) in enumerate(shapes):
                configuration[16 + 2 * number], configuration[48 + number] = row_bytes, rows
            place = context.tables.add(configuration)
            self._code.call("llvm.x86.ldtilecfg", _VOID, self._code.at(context.block, place))

    def memory(self) -> Value:
        """Room for a tile."""
        return self._code.variable(ir.ArrayType(_SUMS, ROWS)).place

    def load(self, register: int, place: Value, apart: int) -> None:
        """Rows that lie so many bytes apart in memory."""
        if self._emulated is None:
            self._code.call("llvm.x86.tileloadd64", _VOID, I8(register), place, I64(apart))
            return
        rows, row_bytes = self._shapes[register]
        with self._code.loop(rows) as row:
            value = self._code.load(place, vector(I8, row_bytes), self._code.offset((row, apart)))
            self._code.store(value, self._emulated[register], self._code.offset((row, ROW_BYTES)))

    def clear(self, register: int) -> None:
        if self._emulated is None:
            self._code.call("llvm.x86.tilezero", _VOID, I8(register))
            return
        with self._code.loop(self._shapes[register][0]) as row:
            zeros = self._code.constant(_SUMS, 0)
            self._code.store(zeros, self._emulated[register], self._code.offset((row, ROW_BYTES)))

    def multiply(self, sums: int, values: int, weights: int) -> None:
        """Adds the products of unsigned bytes of values and signed bytes of weights; sums wrap."""
        if self._emulated is None:
            self._code.call("llvm.x86.tdpbusd", _VOID, I8(sums), I8(values), I8(weights))
            return
        rows, quads = self._shapes[sums][0], self._shapes[weights][0]
        name = f"tile_product_{rows}_{quads}"
        function = self._code.module.globals.get(name) or _product_in_memory(self._context, name, rows, quads)
        self._code.builder.call(function, [self._emulated[register] for register in (sums, values, weights)])

    def store(self, register: int, place: Value) -> None:
        if self._emulated is None:
            self._code.call("llvm.x86.tilestored64", _VOID, I8(register), place, I64(ROW_BYTES))
            return
        with self._code.loop(self._shapes[register][0]) as row:
            distance = self._code.offset((row, ROW_BYTES))
            self._code.store(self._code.load(self._emulated[register], _SUMS, distance), place, distance)

    def release(self) -> None:
        """Gives the tiles back: a thread with tiles in use is slower to switch."""
        if self._emulated is None:
            self._code.call("llvm.x86.tilerelease", _VOID)


def _product_in_memory(context: Context, name: str, rows: int, quads: int) -> Value:
    """A function that multiplies tiles in memory: (sums, values, weights)."""
    code = Code(context.code.module, name, (POINTER,) * 3, _VOID)
    code.function.attributes.add("noinline")
    dots, (sums, values, weights) = Dots(code, context.isa), code.function.args
    with code.loop(rows) as row:
        found = code.variable(_SUMS, code.load(sums, _SUMS, code.offset((row, ROW_BYTES))))
        with code.loop(quads) as quad:
            value = code.splat(code.load(values, I32, code.offset((row, ROW_BYTES), (quad, QUAD))), LANES)
            found.set(dots.quads(found.get(), value, code.load(weights, _SUMS, code.offset((quad, ROW_BYTES)))))
        code.store(found.get(), sums, code.offset((row, ROW_BYTES)))
    code.finish()
    return code.function
