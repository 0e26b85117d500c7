"""cocotb tests of StreamBuffer."""

from __future__ import annotations

import random

import cocotb

from sim.streams import STALLS, Bench


@cocotb.test()
async def passes_everything_under_stalls(dut):
    bench = Bench(dut)
    draw = random.Random(2)
    payloads = [draw.getrandbits(16) for _ in range(300)]
    for stalls in STALLS:
        bench.stalls(*stalls)
        assert await bench.run(payloads, 300, 3000) == payloads


@cocotb.test()
async def one_beat_a_cycle_one_cycle_later(dut):
    bench = Bench(dut)
    await bench.run(list(range(50)), 50, 200)
    assert [y - x for x, y in zip(bench.source.cycles, bench.sink.cycles, strict=True)] == [1] * 50
    assert bench.sink.cycles[-1] - bench.sink.cycles[0] == 49
