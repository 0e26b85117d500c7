"""Products of bytes, added four or two at a time into sums of 32 bits, by the instructions that a path has."""

from __future__ import annotations

from dataclasses import dataclass

from host.cpu.ir import I8, I32, I64, Code, Value, vector
from host.cpu.isa import Isa
from host.cpu.layout import LANES

QUAD = 4


@dataclass(frozen=True)
class Dots:
    """The dot products of a path, in a function.

    Attributes:
        code: the function.
        isa: the path.
    """

    code: Code
    isa: Isa

    def quads(self, sums: Value, activations: Value, weights: Value) -> Value:
        """sums[i] + the four products of lane i; sums wrap, which is exact where the final sum fits.

        Args:
            sums: 16 int32.
            activations: 64 unsigned bytes.
            weights: 64 signed bytes.
        """
        builder, code, kind = self.code.builder, self.code, vector(I32, LANES)
        a, w = builder.bitcast(activations, kind), builder.bitcast(weights, kind)
        if self.isa.dot == "vpdpbusd":
            return code.call("llvm.x86.avx512.vpdpbusd.512", kind, sums, a, w)
        if self.isa.emulated:
            # As a function: written out, slots would take LLVM minutes.
            name = "quads"
            function = code.module.globals.get(name) or _quads_function(code.module, name)
            return builder.call(function, (sums, a, w))
        return _quads(code, sums, a, w)

    def pairs(self, sums: Value, activations: Value, weights: Value) -> Value:
        """sums[i] + the two products of lane i; activations and weights are vectors of 2 n int16, sums of n int32."""
        builder, code = self.code.builder, self.code
        if self.isa.dot == "vpmaddwd":
            return builder.add(sums, self._multiply_add(activations, weights))
        if self.isa.dot == "vpdpbusd" and sums.type.count == LANES:
            kind = vector(I32, LANES)
            left, right = builder.bitcast(activations, kind), builder.bitcast(weights, kind)
            return code.call("llvm.x86.avx512.vpdpwssd.512", kind, sums, left, right)
        left, right = (builder.bitcast(value, sums.type) for value in (activations, weights))
        sixteen = code.constant(sums.type, 16)
        for shift in (True, False):
            parts = [builder.ashr(builder.shl(v, sixteen) if shift else v, sixteen) for v in (left, right)]
            sums = builder.add(sums, builder.mul(*parts))
        return sums

    def _multiply_add(self, first: Value, second: Value) -> Value:
        """AVX2's sums of adjacent products of int16, for vectors of any length."""
        code, count = self.code, first.type.count
        if count > LANES:
            half = count // 2
            low, high = (
                self._multiply_add(code.part(first, start, half), code.part(second, start, half)) for start in (0, half)
            )
            return code.join(low, high)
        return code.call("llvm.x86.avx2.pmadd.wd", vector(I32, LANES // 2), first, second)

    def choose(self, choices: Value, tables: tuple[Value, ...]) -> Value:
        """Bytes of one table of 64, of two or of four, by 64 choices."""
        code, kind = self.code, vector(I8, 64)
        if self.isa.emulated:
            return self._looked_up(choices, tables)
        if len(tables) == 1:
            return code.call("llvm.x86.avx512.permvar.qi.512", kind, tables[0], choices)
        found = [
            code.call("llvm.x86.avx512.vpermi2var.qi.512", kind, tables[first], choices, tables[first + 1])
            for first in range(0, len(tables), 2)
        ]
        if len(found) == 1:
            return found[0]
        # The instruction heeds seven bits of a choice; the eighth is the sign.
        return code.builder.select(code.builder.icmp_signed("<", choices, code.constant(kind, 0)), *reversed(found))

    def _looked_up(self, choices: Value, tables: tuple[Value, ...]) -> Value:
        name = f"choose_of_{len(tables)}"
        function = self.code.module.globals.get(name) or _chooser(self.code.module, name, len(tables))
        return self.code.builder.call(function, (choices, *tables))


def _quads(code: Code, sums: Value, activations: Value, weights: Value) -> Value:
    """sums + products, by generic operations; all of 16 int32."""
    builder, kind = code.builder, sums.type
    for byte in range(QUAD):
        left = builder.and_(builder.lshr(activations, code.constant(kind, 8 * byte)), code.constant(kind, 0xFF))
        right = builder.ashr(builder.shl(weights, code.constant(kind, 24 - 8 * byte)), code.constant(kind, 24))
        sums = builder.add(sums, builder.mul(left, right))
    return sums


def _quads_function(module: Value, name: str) -> Value:
    kind = vector(I32, LANES)
    code = Code(module, name, (kind,) * 3, kind)
    code.function.attributes.add("noinline")
    code.finish(_quads(code, *code.function.args))
    return code.function


def _chooser(module: Value, name: str, tables: int) -> Value:
    """A function that chooses bytes one by one."""
    kind = vector(I8, 64)
    code = Code(module, name, (kind,) * (1 + tables), kind)
    code.function.attributes.add("noinline")
    table, wanted, found = (code.variable(vector(I8, 64 * count)).place for count in (tables, 1, 1))
    choices, *parts = code.function.args
    for number, part in enumerate(parts):
        code.store(part, table, 64 * number)
    code.store(choices, wanted)
    with code.loop(64) as lane:
        place = code.builder.zext(code.load(wanted, I8, lane), I64)
        code.store(code.load(table, I8, place), found, lane)
    code.finish(code.load(found, kind))
    return code.function
