"""k-WTA on bytes: a threshold found bit by bit, then ties to the lowest index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from llvmlite import ir

from host.cpu import planes
from host.cpu.ir import I1, I8, I16, I32, I64, Value, Variable, vector
from host.cpu.layout import Map
from host.cpu.steps import Context, Lists

# Bytes compared at once: as many as a mask has bits.
CHUNK = 64
# Pixels whose thresholds are searched side by side, at most.
TOGETHER = 16


@dataclass(frozen=True)
class Marks:
    """Masks of a chunk of bytes, a bit for each."""

    context: Context

    def loaded(self, base: Value, count: int, offset: int) -> Value:
        return self.context.code.load(base, vector(I8, count), offset)

    def where(self, relation: str, values: Value, threshold: Value) -> Value:
        """The bytes that stand in a relation to the threshold, an int8; an int64."""
        code, builder = self.context.code, self.context.code.builder
        count = values.type.count
        found = builder.icmp_unsigned(relation, values, code.splat(threshold, count))
        mask = builder.bitcast(found, ir.IntType(count))
        return mask if count == CHUNK else builder.zext(mask, I64)

    def count(self, mask: Value) -> Value:
        return self.context.code.call("llvm.ctpop.i64", I64, mask)

    def lowest(self, mask: Value, count: Value) -> Value:
        """The lowest `count` bits that are set; all where there are no more."""
        code, builder = self.context.code, self.context.code.builder
        if self.context.isa.deposits:
            many = builder.icmp_unsigned(">=", count, I64(CHUNK))
            first = builder.sub(builder.shl(I64(1), builder.select(many, I64(0), count)), I64(1))
            return code.call("llvm.x86.bmi.pdep.64", I64, builder.select(many, I64(-1), first), mask)
        left, taken = code.variable(I64, mask), code.variable(I64, 0)
        with code.loop(CHUNK) as round_:
            bit = builder.and_(left.get(), builder.neg(left.get()))
            wanted = builder.select(builder.icmp_unsigned("<", round_, count), bit, I64(0))
            taken.set(builder.or_(taken.get(), wanted))
            left.set(builder.xor(left.get(), bit))
        return taken.get()

    def kept(self, mask: Value, values: Value, zero: int) -> Value:
        """The values whose bits are set; the others become zero."""
        code, builder = self.context.code, self.context.code.builder
        count = values.type.count
        bits = mask if count == CHUNK else builder.trunc(mask, ir.IntType(count))
        chosen = builder.bitcast(bits, vector(I1, count))
        return builder.select(chosen, values, code.constant(values.type, zero))

    def all_listed(self, mask: Value, pixel: Value, to_list: Value, count: int, lists: Lists, zero: int) -> None:
        """Makes a list of which it is known how long it is, of bytes from the first channel on."""
        code, builder = self.context.code, self.context.code.builder
        for number in range(count):
            lane = code.trailing_zeros(mask)
            mask = builder.and_(mask, builder.sub(mask, I64(1)))
            value = builder.sub(builder.zext(code.load(pixel, I8, lane), I16), I16(zero))
            code.store(builder.trunc(code.offset((lane, lists.row_bytes)), I32), to_list, 4 * number)
            code.store(value, to_list, lists.values + 2 * number)

    def listed(self, mask: Value, pixel: Value, place: Value, number: Variable, lists: Lists, zero: int) -> None:
        """Appends the bytes of a mask to a list.

        Args:
            mask: which bytes; not zero.
            pixel: pointer to the first byte.
            place: (pointer to the list, bytes of a row to the first byte's).
            number: entries so far.
        """
        code, builder = self.context.code, self.context.code.builder
        to_list, first_row = place
        left = code.variable(I64, mask)
        again, after = builder.append_basic_block("entry_of_list"), builder.append_basic_block("listed")
        builder.cbranch(builder.icmp_unsigned("!=", mask, I64(0)), again, after)
        builder.position_at_end(again)
        lane = code.trailing_zeros(left.get())
        value = builder.sub(builder.zext(code.load(pixel, I8, lane), I16), I16(zero))
        row = builder.add(first_row, code.offset((lane, lists.row_bytes)))
        code.store(builder.trunc(row, I32), to_list, code.offset((number.get(), 4)))
        code.store(value, code.at(to_list, code.offset((number.get(), 2))), lists.values)
        number.set(builder.add(number.get(), I64(1)))
        following = builder.and_(left.get(), builder.sub(left.get(), I64(1)))
        left.set(following)
        builder.cbranch(builder.icmp_unsigned("!=", following, I64(0)), again, after)
        builder.position_at_end(after)


def thresholds(context: Context, k: int, counts: Sequence[Callable[[Value], Value]]) -> list[Value]:
    """The k-th largest byte of several groups: the largest that at least k of its bytes reach.

    Args:
        context: where the code goes.
        k: winners.
        counts: of each group, how many bytes reach a candidate.
    """
    builder = context.code.builder
    found: list[Value] = [I8(0)] * len(counts)
    for bit in range(7, -1, -1):
        candidates = [builder.or_(value, I8(1 << bit)) for value in found]
        reached = [
            builder.icmp_unsigned(">=", count(candidate), I64(k))
            for count, candidate in zip(counts, candidates, strict=True)
        ]
        # No select: LLVM would branch on it, and no processor foresees which way.
        found = [
            builder.or_(value, builder.shl(builder.zext(where, I8), I8(bit)))
            for value, where in zip(found, reached, strict=True)
        ]
    return found


@dataclass(frozen=True)
class LocalWinners:
    """k of the channels of each pixel."""

    name: str
    source: Map
    target: Map
    k: int
    lists: Lists | None

    def emit(self, context: Context) -> None:
        code, source, target = context.code, self.source, self.target
        # Each bit of a threshold waits for the one before: neighbours are searched side by side.
        together = -(-source.width // -(-source.width // TOGETHER))
        with code.loop(source.height) as y, code.loop(source.width, step=together) as start:
            # The last ones of a row may be searched again.
            x = code.less(start, I64(source.width - together)) if source.width % together else start
            base = code.at(context.work, code.offset((y, source.row), (x, source.pixel)))
            place = code.at(context.work, code.offset((y, target.row), (x, target.pixel)))
            pixels = [_Pixel(self, context, code.at(base, source.origin + n * source.pixel)) for n in range(together)]
            for number, (pixel, found) in enumerate(zip(pixels, self._search(context, pixels), strict=True)):
                to_list = None
                if self.lists:
                    to_list = code.at(context.work, code.offset((y, self.lists.row), (x, self.lists.pixel)))
                    to_list = code.at(to_list, self.lists.origin + number * self.lists.pixel)
                pixel.store(found, code.at(place, target.origin + number * target.pixel), to_list)

    def _search(self, context: Context, pixels: Sequence[_Pixel]) -> list[tuple[list[Value], list[Value], Value]]:
        """Of each pixel the masks of its chunks, of bytes above the lowest winner and equal to it, and how many of these win."""
        if context.isa.permutes and self.source.channels <= planes.MOST:
            values, (valid,) = [pixel.values[0] for pixel in pixels], pixels[0].valid
            return [([one.above], [one.equal], one.open) for one in planes.largest(context, self.k, values, valid)]
        bounds = thresholds(context, self.k, [pixel.reaching for pixel in pixels])
        return [pixel.found(bound) for pixel, bound in zip(pixels, bounds, strict=True)]


class _Pixel:
    """One pixel's search."""

    def __init__(self, step: LocalWinners, context: Context, pixel: Value):
        source = step.source
        self._step, self._context, self._marks, self._pixel = step, context, Marks(context), pixel
        chunks = [(start, min(CHUNK, source.stride - start)) for start in range(0, source.channels, CHUNK)]
        self._starts = [start for start, _ in chunks]
        self.valid = [(1 << min(CHUNK, source.channels - start)) - 1 for start in self._starts]
        self.values = [self._marks.loaded(pixel, count, start) for start, count in chunks]

    def _among(self, relation: str, bound: Value) -> list[Value]:
        builder = self._context.code.builder
        found = (self._marks.where(relation, part, bound) for part in self.values)
        return [builder.and_(mask, I64(bits)) for mask, bits in zip(found, self.valid, strict=True)]

    def reaching(self, candidate: Value) -> Value:
        """How many channels are at least that large."""
        total: Value = I64(0)
        for mask in self._among(">=", candidate):
            total = self._context.code.builder.add(total, self._marks.count(mask))
        return total

    def found(self, bound: Value) -> tuple[list[Value], list[Value], Value]:
        """Masks of the bytes above the lowest winner and equal to it, and how many of these win."""
        above, equal = self._among(">", bound), self._among("==", bound)
        open_places: Value = I64(self._step.k)
        for mask in above:
            open_places = self._context.code.builder.sub(open_places, self._marks.count(mask))
        return above, equal, open_places

    def store(self, found: tuple[list[Value], list[Value], Value], place: Value, to_list: Value) -> None:
        """Stores the winners, given what was found; `to_list` is None where no list is wanted."""
        code, builder, marks, step = self._context.code, self._context.code.builder, self._marks, self._step
        above, equal, open_places = found
        number = code.variable(I64, 0)
        for part, start in enumerate(self._starts):
            ties = marks.lowest(equal[part], open_places)
            open_places = builder.sub(open_places, marks.count(ties))
            winners = builder.or_(above[part], ties)
            code.store(marks.kept(winners, self.values[part], step.source.offset), place, start)
            if step.lists and len(self._starts) == 1:
                marks.all_listed(winners, self._pixel, to_list, step.k, step.lists, step.source.offset)
            elif step.lists:
                first_row = I64(start * step.lists.row_bytes)
                pixel = code.at(self._pixel, start)
                marks.listed(winners, pixel, (to_list, first_row), number, step.lists, step.source.offset)


@dataclass(frozen=True)
class GlobalWinners:
    """k of all values. The list, if there is one, is flat: channels are bytes from the first pixel's first channel."""

    name: str
    source: Map
    target: Map
    k: int
    lists: Lists | None

    def emit(self, context: Context) -> None:
        code, builder, source, target, marks = (
            context.code,
            context.code.builder,
            self.source,
            self.target,
            Marks(context),
        )
        size = source.height * source.row
        count = -(-size // CHUNK)
        lanes = np.zeros(count * CHUNK, bool)
        lanes[:size].reshape(-1, source.stride)[:, : source.channels] = True
        valid = context.tables.add(np.packbits(lanes, bitorder="little"))
        first = code.at(context.work, source.origin)

        def chunk(number: Value) -> tuple[Value, Value]:
            values = marks.loaded(code.at(first, code.offset((number, CHUNK))), CHUNK, 0)
            return values, code.load(context.block, I64, builder.add(I64(valid), code.offset((number, 8))))

        def counted(relation: str, bound: Value) -> Value:
            total = code.variable(I64, 0)
            with code.loop(count) as number:
                values, bits = chunk(number)
                mask = builder.and_(marks.where(relation, values, bound), bits)
                total.set(builder.add(total.get(), marks.count(mask)))
            return total.get()

        (bound,) = thresholds(context, self.k, [lambda candidate: counted(">=", candidate)])
        places = code.variable(I64, builder.sub(I64(self.k), counted(">", bound)))
        one_pixel = source.height * source.width == 1
        # Torch's order is that of the bytes in a single pixel. In others the order matters if not all ties win.
        if not one_pixel:
            equal = counted("==", bound)
            ambiguous = builder.icmp_unsigned("!=", equal, places.get())
            open_places = code.variable(I64, places.get())
            with code.when(ambiguous):
                places.set(I64(0))
        entries = code.variable(I64, 0)
        to_list = code.at(context.work, self.lists.origin) if self.lists else None
        in_place = target.row == source.row and target.stride == source.stride
        assert in_place, "a global k-WTA needs maps without a border"
        self._select(context, count, chunk, bound, places, None if not one_pixel else to_list, entries)
        if not one_pixel:
            with code.when(ambiguous):
                self._ties_in_order(context, bound, open_places)
            if to_list is not None:
                self._list(context, count, to_list, entries)

    def _select(self, context, count, chunk, bound, places, to_list, entries) -> None:
        code, builder, marks = context.code, context.code.builder, Marks(context)
        first, lists = code.at(context.work, self.source.origin), self.lists
        with code.loop(count) as number:
            values, bits = chunk(number)
            above = builder.and_(marks.where(">", values, bound), bits)
            ties = marks.lowest(builder.and_(marks.where("==", values, bound), bits), places.get())
            places.set(builder.sub(places.get(), marks.count(ties)))
            winners = builder.or_(above, ties)
            distance = code.offset((number, CHUNK))
            kept = marks.kept(winners, values, self.source.offset)
            code.store(kept, code.at(context.work, distance), self.target.origin)
            if to_list is not None and lists is not None:
                first_row = code.offset((distance, lists.row_bytes))
                place = (to_list, first_row)
                marks.listed(winners, code.at(first, distance), place, entries, lists, self.source.offset)

    def _ties_in_order(self, context: Context, bound: Value, places: Variable) -> None:
        code, builder, source, target = context.code, context.code.builder, self.source, self.target
        with code.loop(source.channels) as c, code.loop(source.height) as y, code.loop(source.width) as x:
            distance = code.offset((c, 1), (y, source.row), (x, source.pixel))
            value = code.load(code.at(context.work, source.origin), I8, distance)
            tie = builder.icmp_unsigned("==", value, bound)
            wins = builder.and_(tie, builder.icmp_unsigned("!=", places.get(), I64(0)))
            with code.when(wins):
                code.store(value, code.at(context.work, target.origin), distance)
                places.set(builder.sub(places.get(), I64(1)))

    def _list(self, context: Context, count: int, to_list: Value, entries: Variable) -> None:
        code, builder, marks, lists = context.code, context.code.builder, Marks(context), self.lists
        assert lists is not None
        first = code.at(context.work, self.target.origin)
        # Winners of value 0 need no entry; those that the last word had and this one has not must go.
        with code.loop(lists.slots) as slot:
            code.store(I16(0), code.at(to_list, code.offset((slot, 2))), lists.values)
        with code.loop(count) as number:
            distance = code.offset((number, CHUNK))
            pixel = code.at(first, distance)
            found = marks.where("!=", marks.loaded(pixel, CHUNK, 0), I8(self.target.offset))
            # Beyond the map, at the end of the last chunk, nothing is known.
            left = builder.sub(I64(self.source.height * self.source.row), distance)
            whole = builder.icmp_signed(">=", left, I64(CHUNK))
            first_bits = builder.sub(builder.shl(I64(1), builder.select(whole, I64(0), left)), I64(1))
            found = builder.and_(found, builder.select(whole, I64(-1), first_bits))
            place = (to_list, code.offset((distance, lists.row_bytes)))
            marks.listed(found, pixel, place, entries, lists, self.target.offset)
