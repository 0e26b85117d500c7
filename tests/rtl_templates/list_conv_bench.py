"""cocotb tests of ListConv."""

from __future__ import annotations

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from sim.streams import STALLS, Bench, pack, parameters, unpack
from tests.rtl_templates.list_conv_units import accumulator_bits, results_of, windows_of

P = parameters()
UNIT = P["unit"]
WINDOWS = windows_of(UNIT)
POSITIONS = WINDOWS.positions[0] * WINDOWS.positions[1]
BEATS = POSITIONS * UNIT["kernels"]
INDEX_BITS = max(1, (UNIT["channels"] - 1).bit_length())
LOW, HIGH = (-128, 127) if UNIT["signed"] else (0, 255)


def stimulus(words: int, seed: int = 1) -> np.ndarray:
    """Lists (words, rows, columns, entries, 2), from random to extreme."""
    draw = np.random.default_rng(seed)
    size = (words, *WINDOWS.map, UNIT["entries"])
    values = draw.integers(LOW, HIGH + 1, size)
    extreme = draw.random(size) < 0.2
    values[extreme] = draw.choice([LOW, 0, HIGH], size)[extreme]
    if UNIT.get("largest"):
        # All products of a lane have one sign in the first word, the other in the second.
        values[...] = LOW
        values[1::2] = HIGH
    return np.stack([draw.integers(0, UNIT["channels"], size), values], axis=-1)


def to_beats(lists: np.ndarray) -> list[int]:
    entries = lists[..., 0] | (lists[..., 1] & 0xFF) << INDEX_BITS
    return [pack(row, INDEX_BITS + 8) for row in entries.reshape(-1, UNIT["entries"]).tolist()]


def decode(beats: list[int]) -> list[list[int]]:
    return [unpack(beat, accumulator_bits(UNIT), UNIT["sets"], True) for beat in beats]


def pixel_cycles(words: int) -> list[int]:
    """When a producer that delivers a word's pixels evenly in its cycles has each of them; the padding has none."""
    inside = np.outer(WINDOWS.inside(0), WINDOWS.inside(1)).ravel()
    pixels = np.arange(words * WINDOWS.pixels)[np.tile(inside, words)]
    return (pixels * P["cycles"] // WINDOWS.pixels).tolist()


@cocotb.test()
async def equals_the_reference_under_stalls(dut):
    lists = stimulus(3)
    wanted = results_of(UNIT, lists)
    bench = Bench(dut)
    for stalls in STALLS:
        bench.stalls(*stalls)
        beats = await bench.run(to_beats(lists), len(wanted), 40 * 3 * P["cycles"] + 4000)
        assert decode(beats) == wanted, stalls


@cocotb.test()
async def reset_in_flight_starts_afresh(dut):
    noise, lists = to_beats(stimulus(2, seed=5)), stimulus(1, seed=6)
    wanted = results_of(UNIT, lists)
    bench = Bench(dut, 0.05, 0.1)
    delays = [*range(1, 60, 7), *(int(P["latency"] + P["cycles"] * part) for part in (0.3, 0.5, 0.8, 1.1, 1.6))]
    for delay in delays:
        await bench.reset()
        bench.source.send(noise)
        await bench.wait(delay)
        assert decode(await bench.run(to_beats(lists), len(wanted), 4 * P["cycles"] + 2000)) == wanted, delay


@cocotb.test()
async def waits_while_nobody_takes(dut):
    lists = stimulus(3, seed=2)
    wanted = results_of(UNIT, lists)
    bench = Bench(dut)
    await bench.reset()
    bench.sink.pause = 1.0
    bench.source.send(to_beats(lists))
    await bench.wait(3 * P["cycles"])
    bench.sink.pause = 0.0
    assert decode(await bench.receive(len(wanted), 4 * P["cycles"] + 1000)) == wanted


async def begin(bench: Bench) -> None:
    """Resets, until all lanes know of it and their accumulators are known."""
    await bench.reset()
    await bench.wait(P["settling"])


@cocotb.test()
async def latency(dut):
    bench = Bench(dut)
    await begin(bench)
    for beat in to_beats(stimulus(1)):
        # No faster than they are written, so that none waits.
        bench.source.send([beat])
        await bench.wait(P["writes"])
    await bench.receive(BEATS, 4 * P["cycles"] + 1000)
    # A list may wait for the padding before it to be written.
    latency = bench.sink.cycles[0] - bench.source.cycles[P["last_pixel"]]
    assert latency > P["latency"] if P["waits"] else latency == P["latency"], latency
    assert np.diff(bench.sink.cycles[: UNIT["kernels"]]).tolist() == [1] * (UNIT["kernels"] - 1)


@cocotb.test()
async def a_word_in_its_cycles(dut):
    """From a producer that is always ready, and from one that delivers a word's pixels evenly."""
    words = 6
    bench = Bench(dut)
    for even in (False, True):
        await begin(bench)
        if even:
            due = pixel_cycles(words)
            for cycle in range(due[-1] + 1):
                bench.source.send([1] * due.count(cycle) if cycle in due else [])
                await RisingEdge(dut.clk)
        else:
            bench.source.send(to_beats(stimulus(words)))
        await bench.receive(words * BEATS, 2 * words * P["cycles"] + 1000)
        starts = np.array(bench.sink.cycles[:: UNIT["kernels"]])
        between = np.diff(starts[POSITIONS - 1 :: POSITIONS])
        assert set(between[1:].tolist()) == {P["cycles"]}, (even, between)
        if POSITIONS * P["interval"] == P["cycles"]:
            assert set(np.diff(starts)[POSITIONS:].tolist()) == {P["interval"]}, (even, np.diff(starts))
