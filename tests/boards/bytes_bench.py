"""cocotb tests of BytesToBeats and BeatsToBytes."""

from __future__ import annotations

import random

import cocotb
import numpy as np

from sim.streams import STALLS, Bench, parameters

P = parameters()
BYTES = -(-P["bits"] // 8)
BEATS = [random.Random(3).getrandbits(P["bits"]) for _ in range(20)]
BEATS[:2] = [0, (1 << P["bits"]) - 1]
DATA = [beat >> 8 * i & 0xFF for beat in BEATS for i in range(BYTES)]
SENT, WANTED = (DATA, BEATS) if P["joins"] else (BEATS, DATA)


@cocotb.test()
async def equals_the_reference_under_stalls(dut):
    bench = Bench(dut)
    for stalls in STALLS:
        bench.stalls(*stalls)
        assert await bench.run(SENT, len(WANTED), 4000) == WANTED, stalls


@cocotb.test()
async def reset_in_flight_starts_afresh(dut):
    bench = Bench(dut, 0.1, 0.3)
    sent, wanted = (SENT[: 6 * BYTES], WANTED[:6]) if P["joins"] else (SENT[:6], WANTED[: 6 * BYTES])
    for delay in range(1, 20):
        await bench.reset()
        bench.source.send(SENT)
        await bench.wait(delay)
        assert await bench.run(sent, len(wanted), 500) == wanted, delay


@cocotb.test()
async def interval_and_latency(dut):
    bench = Bench(dut)
    await bench.run(SENT, len(WANTED), 4000)
    source, sink = bench.source.cycles, bench.sink.cycles
    last, beats = (source[BYTES - 1 :: BYTES], sink) if P["joins"] else (source, sink[::BYTES])
    assert {int(gap) for gap in np.diff(beats)} == {BYTES + 1}
    assert beats[0] - last[0] == 1
