"""cocotb tests of any component with one input and one output stream, for beats that the caller computed.

Parameters: `x` and `y`, the beats; `care`, masks of the output bits that are defined, for successive beats
and then again; `interval`, the cycles from
input beat to input beat while nothing stalls; `latency`, from the first input beat to the first output beat.
"""

from __future__ import annotations

import itertools

import cocotb
import numpy as np

from sim.streams import STALLS, Bench, parameters

P = parameters()
LIMIT = 20 * (len(P["x"]) + len(P["y"])) + 500


def defined(beats: list[int]) -> list[int]:
    return [beat & mask for beat, mask in zip(beats, itertools.cycle(P["care"]))]


@cocotb.test()
async def gives_the_beats_under_stalls(dut):
    bench = Bench(dut)
    for stalls in STALLS:
        bench.stalls(*stalls)
        assert defined(await bench.run(P["x"], len(P["y"]), LIMIT)) == defined(P["y"]), stalls


@cocotb.test()
async def reset_in_flight_starts_afresh(dut):
    bench = Bench(dut, 0.1, 0.3)
    for delay in range(1, 24):
        await bench.reset()
        bench.source.send(P["x"][3:])
        await bench.wait(delay)
        assert defined(await bench.run(P["x"], len(P["y"]), LIMIT)) == defined(P["y"]), delay


@cocotb.test()
async def interval_and_latency(dut):
    bench = Bench(dut)
    await bench.run(P["x"], len(P["y"]), LIMIT)
    # The first beats fill the buffers.
    assert set(np.diff(bench.source.cycles)[3:].tolist()) == {P["interval"]}
    spread = bench.sink.cycles[-1] - bench.sink.cycles[0]
    assert spread == P["interval"] * len(P["x"]) - P["interval"] * len(P["x"]) // len(P["y"])
    assert bench.sink.cycles[0] - bench.source.cycles[0] == P["latency"]
