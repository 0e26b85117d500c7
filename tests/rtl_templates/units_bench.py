"""cocotb tests of the units that `tests.rtl_templates.units` puts side by side."""

from __future__ import annotations

import itertools

import cocotb
from cocotb.triggers import RisingEdge

from sim.streams import STALLS, Bench, parameters

UNITS = parameters()["units"]
LIMIT = 400 + 40 * max(max(len(unit["x"]), unit["words"] * unit["interval"]) for unit in UNITS)


def make_bench(dut) -> Bench:
    places = range(len(UNITS))
    return Bench(dut, inputs=[f"unit_{i}__x" for i in places], outputs=[f"unit_{i}__y" for i in places])


async def run(bench: Bench) -> None:
    """Feeds every unit its words after a reset and compares what all of them give."""
    await bench.reset()
    for source, unit in zip(bench.sources, UNITS, strict=True):
        source.send(unit["x"])
    for _ in range(LIMIT):
        if all(len(sink.beats) >= len(unit["y"]) for sink, unit in zip(bench.sinks, UNITS, strict=True)):
            break
        await RisingEdge(bench.dut.clk)
    await bench.wait(20)
    for sink, unit in zip(bench.sinks, UNITS, strict=True):
        defined = [[beat & mask for beat, mask in zip(beats, itertools.cycle(unit["care"]), strict=False)]
                   for beats in (sink.beats, unit["y"])]
        assert defined[0] == defined[1], unit["name"]


@cocotb.test()
async def gives_the_beats_under_stalls(dut):
    bench = make_bench(dut)
    for stalls in STALLS[1:]:
        bench.stalls(*stalls)
        await run(bench)


@cocotb.test()
async def reset_in_flight_starts_afresh(dut):
    bench = make_bench(dut)
    for delay in (3, 17, 40, 101):
        bench.stalls(0.1, 0.2)
        await bench.reset()
        for source, unit in zip(bench.sources, UNITS, strict=True):
            # Not the words that follow: what is left of them must show.
            source.send(unit["x"][::-1])
        await bench.wait(delay)
        bench.stalls(0, 0)
        await run(bench)


@cocotb.test()
async def every_beat_comes_in_its_cycle(dut):
    bench = make_bench(dut)
    await run(bench)
    for source, sink, unit in zip(bench.sources, bench.sinks, UNITS, strict=True):
        wanted = [word * unit["interval"] + offset for word in range(unit["words"]) for offset in unit["offsets"]]
        measured = [cycle - sink.cycles[0] for cycle in sink.cycles]
        assert measured == wanted, (unit["name"], measured, wanted)
        latency = sink.cycles[0] - source.cycles[unit["latency_from"]]
        assert latency == unit["latency"], (unit["name"], latency, unit["latency"])
