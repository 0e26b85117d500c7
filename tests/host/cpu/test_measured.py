"""Ways of a step that are measured while they run."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace

import numpy as np
import pytest

from host.cpu.compiler import compiled
from host.cpu.ir import I64
from host.cpu.isa import EMULATED, PATHS, Isa
from host.cpu.measured import BETWEEN_TRIALS, Measured
from host.cpu.plan import Planner
from host.cpu.program import Program
from host.cpu.steps import Context
from hwgen.format.network import Input, IntegerNetwork, ReLU

only_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="only x86 lets programs read its cycle counter"
)
# Bytes behind the plan's, where a step of the test counts.
ROOM = 128


@dataclass(frozen=True)
class Counting:
    """Counts its words at a place of the workspace, and takes its time."""

    name: str
    place: int
    rounds: int

    def emit(self, context: Context) -> None:
        code = context.code
        with code.loop(self.rounds):
            # LLVM would add them all at once if it knew the place.
            work = code.anew(context.work)
            code.store(code.builder.add(code.load(work, I64, self.place), I64(1)), work, self.place)


@dataclass(frozen=True)
class Warming:
    """Counts its words at a place of the workspace, and takes more time if the word before took another way."""

    name: str
    place: int
    last: int
    warm: int
    cold: int

    def emit(self, context: Context) -> None:
        code, work = context.code, context.work
        again = code.builder.icmp_unsigned("==", code.load(work, I64, self.last), I64(self.place))
        code.store(I64(self.place), work, self.last)
        with code.loop(code.builder.select(again, I64(self.warm), I64(self.cold))):
            work = code.anew(context.work)
            code.store(code.builder.add(code.load(work, I64, self.last + 8), I64(1)), work, self.last + 8)
        code.store(code.builder.add(code.load(work, I64, self.place), I64(1)), work, self.place)


def words_of_each(isa: Isa, words: int, rounds: tuple[int, ...], cold: int = 0) -> list[float]:
    """How many of the words each way took; of those that take `cold` rounds at first, if that is not 0."""
    network = IntegerNetwork(Input((4,), 1.0, True), (ReLU("r"),), np.ones(4))
    plan = Planner(network, isa).plan()
    ways = tuple(Counting("count", plan.size + 8 * number, count) for number, count in enumerate(rounds))
    last = plan.size + ROOM - 16
    if cold:
        ways = tuple(Warming("warm", way.place, last, way.rounds, cold) for way in ways)
        rounds = (1,) * len(ways)
    step = Measured(ways, plan.size + ROOM // 2)
    plan = replace(plan, steps=(*plan.steps, step), size=plan.size + ROOM)
    program = Program(compiled(plan, network.output_scale, isa), isa)
    work, x, y = program.workspace(), np.zeros((words, 4), np.uint8), np.zeros((words, 4), np.int32)
    program.integers(x.ctypes.data, y.ctypes.data, words, work.ctypes.data, program.block)
    counted = work[plan.size - ROOM :][: 8 * len(rounds)].view(np.int64)
    return (counted / np.array(rounds)).tolist()


@only_x86
def test_most_words_take_the_fastest_way():
    words = 40 * BETWEEN_TRIALS
    slow, fast, slower = words_of_each(PATHS["portable"], words, (3000, 30, 6000))
    assert slow + fast + slower == words
    assert fast > 0.9 * words
    # The others are tried from time to time: one of them may have become faster.
    assert slow >= 10
    assert slower >= 10


@only_x86
def test_a_way_that_is_slow_at_first_is_found_out():
    words = 40 * BETWEEN_TRIALS
    slow, fast = words_of_each(PATHS["portable"], words, (1500, 300), cold=6000)
    assert slow + fast == words
    assert fast > 0.9 * words


@pytest.mark.parametrize("isa", EMULATED.values(), ids=EMULATED)
def test_in_emulation_the_ways_take_turns(isa):
    assert words_of_each(isa, 30, (1, 5, 9)) == [10, 10, 10]
