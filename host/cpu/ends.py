"""The two ends of a program: from a caller's array, in torch's order, into the workspace and back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from llvmlite import ir

from host.cpu.ir import F32, F64, I8, I32, I64, Code, Value, vector
from host.cpu.layout import LANES, Map

# So close to a whole number, a quotient is computed as it is defined; rounding errors are far smaller.
_CLOSE = 2.0**-20
# Of smaller steps the inverse, and products with it, may not be normal numbers.
_LEAST_SCALE = 2.0**-500


@dataclass(frozen=True)
class Input:
    """Reads a word in torch's order (channels, rows, columns).

    Attributes:
        target: the first map.
        scale: real value of one step, for float32 words; see `hwgen.format.io.quantise_input`.
    """

    target: Map
    scale: float

    def integers(self, code: Code, word: Value, work: Value) -> None:
        """From bytes, at the map's offset."""
        if _in_blocks(self.target):
            with _blocks(code, self.target, work) as (index, pixels):
                rows = [code.load(code.at(word, start), vector(I8, LANES)) for start in index]
                for pixel, values in zip(pixels, transposed(code, rows), strict=True):
                    code.store(values, pixel)
            return
        with _places(code, self.target, work) as (number, place):
            code.store(code.load(word, I8, number), place)

    def floats(self, code: Code, word: Value, work: Value) -> Value:
        """From float32; returns an int1 that says whether there was a NaN."""
        builder = code.builder
        if _in_blocks(self.target):
            bad = code.variable(vector(I8, LANES), code.constant(vector(I8, LANES), 0))
            with _blocks(code, self.target, work) as (index, pixels):
                rows = []
                for start in index:
                    real = code.load(code.at(word, code.offset((start, 4))), vector(F32, LANES))
                    rows.append(self._quantised(code, real, bad))
                for pixel, values in zip(pixels, transposed(code, rows), strict=True):
                    code.store(values, pixel)
            return _any(builder, bad.get())
        if _in_rows(self.target):
            bad = code.variable(vector(I8, LANES), code.constant(vector(I8, LANES), 0))
            with _row_pieces(code, self.target, work) as (index, place):
                code.store(
                    self._quantised(code, code.load(word, vector(F32, LANES), code.offset((index, 4))), bad), place
                )
            return _any(builder, bad.get())
        found = code.variable(I8, 0)
        with _places(code, self.target, work) as (number, place):
            code.store(self._quantised(code, code.load(word, F32, code.offset((number, 4))), found), place)
        return builder.icmp_unsigned("!=", found.get(), I8(0))

    def _quantised(self, code: Code, real: Value, bad) -> Value:
        """Bytes of float32 values, or of one; `bad` keeps where there was a NaN."""
        builder = code.builder
        lanes = getattr(real.type, "count", 0)

        def kind(element: Value) -> Value:
            return vector(element, lanes) if lanes else element

        def number(value: float) -> Value:
            return code.constant(kind(F64), value)

        wide = builder.fpext(real, kind(F64))
        bad.set(builder.or_(bad.get(), builder.zext(builder.fcmp_unordered("uno", real, real), kind(I8))))

        def floor(value: Value) -> Value:
            return code.call(f"llvm.floor.v{lanes}f64" if lanes else "llvm.floor.f64", kind(F64), value)

        def divided() -> Value:
            return builder.fadd(builder.fdiv(wide, number(self.scale)), number(0.5))

        inverse = 1 / self.scale if self.scale > _LEAST_SCALE else math.inf
        if lanes and math.isfinite(inverse):
            # Multiplied, the last bits may differ from the quotient's: where these decide, it is divided after all.
            step = builder.fadd(builder.fmul(wide, number(inverse)), number(0.5))
            found = code.variable(kind(F64), floor(step))
            above = builder.fsub(step, found.get())
            below = builder.fsub(number(1.0), above)
            close = builder.fcmp_ordered(
                "<", builder.select(builder.fcmp_ordered("<", above, below), above, below), number(_CLOSE)
            )
            with code.when(_any(builder, close)):
                found.set(floor(divided()))
            whole = found.get()
        else:
            whole = floor(divided())
        low, high = number(float(-self.target.offset)), number(float(255 - self.target.offset))
        # Of a NaN the lower bound remains, so that the conversion is defined.
        above = builder.select(builder.fcmp_ordered(">", whole, low), whole, low)
        bounded = builder.select(builder.fcmp_ordered("<", above, high), above, high)
        value = builder.add(builder.fptosi(bounded, kind(I32)), code.constant(kind(I32), self.target.offset))
        return builder.trunc(value, kind(I8))


