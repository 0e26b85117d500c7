"""cocotb tests of the units that `tests.rtl_templates.units` puts side by side."""

from __future__ import annotations

import itertools

import cocotb
from cocotb.triggers import RisingEdge

from sim.streams import STALLS, Bench, parameters

UNITS = parameters()["units"]
LIMIT = 400 + 40 * max(max(len(unit["x"]), unit["cycles"][-1]) for unit in UNITS)


def make_bench(dut) -> Bench:
    places = range(len(UNITS))
    return Bench(dut, inputs=[f"unit_{i}__x" for i in places], outputs=[f"unit_{i}__y" for i in places])


def defined(beats: list[int], care: list[int]) -> list[int]:
    return [beat & mask for beat, mask in zip(beats, itertools.cycle(care), strict=False)]


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
        assert defined(sink.beats, unit["care"]) == defined(unit["y"], unit["care"]), unit["name"]


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
        wanted = unit["cycles"]
        measured = [cycle - sink.cycles[0] for cycle in sink.cycles]
        wrong = next((i for i, (ours, theirs) in enumerate(zip(measured, wanted, strict=True)) if ours != theirs), None)
        assert wrong is None, f"{unit['name']}: beat {wrong} in cycle {measured[wrong]}, not {wanted[wrong]}"
        latency = sink.cycles[0] - source.cycles[unit["latency_from"]]
        assert latency == unit["latency"], unit["name"]
