"""Sums to bytes, 16 at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from host.cpu.ir import I8, I16, I32, I64, Value, vector
from host.cpu.layout import LANES, Map, padded, stride_of
from host.cpu.steps import Context, Scale

# Bits of a sum.
_WORD = 32
# A byte shifted by so much fits a word.
_MOST_SHIFTED = 24


@dataclass(frozen=True)
class Factors:
    """What requantisation needs of each channel, or of each value, in the tables.

    Attributes:
        scale: of the channels.
        tables: places of the multipliers and, where `within_words`, of the lowest and of the highest sums that matter.
    """

    scale: Scale
    tables: tuple[int, ...]

    def load(self, context: Context, row: Value) -> tuple[Value, ...]:
        """Of 16 values, int32; `row`: pointer into the block, as many bytes on as the first of them is from the tables' first."""
        return tuple(context.code.load(row, vector(I32, LANES), table) for table in self.tables)


def factors(context: Context, scale: Scale, multiplier: NDArray[np.int32] | None = None) -> Factors:
    """Adds them to the tables: of all channels, spare ones too, or in the order of `multiplier`."""
    if multiplier is None:
        spare = stride_of(len(scale.multiplier)) - len(scale.multiplier)
        multiplier = np.pad(scale.multiplier.astype(np.int32), (0, spare))
    arrays = [multiplier, *(_ends(scale, multiplier) if within_words(scale) else ())]
    return Factors(scale, tuple(context.tables.add(array) for array in arrays))


def within_words(scale: Scale) -> bool:
    """Whether sums may be limited to those that do not saturate, so that their products fit 32 bits.

    No step from sum to sum is then larger than one of the result, so that both ends of a byte are among the results.
    """
    return scale.shift <= _MOST_SHIFTED and int(scale.multiplier.max()) <= 1 << scale.shift


def _added(scale: Scale) -> int:
    """Before the shift: half a step, and the bytes' offset, so that both ends of the range are those of a byte."""
    return ((1 << scale.shift) >> 1) + (scale.offset << scale.shift)


