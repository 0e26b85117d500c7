"""cocotb tests of WordBuffer: a reader that takes its time and reads every row through every port."""

from __future__ import annotations

import random
from itertools import chain, pairwise

import cocotb
from cocotb.triggers import RisingEdge

from sim.streams import STALLS, Source, parameters
from tests.rtl_templates.clocked import Clocked

P = parameters()
BITS, POSITIONS, BEATS, ROW, READERS = (P[name] for name in ("bits", "positions", "beats", "beats_per_row", "readers"))
WORD = POSITIONS * BEATS
ROWS_PER_POSITION = -(-BEATS // ROW)
ROWS = POSITIONS * ROWS_PER_POSITION


def words(count: int, seed: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.getrandbits(BITS) for _ in range(WORD)] for _ in range(count)]


def row_of(word: list[int], row: int) -> list[int]:
    """The beats that row `row` must hold; a position's last row may hold fewer than the others."""
    position, part = divmod(row, ROWS_PER_POSITION)
    beats = word[position * BEATS : (position + 1) * BEATS]
    return beats[part * ROW : (part + 1) * ROW]


class Reader:
    """The side of the buffer that a walker has."""

    def __init__(self, dut, seed: int = 0):
        self.dut, self.random = dut, random.Random(seed)
        self.address = [getattr(dut, f"address__{i}", None) for i in range(READERS)]
        self.data = [getattr(dut, f"data__{i}") for i in range(READERS)]
        dut.release.value = 0

    async def available(self) -> None:
        for _ in range(100 * WORD + 100):
            await RisingEdge(self.dut.clk)
            if self.dut.available.value:
                return
        raise AssertionError("no word became available")

    async def release(self) -> None:
        self.dut.release.value = 1
        await RisingEdge(self.dut.clk)
        self.dut.release.value = 0

    async def read(self, word: list[int]) -> None:
        """Every row through every port, in another order through each; data follows its address by one cycle."""
        orders = [self.random.sample(range(ROWS), ROWS) for _ in range(READERS)]
        for step in range(ROWS + 2):
            if step < ROWS:
                for port, order in zip(self.address, orders, strict=True):
                    if port is not None:
                        port.value = order[step]
            if step >= 2:
                for data, order in zip(self.data, orders, strict=True):
                    wanted = row_of(word, order[step - 2])
                    beats = [(int(data.value) >> (i * BITS)) & ((1 << BITS) - 1) for i in range(len(wanted))]
                    assert beats == wanted, (step, order[step - 2])
            await RisingEdge(self.dut.clk)

    async def read_all(self, expected: list[list[int]], rest: float) -> None:
        for word in expected:
            await self.available()
            while self.random.random() < rest:
                await RisingEdge(self.dut.clk)
            await self.read(word)
            await self.release()


def make_bench(dut) -> tuple[Clocked, Source]:
    dut.release.value = 0
    source = Source(dut)
    return Clocked(dut, [source]), source


@cocotb.test()
async def holds_words_under_stalls(dut):
    bench, source = make_bench(dut)
    for idle, rest in STALLS:
        source.pause = idle
        await bench.reset()
        sent = words(8, seed=3)
        source.send(chain.from_iterable(sent))
        await Reader(dut).read_all(sent, rest)
        await bench.wait(5)
        assert not dut.available.value


@cocotb.test()
async def reset_in_flight_starts_afresh(dut):
    bench, source = make_bench(dut)
    for delay in range(1, 3 * WORD + 4):
        await bench.reset()
        source.send(chain.from_iterable(words(3, seed=4)))
        await bench.wait(delay)
        # One word has been released or not: the banks may have changed places.
        if dut.available.value:
            await Reader(dut).release()
        await bench.reset()
        await bench.wait(1)
        assert not dut.available.value
        sent = words(2, seed=5)
        source.send(chain.from_iterable(sent))
        await Reader(dut).read_all(sent, 0)


@cocotb.test()
async def takes_two_words_and_then_waits(dut):
    bench, source = make_bench(dut)
    await bench.reset()
    sent = words(4, seed=6)
    source.send(chain.from_iterable(sent))
    await bench.wait(5 * WORD + 5)
    assert len(source.cycles) == 2 * WORD
    reader = Reader(dut)
    await reader.available()
    await reader.release()
    await bench.wait(2 * WORD + 3)
    assert len(source.cycles) == 3 * WORD
    await reader.read_all(sent[1:], 0)


class Probe:
    """Notes the cycles in which `available` is high."""

    def __init__(self, dut):
        self.dut = dut
        self.cycles: list[int] = []

    def clear(self) -> None:
        self.cycles = []

    def step(self, cycle: int) -> None:
        if self.dut.available.value:
            self.cycles.append(cycle)


@cocotb.test()
async def latency_and_interval(dut):
    bench, source = make_bench(dut)
    probe = Probe(dut)
    bench.drivers.append(probe)
    await bench.reset()
    reader = Reader(dut)
    source.send(chain.from_iterable(words(6, seed=7)))
    for _ in range(6):
        await reader.available()
        await reader.release()
    assert probe.cycles[0] - source.cycles[WORD - 1] == 1
    if WORD > 1:
        # A word is released in the cycle after it was seen, so the input never waits.
        assert [b - a for a, b in pairwise(source.cycles)] == [1] * (6 * WORD - 1)
