"""cocotb tests of Walker: every step against a list of steps that the caller made."""

from __future__ import annotations

import random

import cocotb
from cocotb.triggers import RisingEdge

from sim.streams import STALLS, parameters
from tests.rtl_templates.clocked import Clocked

P = parameters()
# Of a word: group by group and step by step, for each reader [inside, address, weight].
STEPS, GROUPS, INTERVAL, GAP, CREDITS = (P[name] for name in ("steps", "groups", "interval", "gap", "credits"))
READERS, LATENCY = P["readers"], P["latency"]
CYCLES = GROUPS * INTERVAL + GAP


class Surroundings:
    """A buffer that gets words at random times, and results that are taken at random times.

    Members:
        idle, busy: probabilities that in a cycle no word arrives and that no result is taken.
        words: that arrive.
        offered: cycle in which the first word was there.
        steps: (cycle, first, last, readers' [inside, address, weight]) of every step.
        releases: cycles.
    """

    def __init__(self, dut):
        self.dut, self.random = dut, random.Random(4)
        self.ports = {
            name: [getattr(dut, f"{name}__{i}", None) for i in range(READERS)]
            for name in ("inside", "address", "weight")
        }
        self.idle = self.busy = 0.0
        self.clear()

    def clear(self) -> None:
        self.words = self.held = self.under_way = self.finished = 0
        self.offered: int | None = None
        self.steps: list[tuple[int, bool, bool, list[list[int]]]] = []
        self.releases: list[int] = []
        self.dut.available.value = self.dut.returned.value = 0

    def step(self, cycle: int) -> None:
        if self.dut.valid.value:
            first, last = bool(self.dut.first.value), bool(self.dut.last.value)
            self.steps.append((cycle, first, last, self._readers()))
            self.under_way += first
            # A group is started some cycles before its first step shows.
            assert self.under_way <= CREDITS, f"{self.under_way} groups under way in cycle {cycle}"
            self.finished += last
        if self.dut.release.value:
            assert self.held, "a word was released that was not there"
            self.held -= 1
            self.releases.append(cycle)
        if self.words and self.held < 2 and self.random.random() >= self.idle:
            self.words -= 1
            self.held += 1
            if self.offered is None:
                # It is there from the next cycle on.
                self.offered = cycle + 1
        taken = self.finished > 0 and self.random.random() >= self.busy
        self.finished -= taken
        self.under_way -= taken
        self.dut.available.value = int(self.held > 0)
        self.dut.returned.value = int(taken)

    def _readers(self) -> list[list[int]]:
        result = []
        for reader in range(READERS):
            ports = (self.ports[name][reader] for name in ("inside", "address", "weight"))
            # A port without a bit does not exist.
            inside, address, weight = (0 if port is None else int(port.value) for port in ports)
            # An address outside the map means nothing.
            result.append([inside, address if inside else 0, weight])
        return result


def make_bench(dut) -> tuple[Clocked, Surroundings]:
    surroundings = Surroundings(dut)
    return Clocked(dut, [surroundings]), surroundings


async def run(bench: Clocked, surroundings: Surroundings, words: int) -> None:
    await bench.reset()
    surroundings.words = words
    wanted = STEPS * words
    for _ in range(60 * words * CYCLES + 100):
        if len(surroundings.steps) >= len(wanted):
            break
        await RisingEdge(bench.dut.clk)
    await bench.wait(CYCLES + 5)
    steps_of_group = len(STEPS) // GROUPS
    seen = surroundings.steps
    assert [readers for _, _, _, readers in seen] == wanted
    number = [i % steps_of_group for i in range(len(wanted))]
    assert [first for _, first, _, _ in seen] == [i == 0 for i in number]
    assert [last for _, _, last, _ in seen] == [i == steps_of_group - 1 for i in number]
    # The buffer may be given away with the last read.
    assert surroundings.releases == [cycle for cycle, *_ in seen][len(STEPS) - 1 :: len(STEPS)]
    # Never stalled inside a group.
    for start in range(0, len(seen), steps_of_group):
        group = [cycle for cycle, *_ in seen[start : start + steps_of_group]]
        assert group == list(range(group[0], group[0] + steps_of_group))


@cocotb.test()
async def walks_under_stalls(dut):
    bench, surroundings = make_bench(dut)
    for surroundings.idle, surroundings.busy in STALLS:
        await run(bench, surroundings, 4)


@cocotb.test()
async def reset_in_flight_starts_afresh(dut):
    bench, surroundings = make_bench(dut)
    for delay in (*range(1, 12), CYCLES, CYCLES + 7):
        await bench.reset()
        surroundings.words = 3
        await bench.wait(delay)
        await run(bench, surroundings, 1)


@cocotb.test()
async def waits_for_credit(dut):
    bench, surroundings = make_bench(dut)
    await bench.reset()
    surroundings.words, surroundings.busy = 3, 1.0
    await bench.wait(3 * CYCLES + 10)
    steps_of_group = len(STEPS) // GROUPS
    assert len(surroundings.steps) == min(CREDITS, 3 * GROUPS) * steps_of_group
    surroundings.busy = 0.0
    await bench.wait(3 * CYCLES * (2 + steps_of_group) + 100)
    assert len(surroundings.steps) == 3 * len(STEPS)


@cocotb.test()
async def latency_and_interval(dut):
    bench, surroundings = make_bench(dut)
    await run(bench, surroundings, 5)
    cycles = [cycle for cycle, *_ in surroundings.steps]
    assert surroundings.offered is not None and cycles[0] - surroundings.offered == LATENCY
    if P["unhindered"]:
        steps_of_group = len(STEPS) // GROUPS
        wanted = [
            word * CYCLES + group * INTERVAL + step
            for word in range(5)
            for group in range(GROUPS)
            for step in range(steps_of_group)
        ]
        assert [cycle - cycles[0] for cycle in cycles] == wanted
