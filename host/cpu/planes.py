"""The k largest of up to 64 bytes, for eight pixels at once: a search in planes of bits, without a comparison of bytes.

A plane holds one bit of each byte of a pixel, as an int64. Eight planes tell which bytes are among the k largest, from the
highest bit on: if k of those that are still open have the bit, the others lose; if fewer have it, they win. Eight pixels'
planes of a bit are a vector, whose lanes never have to become a mask register's or a general one's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from host.cpu.ends import transposed
from host.cpu.ir import I8, I32, I64, Value, vector
from host.cpu.layout import LANES
from host.cpu.steps import Context

# Pixels of a vector, and bits of a byte.
EIGHT = 8
# Bytes of a pixel, at most.
MOST = 64
_BYTES, _PLANES = vector(I8, MOST), vector(I64, EIGHT)


@dataclass(frozen=True)
class Found:
    """What the search knows of a pixel, int64 each.

    Attributes:
        above: bytes that win.
        equal: bytes that are as large as the k-th.
        open: how many of these win.
    """

    above: Value
    equal: Value
    open: Value


def largest(context: Context, k: int, pixels: Sequence[Value], valid: int) -> list[Found]:
    """The search for several pixels.

    Args:
        context: where the code goes.
        k: winners, less than valid bytes.
        pixels: unsigned bytes, up to 64 of each.
        valid: mask of those that take part.
    """
    code, found = context.code, []
    for start in range(0, len(pixels), EIGHT):
        of = [_planes(context, pixel) for pixel in pixels[start : start + EIGHT]]
        of += [code.constant(vector(I32, LANES), 0)] * (EIGHT - len(of))
        planes = [code.builder.bitcast(plane, _PLANES) for plane in transposed(code, of, 2)]
        # Through memory: scalars are loaded from it faster than they are taken out of vectors, one by one.
        places = []
        for value in _searched(context, k, planes, valid):
            place = code.variable(_PLANES).place
            code.store(value, place)
            places.append(code.anew(place))
        for lane in range(min(EIGHT, len(pixels) - start)):
            found.append(Found(*(code.load(place, I64, 8 * lane) for place in places)))
    return found


def _planes(context: Context, pixel: Value) -> Value:
    """Planes of a pixel, the lowest first, as 16 int32; on a processor with bits of each eight in the order from the last."""
    code, builder, count = context.code, context.code.builder, pixel.type.count
    pixel = pixel if count == MOST else code.shuffle(pixel, code.constant(pixel.type, 0), range(MOST))
    if context.isa.emulated:
        planes = ir.Constant(_PLANES, ir.Undefined)
        for bit in range(EIGHT):
            shifted = builder.shl(pixel, code.constant(_BYTES, EIGHT - 1 - bit))
            mask = builder.bitcast(builder.icmp_signed("<", shifted, code.constant(_BYTES, 0)), I64)
            planes = builder.insert_element(planes, mask, I32(bit))
    else:
        # Of each eight bytes, a byte of each bit; then the eight bytes of each bit side by side.
        of_eight = _multiplied(context, _units(), pixel)
        planes = code.shuffle(of_eight, of_eight, [EIGHT * (n % EIGHT) + n // EIGHT for n in range(MOST)])
    return builder.bitcast(planes, vector(I32, LANES))


def _searched(context: Context, k: int, planes: Sequence[Value], valid: int) -> tuple[Value, Value, Value]:
    """(above, equal, open) of eight pixels."""
    code, builder = context.code, context.code.builder
    if not context.isa.emulated:
        valid = int.from_bytes(int(f"{byte:08b}"[::-1], 2) for byte in valid.to_bytes(EIGHT, "big"))
    equal, above, left = (code.constant(_PLANES, number) for number in (valid, 0, k))
    for plane in reversed(planes):
        having = builder.and_(equal, plane)
        count = code.call("llvm.ctpop.v8i64", _PLANES, having)
        enough = builder.icmp_unsigned(">=", count, left)
        above = builder.select(enough, above, builder.or_(above, having))
        left = builder.select(enough, left, builder.sub(left, count))
        equal = builder.select(enough, having, builder.xor(equal, having))
    if context.isa.emulated:
        return above, equal, left

    def in_order(mask: Value) -> Value:
        return builder.bitcast(_multiplied(context, builder.bitcast(mask, _BYTES), _units()), _PLANES)

    return in_order(above), in_order(equal), left


def _units() -> Value:
    """Of each eight bytes, the n-th has the n-th bit."""
    return ir.Constant(_BYTES, [1 << n % EIGHT for n in range(MOST)])


def _multiplied(context: Context, bytes_: Value, matrices: Value) -> Value:
    """Bytes times matrices of bits, one of each for eight bytes; the first row of a matrix is its last byte."""
    return context.code.call("llvm.x86.vgf2p8affineqb.512", _BYTES, bytes_, matrices, I8(0))
