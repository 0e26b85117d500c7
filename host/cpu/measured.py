"""Several ways of one step, of which each word takes the one that was the fastest lately.

Which way is the fastest may change while a program runs: on a machine with other work AMX's tiles were at times faster
than vector code and at times slower.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from host.cpu.ir import I64, POINTER, Code, Value
from host.cpu.steps import Context, Step

# Words of which some in a row try the next way, whether it was slower or not: what the first of these reads and runs has left
# the caches.
BETWEEN_TRIALS, TRIAL = 128, 4
# A way's time falls at once, and rises by this fraction of what a word took more, or of half of it if that is less: an
# interrupt says nothing of a way.
RISE = 16
# Another way is taken if it is faster by more than this fraction: to change ways makes caches cold.
GAIN = 8


@dataclass(frozen=True, eq=False)
class Measured:
    """Ways that compute the same.

    Attributes:
        ways: at least one.
        state: byte in the workspace where the number of words is kept, then the way that they take and each way's time;
            `size` bytes.
    """

    ways: tuple[Step, ...]
    state: int = 0

    @property
    def name(self) -> str:
        return self.ways[0].name

    @property
    def size(self) -> int:
        return 8 * (2 + len(self.ways))

    def emit(self, context: Context) -> None:
        code, builder = context.code, context.code.builder
        times = self.state + 16
        words = code.load(context.work, I64, self.state)
        code.store(builder.add(words, I64(1)), context.work, self.state)
        trial = builder.udiv(words, I64(BETWEEN_TRIALS))
        due = builder.icmp_unsigned("<", builder.urem(words, I64(BETWEEN_TRIALS)), I64(TRIAL))
        # Emulation has no time: the ways take turns, so that tests see all of them.
        turn = builder.urem(words if context.isa.emulated else trial, I64(len(self.ways)))
        fastest = self._fastest(context, times)
        chosen = turn if context.isa.emulated else builder.select(due, turn, fastest)
        before = self._now(context)
        functions = [self._function(context, number, way) for number, way in enumerate(self.ways)]
        after = builder.append_basic_block("measured")
        switch = builder.switch(chosen, after)
        for number, function in enumerate(functions):
            block = builder.append_basic_block("way")
            switch.add_case(I64(number), block)
            builder.position_at_end(block)
            builder.call(function, (context.work, context.block))
            builder.branch(after)
        builder.position_at_end(after)
        taken = builder.sub(self._now(context), before)
        place = code.at(context.work, code.offset((chosen, 8), (times, 1)))
        known = code.load(place, I64)
        # Interrupts, and caches that are cold at first, only ever make a time longer.
        more, most = builder.sub(taken, known), builder.udiv(known, I64(2))
        more = builder.select(builder.icmp_unsigned("<", more, most), more, most)
        slower = builder.add(known, builder.udiv(more, I64(RISE)))
        longer = builder.icmp_unsigned(">", taken, known)
        first = builder.icmp_unsigned("==", known, I64(0))
        code.store(builder.select(builder.or_(first, builder.not_(longer)), taken, slower), place)

    def _fastest(self, context: Context, times: int) -> Value:
        """The number of the way that takes the least time, or of the one before where that is close; one that was never
        taken takes none."""
        code, builder = context.code, context.code.builder
        fastest = code.load(context.work, I64, self.state + 8)
        least = code.load(code.at(context.work, code.offset((fastest, 8))), I64, times)
        least = builder.sub(least, builder.udiv(least, I64(GAIN)))
        for number in range(len(self.ways)):
            time = code.load(context.work, I64, times + 8 * number)
            faster = builder.icmp_unsigned("<", time, least)
            fastest, least = builder.select(faster, I64(number), fastest), builder.select(faster, time, least)
        code.store(fastest, context.work, self.state + 8)
        return fastest

    @staticmethod
    def _now(context: Context) -> Value:
        return I64(0) if context.isa.emulated else context.code.call("llvm.readcyclecounter", I64)

    @staticmethod
    def _function(context: Context, number: int, way: Step) -> Value:
        name = f"{context.code.function.name}_way_{number}"
        code = Code(context.code.module, name, (POINTER, POINTER), ir.VoidType())
        work, block = code.function.args
        way.emit(Context(code, context.isa, work, block, context.tables))
        code.finish()
        return code.function