@dataclass(frozen=True)
class Output:
    """Writes a word in torch's order, as int32 or, each channel scaled, as float32.

    Attributes:
        source: the last map.
        flat: whether it was flattened, so that each value has a scale of its own.
    """

    source: Map
    flat: bool = False

    def integers(self, code: Code, word: Value, work: Value) -> None:
        if _in_blocks(self.source):
            for start, values in self._rows(code, work):
                code.store(values, code.at(word, code.offset((start, 4))))
            return
        with _places(code, self.source, work) as (number, place):
            code.store(self._value(code, place, 0), word, code.offset((number, 4)))

    def floats(self, code: Code, word: Value, work: Value, block: Value, at_scales: int) -> None:
        """`at_scales`: place of the float64 scales in the block."""
        builder, pixels = code.builder, 1 if self.flat else self.source.height * self.source.width

        def scaled(values: Value, number: Value, lanes: int) -> Value:
            channel = builder.udiv(number, I64(pixels)) if pixels > 1 else number
            place = code.at(block, code.offset((channel, 8)))
            if lanes and self.flat:
                scale = code.load(place, vector(F64, lanes), at_scales)
            else:
                scale = code.load(place, F64, at_scales)
                scale = code.splat(scale, lanes) if lanes else scale
            real = builder.fmul(builder.sitofp(values, vector(F64, lanes) if lanes else F64), scale)
            return builder.fptrunc(real, vector(F32, lanes) if lanes else F32)

        if _in_blocks(self.source):
            for start, values in self._rows(code, work):
                code.store(scaled(values, start, LANES), code.at(word, code.offset((start, 4))))
            return
        with _places(code, self.source, work) as (number, place):
            code.store(scaled(self._value(code, place, 0), number, 0), word, code.offset((number, 4)))

    def _rows(self, code: Code, work: Value) -> Iterator[tuple[Value, Value]]:
        """(number of the first value, 16 int32 of a channel) for all of the map, in loops."""
        with _blocks(code, self.source, work) as (index, pixels):
            columns = [self._value(code, pixel, LANES) for pixel in pixels]
            yield from zip(index, transposed(code, columns), strict=True)

    def _value(self, code: Code, place: Value, lanes: int) -> Value:
        """Stored values as int32: a vector of so many, or one for 0."""
        source = self.source
        element = I32 if source.words else I8
        value = code.load(place, vector(element, lanes) if lanes else element)
        if source.words:
            return value
        kind = vector(I32, lanes) if lanes else I32
        return code.builder.sub(code.builder.zext(value, kind), code.constant(kind, source.offset))


def transposed(code: Code, rows: list[Value], together: int = 1) -> list[Value]:
    """Lanes of rows as rows of lanes.

    Args:
        code: where the code goes.
        rows: a power of two of vectors of 16 lanes, at most as many as groups of lanes.
        together: lanes of a group, which stay side by side.

    Returns:
        As many vectors. Where rows are as many as groups, vector i has group i of each row. Where they are fewer, it has so
        many groups, one behind the other, as there are groups for a row: of each all rows.
    """
    low = [
        lane
        for n in range(LANES // together // 2)
        for row in (0, LANES)
        for lane in range(row + n * together, row + (n + 1) * together)
    ]
    high = [lane + LANES // 2 for lane in low]
    half = len(rows) // 2
    # Interleaving the first half of the rows with the second moves a bit of a lane's number to the row's.
    for _ in range(len(rows).bit_length() - 1):
        rows = [code.shuffle(rows[n], rows[half + n], order) for n in range(half) for order in (low, high)]
    return rows


def _any(builder: Value, values: Value) -> Value:
    """Whether a bit of a vector is set."""
    bits = ir.IntType(values.type.count * values.type.element.width)
    return builder.icmp_unsigned("!=", builder.bitcast(values, bits), bits(0))


def _in_blocks(of: Map) -> bool:
    """Whether 16 channels of 16 pixels fit; values one by one would take most of a large layer's time."""
    return of.channels >= LANES and of.height * of.width >= LANES


def _in_rows(of: Map) -> bool:
    """Whether it is one channel of rows of 16 values and more, without a gap."""
    return of.channels == 1 and of.pixel == of.unit and of.width >= LANES


@contextmanager
def _row_pieces(code: Code, of: Map, work: Value) -> Iterator[tuple[int | Value, Value]]:
    """Loops over pieces of rows: (number of the first of 16 values, pointer to it)."""
    with code.loop(of.height) as y, code.loop(of.width, step=LANES) as start:
        # The last piece of a row is moved again.
        x = code.less(start, I64(of.width - LANES)) if of.width % LANES else start
        yield (
            code.offset((y, of.width), (x, 1)),
            code.at(code.at(work, code.offset((y, of.row), (x, of.unit))), of.origin),
        )


@contextmanager
def _blocks(code: Code, of: Map, work: Value) -> Iterator[tuple[list[Value], list[Value]]]:
    """Loops over blocks: (of 16 channels, the number of the first value; pointers to 16 pixels at the first channel)."""
    builder, pixels = code.builder, of.height * of.width
    with code.loop(of.channels, step=LANES) as c, code.loop(pixels, step=LANES) as p:
        # The last ones are moved again.
        channel = code.less(c, I64(of.channels - LANES))
        first = code.less(p, I64(pixels - LANES))
        index = [code.offset((channel, pixels), (n * pixels, 1), (first, 1)) for n in range(LANES)]
        places = []
        for n in range(LANES):
            pixel = builder.add(first, I64(n))
            y, x = builder.udiv(pixel, I64(of.width)), builder.urem(pixel, I64(of.width))
            distance = code.offset((channel, of.unit), (y, of.row), (x, of.pixel))
            places.append(code.at(code.at(work, distance), of.origin))
        yield index, places


@contextmanager
def _places(code: Code, of: Map, work: Value) -> Iterator[tuple[Value, Value]]:
    """Loops over the values of a map in torch's order: (number of the value, pointer to it)."""
    number: int | Value = 0
    distance: int | Value = 0
    with ExitStack() as loops:
        for count, step, torch_step in (
            (of.channels, of.unit, of.height * of.width),
            (of.height, of.row, of.width),
            (of.width, of.pixel, 1),
        ):
            if count > 1:
                index = loops.enter_context(code.loop(count))
                number = code.offset((number, 1), (index, torch_step))
                distance = code.offset((distance, 1), (index, step))
        yield code.i64(number), code.at(code.at(work, distance), of.origin)
