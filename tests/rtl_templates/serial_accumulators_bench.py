"""cocotb tests of SerialAccumulators: groups of products, each after the credit of the one before."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import cocotb

from sim.streams import STALLS, Sink, parameters
from tests.rtl_templates.accumulators_bench import HIGH, KERNELS, LOW, PLACES, SETS, Feeder, bounds, groups, run, sums
from tests.rtl_templates.clocked import Clocked

P = parameters()
LEAD = P["lead"]


class LateFeeder(Feeder):
    """Starts a group `lead` cycles after the credit, the first when the component is ready."""

    def clear(self) -> None:
        super().clear()
        self.free, self.ready = 0, False
        self.coming = deque([0] * (LEAD - 1))

    def step(self, cycle: int) -> None:
        returned = int(self.dut.returned.value)
        self.coming.append(returned)
        # The feeder counts what is returned now.
        self.free += self.coming.popleft() - returned
        if not self.ready and self.dut.ready.value:
            self.free, self.ready = self.free + 1, True
        super().step(cycle)


def make_bench(dut) -> tuple[Clocked, LateFeeder, Sink]:
    feeder, sink = LateFeeder(dut), Sink(dut)
    return Clocked(dut, [feeder, sink]), feeder, sink


@cocotb.test()
async def sums_under_stalls(dut):
    bench, feeder, sink = make_bench(dut)
    for idle, back_pressure in (*STALLS, (0.0, 0.9)):
        feeder.pause, sink.pause = idle, back_pressure
        await run(bench, feeder, sink, groups(60, seed=2))


@cocotb.test()
async def reaches_both_ends_of_the_accumulator(dut):
    bench, feeder, sink = make_bench(dut)
    made = [bounds(HIGH), bounds(LOW), [[(0, 0)] * PLACES], bounds(LOW), bounds(HIGH)]
    assert sums(made[0]) == [[HIGH] * SETS] * KERNELS and sums(made[1]) == [[LOW] * SETS] * KERNELS
    await run(bench, feeder, sink, made)


@cocotb.test()
async def reset_in_flight_starts_afresh(dut):
    bench, feeder, sink = make_bench(dut)
    for delay in range(1, 60):
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
async def interval_of_groups(dut):
    bench, feeder, sink = make_bench(dut)
    for steps in (1, 2, 3, KERNELS, 2 * KERNELS + 5):
        await run(bench, feeder, sink, [[[(0, 1)] * PLACES] * steps] * 12)
        ends = {b - a for a, b in pairwise(feeder.finished)}
        assert ends == {steps + max(KERNELS, LEAD)}
        starts = {b - a for a, b in pairwise(sink.cycles[::KERNELS])}
        assert starts == ends


@cocotb.test()
async def a_stalled_drain_holds_up_the_next_group_and_no_other(dut):
    bench, feeder, sink = make_bench(dut)
    await bench.reset()
    # The FIFO has one place more than its memory.
    steps, held = 2 * KERNELS + 20, (P["depth"] + 1) // KERNELS
    feeder.send([[[(0, 1)] * PLACES] * steps] * (held + 3))
    sink.pause = 1.0
    await bench.wait((held + 4) * (steps + KERNELS + LEAD))
    # Those whose drain is in the FIFO, and one whose drain waits.
    assert {b - a for a, b in pairwise(feeder.finished)} == {steps + max(KERNELS, LEAD)}
    assert len(feeder.finished) == held + 1
    sink.pause = 0.0
    await bench.wait(4 * (steps + KERNELS + LEAD))
    assert len(sink.beats) == (held + 3) * KERNELS
