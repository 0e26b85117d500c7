"""cocotb tests of GlobalWinners and ParallelGlobalWinners."""

from __future__ import annotations

import cocotb
import numpy as np

from sim.streams import STALLS, Bench, pack, parameters, unpack, unpack_entry

P = parameters()
LAYOUT = P["layout"]
# In the order of the stream.
ORDER = [channel for row in LAYOUT for channel in row if channel != -1]
CHANNELS, POSITIONS = len(ORDER), P["positions"]
COUNT = CHANNELS * POSITIONS
INDEX_BITS = max(1, (COUNT - 1).bit_length())
LOW, HIGH = (-128, 127) if P["signed"] else (0, 255)


def words() -> np.ndarray:
    """(N, channels, positions): random, few distinct values, all equal, falling and rising."""
    draw = np.random.default_rng(11)
    size = (CHANNELS, POSITIONS)
    made = [
        draw.integers(LOW, HIGH + 1, (3, *size)),
        draw.integers(0, 2, (3, *size)),
        draw.choice([LOW, HIGH], (1, *size)),
    ]
    made += [np.full((1, *size), value) for value in (LOW, 0, HIGH)]
    rising = (np.arange(COUNT) % 120).reshape(1, *size)
    return np.concatenate([*made, rising, rising[:, ::-1, ::-1]])


def to_beats(x: np.ndarray) -> list[int]:
    """Lanes that carry nothing carry noise."""
    return [
        pack((0x5A if c == -1 else word[c, p] for c in beat), 8)
        for word in x
        for p in range(POSITIONS)
        for beat in LAYOUT
    ]


def expected(x: np.ndarray) -> list:
    result: list = []
    for word in x:
        flat = word.ravel().tolist()
        kept = set(sorted(range(COUNT), key=lambda i: (-flat[i], i))[: P["k"]])
        if P["emit"] == "entries":
            result += [(i, flat[i]) for i in sorted(kept)]
        else:
            # One unit keeps the order of the stream.
            order = ORDER if P["in_order"] else range(CHANNELS)
            indices = [c * POSITIONS + p for p in range(POSITIONS) for c in order]
            result += [flat[i] if i in kept else 0 for i in indices]
    return result


def decode(beats: list[int]) -> list:
    if P["emit"] == "values":
        return [unpack(beat, 8, 1, P["signed"])[0] for beat in beats]
    return [unpack_entry(beat, INDEX_BITS, 8, P["signed"]) for beat in beats]


@cocotb.test()
async def equals_the_reference_under_stalls(dut):
    x = words()
    wanted = expected(x)
    bench = Bench(dut)
    for stalls in STALLS:
        bench.stalls(*stalls)
        assert decode(await bench.run(to_beats(x), len(wanted), 100000)) == wanted, stalls


@cocotb.test()
async def reset_in_flight_starts_afresh(dut):
    x = words()[:2]
    wanted = expected(x)
    bench = Bench(dut, 0.1, 0.3)
    for delay in (1, 100, 255, 260, 270, 256 + COUNT, 300 + COUNT, 530 + COUNT, 540 + COUNT, 600 + 3 * COUNT):
        await bench.reset()
        bench.source.send(to_beats(words()[3:]))
        await bench.wait(delay)
        assert decode(await bench.run(to_beats(x), len(wanted), 20000)) == wanted, delay


@cocotb.test()
async def interval(dut):
    # The input feels what limits the output once all buffers are full.
    x = np.concatenate([words()] * (1 + P["buffered"] // 8))
    wanted = expected(x)
    size = len(wanted) // len(x)
    bench = Bench(dut)
    await bench.run(to_beats(x), len(wanted), 100000)
    assert set(np.diff(bench.sink.cycles[size - 1 :: size]).tolist()) == {P["interval"]}
    beats = len(LAYOUT) * POSITIONS
    starts = bench.source.cycles[beats - 1 :: beats]
    assert set(np.diff(starts)[P["buffered"] :].tolist()) == {P["interval"]}
    if "latency" in P:
        # A word alone: nothing of it waits.
        await bench.wait(P["interval"])
        bench.source.send(to_beats(x[:1]))
        await bench.receive(len(wanted) + size, 20000)
        assert bench.sink.cycles[len(wanted)] - bench.source.cycles[-1] == P["latency"]
