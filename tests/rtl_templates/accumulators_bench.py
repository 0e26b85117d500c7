"""cocotb tests of Accumulators: groups of products under the credits that a walker has."""

from __future__ import annotations

import random
from itertools import pairwise

import cocotb
from cocotb.triggers import RisingEdge

from sim.streams import STALLS, Sink, parameters, unpack
from tests.rtl_templates.clocked import Clocked

P = parameters()
BITS, LANES, SETS, KERNELS, BANKS = (P[name] for name in ("bits", "lanes", "sets", "kernels", "banks"))
PLACES = LANES * SETS
# Kernels that products go to.
USED = KERNELS if P.get("routed", True) else 1
LOW, HIGH = -(1 << (BITS - 1)), (1 << (BITS - 1)) - 1

# A step is a (kernel ID, product) for every lane and set, lane-major; a group is a list of steps.
Step = list[tuple[int, int]]


def sums(group: list[Step]) -> list[list[int]]:
    """For each kernel the totals of all sets."""
    totals = [[0] * SETS for _ in range(KERNELS)]
    for step in group:
        for place, (kernel, product) in enumerate(step):
            totals[kernel][place % SETS] += product
    return totals


def groups(count: int, seed: int, shortest: int = 1) -> list[list[Step]]:
    draw = random.Random(seed)
    # No partial sum of these may leave the accumulator.
    largest = min(65535, HIGH // (12 * LANES))
    made = []
    for number in range(count):
        steps = draw.choice([shortest, shortest + 1, shortest + draw.randrange(10)])
        # Every third group leaves accumulators untouched, with what earlier groups left in them.
        kernels = 1 if number % 3 == 0 else USED
        made.append(
            [[(draw.randrange(kernels), draw.randint(-largest, largest)) for _ in range(PLACES)] for _ in range(steps)]
        )
    return made


def bounds(end: int) -> list[Step]:
    """A group whose every accumulator ends at `end`, in products as large as they can be."""
    steps: list[Step] = []
    for kernel in range(USED):
        left, limit = end, 65535 if end > 0 else -65536
        while left:
            step: Step = []
            for _ in range(LANES):
                product = min(left, limit) if end > 0 else max(left, limit)
                left -= product
                step += [(kernel, product)] * SETS
            steps.append(step)
    return steps


class Feeder:
    """Starts a group where a bank is free, so as the walker does; steps of a group follow each other.

    Members:
        finished: cycle of each group's last step.
    """

    def __init__(self, dut):
        self.dut, self.random, self.pause = dut, random.Random(1), 0.0
        self.products = [getattr(dut, f"products__{i}") for i in range(PLACES)]
        # A port without a bit does not exist.
        self.kernel_ids = [getattr(dut, f"kernel_ids__{i}", None) for i in range(PLACES)]
        self.clear()

    def clear(self) -> None:
        self.steps: list[tuple[bool, bool, Step]] = []
        self.free, self.finished = BANKS, list[int]()
        self.last = False
        self._drive(None)

    def send(self, made: list[list[Step]]) -> None:
        for group in made:
            self.steps += [(i == 0, i == len(group) - 1, step) for i, step in enumerate(group)]

    def step(self, cycle: int) -> None:
        self.free += int(self.dut.returned.value)
        assert self.free <= BANKS, "a bank was returned that nobody had"
        if self.last:
            self.finished.append(cycle)
        if not self.steps or self.steps[0][0] and (not self.free or self.random.random() < self.pause):
            self._drive(None)
            return
        first = self.steps[0][0]
        self.free -= first
        self._drive(self.steps.pop(0))

    def _drive(self, step: tuple[bool, bool, Step] | None) -> None:
        self.last = step is not None and step[1]
        self.dut.valid.value = int(step is not None)
        # Without a valid step everything else is noise.
        first, last, content = step or (
            self.random.random() < 0.5,
            self.random.random() < 0.5,
            [(self.random.randrange(KERNELS), self.random.randrange(-65536, 65536)) for _ in range(PLACES)],
        )
        self.dut.first.value, self.dut.last.value = int(first), int(last)
        for place, (kernel, product) in enumerate(content):
            self.products[place].value = product & 0x1FFFF
            if (port := self.kernel_ids[place]) is not None:
                port.value = kernel


def make_bench(dut) -> tuple[Clocked, Feeder, Sink]:
    feeder, sink = Feeder(dut), Sink(dut)
    return Clocked(dut, [feeder, sink]), feeder, sink


async def run(bench: Clocked, feeder: Feeder, sink: Sink, made: list[list[Step]]) -> None:
    await bench.reset()
    feeder.send(made)
    for _ in range(400 * len(made)):
        if len(sink.beats) >= KERNELS * len(made):
            break
        await RisingEdge(bench.dut.clk)
    await bench.wait(20)
    wanted = [beat for group in made for beat in sums(group)]
    assert [unpack(beat, BITS, SETS, True) for beat in sink.beats] == wanted
    assert feeder.free == BANKS


@cocotb.test()
async def sums_under_stalls(dut):
    bench, feeder, sink = make_bench(dut)
    for idle, back_pressure in STALLS:
        feeder.pause, sink.pause = idle, back_pressure
        await run(bench, feeder, sink, groups(60, seed=2))


@cocotb.test()
async def reaches_both_ends_of_the_accumulator(dut):
    bench, feeder, sink = make_bench(dut)
    made = [bounds(HIGH), bounds(LOW), [[(0, 0)] * PLACES], bounds(LOW), bounds(HIGH)]
    for group, end in zip(made[:2], (HIGH, LOW), strict=True):
        assert sums(group) == [[end] * SETS] * USED + [[0] * SETS] * (KERNELS - USED)
    await run(bench, feeder, sink, made)


@cocotb.test()
async def reset_in_flight_starts_afresh(dut):
    bench, feeder, sink = make_bench(dut)
    for delay in range(1, 40):
        await bench.reset()
        feeder.send(groups(20, seed=3))
        await bench.wait(delay)
        await run(bench, feeder, sink, groups(3, seed=delay))


@cocotb.test()
async def latency_of_a_group(dut):
    bench, feeder, sink = make_bench(dut)
    for seed in range(5):
        await run(bench, feeder, sink, groups(1, seed, shortest=seed + 1))
        assert sink.cycles[0] - feeder.finished[0] == P["latency"]
        assert [cycle - sink.cycles[0] for cycle in sink.cycles] == list(range(KERNELS))


@cocotb.test()
async def a_beat_a_cycle_without_a_pause(dut):
    bench, feeder, sink = make_bench(dut)
    # Groups as long as their drain, in banks that cover the latency.
    made = [[[(0, 1)] * PLACES] * KERNELS for _ in range(40)]
    await run(bench, feeder, sink, made)
    ends = {b - a for a, b in pairwise(feeder.finished)}
    pauses = {b - a for a, b in pairwise(sink.cycles)}
    assert (ends, pauses) == ({KERNELS}, {1})
