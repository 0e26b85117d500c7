"""Products of non-zero activations only, a byte each: the winners' channels choose their weights from a register.

A register holds what one output has for the up to 64 channels of a tap. Several pixels' winners, side by side, choose from it at
once, so that each operation forms as many products as a dense one, and only those of activations that are not zero. Pixels
that are neighbours in the map stay neighbours at every tap: their winners are read as they lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from host.cpu.dots import QUAD, Dots
from host.cpu.ends import transposed
from host.cpu.ir import I8, I32, I64, Code, Value, vector
from host.cpu.isa import Isa
from host.cpu.layout import LANES
from host.cpu.product import Ending, Product, positions, tile_of
from host.cpu.steps import Context, Lists

# Bytes of a register.
REGISTER = 64
# Strips, and outputs whose sums of these are in registers, beside the strips' winners.
STRIPS, OUTPUTS = 2, 8
# Bytes of sums that are kept, at most: what the second caches hold.
MOST_SUMS = 1 << 19
# Estimates: as many registers of products take the time of finding a pixel's winners, and of sorting the sums of 16 outputs
# by pixel.
_PIXEL, _SORTED = 4, 20
_SUMS = vector(I32, LANES)
# What makes signed weights unsigned.
_OFFSET = 128


@dataclass(frozen=True)
class Strip:
    """Pixels that lie side by side, of which one register holds the winners.

    Attributes:
        first: of each tap, the first winner's byte, among the winners as they are arranged.
        positions: of the output, row by row; as many as there are for a pixel that is none.
    """

    first: tuple[int, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Fetched:
    """A convolution whose activations that are zero take no time.

    In `product.scratch` it keeps, one behind the other: the winners' channels, by rows and then the last columns by columns;
    their values, in the same places; registers of channels and values, since most that begin at any pixel cross a line;
    what each strip's sums begin with; all sums, as [block of 16][position][16].

    Attributes:
        product: what is computed.
        most: winners of a pixel, at most.
    """

    product: Product
    most: int

    @property
    def name(self) -> str:
        return self.product.name

    @property
    def entries(self) -> int:
        """Bytes of a pixel's winners: quads, so many that pixels fill a register."""
        return next(size for size in (4, 8, 16) if size >= self.most)

    @property
    def _extent(self) -> tuple[int, int]:
        """Rows and columns of the map with its border."""
        source = self.product.source
        return source.height + source.border[0] + source.border[2], source.width + source.border[1] + source.border[3]

    @property
    def _whole(self) -> int:
        """Columns of the output that strips of rows compute; those behind them are computed by columns."""
        (height, width), pixels = self.product.window.size, REGISTER // self.entries
        rest = width % pixels
        by_columns = -(-((rest - 1) * self._extent[0] + height) // pixels) if rest else 0
        return width - rest if by_columns < height or width < pixels else width

    @cached_property
    def strips(self) -> list[Strip]:
        (height, width), (rows, columns), entries = self.product.window.size, self._extent, self.entries
        (top, left), taps = self.product.source.border[:2], self.product.window.taps
        pixels, found = REGISTER // entries, []
        for y, start in np.ndindex(height, -(-self._whole // pixels)):
            # The last strip of a row may compute some positions again.
            x = min(pixels * start, self._whole - pixels)
            first = tuple(((y + top + down) * columns + x + left + across) * entries for down, across in taps)
            found.append(Strip(first, tuple(y * width + x + n for n in range(pixels))))
        rest = width - self._whole
        for start in range(0, (rest - 1) * rows + height if rest else 0, pixels):
            at = [divmod(start + n, rows) for n in range(pixels)]
            places = (y * width + self._whole + x if y < height and x < rest else height * width for x, y in at)
            begin = rows * columns + (self._whole + left - self._first_column) * rows + top + start
            first = tuple((begin + across * rows + down) * entries for down, across in taps)
            found.append(Strip(first, tuple(places)))
        return found

    @cached_property
    def _registers(self) -> NDArray[np.int64]:
        """The first byte of each, among the winners."""
        return np.unique([strip.first for strip in self.strips])

    @property
    def _first_column(self) -> int:
        """Of the map with its border, the first one that is arranged by columns."""
        return self._whole + self.product.source.border[1] + min(x for _, x in self.product.window.taps)

    @property
    def _arranged(self) -> int:
        """Bytes of the winners' channels, and of their values."""
        rows, columns = self._extent
        by_columns = columns - self._first_column if self._whole < self.product.window.size[1] else 0
        # A strip may reach beyond the last pixel.
        return (rows * (columns + by_columns) * self.entries // REGISTER + 2) * REGISTER

    @property
    def _of_block(self) -> int:
        """Bytes of the sums of 16 outputs; those of no position lie behind the others."""
        return (int(np.prod(self.product.window.size)) + 1) * 4 * LANES

    @property
    def size(self) -> int:
        """Bytes of scratch."""
        return self._places[-1] + self.product.blocks * self._of_block

    def _kept(self, context: Context) -> Value:
        """Pointer to the scratch."""
        assert self.product.scratch is not None
        return context.code.at(context.work, self.product.scratch)

    @property
    def _places(self) -> tuple[int, int, int]:
        """Of the registers, of what sums begin with, and of the sums: bytes of the scratch."""
        registers = 2 * self._arranged
        starts = registers + 2 * REGISTER * len(self._registers)
        return registers, starts, starts + REGISTER * len(self.strips)

    @property
    def units(self) -> float:
        """Registers of products, a position and all outputs, and what else takes as long as so many."""
        rows, columns = self._extent
        products = len(self.strips) * self.product.blocks * LANES * len(self.product.window.taps)
        others = _PIXEL * rows * columns + 2 * len(self._registers) + _SORTED * len(self.strips) * self.product.blocks
        return (products + others) / int(np.prod(self.product.window.size))

    def emit(self, context: Context) -> None:
        code, product = context.code, self.product
        registers, starts, at_sums = self._places
        self._arrange(context, registers)
        # Of each strip the bytes to the registers of its taps, then those to the sums of its pixels.
        number = {first: 2 * REGISTER * n for n, first in enumerate(self._registers.tolist())}
        strips = [
            [*(registers + number[first] for first in strip.first), *(4 * LANES * n for n in strip.positions)]
            for strip in self.strips
        ]
        at_strips, at_weights = context.tables.add(np.array(strips, np.int64)), context.tables.add(self._weights())
        self._begin(context, at_strips, starts)
        groups, rest = divmod(len(strips), STRIPS)
        with code.loop(product.blocks) as block:
            if groups:
                with code.loop(LANES // OUTPUTS) as part, code.loop(groups) as group:
                    self._multiply(
                        context, (block, part), OUTPUTS, (code.offset((group, STRIPS)), STRIPS), at_strips, at_weights
                    )
            if rest:
                with code.loop(len(strips), start=STRIPS * groups) as number:
                    self._multiply(context, (block, 0), LANES, (number, 1), at_strips, at_weights)
        self._end(context, at_sums)

    def _weights(self) -> NDArray[np.uint8]:
        """(parts of blocks, taps, `OUTPUTS`, 64 channels), unsigned where activations are signed."""
        outputs, taps, channels = self.product.weight.shape
        padded = np.zeros((self.product.blocks * LANES, taps, REGISTER), np.int8)
        padded[:outputs, :, :channels] = self.product.weight
        table = padded.view(np.uint8) ^ np.uint8(_OFFSET if self.product.source.offset else 0)
        return table.reshape(-1, OUTPUTS, taps, REGISTER).transpose(0, 2, 1, 3)

    def _arrange(self, context: Context, registers: int) -> None:
        """Writes the winners of all pixels, those of the border too, which has none."""
        code, builder, source = context.code, context.code.builder, self.product.source
        rows, columns = self._extent
        kind, entries = vector(I8, min(REGISTER, source.stride)), self.entries
        channels = code.constant(kind, 0).type(list(range(kind.count)))
        nothing, base = code.constant(kind, 0), self._kept(context)

        def write(x: int | Value, places: list[tuple[Value, int]], y: Value) -> None:
            pixel = code.at(context.work, code.offset((y, source.row), (x, source.pixel)))
            values = code.load(pixel, kind, source.start)
            won = builder.icmp_unsigned("!=", values, code.constant(kind, source.offset))
            for number, all_ in enumerate((channels, builder.xor(values, code.constant(kind, source.offset)))):
                name = f"llvm.experimental.vector.compress.v{kind.count}i8"
                first = code.part(code.call(name, kind, all_, won, nothing), 0, entries)
                for place, offset in places:
                    code.store(first, place, offset + number * self._arranged)

        by_columns = self._first_column if self._whole < self.product.window.size[1] else columns
        with code.loop(rows) as y:

            def by_row(x: int | Value) -> tuple[Value, int]:
                return code.at(base, code.offset((y, columns * entries), (x, entries))), 0

            if by_columns:
                with code.loop(by_columns) as x:
                    write(x, [by_row(x)], y)
            if by_columns < columns:
                with code.loop(columns, start=by_columns) as x:
                    distance = code.offset((builder.sub(x, I64(by_columns)), rows * entries), (y, entries))
                    write(x, [by_row(x), (code.at(base, distance), rows * columns * entries)], y)

        at_registers = context.tables.add(self._registers)
        with code.loop(len(self._registers)) as number:
            first = code.load(code.at(context.block, code.offset((number, 8))), I64, at_registers)
            place = code.at(base, code.offset((number, 2 * REGISTER)))
            for part in range(2):
                value = code.load(code.at(base, first), vector(I8, REGISTER), part * self._arranged)
                code.store(value, place, registers + part * REGISTER)

    def _begin(self, context: Context, at_strips: int, starts: int) -> None:
        """What each strip's sums begin with: of signed activations, what unsigned weights add to them, taken off."""
        code, dots = context.code, Dots(context.code, context.isa)
        zero, offsets = code.constant(_SUMS, 0), code.constant(vector(I8, REGISTER), _OFFSET)
        with code.loop(len(self.strips)) as number:
            total = code.variable(_SUMS, zero)
            if self.product.source.offset:
                strip = code.at(context.block, code.offset((number, self._of_strip)))
                with code.loop(len(self.product.window.taps)) as tap:
                    _, values = self._winners(context, strip, at_strips, tap)
                    total.set(dots.quads(total.get(), offsets, values))
            place = code.at(self._kept(context), code.offset((number, REGISTER)))
            code.store(code.builder.sub(zero, total.get()), place, starts)

    @property
    def _of_strip(self) -> int:
        """Bytes of a strip in the tables."""
        return 8 * (len(self.product.window.taps) + REGISTER // self.entries)

    def _winners(self, context: Context, strip: Value, at_strips: int, tap: Value) -> list[Value]:
        """A strip's channels and values at a tap; `strip`: pointer into the block."""
        code = context.code
        place = code.at(self._kept(context), code.load(code.at(strip, code.offset((tap, 8))), I64, at_strips))
        return [code.load(place, vector(I8, REGISTER), part * REGISTER) for part in range(2)]

    def _multiply(
        self,
        context: Context,
        block: tuple[Value, int | Value],
        outputs: int,
        strips: tuple[Value, int],
        at_strips: int,
        at_weights: int,
    ) -> None:
        """The sums of several strips.

        Args:
            context: where the code goes.
            block: the number of 16 outputs, and of `OUTPUTS` among them.
            outputs: how many.
            strips: the number of the first, and how many; with the outputs, 16 sums.
            at_strips, at_weights: places of the tables.
        """
        code, product, dots = context.code, self.product, Dots(context.code, context.isa)
        (number, part), (first, count), taps = block, strips, len(product.window.taps)
        _, starts, at_sums = self._places
        of_part = taps * OUTPUTS * REGISTER
        matrix = code.at(context.block, code.offset((number, LANES // OUTPUTS * of_part), (part, of_part)))
        entries = [
            code.at(context.block, code.offset((first, self._of_strip), (n, self._of_strip))) for n in range(count)
        ]
        begin = code.at(self._kept(context), code.offset((first, REGISTER)))
        begins = [code.load(begin, _SUMS, starts + n * REGISTER) for n in range(count)]
        sums = [[code.variable(_SUMS, begin) for _ in range(outputs)] for begin in begins]
        with code.loop(taps) as tap:
            winners = [self._winners(context, strip, at_strips, tap) for strip in entries]
            row = code.at(matrix, code.offset((tap, OUTPUTS * REGISTER)))
            for output in range(outputs):
                place = at_weights + output // OUTPUTS * of_part + output % OUTPUTS * REGISTER
                weights = code.load(row, vector(I8, REGISTER), place)
                for of, (channels, values) in zip(sums, winners, strict=True):
                    chosen, one = dots.choose(channels, (weights,)), of[output]
                    both = (chosen, values) if product.source.offset else (values, chosen)
                    one.set(dots.quads(one.get(), *both))
        to_block = code.at(self._kept(context), code.offset((number, self._of_block), (part, 4 * OUTPUTS)))
        share = LANES // outputs
        for strip, of in zip(entries, sums, strict=True):
            for n, value in enumerate(by_pixel(code, [one.get() for one in of], self.entries // QUAD)):
                for pixel in range(share):
                    position = code.load(strip, I64, at_strips + 8 * (taps + share * n + pixel))
                    stored = value if share == 1 else code.part(value, pixel * outputs, outputs)
                    code.store(stored, code.at(to_block, position), at_sums)

    def _end(self, context: Context, at_sums: int) -> None:
        """Bias, pool and requantisation of all sums."""
        code, product = context.code, self.product
        tile = tile_of(product, context.isa.permuted_positions)
        ending, width = Ending(context, product, tile), product.window.size[1]
        pixel = 4 * LANES
        at_biases = context.tables.add(product.biases(0))
        with code.loop(product.blocks) as block:
            channel = code.offset((block, LANES))
            bias = code.load(code.at(context.block, code.offset((channel, 4))), _SUMS, at_biases)
            base = code.at(self._kept(context), code.offset((block, self._of_block)))
            with positions(context, product, tile, width * pixel, pixel) as (distance, place):
                first = code.at(base, distance)
                sums = [code.load(first, _SUMS, at_sums + (y * width + x) * pixel) for y, x in tile.places]
                ending.store(place, channel, sums, bias)


def fetchable(product: Product, lists: Lists, isa: Isa) -> bool:
    """Whether each pixel has few winners of few channels, neighbours in the output see neighbours, and all sums stay in a
    cache."""
    source, window = product.source, product.window
    if not isa.permutes or not product.several or window.stride != (1, 1) or source.unit != 1:
        return False
    of_pixels = (lists.map.height, lists.map.width) == (source.height, source.width)
    few = source.stride <= REGISTER and lists.slots <= REGISTER // QUAD
    return of_pixels and few and window.size[0] * window.size[1] * product.blocks * 4 * LANES <= MOST_SUMS


def by_pixel(code: Code, rows: list[Value], parts: int) -> list[Value]:
    """The sums of each pixel, a lane for each row; of 8 rows, those of two pixels one behind the other.

    Args:
        code: where the code goes.
        rows: 8 or 16 vectors of 16 lanes: of each pixel, so many parts of its sum.
        parts: 1, 2 or 4.
    """
    together = 1
    while parts > 1:
        # Two rows become one, in which each pixel has half as many parts and twice as many rows.
        parts //= 2
        halves = []
        for half in range(2):
            lanes = [
                ((pixel * parts + part) * 2 + half) * together + lane + LANES * row
                for pixel in range(LANES // (2 * parts * together))
                for part in range(parts)
                for row in range(2)
                for lane in range(together)
            ]
            halves.append([code.shuffle(rows[n], rows[n + 1], lanes) for n in range(0, len(rows), 2)])
        rows = [code.builder.add(*both) for both in zip(*halves, strict=True)]
        together *= 2
    return transposed(code, rows, together)