def _ends(scale: Scale, multiplier: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """The lowest sums that give 0, or more, and the highest that give 255, or less."""
    # Spare channels, whose multiplier is 0, have any.
    steps, word = np.maximum(multiplier.astype(np.int64), 1), np.iinfo(np.int32)
    low, high = -(_added(scale) // steps), ((256 << scale.shift) - 1 - _added(scale)) // steps
    return [np.clip(end, word.min, word.max).astype(np.int32) for end in (low, high)]


def requantised(context: Context, sums: Value, factors: Factors, loaded: tuple[Value, ...]) -> Value:
    """16 bytes of 16 int32 sums; `loaded`: what `factors.load` gave for them."""
    code, builder, scale = context.code, context.code.builder, factors.scale
    multiplier, half = loaded[0], _added(scale)
    if len(loaded) > 1:
        sums = code.less(code.greater(sums, loaded[1]), loaded[2])
        # An unsigned word: what the sum of both lacks in bits is zero.
        wrapped = half - (1 << _WORD) if half >= 1 << (_WORD - 1) else half
        product = builder.add(builder.mul(sums, multiplier), code.constant(sums.type, wrapped))
        return builder.trunc(builder.lshr(product, code.constant(sums.type, scale.shift)), vector(I8, LANES))
    if scale.narrow and scale.shift <= _WORD:
        value = _shifted_in_halves(context, sums, multiplier, half, scale.shift)
    else:
        wide = vector(I64, LANES)
        product = builder.mul(builder.sext(sums, wide), builder.sext(multiplier, wide))
        shifted = builder.ashr(builder.add(product, code.constant(wide, half)), code.constant(wide, scale.shift))
        value = builder.trunc(shifted, vector(I32, LANES)) if scale.narrow else shifted
    return builder.trunc(_saturated(context, value), vector(I8, LANES))


def _shifted_in_halves(context: Context, sums: Value, multiplier: Value, half: int, shift: int) -> Value:
    """(sums * multiplier + half) >> shift, where the result fits 32 bits and `shift` is at most 32.

    Processors multiply the even lanes of a vector to 64 bits each: the odd ones follow, and nothing changes its lane.
    """
    code, builder, wide = context.code, context.code.builder, vector(I64, LANES // 2)
    word = code.constant(wide, _WORD)
    left, right = (builder.bitcast(value, wide) for value in (sums, multiplier))
    even, odd = (
        builder.add(builder.mul(*factors), code.constant(wide, half))
        for factors in (
            [builder.ashr(builder.shl(value, word), word) for value in (left, right)],
            [builder.ashr(value, word) for value in (left, right)],
        )
    )
    # Of both the 32 bits from `shift` on, which no sign shifted in reaches: those of odd lanes in the upper half.
    low = builder.lshr(even, code.constant(wide, shift))
    high = builder.shl(odd, code.constant(wide, _WORD - shift)) if shift < _WORD else odd
    kind = vector(I32, LANES)
    lanes = [lane + LANES * (lane % 2) for lane in range(LANES)]
    return code.shuffle(builder.bitcast(low, kind), builder.bitcast(high, kind), lanes)


def _saturated(context: Context, value: Value) -> Value:
    code = context.code
    return code.less(code.greater(value, code.constant(value.type, 0)), code.constant(value.type, 255))


@dataclass(frozen=True)
class Elementwise:
    """Requantisation or ReLU of a whole map, or both: scale is None for a ReLU alone."""

    name: str
    source: Map
    target: Map
    scale: Scale | None

    def emit(self, context: Context) -> None:
        code, source, target = context.code, self.source, self.target
        scale = self._factors(context) if self.scale else None
        per_value = scale is not None and len(scale.scale.multiplier) != source.channels
        with code.loop(source.height) as y, code.loop(source.width) as x:
            pixel = code.at(context.work, code.offset((y, source.row), (x, source.pixel)))
            place = code.at(context.work, code.offset((y, target.row), (x, target.pixel)))
            with code.loop(padded(source.channels), step=LANES) as channel:
                value = loaded(context, source, code.at(pixel, code.offset((channel, source.unit))), bytes_too=False)
                if scale:
                    unit = 4 * stride_of(source.channels) if per_value else 0
                    distance = code.offset((channel, 4), (y, unit * source.width), (x, unit))
                    row = scale.load(context, code.at(context.block, distance))
                    value = requantised(context, as_words(context, source, value), scale, row)
                else:
                    zero = code.constant(value.type, 0 if source.words else source.offset)
                    value = code.greater(value, zero, signed=source.words)
                code.store(value, code.at(place, code.offset((channel, target.unit))), target.origin)

    def _factors(self, context: Context) -> Factors:
        """Of the channels, or of each value of the map: after a Flatten."""
        source, scale = self.source, self.scale
        assert scale is not None
        if len(scale.multiplier) == source.channels:
            return factors(context, scale)
        own = np.zeros((source.height * source.width, stride_of(source.channels)), np.int32)
        own[:, : source.channels] = scale.multiplier.reshape(source.channels, -1).T
        return factors(context, scale, own)


@dataclass(frozen=True)
class Widen:
    """Bytes as the int16 that they stand for; the target has the source's shape."""

    name: str
    source: Map
    target: Map

    def emit(self, context: Context) -> None:
        code, builder = context.code, context.code.builder
        # In memory the border follows the map; what lies beyond the end belongs to both.
        lanes = 2 * LANES
        with code.loop(-(-self.source.size // lanes)) as number:
            value = code.load(code.at(context.work, code.offset((number, lanes))), vector(I8, lanes), self.source.start)
            wide = builder.zext(value, vector(I16, lanes))
            if self.source.offset:
                wide = builder.sub(wide, code.constant(wide.type, self.source.offset))
            code.store(wide, code.at(context.work, code.offset((number, 2 * lanes))), self.target.start)


def loaded(context: Context, source: Map, pixel: Value, *, bytes_too: bool = True) -> Value:
    """16 values as stored, from `pixel` + the map's origin; as words if `bytes_too`."""
    value = context.code.load(pixel, vector(I32 if source.words else I8, LANES), source.origin)
    return as_words(context, source, value) if bytes_too else value


def as_words(context: Context, source: Map, value: Value) -> Value:
    """Stored values as the int32 that they stand for."""
    if source.words:
        return value
    kind = vector(I32, LANES)
    wide = context.code.builder.zext(value, kind)
    return context.code.builder.sub(wide, context.code.constant(kind, source.offset)) if source.offset else wide
