"""The two ends of a program: from a caller's array into the workspace and back."""

from __future__ import annotations

from dataclasses import dataclass

from host.cpu.ir import F32, F64, I8, I32, I64, Code, Value
from host.cpu.layout import Map


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
        with self._places(code, work) as (index, place):
            code.store(code.load(word, I8, index), place)

    def floats(self, code: Code, word: Value, work: Value) -> Value:
        """From float32; returns an int1 that says whether there was a NaN."""
        builder = code.builder
        bad = code.variable(I8, 0)
        low, high = float(-self.target.offset), float(255 - self.target.offset)
        with self._places(code, work) as (index, place):
            real = builder.fpext(code.load(word, F32, code.offset((index, 4))), F64)
            bad.set(builder.or_(bad.get(), builder.zext(builder.fcmp_unordered("uno", real, real), I8)))
            step = builder.fadd(builder.fdiv(real, F64(self.scale)), F64(0.5))
            whole = code.call("llvm.floor.f64", F64, step)
            # Of a NaN the lower bound remains, so that the conversion is defined.
            above = builder.select(builder.fcmp_ordered(">", whole, F64(low)), whole, F64(low))
            bounded = builder.select(builder.fcmp_ordered("<", above, F64(high)), above, F64(high))
            value = builder.add(builder.fptosi(bounded, I32), I32(self.target.offset))
            code.store(builder.trunc(value, I8), place)
        return builder.icmp_unsigned("!=", bad.get(), I8(0))

    def _places(self, code: Code, work: Value):
        return _places(code, self.target, work)


@dataclass(frozen=True)
class Output:
    """Writes a word in torch's order, as int32 or, each channel scaled, as float32."""

    source: Map

    def integers(self, code: Code, word: Value, work: Value) -> None:
        with _places(code, self.source, work) as (index, place):
            code.store(self._value(code, place), word, code.offset((index, 4)))

    def floats(self, code: Code, word: Value, work: Value, block: Value, at_scales: int) -> None:
        """`at_scales`: place of the channels' float64 scales in the block."""
        builder, pixels = code.builder, self.source.height * self.source.width
        with _places(code, self.source, work) as (index, place):
            channel = builder.udiv(index, I64(pixels)) if pixels > 1 else index
            scale = code.load(block, F64, builder.add(I64(at_scales), code.offset((channel, 8))))
            real = builder.fmul(builder.sitofp(self._value(code, place), F64), scale)
            code.store(builder.fptrunc(real, F32), word, code.offset((index, 4)))

    def _value(self, code: Code, place: Value) -> Value:
        if self.source.words:
            return code.load(place, I32)
        return code.builder.sub(code.builder.zext(code.load(place, I8), I32), I32(self.source.offset))


class _places:
    """Loops over the values of a map in torch's order: (number of the value, pointer to it)."""

    def __init__(self, code: Code, of: Map, work: Value):
        self._code, self._map, self._work = code, of, work

    def __enter__(self) -> tuple[Value, Value]:
        from contextlib import ExitStack

        code, of = self._code, self._map
        self._stack = ExitStack()
        index: Value = None
        distance: Value = None
        for count, step, torch_step in (
            (of.channels, of.unit, of.height * of.width),
            (of.height, of.row, of.width),
            (of.width, of.pixel, 1),
        ):
            if count == 1:
                continue
            number = self._stack.enter_context(code.loop(count))
            index = code.offset((number, torch_step), *(((index, 1),) if index is not None else ()))
            distance = code.offset((number, step), *(((distance, 1),) if distance is not None else ()))
        index = I64(0) if index is None else index
        distance = I64(0) if distance is None else distance
        return index, code.at(self._work, code.builder.add(distance, I64(of.origin)))

    def __exit__(self, *error) -> None:
        self._stack.__exit__(*error)
