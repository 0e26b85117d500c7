"""Sums to bytes, 16 at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from host.cpu.ir import I8, I16, I32, I64, Value, vector
from host.cpu.layout import LANES, Map, padded, stride_of
from host.cpu.steps import Context, Scale

# Bits of a sum.
_WORD = 32


def multipliers(context: Context, scale: Scale) -> int:
    """Adds the multipliers of all channels, spare ones too, to the tables."""
    spare = stride_of(len(scale.multiplier)) - len(scale.multiplier)
    return context.tables.add(np.pad(scale.multiplier.astype(np.int32), (0, spare)))


def requantised(context: Context, sums: Value, scale: Scale, multiplier: Value) -> Value:
    """16 bytes of 16 int32 sums; `multiplier` is a vector of int32."""
    code, builder = context.code, context.code.builder
    # The offset of the bytes is added before the shift, so that both ends of the range are those of a byte.
    half = ((1 << scale.shift) >> 1) + (scale.offset << scale.shift)
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
        table, per_value = self._multipliers(context)
        with code.loop(source.height) as y, code.loop(source.width) as x:
            pixel = code.at(context.work, code.offset((y, source.row), (x, source.pixel)))
            place = code.at(context.work, code.offset((y, target.row), (x, target.pixel)))
            with code.loop(padded(source.channels), step=LANES) as channel:
                value = loaded(context, source, code.at(pixel, code.offset((channel, source.unit))), bytes_too=False)
                if self.scale:
                    unit = 4 * stride_of(source.channels) if per_value else 0
                    distance = code.offset((channel, 4), (y, unit * source.width), (x, unit))
                    multiplier = code.load(code.at(context.block, distance), vector(I32, LANES), table)
                    value = as_words(context, source, value)
                    value = requantised(context, value, self.scale, multiplier)
                else:
                    zero = code.constant(value.type, 0 if source.words else source.offset)
                    value = code.greater(value, zero, signed=source.words)
                code.store(value, code.at(place, code.offset((channel, target.unit))), target.origin)

    def _multipliers(self, context: Context) -> tuple[int, bool]:
        """The place of the multipliers, and whether each value of the map has its own: after a Flatten."""
        source, scale = self.source, self.scale
        if scale is None or len(scale.multiplier) == source.channels:
            return (multipliers(context, scale) if scale else 0), False
        own = np.zeros((source.height * source.width, stride_of(source.channels)), np.int32)
        own[:, : source.channels] = scale.multiplier.reshape(source.channels, -1).T
        return context.tables.add(own), True


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
