"""A little language over LLVM's IR: loops, memory and vectors, so that kernels read like loops over vectors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
POINTER = ir.PointerType()

# An LLVM value, whose types llvmlite does not tell to type checkers.
Value = Any


def vector(element: Value, lanes: int) -> Value:
    return ir.VectorType(element, lanes)


class Tables:
    """Constants of the network, one behind the other in one block."""

    # Of a cache line, and of the widest vector.
    ALIGNMENT = 64

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, values: NDArray[Any]) -> int:
        """The place of the values in the block."""
        start, content = self._size, np.ascontiguousarray(values).tobytes()
        content += bytes(-len(content) % self.ALIGNMENT)
        self._parts.append(content)
        self._size += len(content)
        return start

    def block(self) -> NDArray[np.uint8]:
        # A vector may be read beyond the last value.
        return np.frombuffer(b"".join(self._parts) + bytes(2 * self.ALIGNMENT), np.uint8)


@dataclass(frozen=True)
class Variable:
    """A place that loops change; LLVM keeps it in registers."""

    code: Code
    type: Value
    place: Value

    def get(self) -> Value:
        return self.code.builder.load(self.place, typ=self.type)

    def set(self, value: Value) -> None:
        self.code.builder.store(value, self.place)


class Code:
    """A function under construction.

    Arguments:
        module: that it belongs to.
        name: of the function.
        arguments: types of its arguments.
        result: type of its result.
        private: whether only the module calls it.
    """

    def __init__(self, module: Value, name: str, arguments: Sequence[Value], result: Value, *, private: bool = True):
        self.module = module
        self.function = ir.Function(module, ir.FunctionType(result, arguments), name)
        if private:
            self.function.linkage = "internal"
        for argument in self.function.args:
            if argument.type == POINTER:
                argument.add_attribute("noalias")
        self._entry = self.function.append_basic_block("entry")
        body = self.function.append_basic_block("body")
        self.builder = ir.IRBuilder(body)
        self._body = body

    def finish(self, result: Value = None) -> None:
        if result is None:
            self.builder.ret_void()
        else:
            self.builder.ret(result)
        with self.builder.goto_block(self._entry):
            self.builder.branch(self._body)

    # Control

    @contextlib.contextmanager
    def loop(self, count: int | Value, start: int | Value = 0, step: int = 1) -> Iterator[Value]:
        """The body of `for (i = start; i < count; i += step)`, which runs at least once."""
        counter = self.variable(I64, start)
        head = self.builder.append_basic_block("loop")
        self.builder.branch(head)
        self.builder.position_at_end(head)
        index = counter.get()
        yield index
        following = self.builder.add(index, I64(step))
        counter.set(following)
        again = self.builder.icmp_signed("<", following, self.i64(count))
        after = self.builder.append_basic_block("after")
        self.builder.cbranch(again, head, after)
        self.builder.position_at_end(after)

    @contextlib.contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        with self.builder.if_then(condition):
            yield

    def variable(self, kind: Value, initial: Value = None) -> Variable:
        with self.builder.goto_block(self._entry):
            place = self.builder.alloca(kind)
        # llvmlite remembers what an alloca points to, and would hold every store to it.
        place.type = POINTER
        made = Variable(self, kind, place)
        if initial is not None:
            made.set(kind(initial) if isinstance(initial, int) else initial)
        return made

    # Memory

    def i64(self, value: int | Value) -> Value:
        return I64(value) if isinstance(value, int) else value

    def at(self, base: Value, offset: int | Value) -> Value:
        """A pointer some bytes further."""
        if isinstance(offset, int) and offset == 0:
            return base
        return self.builder.gep(base, [self.i64(offset)], inbounds=True, source_etype=I8)

    def load(self, base: Value, kind: Value, offset: int | Value = 0) -> Value:
        return self.builder.load(self.at(base, offset), typ=kind, align=1)

    def store(self, value: Value, base: Value, offset: int | Value = 0) -> None:
        self.builder.store(value, self.at(base, offset), align=1)

    def prefetch(self, place: Value) -> None:
        """Asks for a line of memory that will soon be read, for the second cache."""
        name, kinds = "llvm.prefetch.p0", (POINTER, I32, I32, I32)
        function = self.module.globals.get(name)
        if function is None:
            function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), kinds), name)
        self.builder.call(function, (place, I32(0), I32(2), I32(1)))

    def anew(self, pointer: Value) -> Value:
        """The same pointer, of which LLVM does not know that it is: what a loop reads through it stays in the loop.

        Without it the constants of a long loop body would be read before the loop, and held on the stack.
        """
        same = ir.FunctionType(POINTER, (POINTER,))
        return self.builder.asm(same, "", "=r,0", (pointer,), side_effect=True)

    # Arithmetic

    def offset(self, *terms: tuple[int | Value, int]) -> int | Value:
        """The sum of index * constant over the terms: a number where all indices are."""
        total: int | Value = sum(index * factor for index, factor in terms if isinstance(index, int))
        for index, factor in terms:
            if isinstance(index, int):
                continue
            part = index if factor == 1 else self.builder.mul(index, I64(factor))
            total = part if isinstance(total, int) and total == 0 else self.builder.add(self.i64(total), part)
        return total

    def splat(self, value: Value, lanes: int) -> Value:
        kind = vector(value.type, lanes)
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
        return self.builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), self.choice([0] * lanes))

    def constant(self, kind: Value, value: float) -> Value:
        """A number, or a vector of equal numbers."""
        if isinstance(kind, ir.VectorType):
            return ir.Constant(kind, [value] * kind.count)
        return kind(value)

    @staticmethod
    def choice(lanes: Sequence[int]) -> Value:
        return ir.Constant(vector(I32, len(lanes)), list(lanes))

    def shuffle(self, first: Value, second: Value, lanes: Sequence[int]) -> Value:
        return self.builder.shuffle_vector(first, second, self.choice(lanes))

    def part(self, value: Value, start: int, count: int) -> Value:
        """Lanes of a vector, as a vector."""
        return self.shuffle(value, value, range(start, start + count))

    def join(self, first: Value, second: Value) -> Value:
        return self.shuffle(first, second, range(first.type.count + second.type.count))

    def greater(self, first: Value, second: Value, *, signed: bool = True) -> Value:
        """The greater of both, lane by lane."""
        compare = self.builder.icmp_signed if signed else self.builder.icmp_unsigned
        return self.builder.select(compare(">", first, second), first, second)

    def less(self, first: Value, second: Value) -> Value:
        return self.builder.select(self.builder.icmp_signed("<", first, second), first, second)

    def call(self, name: str, result: Value, *arguments: Value) -> Value:
        """One of LLVM's own functions."""
        function = self.module.globals.get(name)
        if function is None:
            function = ir.Function(self.module, ir.FunctionType(result, [a.type for a in arguments]), name)
        return self.builder.call(function, arguments)

    def trailing_zeros(self, value: Value) -> Value:
        """Of an int64 that is not 0."""
        return self.builder.cttz(value, I1(1))
